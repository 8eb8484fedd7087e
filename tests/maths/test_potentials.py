"""Learned progress and the rewards made of it: numbers by hand, sums that telescope, and a best policy that stays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from toddle.maths.advantages import gae
from toddle.maths.potentials import bin_centres, order_loss, potential_reward, steps_to_bins

NO = torch.zeros(4, dtype=torch.bool)


def test_the_loss_of_an_order() -> None:
    """Equal values: log 2; two apart: log(1 + e^-2)."""
    found = order_loss(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 0.0]))
    assert found.tolist() == pytest.approx([math.log(2.0), 0.126928, 2.126928], abs=1e-6)


def test_bins_hold_the_steps_they_stand_for() -> None:
    steps = torch.arange(12)
    bins, centres = steps_to_bins(steps, 11.0, 4), bin_centres(11.0, 4)
    assert bins.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and centres.tolist() == [1.0, 4.0, 7.0, 10.0]
    assert bin_centres(11.0, 12).tolist() == steps.tolist() and int(steps_to_bins(torch.tensor(50), 11.0, 4)) == 3


def test_shaping_sums_to_what_it_was_at_the_start() -> None:
    """Terminated: -Phi(s_0); cut: gamma^T Phi(s_T) - Phi(s_0), whatever lies between."""
    phi, gamma = torch.tensor([0.3, 0.9, 0.1, 0.7, 0.5]), 0.9
    power = gamma ** torch.arange(4.0)
    for terminated, wanted in ((True, -0.3), (False, gamma**4 * 0.5 - 0.3)):
        ends = torch.tensor([False, False, False, terminated])
        paid = potential_reward(phi[:-1], phi[1:], ends, ends, torch.full((4,), gamma), shaping=True)
        assert float((power * paid).sum()) == pytest.approx(wanted, abs=1e-6)


def test_going_back_and_forth_earns_nothing_by_shaping() -> None:
    """Between 0 and 1 forever: with gamma in it the sum is 0; without, the learner's discount leaves 1 / 1.99."""
    phi, gamma = torch.tensor([0.0, 1.0] * 2000), 0.99
    no, power = torch.zeros(3999, dtype=torch.bool), gamma ** torch.arange(3999.0)
    shaped, plain = (
        float((power * potential_reward(phi[:-1], phi[1:], no, no, torch.full((3999,), gamma), shaping=form)).sum())
        for form in (True, False)
    )
    assert shaped == pytest.approx(0.0, abs=1e-4) and plain == pytest.approx(0.502513, abs=1e-4)


def test_a_difference_takes_success_as_one_and_a_failed_end_as_no_change() -> None:
    now, after = torch.tensor([0.2, 0.5, 0.5, 0.9]), torch.tensor([0.5, 9.0, 9.0, 0.4])
    ends, success = torch.tensor([False, True, True, False]), torch.tensor([False, True, False, False])
    paid = potential_reward(now, after, ends, success, torch.ones(4), shaping=False)
    assert paid.tolist() == pytest.approx([0.3, 0.5, 0.0, -0.5])


def test_returns_of_steps_to_go_need_no_baseline() -> None:
    """The identity of the paper's return for d = 5, 4, 4.5, 2, 1, 0.3 at gamma 0.9: 3.76327, by another program."""
    d = torch.tensor([5.0, 4.0, 4.5, 2.0, 1.0, 0.3])
    paid = potential_reward(-d[:-1], -d[1:], NO.new_zeros(5), NO.new_zeros(5), torch.ones(5), shaping=False)
    assert float((0.9 ** torch.arange(5.0) * paid).sum()) == pytest.approx(3.76327, abs=1e-5)


def test_shaping_leaves_the_best_policy_and_a_difference_does_not() -> None:
    """A chain of five states, left or right, the last pays 1 and ends: 200 random potentials, solved by iteration."""
    gamma, count = 0.9, 200
    phi = torch.from_numpy(np.random.default_rng(0).normal(0.0, 3.0, (count, 5))).float()
    phi[:, 4] = 0.0

    def greedy(shaping: bool | None) -> torch.Tensor:
        q = torch.zeros(count, 4, 2)
        for _ in range(150):
            value = torch.cat([q.amax(2), torch.zeros(count, 1)], 1)
            for action, step in enumerate((-1, 1)):
                to = (torch.arange(4) + step).clamp(min=0)
                end = (to == 4).expand(count, 4)
                reward = end.float()
                if shaping is not None:
                    power = torch.full((count, 4), gamma)
                    reward = reward + potential_reward(phi[:, :4], phi[:, to], end, end, power, shaping=shaping)
                q[..., action] = reward + gamma * torch.where(end, 0.0, value[:, to])
        return q.argmax(2)

    best = greedy(None)
    assert bool((best == 1).all()) and torch.equal(greedy(True), best)
    assert int((greedy(False) != best).any(1).sum()) > 100


def test_shaping_by_the_best_value_pays_nothing_for_the_best_steps_and_takes_from_all_others() -> None:
    """A line of five states, the last pays 1 and ends; V* = 0.9^(steps left - 1), so it is the advantage."""
    gamma, value = 0.9, torch.tensor([0.729, 0.81, 0.9, 1.0])
    to, end = torch.tensor([[0, 1], [0, 2], [1, 3], [2, 4]]).T, torch.tensor([False, False, False, True])
    for following, ends, wanted in (
        (to[0], torch.zeros(4, dtype=torch.bool), [0.9 * 0.729 - 0.729, 0.6561 - 0.81, 0.729 - 0.9, 0.81 - 1.0]),
        (to[1], end, [0.0] * 4),
    ):
        after = torch.cat([value, torch.zeros(1)])[following]
        shaped = ends.float() + potential_reward(value, after, ends, ends, torch.full((4,), gamma), shaping=True)
        assert shaped.tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_critic_that_starts_at_minus_the_potential_makes_of_shaping_what_there_was_without() -> None:
    """Wiewiora 2003: A(r + gamma Phi' - Phi, V - Phi) = A(r, V), over ends, cuts and chunks of several steps."""
    draw = torch.Generator().manual_seed(0)
    reward, value, following, phi, after = torch.randn(5, 40, 6, generator=draw, dtype=torch.float64)
    terminated, truncated = torch.rand(2, 40, 6, generator=draw) < 0.1
    truncated &= ~terminated
    discount = 0.97 ** torch.randint(1, 9, (40, 6), generator=draw).double()
    inner = ~(terminated | truncated)[:-1]  # what follows a step within an episode is the next one
    for now, later in ((value, following), (phi, after)):
        later[:-1][inner] = now[1:][inner]
    ends = (terminated, truncated)
    plain = gae(reward, value, following, *ends, discount=discount, lam=0.95)
    paid = potential_reward(phi, after, terminated, terminated, discount, shaping=True)
    shaped = gae(reward + paid, value - phi, following - after, *ends, discount=discount, lam=0.95)
    assert (shaped - plain).abs().max() < 1e-12
