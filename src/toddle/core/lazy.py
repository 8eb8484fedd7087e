"""Packages that are loaded when something of them is first needed: who needs nothing of them need not have them."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Lazy"]


class Lazy:
    """Stands for a module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return what the module has of that name.  Raises ImportError where it is missing."""
        return getattr(importlib.import_module(self._name), name)
