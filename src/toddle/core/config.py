"""Configuration: frozen keyword-only dataclasses beside what they configure, validated once, never mutated.

A config is written with `@config`; `from_dict` reads one strictly (an unknown key raises and names the nearest
known one, all mistakes are listed at once); `to_dict`, `save_config`, `load_config` round-trip to an equal object.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
import yaml

from toddle.core.errors import InputError, nearest
from toddle.core.files import write_text_atomic

__all__ = ["changes", "config", "from_dict", "load_config", "merged", "read_settings", "save_config", "to_dict"]

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def config(cls: type[T]) -> type[T]:
    """Make a frozen keyword-only dataclass whose files are validated strictly."""
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def _field_names(cls: Any, path: tuple[Any, ...]) -> list[str]:
    """Names that are valid at `path` below the dataclass `cls` (best effort; unions are skipped)."""
    import typing

    for key in path:
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        cls = hints.get(key, cls)
        if not dataclasses.is_dataclass(cls):
            options = [arg for arg in typing.get_args(cls) if dataclasses.is_dataclass(arg)]
            cls = options[0] if options else cls
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def from_dict(cls: type[T], data: dict[str, Any], where: str = "config") -> T:
    """Build `cls` from plain data.  Raises InputError with one line for every wrong field."""
    try:
        return pydantic.TypeAdapter(cls).validate_python(data)
    except pydantic.ValidationError as error:
        lines = []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"])
            if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                names = _field_names(cls, item["loc"][:-1])
                lines.append(f"{where}: unknown key '{path}'; {nearest(str(item['loc'][-1]), names)}")
            elif item["type"] == "missing":
                lines.append(f"{where}: {path}: expected a value, got none")
            else:
                lines.append(f"{where}: {path}: {item['msg']}, got {item.get('input')!r}")
        raise InputError("\n".join(lines)) from None


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above`, nested dicts merged likewise."""
    found = dict(below)
    for key, value in above.items():
        inner = found.get(key)
        found[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def changes(before: Any, after: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Return (dotted name, before, after) of every field of plain data that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = dict.fromkeys([*before, *after])
        parts = [changes(before.get(name), after.get(name), f"{prefix}.{name}".lstrip(".")) for name in names]
        return [line for part in parts for line in part]
    return [] if before == after else [(prefix, before, after)]


def to_dict(value: Any) -> Any:
    """Return plain data (dicts, lists, numbers, strings) that `from_dict` turns back into an equal object."""
    return pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")


def save_config(path: Path, value: Any) -> None:
    """Write a config as YAML, atomically."""
    write_text_atomic(path, yaml.safe_dump(to_dict(value), sort_keys=False))


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings, which may leave fields out.  Raises InputError when it is missing or no mapping."""
    try:
        data = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"config file: {path} does not exist") from None
    except yaml.YAMLError as error:
        raise InputError(f"config file: {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"config file: {path} must hold a mapping of fields, got {type(data).__name__}")
    return data


def load_config(cls: type[T], path: Path, given: dict[str, Any] | None = None) -> T:
    """Read a YAML config; `given` are fields that need not be in it (they were given elsewhere).

    Raises InputError when the file is missing, is not YAML, or has wrong fields.
    """
    return from_dict(cls, read_settings(path) | (given or {}), where=str(path))
