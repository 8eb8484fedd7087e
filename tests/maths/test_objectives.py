"""The clipped surrogate, the forms of a ratio, the per-link schedules and the KL estimators, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toddle.maths.objectives import (
    clipped_surrogate,
    clipped_value_loss,
    decision_weights,
    kl_k3,
    link_clips,
    link_discounts,
    link_log_ratio,
    mean_where,
)


def test_forms_of_a_ratio() -> None:
    new, old = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 1.0, 4.0]])
    assert link_log_ratio(new, old, "per_link").tolist() == [[0.5, 1.0, 0.0]]
    assert link_log_ratio(new, old, "sum").tolist() == [[1.5]]
    assert link_log_ratio(new, old, "mean").tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.5, 1.0, -1.2, 0.0),  # gain already taken: held at 1 + 0.2, no pull
        (0.5, -1.0, 0.8, 0.0),  # loss already avoided: held at 1 - 0.2, no pull
        (1.5, -1.0, 1.5, 1.5),  # moved the wrong way: never clipped
        (0.5, 1.0, -0.5, -0.5),
        (1.1, 2.0, -2.2, -2.2),
    ],
)
def test_the_four_corners_of_the_clip(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    log_ratio = torch.tensor([[math.log(ratio)]], requires_grad=True)
    result, _ = clipped_surrogate(log_ratio, torch.tensor([advantage]), 0.2, 0.2)
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert log_ratio.grad is not None
    assert log_ratio.grad.item() == pytest.approx(gradient)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (5.0, -2.0, 6.0, 0.0),  # 5 x 2 without it: held at 3 x 2, no pull
        (2.0, -2.0, 4.0, 4.0),  # within it nothing changes
        (0.5, -1.0, 0.8, 0.0),
        (5.0, 1.0, -1.2, 0.0),  # a gain is held by the clip alone
    ],
)
def test_dual_clip_holds_losses(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    log_ratio = torch.tensor([[math.log(ratio)]], requires_grad=True)
    result, _ = clipped_surrogate(log_ratio, torch.tensor([advantage]), 0.2, 0.2, dual=3.0)
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert log_ratio.grad is not None
    assert log_ratio.grad.item() == pytest.approx(gradient)


def test_the_clip_binds_by_what_a_ratio_is_of() -> None:
    """8 actions of 7 tokens, each 1.02 as likely: a token's ratio 1.02, an action's 1.1487, the chunk's 3.0312."""
    tokens = torch.full((1, 8, 7), math.log(1.02), dtype=torch.float64)
    for log_ratio, ratio, outside in (
        (tokens.flatten(1), 1.02, 0.0),
        (tokens.sum(-1), 1.1487, 0.0),
        (link_log_ratio(tokens.flatten(1), torch.zeros(1, 56), "sum"), 3.0312, 1.0),
    ):
        loss, found = clipped_surrogate(log_ratio, torch.ones(1), 0.2, 0.2)
        assert float(log_ratio.exp().mean()) == pytest.approx(ratio, abs=1e-4) and float(found) == outside
        assert float(loss) == pytest.approx(-min(ratio, 1.2), abs=1e-4)


def test_clip_higher_and_the_fraction_outside() -> None:
    log_ratio = torch.tensor([[1.25], [1.25], [0.75], [1.0]]).log()
    up, down = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, -1.0, 0.0])
    assert clipped_surrogate(log_ratio, up, 0.2, 0.28)[0].item() == pytest.approx(-1.25 / 4)
    assert clipped_surrogate(log_ratio, up, 0.2, 0.2)[0].item() == pytest.approx(-1.2 / 4)
    assert clipped_surrogate(log_ratio, down, 0.2, 0.28)[0].item() == pytest.approx(0.8 / 4)
    assert clipped_surrogate(log_ratio, up, 0.2, 0.28)[1].item() == pytest.approx(0.25)


def test_at_ratio_one_the_gradient_is_reinforce() -> None:
    """d loss / d log_prob = -A / (number of ratios), link weights included, whatever the clip."""
    log_prob = torch.zeros(4, 3, requires_grad=True)
    advantage = torch.tensor([1.0, -2.0, 0.5, 3.0])
    weight = link_discounts(3, 0.9)
    clipped_surrogate(log_prob, advantage, link_clips(3, 0.01, 0.2), link_clips(3, 0.01, 0.2), weight)[0].backward()
    assert log_prob.grad is not None
    expected = -advantage[:, None] * torch.tensor([0.81, 0.9, 1.0]) / 12
    assert torch.allclose(log_prob.grad, expected)


