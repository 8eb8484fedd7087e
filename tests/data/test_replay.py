"""Replay: rings, exact shares of batches, float16, and files that a resume finds as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toddle.core.errors import InputError
from toddle.data.replay import Decisions, Replay, Store, Unfinished, decisions_from, shares
from toddle.data.transitions import Transitions
from toddle.runs.checkpoint import copy_tree, load_state, save_state


def made(first: int, count: int) -> Decisions:
    """Decisions first, first + 1, ...: each knows its number everywhere."""
    number = torch.arange(first, first + count).float()
    rows = number[:, None].expand(-1, 2)
    return Decisions(rows, rows[:, :1] / 2048, rows + 1, -number, torch.full((count,), 0.99))


def drawn(replay: Any, seed: int = 0) -> Decisions:
    return replay.draw(3, 8, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("keep", ["memory", "file", "temporary"])
def test_the_newest_decisions_are_kept_whole_in_their_order(tmp_path: Path, kind: Any, keep: str) -> None:
    file: Any = {"memory": None, "file": tmp_path / "replay/online", "temporary": "temporary"}[keep]
    store = Store(10, 2, 1, kind=kind, file=file, slack=3)
    for first in range(0, 35, 7):
        store.add(made(first, 7))
    kept = store.at(torch.arange(len(store)))
    wanted = made(25, 10)
    for name, value in wanted.parts().items():
        torch.testing.assert_close(getattr(kept, name), value, rtol=1e-3 if kind == "float16" else 0.0, atol=0.0)
    assert kept.observation.dtype == torch.float32 and torch.equal(kept.reward, wanted.reward)
    assert store.at(torch.tensor([[0, 9], [3, 3]])).observation[..., 0].tolist() == [[25, 34], [28, 28]]
    assert store.bytes == (0 if file else 10 * (5 * (2 if kind == "float16" else 4) + 8))


def test_more_than_the_capacity_at_once_leaves_the_last() -> None:
    store = Store(4, 2, 1)
    store.add(made(0, 11))
    assert store.at(torch.arange(4)).reward.tolist() == [-7, -8, -9, -10]


def test_what_float16_cannot_say_is_refused() -> None:
    with pytest.raises(InputError, match="65,504"):
        Store(4, 2, 1, kind="float16").add(made(70_000, 1))


def test_every_batch_has_exactly_its_shares_however_small_a_store_is() -> None:
    """RLPD's symmetric sampling: half of each from each source; demonstrations have negative numbers here."""
    online, offline = Store(1000, 2, 1), Store(3, 2, 1)
    online.add(made(1, 500))
    offline.add(made(-3, 3))
    replay = Replay({"online": online, "offline": offline}, {"online": 0.5, "offline": 0.5})
    batches = replay.draw(20, 256, torch.Generator().manual_seed(0))
    assert batches.reward.shape == (20, 256)
    assert ((batches.observation[..., 0] < 0).sum(1) == 128).all()
    assert len(batches.at(0)) == 256
    empty = Replay({"online": Store(5, 2, 1), "offline": offline}, replay.fractions)
    with pytest.raises(InputError, match="replay: online"):
        drawn(empty)
    for bad in ({"online": 0.5, "offline": 0.6}, {"online": 1.5, "offline": -0.5}, {"online": 1.0}):
        with pytest.raises(InputError, match="fractions"):
            Replay(replay.stores, bad)


def test_shares_are_whole_and_sum_to_the_batch() -> None:
    assert shares(256, {"a": 0.5, "b": 0.5}) == {"a": 128, "b": 128}
    assert shares(10, {"a": 1 / 3, "b": 2 / 3}) == {"a": 3, "b": 7}
    assert shares(7, {"a": 0.5, "b": 0.5}) in ({"a": 4, "b": 3}, {"a": 3, "b": 4})
    assert shares(5, {"a": 1.0, "b": 0.0}) == {"a": 5, "b": 0}


@pytest.mark.parametrize("keep", ["memory", "file"])
def test_a_state_gives_the_same_draws_again(tmp_path: Path, keep: str) -> None:
    """A file goes on changing after the state was saved; within its slack the state's rows stay."""
    file = tmp_path / "replay/online" if keep == "file" else None

    def fresh() -> Replay:
        return Replay({"online": Store(20, 2, 1, file=file, slack=12)}, {"online": 1.0})

    replay = fresh()
    for first in range(0, 30, 6):
        replay.stores["online"].add(made(first, 6))
    save_state(tmp_path / "state", copy_tree(replay.state_dict()))
    before = drawn(replay)
    replay.stores["online"].add(made(30, 12))
    again = fresh()
    again.load_state_dict(load_state(tmp_path / "state")[0])
    for name, value in before.parts().items():
        assert torch.equal(getattr(drawn(again), name), value), name
    again.stores["online"].add(made(30, 6))
    assert drawn(again, 1).reward.min() >= -35


def test_a_file_that_is_gone_or_has_moved_on_is_refused(tmp_path: Path) -> None:
    store = Store(5, 2, 1, file=tmp_path / "online", slack=4)
    store.add(made(0, 5))
    state = store.state_dict()
    with pytest.raises(InputError, match="is gone"):
        Store(5, 2, 1, file=tmp_path / "other", slack=4).load_state_dict(state)
    with pytest.raises(InputError, match="expected a replay of"):
        Store(6, 2, 1, file=tmp_path / "online", slack=4)
    store.add(made(5, 5))
    with pytest.raises(InputError, match="written over"):
        Store(5, 2, 1, file=tmp_path / "online", slack=4).load_state_dict(state)


def test_demonstrations_end_where_they_end_for_good() -> None:
    numbers = torch.tensor([0.0, 1.0])
    data = Transitions(numbers[:, None], numbers[:, None], numbers, numbers[:, None], torch.tensor([0.0, 1.0]), numbers)
    assert decisions_from(data, 0.9).discount.tolist() == pytest.approx([0.9, 0.0])


def test_an_episode_is_kept_when_it_ends_with_what_it_came_to() -> None:
    """gamma 1/2.  World 0 pays -1, -1, 0 and ends for good: -1.5, -1, 0.  World 1 pays -1 always and is cut: -2, as if
    it went on; world 2 pays -1, 1 and is cut: the sum of what it paid, -1/2, 1."""
    reward = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [0.0, -1.0, 0.0]])
    over = torch.tensor([[False, False, False], [False, True, True], [True, False, False]])
    follows, unfinished, whole = torch.full((3,), 0.5), Unfinished(3, 0.5), list[Decisions]()
    for step in range(3):
        held = copy_tree(unfinished.state_dict())
        unfinished = Unfinished(3, 0.5)
        unfinished.load_state_dict(held)
        made = Decisions(*(torch.full((3, n), float(step)) for n in (2, 1, 2)), reward[step], follows.clone())
        made.discount[0] = 0.0 if step == 2 else 0.5
        whole += unfinished.add(made, over[step])
        made.observation.fill_(9.0)  # what a rollout does with the next one
    found = [episode.returns.tolist() for episode in whole if episode.returns is not None]
    assert found == [[-2.0, -2.0], [-0.5, 1.0], [-1.5, -1.0, 0.0]]
    assert whole[2].observation[:, 0].tolist() == [0.0, 1.0, 2.0]
    store = Store(3, 2, 1, returns=True, kind="float16")
    for episode in whole:
        store.add(episode)
    kept = store.at(torch.arange(3))
    assert kept.returns is not None and kept.returns.tolist() == found[2] and store.bytes == 3 * (2 * 5 + 12)
    assert len(unfinished.finish([1])[0]) == 1
