"""The one way in which toddle reads files: bounded, checked, and with one line for everything that can be wrong.

A file is opened only where it is a regular one (a pipe would wait for ever), is read only up to a size, is text in
UTF-8 (with or without a byte order mark), and holds what it should: JSON and YAML without duplicate keys and not nested
without end, YAML without anchors, which can grow without end, JSON without NaN where numbers are meant to be finite.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from toddle.core.errors import InputError, problem

__all__ = [
    "SETTINGS_LIMIT",
    "Kinds",
    "check_keys",
    "inside",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_json_lines",
    "read_text",
    "read_yaml",
]

LIMIT = 256 * 2**20
"""Bytes of the largest file that is read as text."""
SETTINGS_LIMIT = 2**20
"""Bytes of the largest file of settings."""
DEPTH = 64
"""Deepest nesting."""
Kinds = Mapping[str, type | tuple[type, ...]]
"""Keys that must be there, and of which type."""


def read_bytes(path: Path, *, limit: int = LIMIT) -> bytes:
    """Return the content of a regular file.  Raises InputError where it is missing, none, too large or unreadable."""
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise problem(str(path), "a file", kind)
        if found.st_size > limit:
            raise problem(str(path), f"at most {limit:,} bytes", f"{found.st_size:,}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(handle)


def read_text(path: Path, *, limit: int = LIMIT) -> str:
    """Return a file of text in UTF-8.  Raises InputError as `read_bytes` does, and for other encodings."""
    try:
        return read_bytes(path, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise problem(str(path), "text in UTF-8", f"byte 0x{error.object[error.start]:02x} at {error.start}") from None


def read_json(path: Path, keys: Kinds | None = None, *, finite: bool = True, limit: int = LIMIT) -> dict[str, Any]:
    """Return the JSON object of a file.

    keys: what must be in it, with types; finite: refuse NaN and infinity.
    Raises InputError, one line, for everything that can be wrong with the file.
    """
    return check_keys(_json(read_text(path, limit=limit), str(path), finite=finite), str(path), keys or {})


def read_json_lines(path: Path, keys: Kinds | None = None, *, finite: bool = True) -> list[dict[str, Any]]:
    """Return the JSON objects of a file, one a line; none where there is no file.

    A last line without its end was cut short by a kill and is left out; whatever else is wrong is named by its line.
    """
    path = Path(path)
    if not path.exists():
        return []
    text = read_text(path)
    lines = text.split("\n")
    cut = lines.pop()  # "" where the last line has its end
    rows = [
        check_keys(_json(line, f"{path}: line {number}", finite=finite), f"{path}: line {number}", keys or {})
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if cut.strip():
        with contextlib.suppress(InputError):
            rows.append(check_keys(_json(cut, "", finite=finite), "", keys or {}))
    return rows


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping of a file of settings.  Raises InputError, one line, for everything that can be wrong."""
    text = read_text(path, limit=SETTINGS_LIMIT)
    try:
        data = yaml.load(text, Loader=_PlainLoader)  # a SafeLoader, and stricter
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is not valid YAML: {type(error).__name__}, nested too deeply or no number") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path} must hold a mapping of fields, got {type(data).__name__}")
    if _depth(data) > DEPTH:
        raise problem(str(path), f"nesting of at most {DEPTH}", "more")
    return data


def inside(folder: Path, name: str | Path, what: str = "path") -> Path:
    """Return `folder`/`name` where that lies in the folder, links followed; else raise InputError.

    For paths that come out of files: metadata must not reach what the user did not name.
    """
    whole = (Path(folder) / name).resolve()
    if not whole.is_relative_to(Path(folder).resolve()):
        raise problem(what, f"a path inside {folder}", str(name))
    return whole


def _json(text: str, where: str, *, finite: bool) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [key for key, _ in items]
            raise InputError(f"{where}: the key '{max(names, key=names.count)}' is there twice")
        return found

    def constant(name: str) -> float:
        if finite:
            raise problem(where, "finite numbers", name)
        return float(name.replace("Infinity", "inf"))

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise problem(where, f"nesting of at most {DEPTH}", "more") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: not valid JSON: {' '.join(str(error).split())[:200]}") from None
    if _depth(data) > DEPTH:
        raise problem(where, f"nesting of at most {DEPTH}", "more")
    return data


def parse_json(text: str, where: str, keys: Kinds) -> dict[str, Any]:
    """Return the JSON object of a text (a dataset's fact, say), with these keys.  Raises InputError naming `where`."""
    return check_keys(_json(text, where, finite=True), where, keys)


def check_keys(data: Any, where: str, keys: Kinds) -> dict[str, Any]:
    """Return `data` where it is an object with these keys, each of its type; else raise InputError naming `where`."""
    if not isinstance(data, dict):
        raise problem(where, "a JSON object", type(data).__name__)
    if missing := sorted(keys.keys() - data.keys()):
        raise problem(where, f"the keys {', '.join(sorted(keys))}", f"no {', '.join(missing)}")
    for key, kind in keys.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(data[key], kinds) or (isinstance(data[key], bool) and bool not in kinds):
            wanted = " or ".join(one.__name__ for one in kinds)
            raise problem(f"{where}: {key}", f"a value of type {wanted}", type(data[key]).__name__)
    return data


def _depth(data: Any) -> int:
    """Return how deeply plain data is nested, counted without recursion."""
    deepest, level = 0, [data]
    while level:
        deepest += 1
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
    return deepest


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain data: no anchors and aliases, no duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.YAMLError(f"the key '{key}' is there twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)
