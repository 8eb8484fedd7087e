"""How much memory a training step takes on its way, found from two small steps and not from the large one.

The same operations run whatever the batch, and after each of them what is alive is a constant plus so much a row.  Two
small batches give both for every operation; the most that is alive at the wanted batch is the largest of the sums.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["LiveBytes", "at_batch", "bytes_of"]


class LiveBytes(TorchDispatchMode):
    """While it is on: `timeline`, the bytes of all storages made since then that are alive after each operation.

    What an operation's kernel takes and gives back inside does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.timeline = 0, list[int]()
        self._known = WeakIdKeyDictionary()  # storage -> its watcher, or None for what was there before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note what it made."""
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._known.setdefault(x.untyped_storage(), None)
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and (storage := x.untyped_storage()) not in self._known:
                size = storage.nbytes()
                self.live += size
                self._known[storage] = weakref.ref(storage, functools.partial(self._freed, size))
        self.timeline.append(self.live)
        return made

    def _freed(self, size: int, _: Any) -> None:
        self.live -= size


def at_batch(step: Callable[[int], Any], wanted: int) -> int:
    """Return the most bytes that `step` (of a batch of so many rows) has alive at once at a batch of `wanted`.

    What `step` leaves behind (gradients that it sets the first time) counts as long as it lives.
    """
    low, high = min(2, wanted), min(4, wanted)
    timelines = []
    for rows in dict.fromkeys((low, high)):
        with LiveBytes() as live:
            step(rows)
        timelines.append(live.timeline)
    if len(timelines) == 1:
        return max(timelines[0])
    few, many = timelines
    if len(few) != len(many):  # other operations at another batch: the peaks alone can be compared
        few, many = [max(few)], [max(many)]
    return round(max(a + (b - a) * (wanted - low) / (high - low) for a, b in zip(few, many, strict=True)))


def bytes_of(tree: Any) -> int:
    """Return the bytes of all tensors of a tree."""
    leaves: Sequence[Any] = tree_leaves(tree)
    return sum(x.numel() * x.element_size() for x in leaves if isinstance(x, torch.Tensor))