def test_links_do_not_share_a_clip() -> None:
    log_ratio = torch.tensor([[1.05, 1.05]]).log()
    loss, outside = clipped_surrogate(log_ratio, torch.tensor([1.0]), *[torch.tensor([0.01, 0.1])] * 2)
    assert loss.item() == pytest.approx(-(1.01 + 1.05) / 2)
    assert outside.item() == 0.5


def test_clip_schedule_of_dppo() -> None:
    # DPPO (arXiv 2409.00588), its released schedule: base .001, eps .01, rate 3, ten links
    expected = [0.001, 0.0012, 0.0015, 0.0018, 0.0023, 0.0030, 0.0040, 0.0054, 0.0073, 0.01]
    assert link_clips(10, 0.001, 0.01, 3.0).tolist() == pytest.approx(expected, abs=6e-5)
    assert link_clips(1, 0.001, 0.01).tolist() == pytest.approx([0.01])  # 0 / 0 in the formula
    assert link_discounts(3, 0.5).tolist() == [0.25, 0.5, 1.0]


def test_value_loss_and_its_clip() -> None:
    value, target, old = torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([2.0])
    assert clipped_value_loss(value, target).item() == 2.0
    assert clipped_value_loss(value, target, old, 0.5).item() == 2.0  # max(2^2, 1.5^2) / 2
    assert clipped_value_loss(torch.tensor([1.5]), target, old, 0.2).item() == pytest.approx(0.32)  # 0.8^2 / 2
    with pytest.raises(ValueError, match="old_value"):
        clipped_value_loss(value, target, None, 0.5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9))
def test_k3_is_never_negative(values: list[float]) -> None:
    assert kl_k3(torch.tensor(values, dtype=torch.float64)) >= 0.0


