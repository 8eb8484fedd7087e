"""The study `t4`: outcomes on made-up rows whose answer is known, its runs, and the whole of it at a tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from toddle.recipes._step_checks import check_toddle_steps
from toddle.recipes.studies._t4_page import reached
from toddle.recipes.studies.t4 import SCALES, SEEING, STUDY, TASKS, arms, steps
from toddle.reporting.study import Row, judge, write_page
from toddle.reporting.study_data import write_rows
from toddle.runs.steps import check_steps, run_steps

SMALL = SCALES["small"]
BUDGET = 1000


def rows(needed: dict[str, int], *, off: int | None = 100, final: float = 0.9) -> list[Row]:
    """Agents that need so many interactions, the same on every task but for a spread over seeds."""
    found: list[Row] = []
    for seed in range(5):
        for task in TASKS:
            for arm in arms(SMALL, task):
                steps = needed.get(arm, needed[arm.split(" ")[0]]) + seed
                row: Row = {"kind": "agent", "seed": seed, "task": task, "arm": arm, "budget": BUDGET, "steps": [1, 2]}
                row |= {"reached": steps if steps < BUDGET else None, "success": [0.1, 0.9]}
                row |= {"episodes": 100, "successes": 100 * final - seed}
                if not arm.startswith("ppo"):
                    row |= {"teacher": 0.4, "calls": 0.04 + 0.001 * seed, "off": off}
                found.append(row)
    return found


AS_PRINTED = {
    "ppo": 600,
    "vlajs": 200,
    "vlajs-rpd": 400,
    "sparse-rpd": 300,
    "vlajs-rpd x0.3": 500,
    "vlajs-rpd x3": 900,
}


def verdicts(data: list[Row]) -> dict[str, str]:
    return dict(judge(STUDY.outcomes, data)[1])


def test_verdicts_on_known_rows() -> None:
    assert set(verdicts(rows(AS_PRINTED)).values()) == {"passed"}
    worse = verdicts(rows(AS_PRINTED | {"vlajs": 900, "vlajs x3": 300}, off=None, final=0.45))
    lost = {"half", "never more", "direction", "off", "beyond", "length", "sees"}
    assert {name for name, found in worse.items() if found == "failed"} == lost
    never = verdicts(rows(AS_PRINTED | {"ppo": BUDGET, "vlajs": BUDGET}))
    assert never["half"] == "failed" and never["off"] == "not measured", "a ratio of two that never did is 1"
    assert set(verdicts([]).values()) == {"not measured"}


def test_when_eighty_per_cent_are_reached() -> None:
    course = [(10, 0.2), (20, 0.9), (30, 0.7), (40, 0.8), (50, 0.9), (60, 0.1)]
    assert reached(course) == 40
    assert reached(course[:4]) is None


def test_the_runs_of_every_scale_fit_their_commands() -> None:
    for name, whole in SCALES.items():
        scale = dataclasses.replace(
            whole, seeds=1, tasks=dict.fromkeys(TASKS[:2] if name == "small" else TASKS[2:3], 100)
        )
        found = {step.name: step for step in steps(scale)}
        check_steps(list(found.values()))
        check_toddle_steps(list(found.values()), Path("runs"))
        for task in scale.tasks:
            own = {name: step for name, step in found.items() if name.startswith(f"seed0/{task}/")}
            assert len(own) == len(arms(scale, task))
            assert all(bool(step.after) == (step.settings["method"] != "ppo") for step in own.values())
    assert SEEING in arms(SMALL, "pick-cube") and SEEING not in arms(SMALL, "poke-cube")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_study_at_a_tiny_size(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {
        "worlds": 2,
        "mlp": {"hidden": [8]},
        "collect": {"length": 10},
        "ppo": {"minibatches": 2},
    }
    scale = dataclasses.replace(
        SMALL,
        seeds=2,
        tasks={"push-cube": 60},
        scaled=(),
        long=(),
        seeing=("push-cube",),
        demonstrations=2,
        sft_steps=3,
        episodes=2,
        common=tiny,
        teacher={"worlds": 2, "imitation": {"steps": 5}},
    )
    made = steps(scale)
    run_steps(made, tmp_path / "runs", processes=1)
    data = STUDY.collect(scale, tmp_path / "runs")
    assert {(row["seed"], row["arm"]) for row in data} == {(s, arm) for s in (0, 1) for arm in arms(scale, "push-cube")}
    facts = {"study": "t4", "scale": "small", "runs_done": len(made), "runs_planned": len(made)}
    write_rows(tmp_path / "page", data, facts | {"seconds": 1.0, "command": "toddle study t4 --scale small"})
    judged = write_page(STUDY, tmp_path / "page")
    assert judged["calls"] != "not measured" and "Every run" in (tmp_path / "page/index.md").read_text()
