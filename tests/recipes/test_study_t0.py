"""The study `t0`: outcomes on made-up rows whose answer is known, its runs, and the whole of it at a tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests.policies.tiny_vla import tiny_backbone

from toddle.models.backbones.embedded import save_embedded
from toddle.recipes.studies._t0_page import area, figures, success, tables
from toddle.recipes.studies.t0 import ABLATIONS, CONTROLS, GROUPS, MAIN, SCALES, STARTS, STUDY, steps
from toddle.reporting.study import Row, estimate, judge, verdict, write_page
from toddle.reporting.study_data import write_rows
from toddle.runs.steps import check_steps, run_steps

COUNTS = (5, 10, 25, 50)


def rows(level: dict[str, float], errors: dict[str, list[float]] | None = None, episodes: int = 100) -> list[Row]:
    """Success `level` of each start at every N, plus a spread over seeds and tasks that all starts share."""
    found: list[Row] = []
    for seed in range(3):
        for name, value in level.items():
            for count in COUNTS if name in MAIN else (10,):
                for task, extra in (("a", 0.0), ("b", 0.03 * seed)):
                    found += [
                        {
                            "kind": "success",
                            "seed": seed,
                            "start": name,
                            "task": task,
                            "count": count,
                            "disturbance": disturbance,
                            "episodes": episodes,
                            "successes": round(episodes * (value + extra)),
                        }
                        for disturbance in (("plain", "pushed") if count == 10 else ("plain",))
                    ]
            if errors:
                found.append(
                    {
                        "kind": "sft",
                        "seed": seed,
                        "start": name,
                        "count": 10,
                        "steps": 100,
                        "drift": 0.1,
                        "error": errors[name],
                        "cka": [[50, 0.9], [100, 0.8]],
                    }
                )
    return found


def verdicts(data: list[Row]) -> dict[str, str]:
    return dict(judge(STUDY.outcomes, data)[1])


def test_verdicts_on_known_rows() -> None:
    helps = rows({name: 0.4 for name in STARTS} | {"paradigm 1": 0.7, "other body": 0.6, "grounded": 0.8})
    found = verdicts(helps)
    assert [name for name, judged in found.items() if judged == "failed"] == ["paradigm 2"]
    assert found["faster"] == "not measured"
    same = verdicts(rows({name: 0.4 for name in STARTS}))
    assert same["paradigm 1"] == same["grounded"] == "failed"  # a gain of 5 points is excluded
    assert same["literal gate"] == same["shuffled goals"] == "not applicable"  # no gain whose cause to ask for
    kept = verdicts(rows({name: 0.7 for name in STARTS} | {"random": 0.4}))
    assert kept["literal gate"] == kept["shuffled goals"] == "failed"  # the ablations keep the gain
    assert set(verdicts([]).values()) == {"not measured"}


def test_the_area_is_that_of_a_line_over_the_logarithm() -> None:
    """Success that rises linearly in log N from 0.2 to 0.6 has the mean 0.4, wherever the Ns lie."""
    level = np.interp(np.log(COUNTS), np.log([5, 50]), [0.2, 0.6])
    data = [
        {
            "kind": "success",
            "seed": 0,
            "start": "random",
            "task": "a",
            "count": count,
            "disturbance": "plain",
            "episodes": 1.0,
            "successes": value,
        }
        for count, value in zip(COUNTS, level)
    ]
    assert area(data, "random") == {(0, "a"): pytest.approx(0.4)}
    assert success(data, "random", 50) == {(0, "a"): pytest.approx(0.6)}


def test_speed_is_the_ratio_of_updates() -> None:
    """Random falls from 1 to 0 in ten parts and is at 0.2 in the ninth; the other start is there in the third."""
    falling = [float(x) for x in np.linspace(1, 0, 10)]
    errors = dict.fromkeys(STARTS, falling) | {"paradigm 1": [0.5, 0.3, 0.1, *[0.0] * 7]}
    outcome = next(outcome for outcome in STUDY.outcomes if outcome.name == "faster")
    units = outcome.measure(rows(dict.fromkeys(STARTS, 0.4), errors))
    assert units is not None and units.mean() == pytest.approx(3 / 9)
    assert verdict(outcome, estimate(units, outcome.line, at_most=True)) == "passed"


def test_every_start_is_made_tuned_and_judged_at_every_scale() -> None:
    for scale in SCALES.values():
        found = steps(scale)
        check_steps(found)
        names = [step.name for step in found]
        assert len(set(names)) == len(names)
        judged = {
            policy.partition("=")[0] for step in found if "/evaluate" in step.name for policy in step.settings["policy"]
        }
        assert len(judged) == len(STARTS) == sum(len(group) for group in GROUPS.values())
        tuned = [step for step in found if f"/sft{scale.at}/" in step.name]
        updates = {step.name.split("/")[-1]: step.settings["sft"]["steps"] for step in tuned}
        assert all(count == scale.sft_steps * (4 if "longer" in name else 1) for name, count in updates.items())
        assert len(tuned) == scale.seeds * len(STARTS)


def test_page_holds_the_cells() -> None:
    data = rows({name: 0.4 for name in STARTS}, {name: [0.3, 0.2] for name in STARTS})
    drawn = {figure.name for figure in figures(data, GROUPS)}
    assert drawn == {"success", "effects_plain", "effects_pushed", "courses"}
    found = {heading.split(":")[0]: lines for heading, _, lines in tables(data, GROUPS, CONTROLS)}
    assert ["a", "plain", "10", "random", "40/100, 40/100, 40/100"] in found["Every cell"]
    assert ["longer", "random, longer", "+0 [0, 0]"] in found["Remedies at N = 10 against random with the same change"]
    assert any(line[0] == next(iter(ABLATIONS)) for line in found["Everything at N = 10"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_study_at_a_tiny_size(tmp_path: Path) -> None:
    save_embedded(tmp_path / "eyes", tiny_backbone())
    scale = dataclasses.replace(
        SCALES["small"],
        seeds=2,
        tasks=("reach-v3", "push-v3"),
        demonstrations=(1, 2),
        at=1,
        steps=8192,
        flow_steps=8192,
        sft_steps=3,
        grounding=1,
        episodes=2,
        backbone=str(tmp_path / "eyes"),
    )
    made = steps(scale)
    run_steps(made, tmp_path / "runs", processes=2)
    data = STUDY.collect(scale, tmp_path / "runs")
    assert {row["start"] for row in data if row["kind"] == "success"} == set(STARTS)
    assert {row["policy"] for row in data if row["kind"] == "goals"} == {"ppo", "shuffled", "clone", "flow"}
    facts = {
        "study": "t0",
        "scale": "small",
        "runs_done": len(made),
        "runs_planned": len(made),
        "seconds": 1.0,
        "command": "toddle study t0 --scale small",
    }
    write_rows(tmp_path / "page", data, facts)
    judged = write_page(STUDY, tmp_path / "page")
    assert "not measured" not in judged.values()
    assert "Every cell" in (tmp_path / "page/index.md").read_text()
