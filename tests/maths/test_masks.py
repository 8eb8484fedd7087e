"""Masks against a plain double loop over (decision, kind) pairs."""

import pytest
import torch

from toddle.maths import masks

FIRST = torch.tensor([[0, 0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 1, 1]], dtype=torch.bool)


def seen_by_loop(first: torch.Tensor, window: int) -> torch.Tensor:
    """Row (t, kind) sees column (s, kind): written from the words of the module's docstring, not from its code."""
    batch, length = first.shape
    out = torch.zeros(batch, 2 * length, 2 * length, dtype=torch.bool)
    for b in range(batch):
        for t in range(length):
            begin = max(s for s in range(t + 1) if s == 0 or first[b, s])
            oldest = max(begin, t - window + 1)
            past_actions = range(oldest + 1, t + 1)  # the action before `oldest` was taken outside the window
            for s in range(oldest, t + 1):
                out[b, 2 * t + 1, 2 * s + 1] = True
                out[b, 2 * t, 2 * s + 1] = s < t
            for s in past_actions:
                out[b, 2 * t + 1, 2 * s] = True
                out[b, 2 * t, 2 * s] = True
            out[b, 2 * t, 2 * t] = True
    return out


@pytest.mark.parametrize("window", [1, 2, 3, 5, 20])
def test_history_mask(window: int) -> None:
    count = masks.steps_since_first(FIRST)
    assert count[0].tolist() == [1, 2, 3, 1, 2, 3, 4, 5]
    expected = seen_by_loop(FIRST, window)
    assert torch.equal(masks.history_mask(count, window), expected)
    assert torch.equal(masks.decision_rows(count, window), expected[:, 1::2])


def test_a_full_window_has_two_w_minus_one_tokens() -> None:
    rows = masks.decision_rows(masks.steps_since_first(torch.zeros(1, 40, dtype=torch.bool)), 16)
    assert rows[0, -1].sum() == 31


def test_ring_ages() -> None:
    assert masks.ring_ages(1, 4).tolist() == [1, 0, 3, 2]


def test_slot_masks() -> None:
    inf = float("inf")
    assert masks.slot_mask(3, "causal").tolist() == [[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]]
    assert masks.slot_mask(2, "bidirectional", -7.0).tolist() == [[0, -7], [0, 0]]


def test_the_bias_is_annealed_to_zero() -> None:
    assert [masks.annealed_bias(p) for p in (0.0, 0.05, 0.1, 1.0)] == pytest.approx([-40, -20, 0, 0])


def test_what_no_row_sees_is_left_out_and_no_mask_is_left_where_all_see_all() -> None:
    context = torch.arange(12.0).view(2, 1, 6, 1)
    mask = torch.tensor([[[True, False, True, True, False, False]], [[True, False, False, True, False, False]]])
    kept, seen = masks.what_is_seen(context, mask)
    assert kept.flatten().tolist() == [0.0, 2.0, 3.0, 6.0, 8.0, 9.0]
    assert seen is not None and seen.tolist() == [[[True, True, True]], [[True, False, True]]]
    for alike in (mask[:1], torch.ones_like(mask)):
        kept, seen = masks.what_is_seen(context[: len(alike)], alike)
        assert seen is None and kept.shape[-2] == int(alike[0, 0].sum())
