"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): blocks keep what goes in, and compute the rest again.

A model calls its blocks through `recomputed`; whoever learns says `with recomputing(True)` around the forward pass.
Outside of it, and without gradients, a block is called as it is.  Blocks draw no random numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recompute_layers", "recomputed", "recomputing"]

T = TypeVar("T")
_ON = [False]


@contextmanager
def recomputing(on: bool) -> Iterator[None]:
    """Let blocks that are called inside keep their inputs alone, and compute the rest again in the backward pass."""
    before, _ON[0] = _ON[0], on
    try:
        yield
    finally:
        _ON[0] = before


def recomputed(block: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a block, which is called once more in the backward pass where that is asked for (`recomputing`)."""
    if not (_ON[0] and torch.is_grad_enabled()):
        return block(*args, **kwargs)
    with recomputing(False):  # what is inside a block is computed again with it
        made: T = checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
    return made


def recompute_layers(model: nn.Module) -> None:
    """Let the layers of transformers' own models be such blocks."""
    for layer in model.modules():
        plain = not isinstance(layer.forward, functools.partial)  # else it is one already
        if plain and any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(layer).__mro__):
            layer.forward = functools.partial(recomputed, layer.forward)
