"""Every number of every command, tried with what it may not be: accepted where its range says so, else named."""

from __future__ import annotations

import dataclasses
import importlib
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from toddle.cli import COMMANDS
from toddle.core.config import from_dict, to_dict
from toddle.core.errors import InputError
from toddle.core.numbers import Range
from toddle.methods._base import known_methods
from toddle.recipes.pretrain import config_class, configure

TRIED = (math.nan, math.inf, -math.inf, -1, 0, 1.5, 2**62)
NEEDED: dict[str, dict[str, Any]] = {
    "transfer": {"source": "somewhere"},
    "record": {"env": ["goal/sawyer"], "out": "somewhere"},
    "sft": {"dataset": ["somewhere"]},
    "evaluate": {"policy": ["somewhere"], "env": ["goal/sawyer"]},
    "report": {"runs": ["somewhere"]},
    "study": {"name": "t0"},
}


def commands() -> Iterator[tuple[str, type[Any], dict[str, Any]]]:
    """Every command with its settings and enough to build them; pretrain once for each method."""
    for command in COMMANDS:
        if command == "pretrain":
            for method in known_methods():
                yield f"pretrain {method}", config_class(method), to_dict(configure(method=method))
        else:
            kind = importlib.import_module(f"toddle.recipes.{command}").Config
            yield command, kind, to_dict(from_dict(kind, NEEDED.get(command, {})))


def numbers(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The dotted paths of all fields that hold numbers, with their types."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if name not in {item.name for item in dataclasses.fields(kind)}:
            continue
        for part in _alternatives(hint):
            if dataclasses.is_dataclass(part):
                yield from numbers(part, (*path, name))
            elif _bare(part):
                yield (*path, name), hint
                break


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, type(int | None)) else (hint,)


def _bare(hint: Any) -> bool:
    """Whether it is a number or a tuple of numbers."""
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__origin__ in (int, float) or _bare(hint.__origin__)
    if typing.get_origin(hint) is tuple:
        return any(_bare(part) for part in typing.get_args(hint))
    return hint in (int, float)


def _ranged(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        return any(isinstance(item, Range) for item in hint.__metadata__) or _ranged(hint.__origin__)
    return any(_ranged(part) for part in typing.get_args(hint))


CASES = list(commands())


def test_the_walk_reaches_what_there_is() -> None:
    found = {name: {".".join(path) for path, _ in numbers(kind)} for name, kind, _ in CASES}
    assert {"ppo.target_kl", "causal.trunk.heads", "mlp.hidden", "collect.discount", "seed"} <= found["pretrain ppo"]
    assert {"denoising.std", "denoising.trunk.trunk.mlp_ratio"} <= found["pretrain dppo"]
    assert {"sft.learning_rate", "expert.trunk.depth", "backbone.image_size"} <= found["sft"]
    assert {"pushes.strength", "episodes"} <= found["evaluate"]
    assert sum(map(len, found.values())) > 500


@pytest.mark.parametrize(("name", "kind", "plain"), CASES, ids=[case[0] for case in CASES])
def test_every_number_states_its_range(name: str, kind: Any, plain: dict[str, Any]) -> None:
    bare = [".".join(path) for path, hint in numbers(kind) if not _ranged(hint)]
    assert bare == []


def _put(plain: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of plain settings with one field changed; in a tuple its first number."""
    head, *rest = path
    inner = dict(plain or {})
    if rest:
        inner[head] = _put(inner.get(head), tuple(rest), value)
    else:
        inner[head] = [value, *inner[head][1:]] if isinstance(inner.get(head), list) and inner[head] else value
        if isinstance(plain.get(head), list) and not plain[head]:
            inner[head] = [value]
    return inner


@pytest.mark.parametrize(("name", "kind", "plain"), CASES, ids=[case[0] for case in CASES])
def test_a_number_is_accepted_or_named_in_one_line(name: str, kind: Any, plain: dict[str, Any]) -> None:
    for path, _ in numbers(kind):
        dotted = ".".join(path)
        for value in TRIED:
            try:
                made = from_dict(kind, _put(plain, path, value), where=f"toddle {name}")
            except InputError as error:
                lines = str(error).splitlines()
                assert any(dotted in line or path[-1] in line or path[-2:][0] in line for line in lines), (
                    dotted,
                    lines,
                )
                assert all(len(line) < 400 for line in lines), (dotted, lines)
            else:
                found: Any = made
                for part in path:
                    found = getattr(found, part)
                assert math.isfinite(value), f"{dotted} took {value}"
                assert found is not None
