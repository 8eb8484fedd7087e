"""VLAs of tokens: decoding with kept keys is the one forced pass; temperature, greediness, granularity, learning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.tiny_vla import ACTION, SENTENCES, ToyDemonstrations, tiny_token_vla

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.core.errors import InputError
from toddle.core.types import Observation
from toddle.maths.action_tokens import bin_centres, to_tokens
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.token_vla import TokenVLAConfig

KINDS: Any = ({}, {"decoding": "parallel"}, {"decoding": "parallel", "head": "laplace"})


def observed(batch: int = 5) -> Observation:
    generator = torch.Generator().manual_seed(3)
    return Observation(
        proprio=torch.randn(batch, 5, generator=generator),
        context=torch.randn(batch, 6, 16, generator=generator),
        context_mask=torch.rand(batch, 6, generator=generator) < 0.8,
    )


def scored(policy: Any, seen: Observation, chain: torch.Tensor) -> Any:
    return policy.score({key: value[None] for key, value in seen.items()}, chain[None])  # type: ignore[attr-defined]


def test_bins_have_an_exact_inverse_on_their_centres() -> None:
    for bins in (2, 16, 256):
        centres = bin_centres(bins)
        assert torch.equal(to_tokens(centres, bins), torch.arange(bins))
        drawn = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert float((centres[to_tokens(drawn, bins)] - drawn).abs().max()) <= 1 / bins + 1e-6
    assert to_tokens(torch.tensor([-9.0, 1.0, 9.0]), 16).tolist() == [0, 15, 15]


def test_one_by_one_with_kept_keys_is_the_forced_pass() -> None:
    policy, seen = tiny_token_vla(ratio_per="token").eval(), observed()
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scored(policy, seen, decision.chain).log_prob[0], decision.log_prob, atol=2e-6, rtol=0)
    assert decision.log_prob.shape == (5, 2 * ACTION)


@pytest.mark.parametrize("more", KINDS)
def test_granularities_add_up(more: dict[str, Any]) -> None:
    policy, seen = tiny_token_vla(**more).eval(), observed()
    found = {}
    for per in ("token", "action", "chunk"):
        policy.explorer(SamplerConfig(ratio_per=per, temperature=1.7))
        decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
        found[per] = decision.log_prob
    assert found["token"].shape == (5, 6) and found["action"].shape == (5, 2) and found["chunk"].shape == (5, 1)
    torch.testing.assert_close(found["token"].unflatten(1, (2, 3)).sum(-1), found["action"])
    torch.testing.assert_close(found["action"].sum(1, keepdim=True), found["chunk"])


@pytest.mark.parametrize("more", KINDS[:2])
def test_cold_is_greedy_and_hot_is_uniform(more: dict[str, Any]) -> None:
    policy, seen = tiny_token_vla(**more).eval(), observed()
    greedy, _ = policy.act(seen, deterministic=True)
    policy.explorer(SamplerConfig(temperature=1e-4))
    cold, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cold.chain, greedy.chain)
    policy.explorer(SamplerConfig(temperature=1e4, ratio_per="token"))
    hot, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        hot.log_prob, torch.full_like(hot.log_prob, -torch.tensor(16.0).log().item()), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("more", KINDS[:2])
def test_what_is_imitated_is_what_acts(more: dict[str, Any]) -> None:
    """The supervised loss is of the tempered tokens: drawn hot enough, every demonstration costs the log of 16 bins."""
    policy, batch = tiny_token_vla(**more).eval(), ToyDemonstrations(8).batch(np.arange(8))
    plain = policy.loss(batch, torch.Generator())[0].item()
    policy.explorer(SamplerConfig(temperature=1e4))
    assert policy.loss(batch, torch.Generator())[0].item() == pytest.approx(math.log(16), rel=1e-4) != plain


def test_in_parallel_a_token_depends_on_none_before() -> None:
    policy, seen = tiny_token_vla(decoding="parallel", ratio_per="token").eval(), observed()
    chain, _ = policy.act(seen, deterministic=True)
    other = chain.chain.clone()
    other[:, 0] = (other[:, 0] + 1) % 16
    same = scored(policy, seen, chain.chain).log_prob[0, :, 1:] - scored(policy, seen, other).log_prob[0, :, 1:]
    assert float(same.detach().abs().max()) == 0.0
    one_by_one = tiny_token_vla(ratio_per="token").eval()
    moved = (
        scored(one_by_one, seen, chain.chain).log_prob[0, :, 1:] - scored(one_by_one, seen, other).log_prob[0, :, 1:]
    )
    assert float(moved.detach().abs().max()) > 0.0


def test_the_laplace_density_is_torchs() -> None:
    policy, seen = tiny_token_vla(decoding="parallel", head="laplace", ratio_per="token").eval(), observed()
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, log_scale = policy._laplace(policy._hidden(seen, 6, None))
    expected = torch.distributions.Laplace(mean, log_scale.exp())
    torch.testing.assert_close(decision.log_prob, expected.log_prob(decision.chain))
    torch.testing.assert_close(scored(policy, seen, decision.chain).entropy[0], expected.entropy().mean(-1))


@pytest.mark.parametrize(
    ("more", "limit"),
    [
        (KINDS[0], 0.05),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in zip(KINDS[1:], (0.05, 0.15), strict=True)),
    ],
)
def test_learns_demonstrations(more: dict[str, Any], limit: float) -> None:
    """A bin is 1/8 wide, so half a bin is the most that the tokens can be off where they are right."""
    assert taught(ToyDemonstrations(), more) < limit


def test_learns_nothing_of_shuffled_demonstrations() -> None:
    assert taught(ToyDemonstrations(shuffled=True), {}) > 0.3


def taught(data: ToyDemonstrations, more: dict[str, Any]) -> float:
    """Return the mean error of the greedy action on the demonstrations that are not shuffled."""
    policy = tiny_token_vla(executed=4, **more)
    learner = SFT(policy, data, SFTConfig(steps=200, batch=48, learning_rate=4e-3, ema=0.9))
    for _ in range(200):
        learner.step()
    learner.use_average()
    batch = ToyDemonstrations().batch(range(48))
    seen: Any = {key: value[0] for key, value in batch["observation"].items()}
    decision, _ = policy.eval().act(seen, deterministic=True)
    return float((decision.action - batch["action"]).abs().mean())


def test_impossible_settings_are_refused() -> None:
    for more, said in (({"executed": 9}, "executed"), ({"head": "laplace"}, "head"), ({"bins": 1}, "bins")):
        with pytest.raises(InputError, match=said):
            TokenVLAConfig(body=tiny_token_vla().config.body, **more)  # type: ignore[arg-type]
    assert SENTENCES


@pytest.mark.parametrize("more", KINDS)
@pytest.mark.parametrize("per", ["token", "action", "chunk"])
def test_actions_that_were_not_executed_do_not_count(more: dict[str, Any], per: Any) -> None:
    """An episode that ended after the first of two actions: what was said of the second changes nothing."""
    policy, seen = tiny_token_vla(**more, ratio_per=per).eval(), observed(2)
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    whole = scored(policy, seen, decision.chain)
    cut: Any = {**seen, "executed": torch.tensor([1, 2])}
    score = scored(policy, cut, decision.chain)
    links = {"token": 2 * ACTION, "action": 2, "chunk": 1}[per]
    assert score.real.sum(-1).tolist() == [[max(links // 2, 1), links]]
    torch.testing.assert_close(score.log_prob[0, 1], whole.log_prob[0, 1])
    assert not score.log_prob[~score.real].any()
    other = decision.chain.clone()
    other[0, ACTION:] = other[1, ACTION:]
    assert not torch.equal(other, decision.chain)
    again = scored(policy, cut, other)
    torch.testing.assert_close(again.log_prob, score.log_prob)
    torch.testing.assert_close(again.entropy, score.entropy)
    assert not torch.allclose(scored(policy, seen, other).log_prob, whole.log_prob)
    policy.explorer(SamplerConfig(ratio_per="token", temperature=policy.config.temperature))
    tokens = scored(policy, cut, decision.chain)
    torch.testing.assert_close(score.log_prob.sum(-1), tokens.log_prob.sum(-1))
    assert (tokens.log_prob[0, 0, :ACTION] != 0).all() and not tokens.distribution.weight[0, 0, ACTION:].any()
