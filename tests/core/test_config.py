"""Configs: strict, validated all at once, equal after a round trip."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from toddle.core.config import config, from_dict, load_config, save_config, to_dict
from toddle.core.errors import InputError


@config
class Adam:
    """Adam."""

    rate: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@config
class Sgd:
    """Gradient descent."""

    rate: float = 0.1
    momentum: float = 0.0


@config
class Body:
    """A nested config in a tuple."""

    name: str
    size: int = 3


@config
class Settings:
    """One of every kind of field."""

    out: Path
    mode: Literal["fast", "exact"] = "fast"
    optim: Adam | Sgd = Adam()
    bodies: tuple[Body, ...] = ()
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    limit: float | None = None
    steps: int = 10


EXAMPLE = Settings(
    out=Path("runs/a"),
    mode="exact",
    optim=Sgd(momentum=0.5),
    bodies=(Body(name="ant"), Body(name="arm", size=7)),
    weights={"a": 0.1},
    limit=1e-12,
    steps=2**40,
)


def lines_of(data: dict[str, object]) -> list[str]:
    with pytest.raises(InputError) as error:
        from_dict(Settings, data)
    return str(error.value).splitlines()


def test_a_file_loads_back_to_an_equal_object(tmp_path: Path) -> None:
    save_config(tmp_path / "deep/config.yaml", EXAMPLE)
    assert load_config(Settings, tmp_path / "deep/config.yaml") == EXAMPLE
    assert from_dict(Settings, to_dict(EXAMPLE)) == EXAMPLE != Settings(out=Path("runs/a"))


@given(
    rate=st.floats(1e-300, 1e300),
    limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(),
)
def test_numbers_and_texts_survive_yaml_exactly(
    tmp_path_factory: pytest.TempPathFactory, rate: float, limit: float | None, text: str
) -> None:
    path = tmp_path_factory.mktemp("c") / "config.yaml"
    value = Settings(out=Path("o"), optim=Adam(rate=rate), limit=limit, bodies=(Body(name=text),))
    save_config(path, value)
    assert load_config(Settings, path) == value


def test_an_unknown_key_names_the_nearest() -> None:
    assert lines_of({"out": "a", "mdoe": "fast"}) == ["config: unknown key 'mdoe'; did you mean 'mode'?"]
    (line,) = lines_of({"out": "a", "bodies": [{"name": "ant", "sise": 3}]})
    assert "bodies.0.sise" in line and "did you mean 'size'?" in line


def test_all_mistakes_are_named_at_once() -> None:
    lines = lines_of({"mode": "slow", "steps": "many", "bodies": [{}]})
    assert len(lines) == 4
    mode = "mode: Input should be 'fast' or 'exact', got 'slow'"
    parts = ("out: expected a value, got none", mode, "steps:", "bodies.0")
    for part in parts:
        assert sum(part in line for line in lines) == 1, part


def test_validators_of_nested_configs_run() -> None:
    assert any(
        "rate: Input should be greater than 0, got -1" in line
        for line in lines_of({"out": "a", "optim": {"rate": -1, "betas": [0.9, 0.99]}})
    )


def test_a_config_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLE.steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Adam(0.1)  # type: ignore[misc]
    with pytest.raises(TypeError, match="ratee"):
        Adam(ratee=0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [", "not valid YAML"), ("- 1", "must hold a mapping of fields, got list"), ("", "got NoneType")],
)
def test_a_bad_file_gives_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=expected) as error:
        load_config(Settings, tmp_path / "c.yaml")
    assert "\n" not in str(error.value) and "c.yaml" in str(error.value)


def test_a_missing_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        load_config(Settings, tmp_path / "none.yaml")
