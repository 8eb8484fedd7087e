"""Blocks of the action expert that are compiled (torch.compile, inductor) where whoever learns asks for it.

What lies between two matrix products (norms, modulation, GELU, residuals) becomes one kernel.  A block is compiled once
for every kind there is of it, and not once for every layer, so that a deep expert does not take longer to compile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from toddle.core.device import has_compiler
from toddle.core.errors import problem

__all__ = ["Compilable", "check_compilable", "compiled", "compiling"]

T = TypeVar("T")
_ON = [False]


class Compilable:
    """What marks modules whose work is called through `compiled`."""


@contextmanager
def compiling(on: bool) -> Iterator[None]:
    """Compile what is called through `compiled` inside, when it is called first."""
    before, _ON[0] = _ON[0], on
    try:
        yield
    finally:
        _ON[0] = before


def compiled(call: Callable[..., T]) -> Callable[..., T]:
    """Return the function, compiled where that is asked for and gradients are wanted; it must be one of a module."""
    return _compiled(call) if _ON[0] and torch.is_grad_enabled() else call


@functools.cache
def _compiled(call: Callable[..., T]) -> Callable[..., T]:
    return torch.compile(call)


def check_compilable(policy: Any, field: str) -> None:
    """Raise InputError where nothing of a policy would be compiled, or nothing is there to compile with."""
    assert isinstance(policy, nn.Module)
    if not any(isinstance(part, Compilable) for part in policy.modules()):
        raise problem(field, "nothing with a policy without toddle's own transformer blocks", True)
    if not has_compiler():
        raise problem(field, "nothing without a compiler (g++, on CUDA triton)", True)
