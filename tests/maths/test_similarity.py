"""Linear CKA: its invariances, and a value worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from toddle.maths.similarity import linear_cka


def test_rotation_and_scaling_are_not_seen_and_other_maps_are() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    assert linear_cka(x, 3.0 * x @ q + 5.0) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, x * torch.tensor([9.0, 1, 1, 1, 1, 1])) < 0.9
    assert linear_cka(x, torch.randn(200, 6, generator=generator)) < 0.1


def test_against_a_value_worked_out_by_hand() -> None:
    """x = (1, 0), (-1, 0), (0, 1), (0, -1) and y its first column: |y'x|^2 = 4, |x'x| = 2 sqrt 2, |y'y| = 2."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert linear_cka(x, x[:, :1]) == pytest.approx(4 / (2 * math.sqrt(2) * 2), abs=1e-12)
    assert math.isnan(linear_cka(x, torch.ones(4, 1)))
