"""GAE against hand arithmetic, stable-baselines3, closed forms; episodes do not leak into each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toddle.maths.advantages import (
    action_gae,
    discounted_returns,
    gae,
    group_advantages,
    standardise,
    step_and_trajectory_advantages,
)

T, B = 6, 2
# Made with stable-baselines3 2.9.2: RolloutBuffer(gamma=0.8, gae_lambda=0.9), time limits handled as its
# OnPolicyAlgorithm does (reward += gamma V(final observation)).
REWARD = [[0.13, -0.13], [0.64, 0.1], [-0.54, 0.36], [1.3, 0.95], [-0.7, -1.27], [-0.62, 0.04]]
VALUE = [[-2.33, -0.22], [-1.25, -0.73], [-0.54, -0.32], [0.41, 1.04], [-0.13, 1.37], [-0.67, 0.35]]
LAST = [0.9, 0.09]
FINAL = {(3, 1): 0.7, (5, 0): -0.4}  # values of the final observations of truncated episodes
TERMINATED = (1, 0)
SB3 = [
    [2.8208000659942627, 0.8785269856452942],
    [1.8899999856948853, 1.9062880277633667],
    [0.21979300677776337, 1.8503999710083008],
    [-0.15028800070285797, 0.4699999988079071],
    [-1.3004000186920166, -2.531359910964966],
    [-0.27000001072883606, -0.23800000548362732],
]


def sb3_case() -> dict[str, torch.Tensor]:
    value = torch.tensor(VALUE)
    next_value = torch.cat([value[1:], torch.tensor([LAST])])
    truncated, terminated = torch.zeros(T, B, dtype=torch.bool), torch.zeros(T, B, dtype=torch.bool)
    for place, final in FINAL.items():
        truncated[place], next_value[place] = True, final
    terminated[TERMINATED] = True
    reward = torch.tensor(REWARD)
    return {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "truncated": truncated,
    }


def test_hand_arithmetic() -> None:
    # gamma = lambda = 1/2: deltas 1, 1.75, 2.5; A_2 = 2.5, A_1 = 1.75 + 2.5/4, A_0 = 1 + 2.375/4
    never = torch.zeros(3, 1, dtype=torch.bool)
    result = gae(
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([[0.5], [1.0], [1.5]]),
        torch.tensor([[1.0], [1.5], [2.0]]),
        never,
        never,
        discount=0.5,
        lam=0.5,
    )
    assert result.flatten().tolist() == [1.59375, 2.375, 2.5]


def test_equals_stable_baselines3() -> None:
    assert torch.allclose(gae(**sb3_case(), discount=0.8, lam=0.9), torch.tensor(SB3), atol=1e-6)


def test_swapping_terminated_and_truncated_changes_the_result() -> None:
    case = sb3_case()
    case["terminated"], case["truncated"] = case["truncated"], case["terminated"]
    swapped = gae(**case, discount=0.8, lam=0.9)
    for place in [TERMINATED, *FINAL]:
        assert abs(float(swapped[place]) - SB3[place[0]][place[1]]) > 0.1


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_nothing_crosses_the_end_of_an_episode(kind: str) -> None:
    case = sb3_case()
    case[kind][2] = True
    before = gae(**case, discount=0.8, lam=0.9)
    case["reward"][3:] += 10.0
    case["value"][3:] -= 7.0
    after = gae(**case, discount=0.8, lam=0.9)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


def test_a_termination_ignores_the_next_value_and_a_truncation_does_not() -> None:
    case = sb3_case()
    before = gae(**case, discount=0.8, lam=0.9)
    case["next_value"][TERMINATED] += 100.0
    assert torch.equal(gae(**case, discount=0.8, lam=0.9), before)
    case["next_value"][3, 1] += 1.0
    assert gae(**case, discount=0.8, lam=0.9)[3, 1] == pytest.approx(SB3[3][1] + 0.8, abs=1e-5)


def random_case(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reward, value, next_value = torch.randn(3, 7, 3, generator=generator, dtype=torch.float64)
    never = torch.zeros(7, 3, dtype=torch.bool)
    next_value[:-1] = value[1:]
    return {"reward": reward, "value": value, "next_value": next_value, "terminated": never, "truncated": never}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.99))
def test_lambda_one_is_the_discounted_return_minus_the_value(seed: int, gamma: float) -> None:
    case = random_case(seed)
    powers = gamma ** torch.arange(7, dtype=torch.float64)
    result = gae(**case, discount=gamma, lam=1.0)
    for t in range(7):
        returns = (powers[: 7 - t, None] * case["reward"][t:]).sum(0) + gamma ** (7 - t) * case["next_value"][-1]
        assert torch.allclose(result[t], returns - case["value"][t], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.99))
def test_lambda_zero_is_the_one_step_error(seed: int, gamma: float) -> None:
    case = random_case(seed)
    one_step = case["reward"] + gamma * case["next_value"] - case["value"]
    assert torch.allclose(gae(**case, discount=gamma, lam=0.0), one_step, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 0.99), st.floats(0.0, 1.0))
def test_a_perfect_critic_of_constant_reward_leaves_no_advantage(gamma: float, lam: float) -> None:
    value = torch.full((5, 3), 1.0 / (1.0 - gamma), dtype=torch.float64)
    never = torch.zeros(5, 3, dtype=torch.bool)
    cut = never.clone()
    cut[2, 1] = True  # a time limit changes nothing for a critic that knows the future
    result = gae(torch.ones_like(value), value, value, never, cut, discount=gamma, lam=lam)
    assert result.abs().max() < 1e-9


def test_a_discount_for_each_decision() -> None:
    # One decision of two control steps, one of one: delta = r + gamma^k V' - V.
    discount = torch.tensor([[0.25], [0.5]])
    never = torch.zeros(2, 1, dtype=torch.bool)
    one, four = torch.ones(2, 1), torch.full((2, 1), 4.0)
    assert gae(one, one, four, never, never, discount=discount, lam=0.0).flatten().tolist() == [1.0, 2.0]


def test_discounted_returns_by_hand() -> None:
    reward, ended = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[False], [True], [False]])
    sums, carry = discounted_returns(reward, ended, torch.tensor([2.0]), 0.5)
    assert sums.flatten().tolist() == [2.0, 2.0, 1.0]
    assert carry.tolist() == [1.0]


def test_standardise() -> None:
    assert standardise(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert standardise(torch.tensor([5.0])).tolist() == [0.0]


def test_standardise_sees_what_is_real() -> None:
    x = torch.tensor([[1.0, 2.0, 99.0], [3.0, float("nan"), 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = standardise(x, mask)
    assert found[mask].tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert found[~mask].tolist() == [0.0, 0.0, 0.0]


def test_group_advantages_by_hand() -> None:
    """Groups (0: returns 1, 2, 6), (7: 4, 4), interleaved: mean 3, deviation sqrt 7; the second teaches nothing."""
    returns, group = torch.tensor([1.0, 4.0, 2.0, 4.0, 6.0]), torch.tensor([0, 7, 0, 7, 0])
    advantage, uneven = group_advantages(returns, group)
    assert uneven.tolist() == [True, False, True, False, True]
    assert advantage.tolist() == pytest.approx([-2 / 7**0.5, 0.0, -1 / 7**0.5, 0.0, 3 / 7**0.5], abs=1e-5)
    plain, _ = group_advantages(returns, group, scale=False)
    assert plain.tolist() == pytest.approx([-2.0, 0.0, -1.0, 0.0, 3.0])
    loo, _ = group_advantages(returns, group, leave_one_out=True)
    assert loo.tolist() == pytest.approx([1 - 4.0, 0.0, 2 - 3.5, 0.0, 6 - 1.5])


@pytest.mark.parametrize(
    ("wins", "grpo", "loo"),
    [
        (1, (2.4749, -0.35355), (1.0, -0.142857)),
        (4, (0.93541, -0.93541), (0.571429, -0.571429)),
        (7, (0.35355, -2.4749), (0.142857, -1.0)),
    ],
)
def test_eight_tries_of_which_some_succeed(wins: int, grpo: tuple[float, ...], loo: tuple[float, ...]) -> None:
    """SimpleVLA-RL's and RIPT-VLA's groups of 8: (R - mean) / std of a sample, and 1 - (k - 1) / 7 against -k / 7."""
    returns, group = (torch.arange(8) < wins).float(), torch.zeros(8, dtype=torch.int64)
    for wanted, more in ((grpo, False), (loo, True)):
        found, _ = group_advantages(returns, group, leave_one_out=more)
        assert found[[0, 7]].tolist() == pytest.approx(wanted, abs=5e-5)
    for alike in (torch.ones(8), torch.zeros(8)):
        nothing, uneven = group_advantages(alike, group)
        assert not nothing.any() and not uneven.any()


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9), st.booleans())
def test_group_advantages_sum_to_zero(values: list[float], leave_one_out: bool) -> None:
    returns = torch.tensor(values, dtype=torch.float64)
    advantage, _ = group_advantages(returns, torch.zeros(len(values), dtype=torch.int64), leave_one_out=leave_one_out)
    assert float(advantage.sum()) == pytest.approx(0.0, abs=1e-6)


def test_steps_and_trajectories_of_a_group() -> None:
    """By hand: two episodes of one start and one of another; the second ends a step early."""
    reward = torch.tensor([[1.0, 0.0, 5.0], [2.0, 0.0, 5.0], [0.0, 9.0, 5.0]])
    mask = torch.tensor([[True, True, True], [True, True, True], [True, False, True]])
    returns, group = torch.tensor([3.0, 0.0, 15.0]), torch.tensor([4, 4, 7])
    found, uneven = step_and_trajectory_advantages(reward, mask, returns, group, step=0.5, trajectory=0.25)
    half = 0.5**0.5  # (x - mean) / std of two numbers is +- 1 / sqrt 2
    expected = torch.tensor(
        [[0.75 * half, -0.75 * half, 0.0], [0.75 * half, -0.75 * half, 0.0], [0.25 * half, 0.0, 0.0]]
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert uneven.tolist() == [True, True, False]


def test_steps_alone_sum_to_zero_and_constant_rewards_teach_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    reward, group = torch.rand(7, 8, generator=generator), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    mask = torch.ones(7, 8, dtype=torch.bool)
    found, _ = step_and_trajectory_advantages(reward, mask, reward.sum(0), group, step=1.0, trajectory=0.0)
    torch.testing.assert_close(found.view(7, 2, 4).sum(-1), torch.zeros(7, 2), atol=1e-5, rtol=0)
    same = torch.ones(7, 8)
    found, uneven = step_and_trajectory_advantages(same, mask, reward.sum(0), group, step=1.0, trajectory=0.0)
    assert not found.any() and not uneven.any()


def as_chunks(horizon: int = 2) -> dict[str, torch.Tensor]:
    """The case of stable-baselines3 as chunks of two actions: its episodes end at the ends of these."""
    case = sb3_case()
    chunked = {name: case[name].unflatten(0, (-1, horizon)).transpose(1, 2) for name in ("reward", "value")}
    ends = {name: case[name][horizon - 1 :: horizon] for name in ("next_value", "terminated", "truncated")}
    return chunked | ends | {"made": torch.ones_like(chunked["reward"], dtype=torch.bool)}


@pytest.mark.parametrize("horizon", [1, 2])
def test_single_actions_are_steps_of_stable_baselines3(horizon: int) -> None:
    found = action_gae(**as_chunks(horizon), discount=0.8, lam=0.9)  # type: ignore[arg-type]
    torch.testing.assert_close(found.transpose(1, 2).flatten(0, 1), torch.tensor(SB3))


def test_single_actions_of_a_chunk_that_was_cut_by_hand() -> None:
    # gamma = lambda = 1/2; the episode ends with the first action of the second chunk: A = 3 - 1.5 = 1.5 there, before
    # it 2 + 1.5/2 - 1 + 1.5/4 = 2.125, and 1 + 1/2 - 0.5 + 2.125/4 = 1.53125
    ends = torch.tensor([[False], [True]])
    given = {
        "reward": torch.tensor([[[1.0, 2.0]], [[3.0, 99.0]]]),
        "value": torch.tensor([[[0.5, 1.0]], [[1.5, 99.0]]]),
        "next_value": torch.tensor([[1.5], [7.0]]),
        "made": torch.tensor([[[True, True]], [[True, False]]]),
    }
    found = action_gae(**given, terminated=ends, truncated=~ends & False, discount=0.5, lam=0.5)
    assert found.flatten().tolist() == [1.53125, 2.125, 1.5, 0.0]
    cut = action_gae(**given, terminated=ends & False, truncated=ends, discount=0.5, lam=0.5)
    assert cut.flatten().tolist() == [1.75, 3.0, 5.0, 0.0]  # 7/2 more at the end, 1/4 of it before, and again


def test_at_lambda_one_the_first_action_of_a_chunk_has_the_chunk_s_advantage() -> None:
    case = as_chunks()
    gamma = 0.9
    found = action_gae(**case, discount=gamma, lam=1.0)  # type: ignore[arg-type]
    whole = gae(
        case["reward"][..., 0] + gamma * case["reward"][..., 1],
        case["value"][..., 0],
        case["next_value"],
        case["terminated"],
        case["truncated"],
        discount=gamma**2,
        lam=1.0,
    )
    torch.testing.assert_close(found[..., 0], whole)
