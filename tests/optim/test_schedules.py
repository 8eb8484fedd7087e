"""The cosine against hand arithmetic and torch's own scheduler."""

from __future__ import annotations

import pytest
import torch

from toddle.optim.schedules import cosine_factor


def test_hand_arithmetic() -> None:
    # warm-up of 4: 1/4, 2/4, 3/4, 4/4; then cos from 1 down to 0.2 over 6 steps, half way at step 7: 0.2 + 0.8 / 2
    assert [cosine_factor(s, 10, warm_up=4, final=0.2) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert cosine_factor(7, 10, warm_up=4, final=0.2) == pytest.approx(0.6)
    assert cosine_factor(10, 10, warm_up=4, final=0.2) == cosine_factor(999, 10, warm_up=4, final=0.2) == 0.2


def test_the_same_as_torch_without_warm_up() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 13)
    for step in range(13):
        assert cosine_factor(step, 13) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-9)
        optimiser.step()
        oracle.step()


def test_a_run_of_no_or_one_step() -> None:
    assert cosine_factor(0, 0) == cosine_factor(0, 1) == 1.0
    assert cosine_factor(0, 1, warm_up=1) == 1.0
