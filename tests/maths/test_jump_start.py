"""A teacher's directions: what the loss leaves free, how one motion becomes several, when the teacher goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from toddle.core.types import ActionParts
from toddle.experience.teacher import increments
from toddle.maths.jump_start import calls_of, direction_loss, gain_of, rising, shortest, squared_loss

PARTS = ActionParts(position=slice(0, 3), rotation=slice(3, 6), turn=0.1)
ALL = torch.ones(1, 8, dtype=torch.bool)


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, 8, 7, generator=g).requires_grad_(), torch.randn(1, 8, 7, generator=g)


def test_the_direction_loss_by_hand() -> None:
    """Position at a right angle: 1; rotation opposite: 2; a teacher that does not turn says nothing of turning."""
    mean = torch.tensor([[[1.0, 0, 0, 0, 2.0, 0, 9.0], [0, 3.0, 0, 1.0, 0, 0, 9.0]]])
    target = torch.tensor([[[0, 5.0, 0, 0, -1.0, 0, -9.0], [0, 0, 1.0, 0, 0, 1e-4, -9.0]]])
    loss, cosine = direction_loss(mean, target, torch.ones(1, 2, dtype=torch.bool), PARTS.motions)
    assert loss.item() == pytest.approx((1.0 + 2.0 + 1.0) / 2) and cosine.item() == pytest.approx(-1.0 / 3)
    half = torch.tensor([[True, False]])
    assert direction_loss(mean, target, half, PARTS.motions)[0].item() == pytest.approx(3.0 / 2)
    nothing = direction_loss(mean, torch.zeros_like(target), half, PARTS.motions)
    assert [value.item() for value in nothing] == [0.0, 0.0]


def test_neither_length_counts_and_the_gradient_is_orthogonal() -> None:
    mean, target = draws()
    loss, _ = direction_loss(mean, target, ALL, PARTS.motions)
    for a, b in ((0.3, 1.0), (1.0, 0.3), (3.0, 7.0)):
        assert direction_loss(a * mean, b * target, ALL, PARTS.motions)[0].item() == pytest.approx(
            loss.item(), rel=1e-5
        )
    (gradient,) = torch.autograd.grad(loss, mean)
    for part in PARTS.motions:
        along = (gradient[..., part] * mean[..., part]).sum(-1)
        assert along.abs().max() < 1e-6 < gradient[..., part].norm(dim=-1).min()
    assert torch.equal(gradient[..., 6], torch.zeros(1, 8)), "the gripper is free"
    assert squared_loss(mean, 3.0 * target, ALL).item() > 2.0 * squared_loss(mean, target, ALL).item()


def test_a_mean_of_zero_has_a_finite_gradient() -> None:
    mean, (_, target) = torch.zeros(1, 8, 7, requires_grad=True), draws()
    (gradient,) = torch.autograd.grad(direction_loss(mean, target, ALL, PARTS.motions)[0], mean)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_increment_done_as_often_as_it_holds_is_the_whole(steps: int) -> None:
    """A chunk of `steps` actions: q^(1/D) composed D times is what its rotations come to; scipy's SLERP agrees."""
    random = np.random.default_rng(steps)
    chunk = random.uniform(-1, 1, (6, steps, 7)) * ([1, 1, 1, 5, 5, 5, 1])
    each = increments(chunk, steps, PARTS)
    assert steps * each[:, :3] == pytest.approx(chunk[:, :, :3].sum(1), abs=1e-6)
    assert each[:, 6] == pytest.approx(chunk[:, 0, 6], abs=1e-6)
    whole = Rotation.identity(6)
    for index in range(steps):
        whole = Rotation.from_rotvec(0.1 * chunk[:, index, 3:6]) * whole
    small = Rotation.from_rotvec(0.1 * each[:, 3:6])
    assert (small**steps * whole.inv()).magnitude().max() < 1e-6
    for index in range(6):
        path = Slerp([0, steps], Rotation.concatenate([Rotation.identity(), whole[index]]))
        assert (path(1.0) * small[index].inv()).magnitude() < 1e-6


def test_a_slow_action_is_held_and_a_long_turn_goes_the_short_way() -> None:
    chunk = np.array([[[0.5, 0, 0, 0, 0, 0.2, -1.0]]])
    assert increments(chunk, 5, PARTS) == pytest.approx(chunk[:, 0])
    quarter = shortest(np.array([[0.0, 0.0, 2 * math.pi + math.pi / 2], [0.0, 1.5 * math.pi, 0.0]]))
    assert quarter == pytest.approx(np.array([[0.0, 0.0, math.pi / 2], [0.0, -math.pi / 2, 0.0]]))
    half = Rotation.from_rotvec(quarter[0] / 2).as_quat(scalar_first=True)
    assert half == pytest.approx([math.cos(math.pi / 8), 0, 0, math.sin(math.pi / 8)])


def test_the_schedule_by_hand() -> None:
    assert gain_of([1.0] * 5 + [2.0] * 4, 10) == 0.0, "not enough is known"
    assert gain_of([9.0] + [1.0] * 5 + [2.0] * 5, 10) == pytest.approx(1.0)
    assert gain_of([2.0] * 5 + [1.0] * 5, 10) == 0.0
    assert [calls_of(128, 1, 5.0, gain) for gain in (0.0, 0.1, 0.2, 2.0)] == [128, 77, 47, 1]
    assert rising([1, 2, 3, 4], 3) and not rising([2, 3, 4], 3) and not rising([1, 2, 2, 3], 3)
