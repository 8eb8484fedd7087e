"""Retrieval against what is known by construction: copies at full and at half speed, borders, equal rows, weights."""

from __future__ import annotations

import pytest
import torch

from toddle.maths.retrieval import blend_weights, distances, subsequence_costs

NOISE = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
ONE = torch.zeros(60, dtype=torch.bool)
ONE[0] = True


def costs(query: torch.Tensor, begins: torch.Tensor = ONE, rows: torch.Tensor = NOISE) -> torch.Tensor:
    return subsequence_costs(distances(query, rows), begins)


def test_a_copy_is_found_where_it_ends_and_one_at_half_speed_too() -> None:
    found = costs(NOISE[20:32])
    assert found.argmin() == 31 and found.min() == 0.0
    slow = NOISE[20:43:2]  # twelve moments of twenty-three rows: two rows a moment
    assert costs(slow).argmin() == 42 and costs(slow).min() == 0.0
    fast = NOISE[20:26].repeat_interleave(2, 0)  # two moments a row: the reference cannot stand still
    assert costs(fast).min() > 10.0


def test_no_part_reaches_over_a_border_or_is_longer_than_what_there_is() -> None:
    begins = ONE.clone()
    begins[26] = True
    assert costs(NOISE[20:32], begins).min() > 5.0 and costs(NOISE[26:32], begins).min() == 0.0
    assert costs(NOISE[:10], ONE[:6], NOISE[:6]).isinf().all()


def test_equal_rows_are_at_distance_zero_and_weights_end_at_the_radius() -> None:
    wide = torch.randn(200, 768, generator=torch.Generator().manual_seed(1))
    assert (distances(wide, wide).diagonal() == 0.0).all()
    weight = blend_weights(torch.tensor([[0.0, 0.5, 1.0, 2.0], [0.5, 2.0, 2.0, torch.inf]]), 1.0)
    assert weight[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0, 0.0]) and weight[1].tolist() == [0.5, 0, 0, 0]
