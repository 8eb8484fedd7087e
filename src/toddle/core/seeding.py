"""One seed at the top, spawned generators below.  No library code touches a global generator."""

from __future__ import annotations

import zlib

import numpy as np
import torch

__all__ = ["numpy_generator", "seed_sequence", "torch_generator"]


def seed_sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of a named branch: the same seed and names give the same stream on any machine."""
    keys = [zlib.crc32(name.encode()) if isinstance(name, str) else int(name) for name in names]
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(keys))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator for the named branch of `seed`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *names)))


def torch_generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator for the named branch of `seed`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(int(seed_sequence(seed, *names).generate_state(1, np.uint64)[0]) >> 1)
    return generator
