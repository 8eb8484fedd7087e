"""Numbers in settings: types that say their range.  Every numeric field of every config has one of them.

    steps: Count = 1000
    dropout: Share = 0.1
    hidden: tuple[Size, ...] = (256, 256)
    target_kl: Positive | None = 0.02

`core.config.config` checks them wherever a config is built: in Python, from files, on the command line.  NaN and
infinity are in none of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

__all__ = [
    "Count",
    "Discount",
    "Finite",
    "LogStd",
    "NonNegative",
    "PictureSize",
    "Port",
    "Positive",
    "Range",
    "Seed",
    "Share",
    "Size",
    "SizeOrNone",
    "Whole",
]

HUGE = 10**12


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included unless `above` or `below` say otherwise."""

    low: float
    high: float
    what: str
    """In words, as an error says it."""
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def complaint(self, value: Any) -> str | None:
        """Return what was expected where `value` is no such number."""
        number = isinstance(value, int) if self.whole else isinstance(value, int | float)
        if not number or isinstance(value, bool) or not math.isfinite(value):
            return self.what
        low = value > self.low if self.open_low else value >= self.low
        high = value < self.high if self.open_high else value <= self.high
        if high or self.high < HUGE:
            return None if low and high else self.what
        return f"{self.what} and at most {self.high:,}"


Count = Annotated[int, Range(1, HUGE, "a whole number, at least 1", whole=True)]
"""How many: steps, updates, episodes."""
Whole = Annotated[int, Range(0, HUGE, "a whole number, at least 0", whole=True)]
"""How many, perhaps none."""
Size = Annotated[int, Range(1, 2**20, "a whole number from 1 to 1,048,576", whole=True)]
"""A dimension of an array: widths, worlds, batches."""
SizeOrNone = Annotated[int, Range(0, 2**20, "a whole number from 0 to 1,048,576", whole=True)]
"""A dimension of an array; 0: there is none."""
PictureSize = Annotated[int, Range(16, 4096, "a whole number from 16 to 4096", whole=True)]
"""The side of a picture in pixels."""
Port = Annotated[int, Range(0, 65535, "a port, 0 to 65535", whole=True)]
"""A TCP port; 0: any that is free."""
Seed = Annotated[int, Range(0, 2**62, "a whole number from 0 to 2^62", whole=True)]
"""The seed of a generator."""
Finite = Annotated[float, Range(-HUGE, HUGE, "a finite number")]
NonNegative = Annotated[float, Range(0, HUGE, "a number of at least 0")]
"""A weight, a strength."""
Positive = Annotated[float, Range(0, HUGE, "a number above 0", open_low=True)]
"""A rate, a spread, a limit."""
Share = Annotated[float, Range(0, 1, "a number from 0 to 1")]
Discount = Annotated[float, Range(0, 1, "a number from 0 to below 1", open_high=True)]
"""gamma; a share that must leave something."""
LogStd = Annotated[float, Range(-20, 5, "a number from -20 to 5 (a logarithm)")]
"""Logarithm of a standard deviation; actions are in [-1, 1]."""
