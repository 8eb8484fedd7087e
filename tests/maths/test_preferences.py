"""Losses of preferences against closed forms, the written-out formulas of TRL, and optima that are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toddle.maths.preferences import (
    bradley_terry,
    dpo_loss,
    external_log_reward,
    information_gain,
    ipo_loss,
    margin,
    trajectory_score,
)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_at_the_reference_the_loss_is_log_2_and_its_slope_minus_half_of_beta() -> None:
    for beta in (0.1, 5.0, 500.0):
        m = number(0.0).requires_grad_()
        loss = dpo_loss(m, beta)
        (slope,) = torch.autograd.grad(loss, m)
        assert loss.item() == pytest.approx(0.6931471805599453, abs=1e-15)
        assert float(slope) == pytest.approx(-beta / 2, rel=1e-12)  # -0.05 at beta 0.1


def test_losses_of_four_log_densities_by_hand() -> None:
    """log pi(w), pi(l), ref(w), ref(l) = -12, -15, -13, -14.5: m = 1.5; TRL's sigmoid, smoothed and ipo losses.

    With beta 0.1: log(1 + e^-0.15) = 0.6209570; smoothed by 0.1: 0.9 x 0.6209570 + 0.1 x 0.7709570 = 0.6359570;
    ipo: (1.5 - 5)^2 = 12.25.
    """
    m = margin(number(-12.0), number(-15.0), number(-13.0), number(-14.5))
    assert float(m) == 1.5
    assert float(dpo_loss(m, 0.1)) == pytest.approx(0.6209570, abs=1e-7)
    assert float(dpo_loss(m, 0.1, smoothing=0.1)) == pytest.approx(0.6359570, abs=1e-7)
    assert float(ipo_loss(m, 0.1)) == pytest.approx(12.25, abs=1e-12)
    again = margin(number(-12.0 + 7), number(-15.0 + 7), number(-13.0), number(-14.5))
    assert float(again) == 1.5  # a constant in both changes nothing


@settings(deadline=None)
@given(st.floats(-30, 30), st.floats(0.01, 3.0), st.floats(0.0, 0.49))
def test_slopes_are_the_closed_forms(value: float, beta: float, s: float) -> None:
    """d/dm: -beta (1 - s) sigmoid(-beta m) + beta s sigmoid(beta m); ipo 2 (m - 1 / 2 beta)."""
    m = number(value).requires_grad_()
    (slope,) = torch.autograd.grad(dpo_loss(m, beta, smoothing=s), m)
    up, down = 1 / (1 + math.exp(-beta * value)), 1 / (1 + math.exp(beta * value))
    assert float(slope) == pytest.approx(-beta * (1 - s) * down + beta * s * up, rel=1e-9, abs=1e-12)
    (slope,) = torch.autograd.grad(ipo_loss(m, beta), m)
    assert float(slope) == pytest.approx(2 * (value - 1 / (2 * beta)), rel=1e-9, abs=1e-9)


def least(loss: object, shape: tuple[int, ...]) -> Tensor:
    """The argument at which a loss is least, by L-BFGS."""
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [x], lr=1.0, max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value: Tensor = loss(x)  # type: ignore[operator]
        value.backward()
        return value

    optimiser.step(closure)
    return x.detach()


@pytest.mark.parametrize(("beta", "expected"), [(0.5, (0.03667, 0.16256, 0.80077)), (1.0, (0.17900, 0.29194, 0.52906))])
def test_answers_by_bradley_terry_lead_to_the_reference_tilted_by_the_reward(
    beta: float, expected: tuple[float, ...]
) -> None:
    """Three arms, reference (0.5, 0.3, 0.2), rewards (0, 1, 2): pi ~ ref exp(r / beta), to five digits by hand."""
    reference, reward = torch.tensor([0.5, 0.3, 0.2]).double().log(), torch.tensor([0.0, 1.0, 2.0]).double()
    chosen = bradley_terry(reward[:, None], reward[None, :])  # P(i before j)

    def loss(logits: Tensor) -> Tensor:
        ratio = logits.log_softmax(-1) - reference
        return (chosen * dpo_loss(ratio[:, None] - ratio[None, :], beta)).sum() + 1e-9 * logits.square().sum()

    assert least(loss, (3,)).softmax(-1).tolist() == pytest.approx(expected, abs=1e-5)


def test_ipo_and_smoothing_have_their_least_at_a_finite_margin() -> None:
    assert float(least(lambda m: ipo_loss(m, 0.1), ())) == pytest.approx(5.0, abs=1e-6)
    assert float(least(lambda m: dpo_loss(m, 0.1, smoothing=0.1), ())) == pytest.approx(math.log(9) / 0.1, abs=1e-3)


def test_bradley_terry_learns_rewards_from_answers_up_to_a_constant() -> None:
    true = torch.linspace(-1, 1, 9).double().sin()
    chosen = bradley_terry(true[:, None], true[None, :])

    def loss(reward: Tensor) -> Tensor:
        p = bradley_terry(reward[:, None], reward[None, :])
        return torch.nn.functional.binary_cross_entropy(p, chosen)

    found = least(loss, (9,))
    assert (found - found.mean() - (true - true.mean())).abs().max() < 1e-5


def test_an_external_reward_of_one_excess_is_its_exponential_and_none_is_one() -> None:
    costs = torch.tensor([[0.1, 0.5], [0.2, 0.3]], dtype=torch.float64)  # two stages of two constraints
    assert float(external_log_reward(costs, 0.5).exp()) == 1.0
    assert float(external_log_reward(costs, 0.4, 3.0).exp()) == pytest.approx(math.exp(-3.0 * 0.1), rel=1e-12)
    assert math.isfinite(float(external_log_reward(1e4 * costs)))  # whose exponential is 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), min_size=4, max_size=4), st.floats(0, 3), st.integers(0, 3))
def test_more_cost_never_ranks_higher(costs: list[float], more: float, where: int) -> None:
    before = torch.tensor(costs, dtype=torch.float64)
    after = before.clone()
    after[where] += more
    scores = [trajectory_score(float(external_log_reward(each.view(2, 2))), success=True) for each in (before, after)]
    assert scores[1] <= scores[0]
    assert trajectory_score(-99.0, success=True) > trajectory_score(
        0.0, success=False
    )  # costs to 100 decide among equals


def test_information_gain_by_hand() -> None:
    """w in {1, -1}, a difference of 1: 1 - H2(0.7311) = 0.16006 bit; equals tell nothing; a coin each way, one bit."""
    w = torch.tensor([1.0, -1.0], dtype=torch.float64)
    difference = torch.tensor([1.0, 0.0, 500.0], dtype=torch.float64)
    gain = information_gain(bradley_terry(w[:, None] * difference, torch.zeros(1)))
    assert gain.tolist() == pytest.approx([0.16006, 0.0, 1.0], abs=1e-5)
