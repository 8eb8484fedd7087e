"""Memory that is free, and the one line that says what does not fit, before anything of it is allocated.

What is certain is compared: weights, rollouts, worlds, pictures.  Whatever else a run takes comes on top, so a run that
is let through can still be too large; that is told when it happens (`cli`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from toddle.core.device import CPU
from toddle.core.errors import InputError, is_out_of_memory

__all__ = ["check_memory", "free_memory", "peak_memory", "resident", "size_text", "weights_that_fit"]

UNKNOWN = sys.maxsize
NOTABLE = 2**20
"""Bytes of a weight from which the sum is looked at."""


def free_memory(device: torch.device = CPU) -> int:
    """Return the bytes this process can still take on `device`; a very large number where nothing says it.

    On the CPU it is the least of what the machine has (swap included), what its control groups leave (version 1 and 2;
    cached files that can be dropped do not count as taken) and what `ulimit -v` leaves.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    machine = _numbers(Path("/proc/meminfo"), 1024)
    found = [machine["MemAvailable"] + machine.get("SwapFree", 0)] if "MemAvailable" in machine else []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                found += _left_by_groups(Path("/sys/fs/cgroup"), path, version=1 if controllers else 2)
    with contextlib.suppress(ImportError):  # there is none on Windows
        import resource

        limit, taken = resource.getrlimit(resource.RLIMIT_AS)[0], _numbers(Path("/proc/self/status"), 1024)
        if limit != resource.RLIM_INFINITY and "VmSize" in taken:
            found.append(limit - taken["VmSize"])
    return max(0, min(found, default=UNKNOWN))


def resident() -> int:
    """Return the bytes of memory that this process holds now; 0 where the system does not say."""
    return _numbers(Path("/proc/self/status"), 1024).get("VmRSS", 0)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held at once so far; 0 where the system does not say."""
    return _numbers(Path("/proc/self/status"), 1024).get("VmHWM", 0)


def _left_by_groups(root: Path, path: str, version: int) -> list[int]:
    """Return what a control group and those above it leave, where they have a limit."""
    root = root / "memory" if version == 1 and (root / "memory").is_dir() else root
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    group, left = root / path.strip("/"), []
    for place in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limit, taken = (int((place / name).read_text()) for name in names)
            files = _numbers(place / "memory.stat", 1)
            left.append(limit - taken + files.get("total_inactive_file", files.get("inactive_file", 0)))
        if place == root:
            break
    return left


def _numbers(file: Path, unit: int) -> dict[str, int]:
    """Return the numbers of a file of the kernel, one a line behind its name, times `unit`."""
    try:
        rows = [line.replace(":", " ").split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: unit * int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def size_text(size: float) -> str:
    """Return a number of bytes in words."""
    power = min(4, max(2, (int(size).bit_length() - 1) // 10))
    return f"{size / 1024**power:,.1f} {('MiB', 'GiB', 'TiB')[power - 2]}"


def check_memory(needed: float, what: str, remedy: str, *, device: torch.device = CPU, free: int | None = None) -> None:
    """Raise InputError, one line, where `what` needs more bytes than are free on `device` (`free`: than so many)."""
    free = free_memory(device) if free is None else free
    if needed > free:
        where = "" if device.type == "cpu" else f" on {device}"
        raise InputError(
            f"memory: {what} takes about {size_text(needed)}, and {size_text(free)} are free{where}; {remedy}"
        )


@contextlib.contextmanager
def weights_that_fit(copies: float = 4.0) -> Iterator[None]:
    """Refuse modules built inside whose weights do not fit, before they are filled with numbers.

    copies: how often weights that learn are kept in the end; training by Adam keeps gradients and two moments beside
    them.  Frozen weights are kept once, and what is on no device (meta) takes no memory yet.
    Raises InputError.
    """
    free, total, needed = free_memory(), 0, 0.0
    remedy = "take smaller networks (widths, hidden layers, depth)"

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total, needed
        size = 0 if parameter is None or parameter.is_meta else parameter.numel() * parameter.element_size()
        total += size
        needed += size if parameter is None or not parameter.requires_grad else copies * size
        if size > NOTABLE:
            what = f"a network of more than {total // 4:,} weights with all that is kept beside them"
            check_memory(needed, what, remedy, free=free)

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"memory: a network does not fit into the {size_text(free)} that are free; {remedy}") from None
    finally:
        handle.remove()
