"""Where a stretch became stuck is found in so many questions, and what is stuck is worth the least."""

from __future__ import annotations

import pytest
import torch

from toddle.maths.reversibility import first_stuck, held_back


@pytest.mark.parametrize(("count", "questions"), [(15, 4), (100, 7), (200, 8), (300, 9), (1000, 10)])
def test_every_first_stuck_state_is_found_in_the_logarithm_of_their_number(count: int, questions: int) -> None:
    asked = []
    for where in range(count + 1):  # the last: nothing is stuck
        found, needed = first_stuck(count, lambda index, where=where: index >= where)  # type: ignore[misc]
        assert found == where
        asked.append(needed)
    assert max(asked) == questions and min(asked) >= questions - 1


def test_what_is_stuck_for_sure_is_worth_the_least_whatever_follows() -> None:
    reward, discount, following = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.9, 0.9, 0.9]), 10.0
    held, counts = held_back(reward, discount, torch.tensor([1.0, 0.0, 0.25]), -2.0)
    # 0.25 * -2 + 0.75 * (1 + 0.9 * 10) = 7
    assert (held + counts * following).tolist() == pytest.approx([-2.0, 10.0, 7.0])
