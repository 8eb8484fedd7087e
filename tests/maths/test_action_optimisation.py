"""Actions climb a critic as closed forms say: a concave quadratic's gap shrinks by (1 - rate) a step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from toddle.maths.action_optimisation import best, chosen, climbed

LOW, HIGH = -torch.ones(2), torch.ones(2)
AIM = torch.tensor([0.5, -0.5])


def bowl(actions: Tensor) -> Tensor:
    return -(actions - AIM).square().sum(-1) / 2


@pytest.mark.parametrize(("rate", "left"), [(3e-4, 0.99700), (0.05, 0.5987)])
def test_ten_steps_close_what_a_quadratic_lets_them(rate: float, left: float) -> None:
    """(1 - 3e-4)^10 = 0.99700, (1 - 0.05)^10 = 0.5987: the released rate moves nothing where values lie within 1."""
    start = torch.zeros(3, 4, 2)
    found, worth = climbed(bowl, start, low=LOW, high=HIGH, steps=10, rate=rate, normalise=False)
    assert ((found - AIM) / (start - AIM)).numpy() == pytest.approx(left, abs=1e-4)
    assert torch.equal(worth, bowl(found))


def test_a_normalised_step_is_in_the_units_of_actions_whatever_the_values_scale() -> None:
    for scale in (1e-3, 1e3):
        found, _ = climbed(
            lambda a, s=scale: s * a.sum(-1), torch.zeros(1, 2), low=LOW, high=HIGH, steps=3, rate=0.1, normalise=True
        )
        assert found.numpy() == pytest.approx(0.3)


def test_no_action_gets_worse_or_leaves_the_box() -> None:
    """At a rate of 3 every step overshoots a parabola to twice the distance: the start is returned."""
    start = torch.rand(50, 8, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for rate in (3.0, 0.3):
        found, worth = climbed(bowl, start, low=LOW, high=HIGH, steps=6, rate=rate, normalise=False)
        assert bool((worth >= bowl(start)).all()) and float(found.abs().max()) <= 1.0
    far = torch.tensor([5.0, 0.0])
    found, _ = climbed(
        lambda a: -(a - far).square().sum(-1), start, low=LOW, high=HIGH, steps=60, rate=0.1, normalise=False
    )
    assert found[..., 0].numpy() == pytest.approx(1.0) and found[..., 1].numpy() == pytest.approx(0.0, abs=2e-3)


def test_without_steps_and_temperature_it_is_the_best_of_the_draws() -> None:
    draws = torch.rand(20, 32, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kept = best(bowl, draws, 32)
    same, worth = climbed(bowl, kept, low=LOW, high=HIGH, steps=0, rate=1.0, normalise=True)
    assert torch.equal(same, kept)
    action, _ = chosen(same, worth, 0.0, None)
    assert torch.equal(action, draws[torch.arange(20), bowl(draws).argmax(1)])
    assert torch.equal(best(bowl, draws, 4), kept[:, :4]) and bool((worth[:, :-1] >= worth[:, 1:]).all())


def test_the_draw_is_by_softmax() -> None:
    """Values log 1 and log 3 at temperature 1: a quarter and three quarters; at 1/2 a tenth and nine tenths."""
    values = torch.tensor([0.0, math.log(3.0)]).expand(40_000, -1)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        _, index = chosen(torch.zeros(40_000, 2, 1), values, temperature, torch.Generator().manual_seed(0))
        assert float(index.float().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 40_000))
