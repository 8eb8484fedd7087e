"""A flow VLA as RL explores with it: what is drawn is what is scored, and without noise it is the VLA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import ACTION, PROPRIO, SENTENCES, tiny_vla

from toddle.core.types import Observation
from toddle.models.trunk import TrunkConfig
from toddle.policies.flow_explorer import MatchedFlow, SamplerConfig, make_explorer

NOISES: Any = ("flow-sde", "flow-noise", "reinflow", "fpo")
BATCH = 4


def observed(seed: int, *, first: bool) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    return Observation(
        proprio=torch.randn(BATCH, PROPRIO, generator=generator),
        images=torch.randint(0, 256, (BATCH, 1, 3, 32, 32), generator=generator, dtype=torch.uint8),
        instruction=[SENTENCES[i % len(SENTENCES)] for i in range(BATCH)],
        previous_action=torch.rand(BATCH, 2 * ACTION, generator=generator) - 0.5,
        first=torch.full((BATCH,), first),
        body=torch.zeros(BATCH, dtype=torch.int64),
    )


def stirred(vla: Any) -> Any:
    """Give the decoder and the flow's input weights that matter: fresh ones begin at 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in vla.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    vla.set_action_normalization(0, torch.tensor([0.1, 0.0, -0.2]), torch.tensor([0.5, 1.5, 1.0]))
    return vla


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("head", ["velocity", "endpoint"])
@pytest.mark.parametrize("noise", NOISES)
def test_scores_what_it_drew(noise: Any, head: Any, window: int) -> None:
    explorer = make_explorer(stirred(tiny_vla(head, window)), SamplerConfig(noise=noise))
    assert explorer.sequential is (window > 1)
    generator, memory = torch.Generator().manual_seed(0), explorer.initial_memory(BATCH)
    steps, decisions = [], []
    for t in range(3):
        seen = explorer.encode(observed(t, first=t == 0 or window == 1))
        assert "images" not in seen and seen["context"].dtype == torch.float16
        decision, memory = explorer.act(seen, memory, generator=generator)
        steps.append(seen)
        decisions.append(decision)
    stacked: Any = {key: torch.stack([step[key] for step in steps]) for key in steps[0]}  # type: ignore[literal-required]
    score = explorer.score(stacked, torch.stack([d.chain for d in decisions]))
    drawn = torch.stack([d.log_prob for d in decisions])
    assert drawn.std() > 0
    torch.testing.assert_close(score.log_prob, drawn, atol=2e-5, rtol=2e-5)
    links = {"flow-sde": 1, "flow-noise": 4, "reinflow": 4, "fpo": 1}[noise]
    assert score.log_prob.shape == (3, BATCH, links) and score.entropy.shape == (3, BATCH)
    if score.mean is not None:
        assert score.mean.shape == (3, BATCH, 2, ACTION)
    score.log_prob.sum().backward()
    moved = [name for name, value in explorer.named_parameters() if value.grad is not None and value.grad.abs().sum()]
    assert any("vla.expert.trunk" in name for name in moved) and any("vla.adapter" in name for name in moved)
    assert (noise in ("flow-noise", "reinflow")) == any(name.startswith("spread") for name in moved)


@pytest.mark.parametrize("noise", NOISES)
def test_without_noise_it_is_the_vla(noise: Any) -> None:
    vla = stirred(tiny_vla())
    explorer = make_explorer(vla, SamplerConfig(noise=noise, steps=3))
    seen = observed(0, first=True)
    found, own = (
        policy.act(seen, generator=torch.Generator().manual_seed(2), deterministic=True)[0]
        for policy in (explorer, vla)
    )
    assert torch.equal(found.action, own.action) and (vla.config.steps, vla.config.start) == (3, "drawn")
    other, _ = vla.act(seen, generator=torch.Generator().manual_seed(3), deterministic=True)
    assert not torch.equal(own.action, other.action)  # from zero noise, which RL never sees, both would be equal


def test_little_noise_comes_near_the_ode() -> None:
    vla = stirred(tiny_vla())
    seen = observed(0, first=True)
    ode = make_explorer(vla, SamplerConfig(noise="fpo"))
    noisy = make_explorer(vla, SamplerConfig(noise="flow-sde", level=1e-5))
    drawn = [policy.act(seen, generator=torch.Generator().manual_seed(3))[0].action for policy in (ode, noisy)]
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=0)


