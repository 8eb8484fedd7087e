"""One seed at the top, spawned generators below.  No library code touches a global generator.

Torch generators are the CPU's whatever the device: `randn`, `rand` and `randint` draw there and move the numbers.  So
a seed means the same draws on every device, and a state saved on one device goes on on another.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["numpy_generator", "rand", "randint", "randn", "seed_sequence", "torch_generator"]


def seed_sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of a named branch: the same seed and names give the same stream on any machine."""
    keys = [zlib.crc32(name.encode()) if isinstance(name, str) else int(name) for name in names]
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(keys))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator for the named branch of `seed`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *names)))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a torch generator (on the CPU) for the named branch of `seed`."""
    generator = torch.Generator()
    generator.manual_seed(int(seed_sequence(seed, *names).generate_state(1, np.uint64)[0]) >> 1)
    return generator


def randn(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return standard normal numbers on `device`, drawn on the CPU."""
    return torch.randn(tuple(shape), generator=generator).to(device)


def rand(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return uniform numbers in [0, 1) on `device`, drawn on the CPU."""
    return torch.rand(tuple(shape), generator=generator).to(device)


def randint(high: int, shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return whole numbers from 0 to high - 1 on `device`, drawn on the CPU."""
    return torch.randint(high, tuple(shape), generator=generator).to(device)
