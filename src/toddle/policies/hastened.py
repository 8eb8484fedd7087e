"""Policies that act through tables of their weights, compiled or captured as a CUDA graph (docs/devices.md)."""

from __future__ import annotations

from typing import Any, Literal

import torch

from toddle.core.device import has_compiler
from toddle.core.errors import problem
from toddle.core.protocols import Hastenable

__all__ = ["Compile", "hastened"]

Compile = Literal["none", "tables", "graph", "inductor"]


def hastened(policy: Any, how: Compile, *, bf16: bool = False) -> Any:
    """Return the policy, which from now on acts as `how` says (in bfloat16) and does not learn.

    Raises InputError where the policy or the machine cannot.
    """
    if how == "none":
        return policy
    if how == "graph" and not torch.cuda.is_available():
        raise problem("compile", "none, tables or inductor without a CUDA device", how)
    if how == "inductor" and not has_compiler():
        raise problem("compile", "none, tables or graph without a compiler (g++, on CUDA triton)", how)
    if not isinstance(policy, Hastenable):
        raise problem("compile", "none with a policy that does not act by toddle's own flow", f"kind '{policy.kind}'")
    policy.hasten(how, torch.bfloat16 if bf16 else torch.float32)
    return policy
