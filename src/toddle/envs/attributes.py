"""The numbers that a foreign object remembers in its attributes, to save and restore it without pickling."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["numeric_attributes", "restore_attributes"]


def numeric_attributes(owner: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the attributes of `owner` that are numbers or arrays of numbers: arrays copied, scalars as plain ones."""
    numbers: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if name in skip:
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind in "fib":
            numbers[name] = value.copy()
        elif isinstance(value, np.generic) and value.dtype.kind in "fib":
            numbers[name] = value.item()
        elif isinstance(value, bool | int | float):
            numbers[name] = value
    return numbers


def restore_attributes(owner: Any, numbers: dict[str, Any]) -> None:
    """Set what `numeric_attributes` returned."""
    for name, value in numbers.items():
        setattr(owner, name, np.array(value) if isinstance(getattr(owner, name, None), np.ndarray) else value)
