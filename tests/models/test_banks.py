"""Banks, normalisation, goal tokens."""

import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.goal import GOAL_FEATURES
from toddle.models.banks import Bank, bodies_of
from toddle.models.goal_encoder import GoalEncoder
from toddle.models.normalizer import RunningNorm


def test_running_norm_is_the_moments_of_all_batches_together() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 3, generator=g) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, -40.0, 2.0])
    norm = RunningNorm([3, 4])
    assert torch.equal(norm(x.clamp(-5, 5)), x.clamp(-5, 5)) or (norm(x) - x.clamp(-10, 10)).abs().max() < 1e-4
    for part in x.split([1, 400, 599]):
        norm.update(part)
    assert torch.allclose(norm.mean[0, :3], x.double().mean(0), atol=1e-9)
    assert torch.allclose(norm.var[0, :3], x.double().var(0, correction=0), rtol=1e-9)
    y = norm(x)
    assert y.mean(0).abs().max() < 1e-4 and (y.std(0) - 1).abs().max() < 1e-2
    assert norm.count.tolist() == [1000, 0]
    assert RunningNorm([3])(x[None]).shape == (1, 1000, 3)
    assert RunningNorm([3])(x[0]).shape == (3,)
    with pytest.raises(InputError, match="proprio"):
        norm.update(x, 1)


def test_another_body_changes_only_its_own_bank() -> None:
    bank = Bank(["a", "b"], [3, 5], 8, [2, 4])
    x = torch.randn(7, 5)
    before = bank(x, 0)
    for parameter in bank.mlps["b"].parameters():
        parameter.data += 1
    assert torch.equal(before, bank(x, 0))
    assert bank(x, 0).shape == (7, 4) and (bank(x, 0)[:, 2:] == 0).all()


def test_bodies_of() -> None:
    assert bodies_of(None, 1) == 0
    assert bodies_of(torch.tensor([1, 1]), 2) == 1
    with pytest.raises(InputError, match="body"):
        bodies_of(None, 2)
    with pytest.raises(InputError, match="body"):
        bodies_of(torch.tensor([-1, 1]), 2)


def test_goal_tokens() -> None:
    encoder = GoalEncoder(width=6)
    goal = torch.randn(2, 3, GOAL_FEATURES)
    goal[..., 0] = torch.tensor([[0, 1, 255], [3, 4, 5]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    context, seen = encoder(goal, mask, None, (2,))
    assert seen.tolist() == [[True, True, False], [True, False, False]]
    assert torch.equal(context[1, 0], encoder.null) and not torch.equal(context[0, 0], encoder.null)
    dropped, seen = encoder(goal, mask, torch.tensor([True, False]), (2,))
    assert torch.equal(dropped[0, 0], encoder.null) and seen[0].tolist() == [True, False, False]
    order = torch.tensor([1, 0, 2])
    swapped, _ = encoder(goal[:, order], mask[:, order], None, (2,))
    assert torch.allclose(swapped[0], context[0, order], atol=1e-6)
    alone, seen = encoder(None, None, None, (2, 5))
    assert alone.shape == (2, 5, 1, 6) and seen.all()


def test_a_body_that_is_forgotten_starts_again() -> None:
    norm = RunningNorm([2, 3])
    for body, size in ((0, 2), (1, 3)):
        norm.update(torch.randn(50, size, generator=torch.Generator().manual_seed(body)) * 9 + 4, body)
    kept = norm.mean[1].clone()
    norm.forget(0)
    norm.update(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), 0)  # mean (2, 2), deviations (1, 2)
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]]), 0), torch.ones(1, 2), rtol=1e-5, atol=1e-5)
    assert torch.equal(norm.mean[1], kept)
