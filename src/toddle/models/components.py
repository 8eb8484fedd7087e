"""Tokens of a frozen backbone as a few numbers: their principal components over recorded pictures.

A picture's tokens are thousands of numbers that move together.  A model of what follows learns faster, and knows better
what it does not know, on the directions in which recorded tokens vary most (Pearson 1901), and gives tokens back from
them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.seeding import randn, torch_generator

__all__ = ["TokenComponents"]

ROUNDS, SPARE = 6, 8
"""Rounds of the subspace iteration, and directions it carries beside those that are wanted."""
BLOCK = 2048
"""Rows that are multiplied at once."""


class TokenComponents:
    """K directions of a context of G tokens of D numbers each, of which some are real."""

    def __init__(self, real: list[bool], width: int, mean: Tensor, directions: Tensor) -> None:
        """real (G,); mean (R D,) and directions (K, R D) orthonormal, of the R real tokens."""
        self.real, self.width, self.mean, self.directions = np.array(real, bool), width, mean, directions
        if mean.shape != (int(self.real.sum()) * width,) or directions.shape[1:] != mean.shape:
            raise problem("components", f"{int(self.real.sum()) * width} numbers of tokens", list(directions.shape))

    @classmethod
    def of(cls, context: Any, real: list[bool], count: int, rows: Any, seed: int = 0) -> TokenComponents:
        """Find the first `count` components of contexts (N, G, D), an array, over its `rows` (M,); at most as many as
        rows or numbers allow.  Found by subspace iteration (Halko et al. 2011, arXiv 0909.4061)."""
        width, kept = context.shape[2], np.flatnonzero(np.array(real, bool))
        size = len(kept) * width
        count = min(count, len(rows), size)
        blocks = [rows[first : first + BLOCK] for first in range(0, len(rows), BLOCK)]

        def values(block: Any) -> Tensor:
            return torch.from_numpy(context[block][:, kept].astype(np.float32)).flatten(1)

        mean = sum((values(block).sum(0) for block in blocks), torch.zeros(size)) / len(rows)
        wanted = min(count + SPARE, size)
        basis = torch.linalg.qr(randn((size, wanted), torch_generator(seed, "components"), torch.device("cpu")))[0]
        for _ in range(ROUNDS):
            product = torch.zeros(size, wanted)
            for block in blocks:
                apart = values(block) - mean
                product += apart.T @ (apart @ basis)
            basis = torch.linalg.qr(product)[0]
        small = torch.zeros(wanted, wanted)
        for block in blocks:
            apart = (values(block) - mean) @ basis
            small += apart.T @ apart
        _, turned = torch.linalg.eigh(small)
        return cls(real, width, mean, (basis @ turned.flip(1)[:, :count]).T.contiguous())

    def __len__(self) -> int:
        return len(self.directions)

    def numbers(self, context: Tensor) -> Tensor:
        """Return (..., K) of contexts (..., G, D)."""
        values = context[..., torch.from_numpy(self.real), :].float().flatten(-2)
        found: Tensor = (values - self.mean) @ self.directions.T
        return found

    def context(self, numbers: Tensor) -> Tensor:
        """Return contexts (..., G, D), 0 where no token is real."""
        values = (self.mean + numbers @ self.directions).unflatten(-1, (-1, self.width))
        found = values.new_zeros(*numbers.shape[:-1], len(self.real), self.width)
        found[..., torch.from_numpy(self.real), :] = values
        return found

    def told(self, context: Any, rows: Any) -> float:
        """Return the share of the variance of contexts (N, G, D) over `rows` (M,) that these components hold."""
        kept, held, whole = np.flatnonzero(self.real), 0.0, 0.0
        for first in range(0, len(rows), BLOCK):
            block = context[rows[first : first + BLOCK]][:, kept].astype(np.float32)
            apart = torch.from_numpy(block).flatten(1) - self.mean
            whole += float(apart.square().sum())
            held += float((apart @ self.directions.T).square().sum())
        return held / whole if whole else 1.0

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored; the rest stands on the model's card."""
        return {"mean": self.mean, "directions": self.directions}
