"""The learners of one run: processes that hold the same weights, each with a share of the worlds or of the batch.

Learner i of n is a process; 0 leads.  A learner alone reduces and gathers nothing, so its numbers are untouched.  One
team a process, as torch.distributed has one default group; what learns asks `team()` when it is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["ALONE", "Group", "Place", "Team", "add_gradients", "joined", "placed", "rank_asked", "team"]

HOST = "127.0.0.1"
PATIENCE = timedelta(days=7)
"""How long a learner waits for the others, who may evaluate or imitate; of one that ends the others hear at once."""


class Team:
    """A learner alone."""

    index, size = 0, 1

    def share(self, total: int, unit: int = 1) -> range:
        """Return which of `total` things in a row are this learner's; they are shared out in whole `unit`s."""
        return range(total)

    def place(self, own: int) -> tuple[int, int]:
        """Return where the `own` things of this learner begin in those of all in a row, and how many these are."""
        return 0, own

    def add(self, x: Tensor) -> Tensor:
        """Put the sum over all learners into x, and return it."""
        return x

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """Return x of all learners, one after the other along `dim`, in which they may differ."""
        return x

    def objects(self, value: Any) -> list[Any]:
        """Return the plain values that all learners gave, in their order."""
        return [value]

    def said(self, value: Any) -> Any:
        """Return what the first learner gave."""
        return value

    def any(self, value: bool) -> bool:
        """Return whether it is true of any learner."""
        return value

    def device(self, name: str) -> str:
        """Return the name of this learner's device: of a bare `cuda` each has its own."""
        return name

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first learner do something before the others do it (make a cache that all share)."""
        if self.index:
            self.said(None)
        yield
        if not self.index:
            self.said(None)


ALONE = Team()


def _share(index: int, size: int, total: int, unit: int) -> range:
    units = total // unit
    first, last = ((units * i + size - 1) // size * unit for i in (index, index + 1))
    return range(first, last)


class Place(Team):
    """One of several that only act, each with a share of the worlds: they say nothing to one another."""

    def __init__(self, index: int, size: int, worlds: int, unit: int = 1) -> None:
        """`worlds`: of all together, shared out in whole `unit`s."""
        self.index, self.size, self.worlds, self.unit = index, size, worlds, unit

    def share(self, total: int, unit: int = 1) -> range:
        """Return this one's share, as `Group` does."""
        return _share(self.index, self.size, total, unit)

    def place(self, own: int) -> tuple[int, int]:
        """Return where its worlds begin, and how many all have."""
        return self.share(self.worlds, self.unit).start, self.worlds


class Group(Team):
    """One of several learners, over torch.distributed (gloo on the CPU, NCCL between GPUs)."""

    def __init__(self) -> None:
        """The default process group must be there."""
        self.index, self.size = dist.get_rank(), dist.get_world_size()

    def share(self, total: int, unit: int = 1) -> range:
        """Return this learner's share; the first ones have one unit more where it does not come out even."""
        return _share(self.index, self.size, total, unit)

    def place(self, own: int) -> tuple[int, int]:
        """Return where this learner's things begin, and how many all have."""
        sizes = self.objects(own)
        return sum(sizes[: self.index]), sum(sizes)

    def add(self, x: Tensor) -> Tensor:
        """Put the sum over all learners into x, and return it."""
        dist.all_reduce(x)
        return x

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """Return x of all learners along `dim`."""
        x = x.detach().movedim(dim, 0).contiguous()
        kind, x = x.dtype, x.byte() if x.dtype == torch.bool else x
        sizes = self.objects(len(x))
        padded = torch.zeros((max(sizes), *x.shape[1:]), dtype=x.dtype, device=x.device)
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        found = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return found.to(kind).movedim(0, dim)

    def objects(self, value: Any) -> list[Any]:
        """Return the values of all learners."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def said(self, value: Any) -> Any:
        """Return what the first learner gave; the others' is not looked at."""
        box = [value if self.index == 0 else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def any(self, value: bool) -> bool:
        """Return whether it is true of any learner."""
        return any(self.objects(value))

    def device(self, name: str) -> str:
        """Return `cuda:<place on this machine>` for `cuda`."""
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.index))}" if name == "cuda" else name


def add_gradients(team: Team, parameters: Iterable[Tensor]) -> None:
    """Put the sum over learners into the gradients of parameters, in one call for each type of number.

    All learners must have the same ones; what has no gradient here has none anywhere.
    """
    found = [p.grad for p in parameters if p.grad is not None]
    for kind in dict.fromkeys(gradient.dtype for gradient in found):
        own = [gradient for gradient in found if gradient.dtype == kind]
        whole = team.add(torch.cat([gradient.flatten() for gradient in own]))
        for gradient, part in zip(own, whole.split([gradient.numel() for gradient in own]), strict=True):
            gradient.copy_(part.view_as(gradient))


_TEAM: Team = ALONE


def team() -> Team:
    """Return the team of this process."""
    return _TEAM


@contextmanager
def placed(place: Place) -> Iterator[None]:
    """Let this process be one of several that act."""
    global _TEAM
    _TEAM = place
    try:
        yield
    finally:
        _TEAM = ALONE


def rank_asked() -> int | None:
    """Return which learner the environment says that this process is (as torchrun does); None: nothing is said."""
    return int(os.environ["RANK"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else None


@contextmanager
def joined(size: int, store: Any = None) -> Iterator[Team]:
    """Join the team of `size` learners: the one at RANK, MASTER_ADDR and MASTER_PORT, or, as the first, at `store`."""
    global _TEAM
    if size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if store is None:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, store=store, rank=rank_asked() or 0, world_size=size, timeout=PATIENCE)
    _TEAM = Group()
    try:
        yield _TEAM
    finally:
        _TEAM = ALONE
        dist.destroy_process_group()
