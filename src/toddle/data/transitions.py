"""What learning from stored data takes from a dataset: transitions of single actions or of chunks, with the state that
follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.maths.value_targets import chunk_rewards, returns_to_go

__all__ = ["Transitions", "read_transitions"]

LIMIT = 1.0 + 1e-3
"""Actions beyond -1 and 1, by more than rounding, have other units."""


@dataclass(frozen=True)
class Transitions:
    """N transitions of one control step each (or of a chunk of H): float32 tensors, the first dimension of all is N."""

    observation: Tensor
    """(N, O) state before the action."""
    action: Tensor
    """(N, A), in [-1, 1]; of a chunk (N, H A)."""
    reward: Tensor
    """(N,); of a chunk the discounted sum over its steps."""
    following: Tensor
    """(N, O) state after it."""
    terminal: Tensor
    """(N,) 1 where the episode ended there for good and nothing follows; a time-out is no such end."""
    returns: Tensor
    """(N,) discounted sum of the rewards from there to the end of its episode (`maths.value_targets.returns_to_go`)."""
    age: Tensor | None = None
    """(N,) int64 control steps since its episode began, its rows in their order; None: not known."""

    def __len__(self) -> int:
        return len(self.reward)

    def at(self, rows: Tensor) -> Transitions:
        """Return the transitions `rows`."""
        taken = {name: value[rows] for name, value in self._tensors().items()}
        return Transitions(**taken)

    def _tensors(self) -> dict[str, Tensor]:
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if value is not None}

    def draw(self, count: int, generator: torch.Generator) -> Transitions:
        """Return `count` transitions, drawn with replacement."""
        return self.at(torch.randint(len(self), (count,), generator=generator))

    @classmethod
    def joined(cls, parts: Sequence[Transitions]) -> Transitions:
        """Return those of all parts, in their order.  Raises InputError where their sizes differ."""
        for name in ("observation", "action"):
            sizes = [getattr(part, name).shape[1] for part in parts]
            if len(set(sizes)) > 1:
                raise problem(f"dataset: {name}", "as many numbers in every dataset", ", ".join(map(str, sizes)))
        tensors = [part._tensors() for part in parts]
        common = [name for name in tensors[0] if all(name in each for each in tensors)]
        return cls(**{name: torch.cat([each[name] for each in tensors]) for name in common})

    def permuted(self, generator: torch.Generator) -> Transitions:
        """Return a copy in which every transition is paid, and ends, as another one: it can teach imitation alone.

        The ends go along, because where every step costs the same it is the end that tells good from bad.
        """
        other = torch.randperm(len(self), generator=generator)
        paid = {name: getattr(self, name)[other] for name in ("reward", "terminal", "returns")}
        return replace(self, **paid)


def read_transitions(
    dataset: LeRobotDataset,
    *,
    reward: Literal["recorded", "success"],
    scale: float = 1.0,
    shift: float = 0.0,
    discount: float = 0.99,
    chunk: int = 1,
    state: np.ndarray | None = None,
) -> Transitions:
    """Return the transitions of a dataset with rewards `scale` r + `shift`, and returns discounted by `discount`.

    An episode ends for good at its first success (`next.success`) or where `next.terminated` says so; its rows after
    that are left out, and so is the last row of an episode that was cut: what followed it was not recorded.
    With `chunk` H a transition is H control steps, from every row on: the actions of all, the discounted sum of what
    they paid, and the state after the last.  Beyond an end for good the last action is repeated, which nothing sees.
    state: (N, D) what is seen at every row, in place of `observation.state`.
    Raises InputError where a column is missing, actions are not in [-1, 1], or no transition is left.
    """
    for name in ("observation.state", "action", "next.reward" if reward == "recorded" else "next.success"):
        if name not in dataset.features:
            other = " (--reward success needs none)" if name == "next.reward" else ""
            raise InputError(f"dataset: {dataset.path} has no column '{name}', which RL from data needs{other}")
    state = dataset.vector("observation.state") if state is None else state
    action = dataset.vector("action")
    if (most := float(np.abs(action).max())) > LIMIT:
        raise problem(f"dataset: {dataset.path}: action", "numbers from -1 to 1", f"{most:g}")
    flags = {name: dataset.column(name).astype(bool) for name in _ENDS if name in dataset.features}
    over = np.logical_or.reduce([*flags.values(), np.zeros(len(action), bool)])
    paid = dataset.column("next.reward") if reward == "recorded" else flags["next.success"]
    pay = scale * paid.astype(np.float64) + shift
    kept, ages, last = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    to_go, sums = np.zeros(len(pay)), np.zeros(len(pay))
    for episode in dataset.episodes:
        ends = np.flatnonzero(over[episode.start : episode.stop])
        stop = episode.start + int(ends[0]) + 1 if len(ends) else episode.stop
        to_go[episode.start : stop] = returns_to_go(pay[episode.start : stop], bool(len(ends)), discount)
        sums[episode.start : stop] = chunk_rewards(pay[episode.start : stop], chunk, discount)
        kept.append(np.arange(episode.start, stop if len(ends) else max(episode.start, stop - chunk)))
        ages.append(np.arange(len(kept[-1])))
        last.append(np.full(len(kept[-1]), stop - 1))
    rows, steps = np.concatenate(kept), np.arange(chunk)
    if not len(rows):
        raise InputError(f"dataset: {dataset.path} has no transition: no episode is longer than {chunk} rows")
    taken = np.minimum(rows[:, None] + steps, np.concatenate(last)[:, None])  # (N, H)
    after = np.minimum(rows + chunk, len(state) - 1)  # of a terminal row: anything, it is not looked at

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    age = torch.from_numpy(np.concatenate(ages))
    before = (tensor(state[rows]), tensor(action[taken].reshape(len(rows), -1)), tensor(sums[rows]))
    return Transitions(*before, tensor(state[after]), tensor(over[taken[:, -1]]), tensor(to_go[rows]), age)


_ENDS = ("next.success", "next.terminated")
