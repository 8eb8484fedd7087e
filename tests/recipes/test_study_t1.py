"""The study `t1`: outcomes on made-up rows whose answer is known, its runs, and the whole of it at a tiny size."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from tests.policies.tiny_vla import tiny_backbone

from toddle.core.errors import InputError
from toddle.models.backbones.embedded import save_embedded
from toddle.recipes.studies._t1_page import figures, tables
from toddle.recipes.studies.t1 import ABLATIONS, LEARNERS, MIXED, SCALES, SOURCES, STUDY, steps
from toddle.reporting.study import Row, judge, write_page
from toddle.reporting.study_data import write_rows
from toddle.runs.steps import run_steps

SMALL = SCALES["small"]
AS_PRINTED = {"human": 0.7, "gaussian drawn": 0.6, "gaussian mean": 0.72, "diffusion": 0.8, "diffusion drawn": 0.7}
JERK = {"human": 100.0, "gaussian drawn": 300.0, "gaussian mean": 90.0, "diffusion": 80.0, "diffusion drawn": 200.0}


def rows(level: dict[str, float], jerk: dict[str, float], mixed: float = 0.2, still: float = 0.0) -> list[Row]:
    """The same on every task but for a spread over seeds that all sources share."""
    found: list[Row] = []
    for seed in range(5):
        for suite, tasks in SMALL.suites.items():
            for task in tasks:
                cell = {"seed": seed, "suite": suite, "task": task, "episodes": 100}
                for source in SOURCES:
                    shares = {"vla": level[source], "unseen": 0.05}
                    found += [
                        {"kind": kind, **cell, "source": source, "successes": 100 * share + seed}
                        for kind, share in shares.items()
                    ]
                    numbers = {"squared_jerk": jerk[source] + seed, "variance": jerk[source], "seconds": jerk[source]}
                    idle = 0.05 if source == "human" else still
                    found.append({"kind": "data", **cell, "source": source, "no_ops": idle, **numbers})
                found.append({"kind": "unseen", **cell, "source": MIXED, "successes": 100 * mixed + seed})
                names = {name: 80.0 - 5 * index for index, name in enumerate((*LEARNERS, *ABLATIONS))}
                names["diffusion"] = 90.0
                found += [{"kind": "policy", **cell, "source": n, "successes": v - seed} for n, v in names.items()]
                found += [
                    {"kind": "latency", **cell, "source": name, "ms": ms + 0.01 * seed}
                    for name, ms in (("diffusion", 1.0), ("ddpm 50", 9.5))
                ]
    return found


def verdicts(data: list[Row]) -> dict[str, str]:
    return dict(judge(STUDY.outcomes, data)[1])


def test_verdicts_on_known_rows() -> None:
    assert set(verdicts(rows(AS_PRINTED, JERK)).values()) == {"passed"}
    rough = {name: 1000.0 if name.startswith("diffusion") else value for name, value in JERK.items()}
    other = verdicts(rows(AS_PRINTED | {"gaussian mean": 0.9}, rough, mixed=0.0, still=0.01))
    lost = {"vla mean", "unseen", "jerk human", "jerk gaussian", "variance", "shorter", "no-ops of RL"}
    assert {name for name, judged in other.items() if judged == "failed"} == lost
    assert set(verdicts([]).values()) == {"not measured"}


def test_page_holds_the_sources_and_what_failed() -> None:
    data = [row for row in rows(AS_PRINTED, JERK) if row["suite"] == "open" and row["seed"] < 2]
    data.append(
        {"kind": "data", "seed": 3, "suite": "push", "task": "push-v3", "source": "gaussian drawn", "episodes": 0}
    )
    assert {figure.name for figure in figures(data)} == {"vla", "unseen", "jerk", "variance"}
    found = {heading.split(" (")[0]: lines for heading, _, lines in tables(data)}
    assert [line[0] for line in found["VLAs"]] == list(SOURCES)
    assert found["What failed: too few successes"] == [["push-v3", "gaussian drawn", "3"]]


def test_both_policies_begin_with_the_same_demonstrations_and_learn_as_long() -> None:
    found = {step.name: step.settings for step in steps(dataclasses.replace(SMALL, seeds=1))}
    at = "seed0/slide/metaworld_plate-slide-v3"
    one, other = found[f"{at}/gaussian"], found[f"{at}/diffusion"]
    for key in ("env", "warm_start", "imitation", "worlds", "steps", "stop_at", "seed"):
        assert one[key] == other[key]
    iteration = {"gaussian": one["collect"]["length"], "diffusion": other["denoising"]["horizon"]}
    iteration["diffusion"] *= other["collect"]["length"]
    assert iteration["gaussian"] == iteration["diffusion"]
    few = found[f"{at}/few_worlds"]
    assert few["worlds"] * few["collect"]["length"] == other["worlds"] * other["collect"]["length"]
    begin, human = found[f"{at}/demonstrations"], found[f"{at}/human"]
    assert {key for key in begin if begin[key] != human[key]} == {"episodes"}, "so the former is a part of the latter"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_study_at_a_tiny_size(tmp_path: Path) -> None:
    """It runs through; a source that learned too little to succeed is on the page and hides no other."""
    save_embedded(tmp_path / "eyes", tiny_backbone())
    scale = dataclasses.replace(
        SMALL,
        seeds=1,
        suites={"one": ("metaworld/reach-v3",)},
        held_out=(),
        ablated=("one",),
        demonstrations=4,
        imitation=400,
        steps=1024,
        episodes=4,
        sft_steps=3,
        evaluated=2,
        backbone=str(tmp_path / "eyes"),
        width=16,
        more={"worlds": 4},
    )
    made = steps(scale)
    with contextlib.suppress(InputError):
        run_steps(made, tmp_path / "runs", processes=1)
    data = STUDY.collect(scale, tmp_path / "runs")
    data_of = {row["source"]: row["episodes"] > 0 for row in data if row["kind"] == "data"}
    assert data_of.keys() == {*SOURCES}
    vla = {row["source"] for row in data if row["kind"] == "vla"}
    assert "human" in vla and vla - {MIXED} == {source for source, found in data_of.items() if found}
    assert {row["source"] for row in data if row["kind"] == "policy"} >= {*LEARNERS, *ABLATIONS}
    assert {row["source"] for row in data if row["kind"] == "latency"} == {"diffusion", "ddpm 50"}
    facts = {"study": "t1", "scale": "small", "runs_done": len(made), "runs_planned": len(made)}
    write_rows(tmp_path / "page", data, facts | {"seconds": 1.0, "command": "toddle study t1 --scale small"})
    assert set(write_page(STUDY, tmp_path / "page").values()) == {"not measured"}, "one seed says nothing"
