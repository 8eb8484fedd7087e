"""Steering at test time: with one candidate nothing changes, values decide, controls do not, and wrong pairs are told.

Expected values from outside: the mean of the largest of ten standard normal draws is 1.5388 (tables of order
statistics), softmax of values is a closed form.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.maths.choosing import choose
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.guided import GuidanceConfig, GuidedPolicy

BODY = BodySpec(name="toy", proprio=3, action=1, dt=0.05)


def policy(**options: Any) -> GaussianPolicy:
    return GaussianPolicy(GaussianConfig(bodies=(BODY,), hidden=(8,), log_std=-2.0, **options)).train(False)


def critic(slope: float = 1.0, actions: int = 1) -> QEnsemble:
    """Return two critics that both value `slope` times the first action."""
    made = QEnsemble(3, actions, hidden=(), count=2, seed=0)
    with torch.no_grad():
        made.weights[0].zero_()
        made.biases[0].zero_()
        made.weights[0][:, 3] = slope
    return made


def observation(worlds: int) -> Observation:
    seen = torch.randn(worlds, 3, generator=torch.Generator().manual_seed(1))
    return {
        "proprio": seen,
        "first": torch.ones(worlds, dtype=torch.bool),
        "body": torch.zeros(worlds, dtype=torch.int64),
        "previous_action": torch.zeros(worlds, 1),
        "instruction": ["push"] * worlds,
    }


def drawn(acting: Any, worlds: int = 400, *, deterministic: bool = False) -> Tensor:
    decision, memory = acting.act(
        observation(worlds), generator=torch.Generator().manual_seed(7), deterministic=deterministic
    )
    assert memory is None
    return decision.action


@pytest.mark.parametrize("deterministic", [True, False])
def test_one_candidate_is_the_policy_bit_for_bit(deterministic: bool) -> None:
    base = policy()
    guided = GuidedPolicy(base, critic(), GuidanceConfig(candidates=1))
    assert torch.equal(drawn(guided, deterministic=deterministic), drawn(base, deterministic=deterministic))


def test_the_best_of_ten_draws_gains_what_order_statistics_say_and_controls_do_not() -> None:
    base, settings = policy(), {"candidates": 10, "temperature": 0.0}
    before = {name: value.clone() for name, value in base.state_dict().items()}
    std, mean = torch.tensor(-2.0).exp(), drawn(base, 4000, deterministic=True)
    for control, expected in (("none", 1.5388), ("shuffled", 0.0), ("flipped", -1.5388)):
        guided = GuidedPolicy(base, critic(), GuidanceConfig(control=control, **settings))  # type: ignore[arg-type]
        gained = ((drawn(guided, 4000) - mean) / std).mean()
        assert gained == pytest.approx(expected, abs=0.05)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_the_most_likely_action_is_the_first_candidate() -> None:
    guided = GuidedPolicy(policy(), critic(0.0), GuidanceConfig(temperature=0.0))  # equal values: the first
    assert torch.equal(drawn(guided, deterministic=True), drawn(policy(), deterministic=True))
    assert (guided.decisions, guided.elsewhere) == (400, 0)


def test_a_chunk_is_executed_as_it_was_drawn_and_judged_by_as_many_actions_as_the_critic_takes() -> None:
    base = policy(horizon=2)
    guided = GuidedPolicy(base, critic(), GuidanceConfig(temperature=0.0))
    chosen, candidates = drawn(guided, 1)[0], drawn_many(base, 10)
    best = candidates[:, 0, 0].clamp(-1.0, 1.0).argmax()
    assert chosen.shape == (2, 1) and torch.equal(chosen, candidates[best])


def drawn_many(base: GaussianPolicy, count: int) -> Tensor:
    rows = {
        key: value.repeat_interleave(count, 0) for key, value in observation(1).items() if isinstance(value, Tensor)
    }
    return base.act(rows, generator=torch.Generator().manual_seed(7))[0].action  # type: ignore[arg-type]


def test_cem_goes_beyond_its_candidates_and_stays_within_bounds() -> None:
    base = policy()
    best = drawn(GuidedPolicy(base, critic(), GuidanceConfig(temperature=0.0)))
    searched = drawn(GuidedPolicy(base, critic(), GuidanceConfig(method="cem", rounds=3)))
    assert (searched - best).mean() > 0.02 and searched.max() <= 1.0


def test_choices_follow_the_softmax_of_values_in_their_own_deviations() -> None:
    values = torch.tensor([0.0, 0.3, 0.9]).expand(60_000, 3)
    index = choose(values, 0.5, torch.Generator().manual_seed(0))
    std = (0.42 / 3) ** 0.5  # mean 0.4: 0.16 + 0.01 + 0.25
    expected = (values[0] / (0.5 * std)).softmax(0)
    assert torch.allclose(torch.bincount(index, minlength=3) / 60_000, expected, atol=0.01)
    assert torch.equal(choose(1e-3 * values, 0.5, torch.Generator().manual_seed(0)), index)  # the scale is free
    even = choose(torch.zeros(60_000, 3), 0.1, torch.Generator().manual_seed(0))
    assert torch.allclose(torch.bincount(even) / 60_000, torch.full((3,), 1 / 3), atol=0.01)
    hot = choose(values, 1e6, torch.Generator().manual_seed(0))  # whatever the values: the policy's own distribution
    assert torch.allclose(torch.bincount(hot) / 60_000, torch.full((3,), 1 / 3), atol=0.01)
    assert choose(torch.tensor([[1.0, 2.0, 2.0]]), 0.0).tolist() == [1]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_width_narrows_the_draws_about_the_most_likely_action(deterministic: bool) -> None:
    base, settings = policy(), {"candidates": 10, "temperature": 0.0}
    mean, std = drawn(base, 4000, deterministic=True), torch.tensor(-2.0).exp()
    best = drawn(GuidedPolicy(base, critic(), GuidanceConfig(width=0.3, **settings)), 4000, deterministic=deterministic)  # type: ignore[arg-type]
    expected = 1.4850 if deterministic else 1.5388  # of nine draws, of ten (the likeliest is one of the ten)
    assert ((best - mean) / std).mean() == pytest.approx(0.3 * expected, abs=0.02)
    still = drawn(GuidedPolicy(base, critic(), GuidanceConfig(width=0.0, **settings)), 4000)  # type: ignore[arg-type]
    assert torch.equal(still, mean)


@pytest.mark.parametrize("sizes", [(4, 1), (3, 2)])
def test_a_critic_of_other_sizes_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"steering\.critic"):
        GuidedPolicy(policy(), QEnsemble(*sizes, hidden=(4,), count=2, seed=0), GuidanceConfig())
