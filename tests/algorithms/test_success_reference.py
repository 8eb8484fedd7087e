"""The reward of failures by their distance to successes: where it is paid, how episodes are embedded, its control."""

from __future__ import annotations

import pytest
import torch
from tests.algorithms.test_own_successes import played

from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.success_reference import SuccessReference
from toddle.core.errors import InputError
from toddle.experience.rollout import Rollout


def whole(lengths: list[int], success: list[bool], level: list[float]) -> Rollout:
    """Whole episodes of one task, in groups of two, whose features rise by `level` a decision."""
    rollout = played(0, max(lengths), worlds=len(lengths))
    rollout.mask = torch.arange(max(lengths))[:, None] < torch.tensor(lengths)
    rollout.success, rollout.group = torch.tensor(success), torch.arange(len(lengths)) // 2
    rollout.episode_return = rollout.success.float()
    seen = rollout.observation
    seen["context"].copy_((torch.arange(max(lengths))[:, None] * torch.tensor(level))[..., None, None])
    seen["task"].zero_()
    return rollout


def term(control: str = "none") -> SuccessReference:
    return SuccessReference(phases=3, weight=1.0, control=control, seed=0)  # type: ignore[arg-type]


def test_failures_are_paid_once_at_their_last_decision() -> None:
    """The means of three phases are 1 (success), 2, 3 and 0: the distances 1, 2, 1, so z is 0, 1, 0."""
    rollout = whole([3, 5, 4, 3], [True, False, False, False], [1.0, 1.0, 2.0, 0.0])
    embedded = term().embeddings(rollout)
    assert embedded[:, 0].tolist() == pytest.approx([1.0, 2.0, 10 / 3, 0.0], abs=1e-2)  # phases 0, round(1.5), 3
    added = term().reward(rollout)
    where = added.nonzero().tolist()
    assert where == [[2, 3], [3, 2], [4, 1]]
    assert added.sum(0).tolist() == pytest.approx([0.0, 0.595984, 0.004016, 0.595984], abs=1e-3)


def test_without_a_success_of_the_task_nothing_is_paid() -> None:
    rollout = whole([3, 3], [False, False], [1.0, 2.0])
    found = term()
    assert found.reward(rollout).abs().sum() == 0.0 and found.metrics()["reward/referenced"] == 0.0
    rollout.observation["task"][:, 1] = 1
    rollout.success = torch.tensor([True, False])
    assert term().reward(rollout).abs().sum() == 0.0


def test_padded_tokens_do_not_count() -> None:
    rollout = whole([3, 3], [True, False], [1.0, 2.0])
    before = term().embeddings(rollout)
    rollout.observation["context"][:, :, -1] = 1000.0
    rollout.observation["context_mask"][:, :, -1] = False
    torch.testing.assert_close(term().embeddings(rollout), before)


def test_the_control_pays_failures_for_each_other_and_goes_on_after_a_kill() -> None:
    rollout = whole([3] * 8, [True] + [False] * 7, [1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0])
    paid, control = term().reward(rollout).sum(0), term("shuffled")
    first = control.reward(rollout).sum(0)
    assert not torch.equal(first, paid)
    torch.testing.assert_close(first.sort().values, paid.sort().values)
    other = term("shuffled")
    other.load_state_dict(control.state_dict())
    assert torch.equal(other.reward(rollout), control.reward(rollout))


def test_groups_that_all_failed_are_dropped_by_success_and_kept_by_reward() -> None:
    rollout = whole([3] * 4, [True, False, False, False], [1.0, 1.1, 1.2, 3.0])
    paid = term().reward(rollout)
    for uneven, kept in (("success", 2), ("episode_return", 4)):
        assert rollout.success is not None
        rollout.mask, rollout.episode_return = torch.ones(3, 4, dtype=torch.bool), rollout.success + paid.sum(0)
        GroupAdvantages(uneven_in=uneven).fill(rollout)
        assert int(rollout.mask[0].sum()) == kept


def test_parts_of_episodes_are_refused() -> None:
    with pytest.raises(InputError, match="srpo: expected whole episodes"):
        term().reward(played(0, 3))
