"""The study `t3`: outcomes on made-up rows whose answer is known, its runs, and the whole of it at a tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.policies.tiny_vla import tiny_backbone

from toddle.models.backbones.embedded import save_embedded
from toddle.recipes._step_checks import check_toddle_steps
from toddle.recipes.studies._t3_page import figures, tables
from toddle.recipes.studies.t3 import ABLATIONS, RECIPE, SCALES, STUDY, steps
from toddle.reporting.study import Row, judge, write_page
from toddle.reporting.study_data import write_rows
from toddle.runs.steps import check_steps, run_steps

SMALL = SCALES["small"]


def rows(level: dict[str, float], *, falls: bool = True) -> list[Row]:
    """Success `level` of each policy with a spread over seeds and tasks; courses that fall or rise."""
    found: list[Row] = []
    for seed in range(4):
        for suite, tasks in SMALL.suites.items():
            names = [name for name in level if name in ("sft", "full") or suite in SMALL.ablated]
            for name in names:
                for index, task in enumerate(tasks):
                    share = level[name] + 0.01 * ((seed + index + len(name)) % 3)
                    cell = {"suite": suite, "task": task, "policy": name, "episodes": 100, "successes": 100 * share}
                    found.append({"kind": "success", "seed": seed, **cell})
            course = [10.0, 9.0, None, 7.5, 7.0 + 0.1 * seed]
            other = {"steps": [1, 2, 3, 4, 5], "success": [0.5] * 5, "entropy": [3.0, 2.0, 1.5, 1.2, 1.0]}
            if not falls:
                course, other["entropy"] = course[::-1], other["entropy"][::-1]
            found.append({"kind": "course", "seed": seed, "suite": suite, "policy": "full", "length": course, **other})
    return found


def verdicts(data: list[Row]) -> dict[str, str]:
    return dict(judge(STUDY.outcomes, data)[1])


def test_verdicts_on_known_rows() -> None:
    as_printed = {"sft": 0.5, "full": 0.8} | dict.fromkeys(ABLATIONS, 0.7) | {"rate x10": 0.02}
    assert set(verdicts(rows(as_printed)).values()) == {"passed"}
    found = verdicts(rows(as_printed | {"uniform tasks": 0.9, "rate x10": 0.7}, falls=False))
    assert found["uniform tasks"] == found["rate x10"] == found["shorter"] == found["entropy"] == "failed"
    assert found["no warm-up"] == "passed"
    none = verdicts(rows(as_printed | {"full": 0.5}))
    assert none["gain"] == "failed"
    assert none["no process reward"] == "not applicable"  # no gain whose parts to ask for
    assert set(verdicts([]).values()) == {"not measured"}


def test_every_run_differs_from_the_recipe_in_one_thing() -> None:
    for scale in SCALES.values():
        found = {step.name: step for step in steps(scale)}
        check_steps(list(found.values()))
        check_toddle_steps(list(found.values()), Path("runs"))
        for suite in scale.suites:
            runs = {name: step.settings for name, step in found.items() if name.startswith(f"seed1/{suite}/")}
            full, judged = runs[f"seed1/{suite}/full"], runs[f"seed1/{suite}/evaluate"]["policy"]
            trained = [name for name, settings in runs.items() if "method" in settings]
            assert len(judged) == len(trained) + 1
            assert len(trained) == (1 + len(ABLATIONS) if suite in scale.ablated else 1)
            for name in trained:
                changed = {key for key in {*full, *runs[name]} if full.get(key) != runs[name].get(key)}
                assert len(changed) == (0 if name.endswith("/full") else 1), (name, changed)
    assert RECIPE["ppo"]["learning_rate"] * 10 == pytest.approx(ABLATIONS["rate x10"]["ppo"]["learning_rate"])


def test_page_holds_the_cells() -> None:
    data = rows({"sft": 0.5, "full": 0.8} | dict.fromkeys(ABLATIONS, 0.7))
    assert {figure.name for figure in figures(data)} == {"parts", "courses"}
    found = {heading.split(" (")[0]: lines for heading, _, lines in tables(data)}
    assert len(found["Before and after"]) == 6
    assert {line[0] for line in found["With one thing changed"]} == {"sft", "full", *ABLATIONS}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_study_at_a_tiny_size(tmp_path: Path) -> None:
    save_embedded(tmp_path / "eyes", tiny_backbone())
    more: dict[str, Any] = {"worlds": 2, "collect": {"length": 3}, "max_episode_steps": 16, "checkpoint_every": 1000}
    scale = dataclasses.replace(
        SMALL,
        seeds=2,
        suites={"one": ("reach-v3", "push-v3")},
        ablated=("one",),
        demonstrations=1,
        labelled=2,
        sft_steps=3,
        reward_steps=3,
        steps=240,
        episodes=1,
        backbone=str(tmp_path / "eyes"),
        tokens={"bins": 8, "decoder": {"width": 16, "depth": 1}},
        more=more,
    )
    made = steps(scale)
    run_steps(made, tmp_path / "runs", processes=2)
    data = STUDY.collect(scale, tmp_path / "runs")
    assert {row["policy"] for row in data if row["kind"] == "success"} == {"sft", "full", *ABLATIONS}
    assert {row["policy"] for row in data if row["kind"] == "course"} == {"full", *ABLATIONS}
    facts = {
        "study": "t3",
        "scale": "small",
        "runs_done": len(made),
        "runs_planned": len(made),
        "seconds": 1.0,
        "command": "toddle study t3 --scale small",
    }
    write_rows(tmp_path / "page", data, facts)
    judged = write_page(STUDY, tmp_path / "page")
    assert judged["gain"] != "not measured"
    assert "Every cell" in (tmp_path / "page/index.md").read_text()
