"""The study `conversion`: its outcomes on made-up rows whose answer is known, and the whole of it at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.policies.tiny_vla import tiny_backbone

from toddle.models.backbone_embedded import save_embedded
from toddle.recipes.studies.conversion import CONDITIONS, STUDY, Scale, figures, tables
from toddle.training.steps import run_steps
from toddle.training.study import Row, verdict, write_page, write_rows


def rows(random: list[int], converted: list[int], literal: list[int], exactness: float = 1e-7) -> list[Row]:
    found: list[Row] = []
    for name, successes in zip(CONDITIONS, (random, converted, literal)):
        for seed, count in enumerate(successes):
            found += [
                {"kind": "success", "seed": seed, "condition": name, "task": "metaworld/reach-v3",
                 "disturbance": disturbance, "episodes": 50, "successes": count}
                for disturbance in ("plain", "pushed")
            ]  # fmt: skip
    return [*found, {"kind": "exactness", "seed": 0, "condition": "converted", "C": exactness}]


def verdicts(data: list[Row]) -> dict[str, str]:
    return {outcome.name: verdict(outcome, outcome.measure(data)) for outcome in STUDY.outcomes}


def test_verdicts_on_known_rows() -> None:
    clear = rows([20, 22, 18, 21], [40, 42, 39, 41], [21, 22, 19, 20])
    assert verdicts(clear) == dict.fromkeys(("gain", "gain under pushes", "literal gate", "exact"), "passed")
    same = rows([20, 22, 18, 21], [20, 22, 18, 21], [20, 22, 18, 21], exactness=1.0)
    found = verdicts(same)
    assert found["gain"] == "failed" and found["exact"] == "failed"  # a gain of 5 points is excluded
    kept = rows([20, 22, 18, 21], [40, 42, 39, 41], [40, 41, 40, 42])  # the literal gate keeps all of the gain
    assert verdicts(kept)["literal gate"] == "failed"
    assert set(verdicts([]).values()) == {"not measured"}


def test_plots_and_tables_hold_the_cells() -> None:
    data = rows([20, 22], [40, 42], [21, 22])
    (figure,) = figures(data)
    assert ">42<" in figure.svg and ">82<" in figure.svg  # (20 + 22) / 100, (40 + 42) / 100
    ((_, _, lines),) = tables(data)
    assert ["metaworld/reach-v3", "plain", "converted", "40/50, 42/50"] in lines


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_study_at_a_tiny_size(tmp_path: Path) -> None:
    save_embedded(tmp_path / "eyes", tiny_backbone())
    scale = Scale(
        seeds=2, tasks=("metaworld/reach-v3",), pretrain_steps=8192, demonstrations=1, sft_steps=3, episodes=2,
        backbone=str(tmp_path / "eyes"),
    )  # fmt: skip
    steps = STUDY.steps(scale)
    assert len(steps) == 1 + 2 * (1 + 2 + 3 + 1)
    run_steps(steps, tmp_path / "runs", processes=2)
    data: list[dict[str, Any]] = STUDY.collect(scale, tmp_path / "runs")
    assert len([row for row in data if row["kind"] == "success"]) == 2 * 3 * 2
    assert len([row for row in data if row["kind"] == "exactness"]) == 4
    facts = {"scale": "small", "runs_done": 15, "runs_planned": 15, "seconds": 1.0, "command": "toddle study"}
    write_rows(tmp_path / "docs", data, facts)
    found = write_page(STUDY, tmp_path / "docs")
    assert found["exact"] == "passed"
    assert "15 of 15 runs done" in (tmp_path / "docs" / "index.md").read_text()
    assert json.loads((tmp_path / "docs" / "study.json").read_text())["runs_done"] == 15
