"""One seed at the top, spawned generators below.  No library code touches a global generator.

Torch generators are the CPU's whatever the device: `randn`, `rand` and `randint` draw there and move the numbers.  So
a seed means the same draws on every device, and a state saved on one device goes on on another.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "PartGenerator",
    "derived_seed",
    "numpy_generator",
    "rand",
    "randint",
    "randn",
    "seed_sequence",
    "torch_generator",
]


class PartGenerator(torch.Generator):
    """A generator of draws for rows, of which one process has a part.

    `randn`, `rand` and `randint` draw for all `total` rows and return the `own` ones from `first` on, wherever so many
    rows are asked for: so the numbers of a row do not depend on how rows are shared out.
    """

    first, own, total = 0, 0, 0


def seed_sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of a named branch: the same seed and names give the same stream on any machine."""
    keys = [zlib.crc32(name.encode()) if isinstance(name, str) else int(name) for name in names]
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(keys))


def derived_seed(seed: int, *names: str | int) -> int:
    """Return a seed of its own for the named branch of `seed`, in a setting's range."""
    return int(seed_sequence(seed, *names).generate_state(1, np.uint64)[0]) >> 2


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator for the named branch of `seed`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *names)))


def torch_generator(seed: int, *names: str | int, part: tuple[int, int, int] | None = None) -> torch.Generator:
    """Return a torch generator (on the CPU) for the named branch of `seed`; `part`: (first, own, total) of its rows."""
    generator = torch.Generator() if part is None else PartGenerator()
    if isinstance(generator, PartGenerator) and part is not None:
        generator.first, generator.own, generator.total = part
    generator.manual_seed(int(seed_sequence(seed, *names).generate_state(1, np.uint64)[0]) >> 1)
    return generator


def _drawn(
    draw: Callable[[tuple[int, ...]], Tensor], shape: Sequence[int], generator: torch.Generator | None
) -> Tensor:
    """Return what is drawn in a shape, this process's part of it where rows are shared out."""
    part = generator if isinstance(generator, PartGenerator) and shape and shape[0] == generator.own else None
    if part is None:
        return draw(tuple(shape))
    return draw((part.total, *shape[1:]))[part.first : part.first + part.own]


def randn(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return standard normal numbers on `device`, drawn on the CPU."""
    return _drawn(lambda size: torch.randn(size, generator=generator), shape, generator).to(device)


def rand(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return uniform numbers in [0, 1) on `device`, drawn on the CPU."""
    return _drawn(lambda size: torch.rand(size, generator=generator), shape, generator).to(device)


def randint(high: int, shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return whole numbers from 0 to high - 1 on `device`, drawn on the CPU."""
    return _drawn(lambda size: torch.randint(high, size, generator=generator), shape, generator).to(device)
