"""The study `t0b`: the choice for each start, outcomes on made-up rows whose answer is known, and its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from toddle.recipes._step_checks import check_toddle_steps
from toddle.recipes.studies._t0b_page import chosen
from toddle.recipes.studies.t0b import SCALES, STARTS, STUDY, steps
from toddle.reporting.study import Row, judge, write_page
from toddle.reporting.study_data import write_rows
from toddle.runs.steps import check_steps

SMALL = SCALES["small"]
BEST = dict.fromkeys(STARTS, "adamw 0.003")
BEST |= {"random": "adamw 0.001", "re-anchored": "muon 0.003", "level C": "muon 0.001"}


def rows(gains: dict[str, float], *, elsewhere: float = 0.3) -> list[Row]:
    """Each start is best at its own choice, elsewhere worse; the counted tasks disagree with the tuning ones."""
    found: list[Row] = []
    for seed in (-1, *range(SMALL.seeds)):
        for start in STARTS:
            for choice in SMALL.choices:
                for task in SMALL.tuning if seed < 0 else SMALL.tasks:
                    for count in SMALL.demonstrations:
                        right = choice == BEST[start]
                        success = (0.5 if right else 0.2) if seed < 0 else (0.4 if right else 0.4 + elsewhere)
                        success += gains.get(start, 0.0) * (seed >= 0) + 0.005 * seed
                        for disturbance in ("plain", "pushed"):
                            labels = {"start": start, "choice": choice, "disturbance": disturbance, "task": task}
                            facts = {"tuning": seed < 0, "seed": seed, "count": count, "episodes": 20}
                            found.append(labels | facts | {"success": success})
    return found


def test_each_start_is_counted_at_what_the_other_tasks_chose() -> None:
    data = rows({"re-anchored": 0.2, "level C": 0.07})
    assert {start: chosen(data, start) for start in STARTS} == BEST
    found = judge(STUDY.outcomes, data)
    assert found[0]["re-anchored"] is not None
    assert found[0]["re-anchored"].interval.value == pytest.approx(0.2)
    verdicts = {name: judged for name, judged in found[1].items() if name != "muon"}
    assert {name for name, judged in verdicts.items() if judged == "passed"} == {
        "re-anchored",
        "re-anchored, pushed",
        "level C",
    }
    assert set(judge(STUDY.outcomes, [])[1].values()) == {"not measured"}


def test_its_runs_are_commands_that_toddle_takes(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    found = steps(SMALL)
    check_steps(found)
    check_toddle_steps(found[:15], tmp_path)
    assert len(found) == 6 + 4 * 11 + SMALL.seeds * (6 + 5 * 4 * 11)
    beside = {step.settings.get("beside_share") for step in found if step.name.endswith("mixed_30")}
    assert beside == {0.3}
    low = [step for step in found if step.name.endswith("/low_level")]
    assert {step.settings["sft"]["adapter_share"] for step in low} == {1.0}
    assert {step.settings["init"].split("/")[-2] for step in low} == {"interface"}
    counted = {task for step in found if step.name.startswith("seed") for task in step.settings.get("env", ())}
    assert not counted & {f"metaworld/{task}" for task in SMALL.tuning}


def test_the_page(tmp_path: Path) -> None:
    facts = {"study": "t0b", "scale": "small", "runs_done": 3, "runs_planned": 45, "seconds": 60.0, "command": "x"}
    write_rows(tmp_path, rows({}), facts)
    write_page(STUDY, tmp_path)
    text = (tmp_path / "index.md").read_text()
    assert "| re-anchored | muon 0.003 |" in text and (tmp_path / "pushed.svg").exists()
