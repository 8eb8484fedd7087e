"""Atomic writes: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toddle.core.errors import problem

__all__ = ["check_folder", "write_atomic", "write_json_atomic", "write_text_atomic"]


def check_folder(path: Path, name: str) -> None:
    """Raise InputError where `path` is no folder that can be written to or made; nothing is made.

    name: the setting it came from.
    """
    remedy = "choose another folder"
    for place in (path := Path(path).absolute(), *path.parents):
        if place.is_dir():
            if not os.access(place, os.W_OK | os.X_OK):
                raise problem(
                    name, f"a folder that can be written to, for {path}", f"{place}, without permission", remedy
                )
            return
        if os.path.lexists(place):
            raise problem(name, f"a folder at {place}", "a file or a broken link", remedy)


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it over `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str) -> None:
    """Write text to `path` atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write JSON to `path` atomically; NaN and infinity are refused."""
    write_text_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