def test_the_kl_estimate_agrees_with_the_closed_form() -> None:
    """KL(N(0,1) || N(m,1)) = m^2 / 2; log ratio of new to old at x is m x - m^2 / 2."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_ratio = 0.3 * x - 0.045
    assert kl_k3(log_ratio).item() == pytest.approx(0.045, abs=1e-3)
    assert kl_k3(torch.zeros(5)).item() == 0.0


def test_what_is_masked_changes_nothing() -> None:
    """Rubbish, infinite or NaN, in decisions that are not real changes no loss and no gradient, bit for bit."""
    g = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean = [torch.randn(2, 3, 2, generator=g), *(torch.randn(2, 3, generator=g) for _ in range(3))]
    results = []
    for rubbish in (0.0, 1e30, float("inf"), float("nan")):
        log_ratio, advantage, value, target = (x.clone() for x in clean)
        for x in (log_ratio, advantage, value, target):
            x[~mask] = rubbish
        log_ratio.requires_grad_()
        value.requires_grad_()
        loss, outside = clipped_surrogate(log_ratio, advantage, 0.1, 0.3, mask=mask)
        total = loss + clipped_value_loss(value, target, mask=mask)
        total.backward()
        assert log_ratio.grad is not None and value.grad is not None
        results.append([loss, outside, total, log_ratio.grad, value.grad, kl_k3(log_ratio, mask)])
    assert torch.equal(results[0][3][~mask], torch.zeros(3, 2))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    alone, _ = clipped_surrogate(clean[0][mask], clean[1][mask], 0.1, 0.3)
    assert results[0][0].item() == pytest.approx(alone.item(), rel=1e-6)


def test_mean_where_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    assert mean_where(x, None).item() == 26.5
    assert mean_where(x, torch.tensor([[True, True], [True, False]])).item() == 2.0
    assert mean_where(x, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0


# ---- what counts alike -----------------------------------------------------------------------------------------------
def two_trajectories(first: float, second: float) -> tuple[torch.Tensor, ...]:
    """One of 10 decisions with a loss each, and one of 100, in two worlds of 100 decisions: loss, ended, mask."""
    mask = torch.ones(100, 2, dtype=torch.bool)
    mask[10:, 0] = False
    ended = torch.zeros(100, 2, dtype=torch.bool)
    ended[9, 0] = ended[99, 1] = True
    return torch.tensor([first, second]).expand(100, 2).clone(), ended, mask


@pytest.mark.parametrize(
    ("aggregate", "first", "second", "expected"),
    [
        ("link", 1.0, 1.0, 1.0),
        ("trajectory", 1.0, 1.0, 1.0),
        ("link", 1.0, 2.0, 210 / 110),  # 1.9091
        ("decision", 1.0, 2.0, 210 / 110),
        ("trajectory", 1.0, 2.0, 1.5),
        ("trajectory_sum", 1.0, 2.0, 105.0),
    ],
)
def test_what_counts_alike(aggregate: Any, first: float, second: float, expected: float) -> None:
    """Minus the surrogate at ratio 1 is the mean of minus the advantages; over all, and on average over minibatches."""
    loss, ended, mask = two_trajectories(first, second)
    loss[~mask] = float("nan")
    weight = decision_weights(aggregate, mask.float(), ended, mask)
    whole, _ = clipped_surrogate(torch.zeros(100, 2, 1), -loss, 0.2, 0.2, None, mask, weight)
    assert whole.item() == pytest.approx(expected, rel=1e-5)
    order = torch.randperm(110, generator=torch.Generator().manual_seed(0)).chunk(5)
    real = mask.flatten().nonzero()[:, 0]
    parts = [
        clipped_surrogate(
            torch.zeros(len(rows), 1),
            -loss.flatten()[real[rows]],
            0.2,
            0.2,
            None,
            None,
            None if weight is None else weight.flatten()[real[rows]],
        )[0].item()
        for rows in order
    ]
    assert sum(parts) / 5 == pytest.approx(expected, rel=1e-5)


def test_an_episode_is_a_trajectory_and_its_end_begins_another() -> None:
    """One world: episodes of 2, 1 and 3 decisions, the last cut by the rollout's end; its last has 1 link of 3."""
    links, ended = torch.tensor([[3.0], [3.0], [3.0], [3.0], [3.0], [1.0]]), torch.zeros(6, 1, dtype=torch.bool)
    ended[1] = ended[2] = True
    weight = decision_weights("trajectory", links, ended)
    assert weight is not None
    assert weight[:, 0].tolist() == pytest.approx([1.0, 1.0, 2.0, 6 / 7, 6 / 7, 2 / 7])
    every = decision_weights("decision", links, ended)
    assert every is not None and every.tolist() == [[1.0]] * 6


def test_links_that_are_not_real_count_nowhere() -> None:
    """Two decisions of two links, of which the last is not real: by links the mean is over 3, by decisions over 2."""
    log_ratio = torch.zeros(2, 2, requires_grad=True)
    real = torch.tensor([[True, True], [True, False]])
    advantage = torch.tensor([1.0, 4.0])
    loss, _ = clipped_surrogate(log_ratio, advantage, 0.2, 0.2, None, real)
    loss.backward()
    assert loss.item() == pytest.approx(-2.0)
    assert log_ratio.grad is not None
    assert torch.allclose(log_ratio.grad, torch.tensor([[-1.0, -1.0], [-4.0, 0.0]]) / 3)
    by_decision, _ = clipped_surrogate(torch.zeros(2, 2), advantage, 0.2, 0.2, None, real, torch.ones(2))
    assert by_decision.item() == pytest.approx(-2.5)


def test_ratios_may_have_advantages_of_their_own() -> None:
    """Two decisions of two actions: -(1.1 * 1 - 0.8 * 2 + 1.2 * 3) / 3, with 1.3 held at 1.2, and one not real."""
    log_ratio = torch.tensor([[1.1, 0.8], [1.3, 5.0]]).log()
    advantage = torch.tensor([[1.0, -2.0], [3.0, float("nan")]])
    real = torch.tensor([[True, True], [True, False]])
    loss, outside = clipped_surrogate(log_ratio, advantage, 0.2, 0.2, mask=real)
    assert float(loss) == pytest.approx(-(1.1 - 1.6 + 3.6) / 3) and float(outside) == pytest.approx(1 / 3)