def test_one_step_is_random_and_only_that_one_is_scored() -> None:
    explorer = make_explorer(stirred(tiny_vla()), SamplerConfig(noise="flow-sde"))
    decision, _ = explorer.act(observed(0, first=True), generator=torch.Generator().manual_seed(0))
    size = 4 * ACTION
    assert decision.log_prob.shape == (BATCH, 1) and decision.chain.shape == (BATCH, 2 * size + 1)
    assert set(decision.chain[:, -1].tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_fpo_ratio_follows_the_loss() -> None:
    """A step that raises the score lowers the flow-matching loss at the same noises and times."""
    explorer = make_explorer(stirred(tiny_vla()), SamplerConfig(noise="fpo"))
    assert isinstance(explorer, MatchedFlow)
    seen = explorer.encode(observed(0, first=True))
    decision, _ = explorer.act(seen, generator=torch.Generator().manual_seed(0))
    stacked: Any = {key: value[None] for key, value in seen.items()}  # type: ignore[attr-defined]
    optimiser = torch.optim.SGD(explorer.parameters(), lr=1e-3)
    explorer.score(stacked, decision.chain[None]).log_prob.sum().neg().backward()
    optimiser.step()
    after = explorer.score(stacked, decision.chain[None]).log_prob[0]
    assert (after > decision.log_prob).all()


@pytest.mark.parametrize(
    ("window", "more"),
    [(1, {}), (2, {}), (1, {"sidecar": TrunkConfig(width=16, depth=2, heads=2, context_width=32)}), (1, "all")],
)
def test_many_chunks_of_a_decision_flow_as_each_alone(window: int, more: Any) -> None:
    """What they share is computed once: acting and scoring, with histories, a side-car, and a history that moves."""
    links, steps = 3, 5
    vla = stirred(tiny_vla(window=window, **({"modulate": "all"} if more == "all" else more)))
    generator = torch.Generator().manual_seed(4)
    seen: Any = [vla.encode(observed(t, first=t in (0, 3) or window == 1)) for t in range(steps)]
    stacked: Any = {key: torch.stack([step[key] for step in seen]) for key in seen[0]}
    x, tau = torch.randn(steps, BATCH, links, 4, ACTION, generator=generator), torch.rand(steps, BATCH, links)
    together = vla.velocities(stacked, x, tau)
    alone = torch.cat([vla.velocities(stacked, x[:, :, i : i + 1], tau[..., i : i + 1]) for i in range(links)], 2)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    memory = vla.initial_memory(BATCH)
    for t in range(steps):
        velocity, memory = vla.open_flow(seen[t], memory)
        torch.testing.assert_close(velocity(x[t], tau[t]), alone[t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("noise", ["flow-sde", "reinflow"])
def test_actions_that_were_not_executed_do_not_count(noise: Any, reduce: Any) -> None:
    """An episode that ended after the first of two actions: the density is that of the first action's numbers alone."""
    config = SamplerConfig(noise=noise, reduce=reduce, log_prob_bounds=(-1e9, 1e9))
    explorer: Any = make_explorer(stirred(tiny_vla()), config)
    seen = explorer.encode(observed(0, first=True))
    decision, _ = explorer.act(seen, generator=torch.Generator().manual_seed(0))
    stacked: Any = {key: value[None] for key, value in seen.items()}
    whole = explorer.score(stacked, decision.chain[None])
    stacked["executed"] = torch.tensor([[1, 2, 1, 2]])
    cut = explorer.score(stacked, decision.chain[None])
    states, _ = explorer.links.unpack(decision.chain, (4, ACTION))
    drawn = states[:, 1:, :2].flatten(2)
    known = torch.distributions.Normal(whole.distribution.mean[0], whole.distribution.std[0]).log_prob(drawn)
    first, both = known[..., :ACTION], known
    expected = torch.where(
        torch.tensor([True, False, True, False])[:, None],
        *((part.sum(-1) if reduce == "sum" else part.mean(-1)) for part in (first, both)),
    )
    torch.testing.assert_close(cut.log_prob[0], expected, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(cut.log_prob[0, 0], whole.log_prob[0, 0], atol=1e-3)
    moved = explorer.score({**stacked, "executed": torch.full((1, BATCH), 2)}, decision.chain[None])
    assert torch.equal(moved.log_prob, whole.log_prob)
    held = stacked | {"executed": torch.ones(1, BATCH, dtype=torch.int64)}
    weight = explorer.score(held, decision.chain[None]).distribution.weight
    assert (weight[..., :ACTION] > 0).all() and not weight[..., ACTION:].any()


def test_fpo_counts_the_executed_numbers_alone() -> None:
    explorer = make_explorer(stirred(tiny_vla()), SamplerConfig(noise="fpo"))
    seen = explorer.encode(observed(0, first=True))
    decision, _ = explorer.act(seen, generator=torch.Generator().manual_seed(0))
    noisy = torch.rand(BATCH, 3, 4, ACTION, requires_grad=True)
    own = explorer._counted({**seen, "executed": torch.tensor([1, 2, 1, 2])})  # type: ignore[typeddict-item]
    value = explorer._log_prob(noisy, torch.zeros(BATCH, 3), torch.zeros_like(noisy), torch.zeros_like(noisy), own)  # type: ignore[attr-defined]
    expected = -torch.stack([noisy[i, :, :n].square().mean() for i, n in enumerate((1, 2, 1, 2))])
    torch.testing.assert_close(value[:, 0], expected)
    assert decision.log_prob.shape == (BATCH, 1)
