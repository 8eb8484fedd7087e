"""Replay: single decisions of a policy, kept to learn from again, in several stores that batches draw from by shares.

A store is a ring: the newest decision takes the place of the oldest.  It is kept in memory or in a file that is mapped
into memory, in float32 or float16.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.core.memory import check_memory, size_text
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import returns_to_go

__all__ = ["Decisions", "Replay", "Store", "Unfinished", "decisions_from", "shares"]

LIMIT = 65504.0
"""The largest number of float16."""


@dataclass(frozen=True)
class Decisions:
    """N decisions, or (U, N) of them in U batches; float32."""

    observation: Tensor
    """(..., O) state before."""
    action: Tensor
    """(..., A), what was said, in [-1, 1]."""
    following: Tensor
    """(..., O) state after; where the episode was cut by a time limit that in which it was cut, never the next one's
    first; where it ended for good anything finite."""
    reward: Tensor
    """(...)"""
    discount: Tensor
    """(...) by how much what follows counts: gamma^steps, 0 where the episode ended for good."""
    returns: Tensor | None = None
    """(...) discounted sum of the rewards from there to the end of its episode; None: not known."""

    def __len__(self) -> int:
        return len(self.reward)

    def at(self, rows: Any) -> Decisions:
        """Return the decisions (or batches) `rows`."""
        return Decisions(**{name: value[rows] for name, value in self.parts().items()})

    def parts(self) -> dict[str, Tensor]:
        """Return the tensors by name, those that are known."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if value is not None}

    def to(self, device: torch.device) -> Decisions:
        """Return them on a device."""
        return Decisions(**{name: value.to(device) for name, value in self.parts().items()})

    @classmethod
    def joined(cls, parts: Sequence[Decisions], dim: int = 0) -> Decisions:
        """Return those of all parts, one after another in dimension `dim`."""
        names = parts[0].parts()
        return cls(**{name: torch.cat([part.parts()[name] for part in parts], dim) for name in names})


class Store:
    """The last `capacity` decisions of O and A numbers, in two arrays: what was seen and done, and (reward, discount),
    with `returns` also what the episode came to from there on.

    In a file rows beyond the capacity are kept so that the newest checkpoints find theirs: a state holds no rows then
    but says which of the file's are meant, and what was written since is written again after a resume.
    """

    def __init__(
        self,
        capacity: int,
        observation: int,
        action: int,
        *,
        kind: Literal["float32", "float16"] = "float32",
        file: Path | Literal["temporary"] | None = None,
        slack: int = 0,
        returns: bool = False,
    ) -> None:
        """Allocate.  file: where rows are kept ("temporary": in a nameless one, for a plan), None: in memory; slack:
        rows more in the file.  Raises InputError where memory or disk have too little room."""
        if capacity < 1:
            raise problem("capacity", "at least 1 decision", capacity)
        self.capacity, self.sizes, self.kind, self.file = capacity, (observation, action), kind, file
        self.added, self.rows, self.returns = 0, capacity + (slack if file else 0), returns
        width, what = 2 * observation + action, f"a replay of {capacity:,} decisions"
        paid = (self.rows, 3 if returns else 2)
        self.size, self.whole = self.rows * (width * np.dtype(kind).itemsize + 4 * paid[1]), False
        self._written = np.zeros((1, 1), np.int64)
        if file is None:
            check_memory(self.size, what, "take a smaller capacity, float16, or keep it in a file")
            self._seen, self._paid = np.zeros((self.rows, width), kind), np.zeros(paid, np.float32)
            return
        if isinstance(file, Path):
            self.whole = file.with_suffix(".count").exists()
            file.parent.mkdir(parents=True, exist_ok=True)
        place = file.parent if isinstance(file, Path) else Path(tempfile.gettempdir())
        if not self.whole and self.size > (free := shutil.disk_usage(place).free):
            raise InputError(f"disk: {what} takes {size_text(self.size)}, and {size_text(free)} are free at {place}")
        self._seen = _mapped(file, ".seen", (self.rows, width), kind)
        self._paid = _mapped(file, ".paid", paid, "float32")
        self._written = _mapped(file, ".count", (1, 1), "int64")

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def bytes(self) -> int:
        """Memory of the whole store when it is full; 0 where it is in a file."""
        return 0 if self.file else self.size

    def add(self, new: Decisions) -> None:
        """Take N decisions in.  Raises InputError where a number is beyond what float16 can say."""
        new = new.at(slice(-self.capacity, None))
        seen = torch.cat([new.observation, new.following, new.action], 1).cpu().numpy()
        if self.kind == "float16" and (most := float(np.abs(seen).max(initial=0.0))) > LIMIT:
            raise problem("replay", "states within float16's 65,504", f"{most:g}", "keep float32")
        rows = (self.added + np.arange(len(new))) % self.rows
        self._seen[rows] = seen
        paid = [new.reward, new.discount]
        if self.returns:
            assert new.returns is not None
            paid.append(new.returns)
        self._paid[rows] = torch.stack(paid, 1).cpu().numpy()
        self.added += len(new)
        self._written[0, 0] = max(self.added, self._written[0, 0])

    def at(self, index: Tensor) -> Decisions:
        """Return decisions by their age (...): 0 is the oldest that is kept."""
        rows = (index + (self.added - len(self))) % self.rows
        seen = torch.from_numpy(self._seen)[rows].float()
        paid = torch.from_numpy(self._paid)[rows]
        observation, following, action = seen.split([self.sizes[0], self.sizes[0], self.sizes[1]], -1)
        return Decisions(observation, action, following, *paid.unbind(-1))

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept (not a copy); of a file, which of its rows are."""
        if self.file is not None:
            for held in (self._seen, self._paid, self._written):
                assert isinstance(held, np.memmap)
                held.flush()
            return {"added": self.added}
        count = len(self) if self.added <= self.capacity else self.rows
        return {"added": self.added, "seen": self._seen[:count], "paid": self._paid[:count]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it.  Raises InputError where rows are to be in a file that was not there."""
        self.added = int(state["added"])
        if self.added and isinstance(self.file, Path):
            if not self.whole:
                raise InputError(f"{self.file.with_suffix('.seen')}: the replay's file is gone; begin the run anew")
            if int(self._written[0, 0]) - self.added > self.rows - self.capacity:
                raise InputError(f"{self.file.with_suffix('.seen')}: what this checkpoint needs has been written over")
        if self.file is None:
            for name, held in (("seen", self._seen), ("paid", self._paid)):
                held[: len(state[name])] = np.asarray(state[name])


