"""What the words of a command line say before they are parsed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import tyro

__all__ = ["dataset_first", "default_of", "given", "looked_up", "required", "value_of"]


def dataset_first(kind: type[Any], arguments: list[str]) -> list[str]:
    """Return the arguments with datasets where the command's settings have them: first, or after `--dataset`.

    Whoever types a command need not remember which of the two it takes; `--data` is `--dataset` too.
    """
    if (hint := get_type_hints(kind, include_extras=True).get("dataset")) is None:
        return arguments
    options = {"--data", "--dataset"}
    parts = [text.split("=", 1) if text.split("=")[0] in options else [text] for text in arguments]
    arguments = ["--dataset" if text in options else text for part in parts for text in part]
    if tyro.conf.Positional not in get_args(hint):
        return ["--dataset", *arguments] if arguments and not arguments[0].startswith("-") else arguments
    if "--dataset" not in arguments:
        return arguments
    at = arguments.index("--dataset")
    end = next((i for i in range(at + 1, len(arguments)) if arguments[i].startswith("-")), len(arguments))
    return [*arguments[at + 1 : end], *arguments[:at], *arguments[end:]]


def value_of(option: str, arguments: list[str]) -> str | None:
    """The value given for `option`, as `--option value` or `--option=value`."""
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
    return None


def given(kind: type[Any], arguments: list[str]) -> dict[str, Any]:
    """Return the required settings that are on the command line, so that a file of settings may leave them out."""
    found: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        value = value_of(f"--{item.name.replace('_', '-')}", arguments) if required(item) else None
        if value is not None:  # a stand-in of the right type: the command line's own parsing overrides it
            found[item.name] = [value] if get_origin(hints[item.name]) is tuple else value
    return found


def looked_up(kind: type[Any], arguments: list[str], names: Sequence[str]) -> dict[str, Any]:
    """Return those of the settings `names` that are on the command line, as text (lists of it for tuples)."""
    hints, found = get_type_hints(kind), dict[str, Any]()
    for name in names:
        option = f"--{name.replace('_', '-')}"
        if (first := value_of(option, arguments)) is None:
            continue
        if get_origin(hints.get(name)) is not tuple:
            found[name] = first
        elif option in arguments:
            rest = arguments[arguments.index(option) + 1 :]
            found[name] = rest[: next((i for i, text in enumerate(rest) if text.startswith("--")), len(rest))]
        else:
            found[name] = [first]
    return found


def required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def default_of(kind: type[Any], name: str) -> Any:
    for item in dataclasses.fields(kind):
        if item.name == name and item.default is not dataclasses.MISSING:
            return item.default
    return None
