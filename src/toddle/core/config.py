"""Configuration: frozen keyword-only dataclasses beside what they configure, validated once, never mutated.

A config is written with `@config`; `from_dict` reads one strictly (an unknown key raises and names the nearest
known one, all mistakes are listed at once); `to_dict`, `save_config`, `load_config` round-trip to an equal object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import typing
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
import yaml

from toddle.core.errors import InputError, nearest, problem
from toddle.core.files import write_text_atomic
from toddle.core.numbers import Range
from toddle.core.reading import read_yaml

__all__ = [
    "changes",
    "check_numbers",
    "config",
    "from_dict",
    "load_config",
    "merged",
    "read_settings",
    "save_config",
    "to_dict",
    "unchecked",
]

T = TypeVar("T")


_CHECKING: ContextVar[bool] = ContextVar("checking", default=True)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Build configs without checking them: a parser's, which `from_dict` checks afterwards, naming fields in full."""
    token = _CHECKING.set(False)
    try:
        yield
    finally:
        _CHECKING.reset(token)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def config(cls: type[T]) -> type[T]:
    """Make a frozen keyword-only dataclass whose numbers are checked when it is built, and whose files strictly.

    Numbers have the types of `core.numbers`; `__post_init__` checks how fields fit together.
    """
    own = cls.__dict__.get("__post_init__")
    inherited = [check for base in cls.__mro__[1:] for check in base.__dict__.get("_own_checks", ())]
    checks = (own,) if own is not None else tuple(dict.fromkeys(inherited))

    def post_init(self: Any) -> None:
        if not _CHECKING.get():
            return
        check_numbers(self)
        check_lists(self)
        for check in checks:
            check(self)

    cls._own_checks = checks  # type: ignore[attr-defined]
    cls.__post_init__ = post_init  # type: ignore[attr-defined]
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", ser_json_inf_nan="constants")  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


@functools.cache
def _ranges(cls: Any) -> dict[str, tuple[list[Range], bool]]:
    """Return the ranges of a config's numeric fields, and whether the field is a tuple of such numbers."""
    found = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        ranges, inside = _in_hint(hint)
        if ranges:
            found[name] = (ranges, inside)
    return found


def _in_hint(hint: Any) -> tuple[list[Range], bool]:
    if typing.get_origin(hint) is typing.Annotated:
        own = [item for item in hint.__metadata__ if isinstance(item, Range)]
        return (own, False) if own else _in_hint(hint.__origin__)
    parts = [_in_hint(part) for part in typing.get_args(hint)]
    inside = typing.get_origin(hint) is tuple or any(nested for _, nested in parts)
    return [one for ranges, _ in parts for one in ranges], inside


def check_numbers(value: Any) -> None:
    """Raise InputError for the first numeric field of a config that is out of its type's range (`core.numbers`)."""
    cls: Any = type(value)
    for name, (ranges, inside) in _ranges(cls).items():
        given = getattr(value, name)
        if given is None or isinstance(given, str):
            continue
        for index, number in enumerate(given if inside and isinstance(given, tuple | list) else (given,)):
            complaints = [one.complaint(number) for one in ranges]
            if all(complaints):
                place = f"{name}.{index}" if inside else name
                raise problem(place, str(complaints[0]), number)


@functools.cache
def _lists(cls: Any) -> tuple[str, ...]:
    """Return the fields of a config that are lists of names or paths."""
    return tuple(
        name
        for name, hint in typing.get_type_hints(cls).items()
        for part in (hint, *typing.get_args(hint))
        if part in (tuple[str, ...], tuple[Path, ...])
    )


def check_lists(value: Any) -> None:
    """Raise InputError for the first list of names or paths of a config that has one of them twice."""
    cls: Any = type(value)
    for name in _lists(cls):
        given = getattr(value, name)
        if isinstance(given, tuple) and len(set(given)) < len(given):
            raise problem(name, "different ones", " ".join(map(str, given)))


def _field_names(cls: Any, path: tuple[Any, ...]) -> list[str]:
    """Names that are valid at `path` below the dataclass `cls` (best effort; unions are skipped)."""
    for key in path:
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        cls = hints.get(key, cls)
        if not dataclasses.is_dataclass(cls):
            options = [arg for arg in typing.get_args(cls) if dataclasses.is_dataclass(arg)]
            cls = options[0] if options else cls
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


@functools.cache
def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)


def from_dict(cls: type[T], data: dict[str, Any], where: str = "config") -> T:
    """Build `cls` from plain data.  Raises InputError with one line for every wrong field."""
    try:
        validated: T = _adapter(cls).validate_python(data)  # type: ignore[arg-type]
        return validated
    except pydantic.ValidationError as error:
        lines = []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"])
            if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                names = _field_names(cls, item["loc"][:-1])
                lines.append(f"{where}: unknown key '{path}'; {nearest(str(item['loc'][-1]), names)}")
            elif item["type"] == "missing":
                lines.append(f"{where}: {path}: expected a value, got none")
            elif isinstance(own := (item.get("ctx") or {}).get("error"), InputError):  # a config's own check
                lines.append(f"{where}: {path}{'.' if path else ''}{own}")
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
    if dataclasses.is_dataclass(value):
        return _adapter(type(value)).dump_python(value, mode="json")  # type: ignore[arg-type]
    plain = pydantic.ConfigDict(ser_json_inf_nan="constants")  # NaN stays NaN, to be refused, and does not become None
    return pydantic.TypeAdapter(type(value), config=plain).dump_python(value, mode="json")


def save_config(path: Path, value: Any) -> None:
    """Write a config as YAML, atomically."""
    write_text_atomic(path, yaml.safe_dump(to_dict(value), sort_keys=False))


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings, which may leave fields out.  Raises InputError when it is missing or no mapping."""
    try:
        return read_yaml(Path(path))
    except InputError as error:
        raise InputError(f"config file: {error}") from None


def load_config(cls: type[T], path: Path, given: dict[str, Any] | None = None) -> T:
    """Read a YAML config; `given` are fields that need not be in it (they were given elsewhere).

    Raises InputError when the file is missing, is not YAML, or has wrong fields.
    """
    return from_dict(cls, read_settings(path) | (given or {}), where=str(path))