def _mapped(file: Any, suffix: str, shape: tuple[int, int], kind: str) -> np.memmap[Any, Any]:
    """Open a file of numbers, made where there is none.  Raises InputError where it has another size."""
    if not isinstance(file, Path):
        return np.memmap(tempfile.TemporaryFile(), kind, "w+", shape=shape)
    path, size = file.with_suffix(suffix), shape[0] * shape[1] * np.dtype(kind).itemsize
    if path.exists() and path.stat().st_size != size:
        raise problem(str(path), f"a replay of {size:,} bytes", f"{path.stat().st_size:,}", "begin the run anew")
    return np.memmap(path, kind, "r+" if path.exists() else "w+", shape=shape)


def shares(count: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return how many of `count` each source gives: whole numbers with the sum `count`, as near as can be (the largest
    remainders are rounded up).  Raises InputError unless the fractions are at least 0 and sum to 1."""
    if min(fractions.values(), default=-1.0) < 0 or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise problem("fractions", "numbers of at least 0 with the sum 1", dict(fractions))
    exact = {name: count * share for name, share in fractions.items()}
    found = {name: int(value + 1e-9) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: found[name] - exact[name])[: count - sum(found.values())]:
        found[name] += 1
    return found


class Replay:
    """Named stores, each with its fraction of every batch, however much or little it holds."""

    def __init__(self, stores: Mapping[str, Store], fractions: Mapping[str, float]) -> None:
        """Draw from `stores` by `fractions`, of the same names."""
        if stores.keys() != fractions.keys():
            raise problem("fractions", f"one for each of {', '.join(stores)}", ", ".join(fractions))
        self.stores, self.fractions = dict(stores), dict(fractions)
        shares(1, fractions)

    @property
    def bytes(self) -> int:
        """Memory of all stores when they are full."""
        return sum(store.bytes for store in self.stores.values())

    def draw(self, batches: int, size: int, generator: torch.Generator) -> Decisions:
        """Return (batches, size) decisions, drawn with replacement; every batch has exactly the fractions.

        Raises InputError where a store that has a fraction is empty.
        """
        parts = []
        for name, count in shares(size, self.fractions).items():
            if count == 0:
                continue
            store = self.stores[name]
            if not len(store):
                raise problem(f"replay: {name}", "at least one decision", "none")
            parts.append(store.at(torch.randint(len(store), (batches, count), generator=generator)))
        return parts[0] if len(parts) == 1 else Decisions.joined(parts, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every store."""
        return {name: store.state_dict() for name, store in self.stores.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name, store in self.stores.items():
            store.load_state_dict(state[name])


def decisions_from(data: Transitions, discount: float) -> Decisions:
    """Return a dataset's transitions as decisions of one control step each, with gamma = `discount`."""
    follows = discount * (1.0 - data.terminal)
    return Decisions(data.observation, data.action, data.following, data.reward, follows, data.returns)


class Unfinished:
    """The decisions of episodes that still go on, world by world: what they came to is known when they end."""

    def __init__(self, worlds: int, discount: float) -> None:
        """Hold none.  discount: gamma for one decision."""
        self.discount = discount
        self.held: list[list[Decisions]] = [[] for _ in range(worlds)]

    def add(self, made: Decisions, over: Tensor) -> list[Decisions]:
        """Take a decision of every world (B); return whole episodes (T, ...) with returns, of worlds that are `over`
        (B,) bool, for good (discount 0) or cut."""
        for world, held in enumerate(self.held):
            held.append(made.at([world]))  # a copy: a rollout is filled again
        return self.finish(over.nonzero()[:, 0].tolist())

    def finish(self, worlds: Sequence[int]) -> list[Decisions]:
        """Return what is held of some worlds as episodes that end, or are cut, with the last decision."""
        whole = []
        for world in worlds:
            episode = Decisions.joined(self.held[world])
            self.held[world] = []
            ended = bool(episode.discount[-1] == 0.0)
            found = returns_to_go(episode.reward.double().numpy(), ended, self.discount)
            whole.append(replace(episode, returns=torch.from_numpy(found).float()))
        return whole

    def state_dict(self) -> dict[str, Any]:
        """Return what is held."""
        return {"held": [Decisions.joined(held).parts() if held else None for held in self.held]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.held = [[] if parts is None else [Decisions(**parts)] for parts in state["held"]]
