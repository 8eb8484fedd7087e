"""The causal policy: acting and scoring agree, the density is torch's own, HT-2's size, the folder on disk."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.goal import GOAL_FEATURES
from toddle.core.types import BodySpec, Observation
from toddle.models.expert import ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy
from toddle.policies.store import load_policy, save_policy

ARM = BodySpec(name="arm", proprio=5, action=3, dt=0.02)
ANT = BodySpec(name="ant", proprio=7, action=2, dt=0.05)
LENGTH, BATCH, ITEMS = 11, 4, 3


def make(bodies: tuple[BodySpec, ...] = (ARM,), expert: dict[str, Any] | None = None, **fields: Any) -> CausalPolicy:
    trunk = TrunkConfig(width=24, depth=4, heads=2, context_width=10)
    sizes = {"horizon": 5, "executed": 2, "window": 4} | (expert or {})
    policy = CausalPolicy(CausalConfig(expert=ExpertConfig(trunk=trunk, bodies=bodies, **sizes), **fields))
    g = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    return policy


def segment(proprio: int = 5, seed: int = 0) -> Observation:
    g = torch.Generator().manual_seed(seed)
    goal = torch.randn(LENGTH, BATCH, ITEMS, GOAL_FEATURES, generator=g)
    goal[..., 0] = torch.randint(0, 9, goal.shape[:-1], generator=g).float()
    first = torch.rand(LENGTH, BATCH, generator=g) < 0.2
    first[0] = True
    return Observation(
        proprio=torch.randn(LENGTH, BATCH, proprio, generator=g),
        first=first,
        goal=goal,
        goal_mask=torch.rand(LENGTH, BATCH, ITEMS, generator=g) < 0.6,
    )


def roll(policy: CausalPolicy, observation: Observation, seed: int = 5, **fields: Any) -> Any:
    generator, memory, chains, log_probs = torch.Generator().manual_seed(seed), None, [], []
    for t in range(LENGTH):
        now = Observation(**{key: value[t] for key, value in observation.items()})  # type: ignore[typeddict-item, index]
        decision, memory = policy.act(now, memory, generator=generator, **fields)
        chains.append(decision.chain)
        log_probs.append(decision.log_prob)
    return torch.stack(chains), torch.stack(log_probs)


@pytest.mark.parametrize("slot_mask", ["causal", "bidirectional"])
@pytest.mark.parametrize("std_per", ["action", "step"])
def test_scoring_a_segment_gives_the_log_density_it_was_drawn_with(slot_mask: str, std_per: str) -> None:
    policy = make(expert={"slot_mask": slot_mask}, std_per=std_per, goal_dropout=0.5)
    observation = segment()
    chain, log_prob = roll(policy, observation)
    score = policy.score(observation, chain)
    assert score.log_prob.shape == (LENGTH, BATCH, 1) and score.entropy.shape == (LENGTH, BATCH)
    assert (score.log_prob - log_prob).abs().max() < 1e-5
    hidden = chain[..., -1]
    assert 0 < hidden.mean() < 1
    flipped = torch.cat([chain[..., :-1], 1 - hidden[..., None]], dim=-1)
    assert (policy.score(observation, flipped).log_prob - log_prob).abs().max() > 1e-3  # the control
    score.log_prob.sum().backward()
    norms = {name: p.grad is not None and bool(p.grad.abs().sum() > 0) for name, p in policy.named_parameters()}
    assert all(norms.values()), norms


def test_the_density_is_that_of_torch_distributions() -> None:
    policy = make(goal_dropout=0.0)
    observation = segment()
    chain, log_prob = roll(policy, observation)
    seen = Observation(**observation)
    executed = torch.cat([torch.zeros_like(chain[:1, :, :-1]), chain[:-1, :, :-1].clamp(-1, 1)])
    seen["previous_action"] = torch.where(observation["first"][..., None], 0.0, executed)
    mean = policy.mean(seen)
    normal = torch.distributions.Normal(mean, policy.log_std[0, 0].exp().expand_as(mean))
    assert torch.allclose(normal.log_prob(chain[..., :-1].view_as(mean)).sum((-1, -2)), log_prob[..., 0], atol=1e-4)
    assert torch.allclose(normal.entropy().sum((-1, -2)), policy.score(observation, chain).entropy, atol=1e-5)


def test_padded_dimensions_of_a_mixed_batch_count_for_nothing() -> None:
    policy = make(bodies=(ARM, ANT), goal_dropout=0.0)
    observation = segment(proprio=7)
    body = torch.tensor([0, 1, 1, 0]).expand(LENGTH, BATCH)
    chain, log_prob = roll(policy, Observation(**observation, body=body))
    mixed = policy.score(Observation(**observation, body=body), chain)
    assert (mixed.log_prob - log_prob).abs().max() < 1e-5
    rows = body[0] == 1
    alone = Observation(**{key: value[:, rows] for key, value in observation.items()}, body=body[:, rows])  # type: ignore[typeddict-item, index]
    own = chain[:, rows, :-1].unflatten(-1, (2, 3))[..., :2].flatten(-2)
    score = policy.score(alone, torch.cat([own, chain[:, rows, -1:]], dim=-1))
    assert (score.log_prob - log_prob[:, rows]).abs().max() < 1e-5
    assert (score.entropy - mixed.entropy[:, rows]).abs().max() < 1e-5


def test_actions_have_the_bodys_own_width() -> None:
    policy = make(bodies=(ARM, ANT))
    now = Observation(proprio=torch.randn(6, 7), body=torch.ones(6, dtype=torch.int64))
    decision, _ = policy.act(now, deterministic=True)
    assert decision.action.shape == (6, 2, 2) and decision.chain.shape == (6, 5)


def test_evaluation_hides_no_goal_and_drawing_needs_a_generator() -> None:
    policy = make(goal_dropout=0.9)
    observation = segment()
    assert roll(policy, observation, deterministic=True)[0][..., -1].sum() == 0
    assert roll(policy, observation)[0][..., -1].sum() > 0
    assert roll(policy.eval(), observation)[0][..., -1].sum() == 0
    with pytest.raises(InputError, match="generator"):
        policy.act(Observation(proprio=torch.zeros(2, 5)))


def test_the_future_and_the_pad_are_unseen() -> None:
    policy = make(goal_dropout=0.0)
    observation = segment()
    chain, log_prob = roll(policy, observation)
    chain[6:] += 1
    assert torch.equal(policy.score(observation, chain).log_prob[:6], policy.score(observation, chain * 1).log_prob[:6])
    assert (policy.score(observation, chain).log_prob[:6] - log_prob[:6]).abs().max() < 1e-5


def test_ht2_has_the_papers_size() -> None:
    trunk = TrunkConfig(width=192, depth=4, heads=4, mlp_ratio=2.0, context_width=192)
    digit = BodySpec(name="digit", proprio=102, action=36, dt=0.02)
    expert = ExpertConfig(trunk=trunk, bodies=(digit,), horizon=1, executed=1, window=16, bank_hidden=192)
    policy = CausalPolicy(CausalConfig(expert=expert))
    assert sum(p.numel() for p in policy.expert.trunk.blocks.parameters()) == 1_188_096
    assert sum(p.numel() for p in policy.parameters()) == pytest.approx(1.4e6, rel=0.05)


def test_bfloat16_acts_and_scores_close_to_float32() -> None:
    plain = make(goal_dropout=0.0)
    narrow = make(goal_dropout=0.0, autocast=True)
    observation = segment()
    chain, log_prob = roll(narrow, observation)
    assert (narrow.score(observation, chain).log_prob - log_prob).abs().max() < 0.3
    a, b = (p.mean(Observation(**observation, previous_action=chain[..., :-1])) for p in (plain, narrow))
    assert 0 < (a - b).abs().max() < 0.1


def test_a_saved_policy_comes_back_bitwise_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    policy = make(bodies=(ARM, ANT))
    policy.update_normaliser(Observation(proprio=torch.randn(20, 7) * 4 + 1, body=torch.ones(20, dtype=torch.int64)))
    save_policy(tmp_path / "p", policy, {"steps": 3})
    again = load_policy(tmp_path / "p")
    assert again.config == policy.config and not again.training
    now = Observation(proprio=torch.randn(6, 7), body=torch.tensor([0, 1, 1, 0, 0, 1]))
    assert torch.equal(again.act(now, deterministic=True)[0].action, policy.act(now, deterministic=True)[0].action)
    weights = tmp_path / "p" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match="damaged"):
        load_policy(tmp_path / "p")
    weights.unlink()
    with pytest.raises(InputError, match=r"policy\.safetensors"):
        load_policy(tmp_path / "p")
    with pytest.raises(InputError, match=r"policy\.json"):
        load_policy(tmp_path)


def test_a_config_with_a_flow_head_is_refused() -> None:
    with pytest.raises(InputError, match="direct"):
        make(expert={"head": "velocity"})
    with pytest.raises(InputError, match="executed"):
        make(expert={"executed": 9})


def test_the_entropy_is_the_closed_form() -> None:
    policy = make(log_std=-1.0)
    policy.log_std.data.fill_(-1.0)
    chain = torch.zeros(LENGTH, BATCH, 7)
    expected = 6 * (-1.0 + 0.5 * math.log(2 * math.pi * math.e))
    assert policy.score(segment(), chain).entropy[0, 0].item() == pytest.approx(expected, abs=1e-5)
