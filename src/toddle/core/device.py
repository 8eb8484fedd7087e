"""Which device a run computes on, and how tensors get there.

One device a run.  Environments, numpy and random draws (`core.seeding`) stay on the CPU; a policy, its critic, its
rollouts and its optimiser live on the run's device (docs/devices.md).
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from toddle.core.errors import problem

__all__ = [
    "CPU",
    "check_device_name",
    "describe_devices",
    "device_of",
    "has_compiler",
    "pinned",
    "resolve_device",
    "to_device",
]

KNOWN = "cpu, cuda, cuda:<number> or auto"
CPU = torch.device("cpu")


def check_device_name(name: str) -> None:
    """Raise InputError unless `name` reads cpu, cuda, cuda:<number> or auto; whether it is there is not asked."""
    if not re.fullmatch(r"cpu|auto|cuda(:\d+)?", name):
        remedy = "its float64 is missing, which toddle's statistics need" if name.startswith("mps") else ""
        raise problem("device", KNOWN, name, remedy)


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the first CUDA device where there is one, else the CPU.

    Raises InputError, one line, for an unknown name and for a device this machine (or this torch) has not got.
    """
    check_device_name(name)
    if name == "cpu":
        return CPU
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else CPU
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        found = "torch " + torch.__version__ + (f" sees {count} CUDA devices" if count else " sees no CUDA device")
        raise problem("device", "a device that is there", name, f"{found}; take --device cpu, or see toddle doctor")
    return torch.device("cuda", index)


def describe_devices() -> str:
    """Return the devices torch sees, in words: their names and GiB of memory."""
    if not torch.cuda.is_available():
        return "cpu (no CUDA device)"
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return "cpu, " + ", ".join(f"cuda:{i} {gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for i, gpu in enumerate(found))


def device_of(module: object) -> torch.device:
    """Return where a module's parameters are; the CPU for what has none (a scripted policy)."""
    if isinstance(module, nn.Module):
        first: Tensor | None = next(module.parameters(), None)
        first = next(module.buffers(), None) if first is None else first
        return CPU if first is None else first.device
    return CPU


def to_device(tree: Any, device: torch.device) -> Any:
    """Return a tree of dicts with its tensors on `device`; anything else in it is passed on as it is."""
    if isinstance(tree, Tensor):
        # From pageable memory CUDA takes its own copy before it returns, so the source may be overwritten at once.
        return tree if tree.device == device else tree.to(device, non_blocking=device.type != "cpu")
    if isinstance(tree, dict):
        return {key: to_device(value, device) for key, value in tree.items()}
    return tree


def pinned(tree: Any) -> Any:
    """Return a tree of dicts and lists with its tensors in pinned memory, from which CUDA copies on its own."""
    if isinstance(tree, Tensor):
        return tree.pin_memory()
    if isinstance(tree, dict):
        return {key: pinned(value) for key, value in tree.items()}
    return [pinned(value) for value in tree] if isinstance(tree, list) else tree


def has_compiler() -> bool:
    """Whether there is what torch.compile compiles with: triton beside CUDA, else a C++ compiler."""
    if torch.cuda.is_available():
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "c++"))
