"""`toddle demo` end to end at the smallest size: every stage, both candidates, the page, and nothing done twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.policies.tiny_vla import tiny_backbone

from toddle.algorithms.sft import SFTConfig
from toddle.core.errors import InputError
from toddle.models.backbones.embedded import save_embedded
from toddle.recipes.demo import CANDIDATES, Config, plan, run, stages
from toddle.reporting.episode_log import read_episodes


def tiny(folder: Path) -> Config:
    return Config(
        out=folder / "demo",
        backbone=str(folder / "eyes"),
        tasks=("metaworld/reach-v3",),
        pretrain_steps=8192,
        worlds=16,
        demonstrations=1,
        approaches=1,
        ground_steps=2,
        sft=SFTConfig(steps=4, batch=4),
        episodes=2,
        max_episode_steps=24,
        videos=1,
    )


def test_the_plan_shows_every_stage(tmp_path: Path) -> None:
    shown = plan(tiny(tmp_path))
    assert [line.split(":")[0] for line in shown.steps[:-1]] == [
        "pretrain",
        "demos",
        "transfer",
        "approaches",
        "ground",
        "sft_converted",
        "sft_random",
        "evaluate_converted",
        "evaluate_random",
    ]
    assert shown.seconds is not None and shown.seconds > 0


def test_both_fine_tunings_differ_in_their_start_alone() -> None:
    steps = {step.name: step.settings for step in stages(Config(refit_proprio=False))}
    first, second = dict(steps["sft_converted"]), dict(steps["sft_random"])
    assert first.pop("init") == second.pop("like") and second.pop("init") == "random"
    assert not first.pop("refit_proprio") and first == second
    first, second = dict(steps["evaluate_converted"]), dict(steps["evaluate_random"])
    first.pop("policy"), second.pop("policy")
    assert first == second


def test_grounding_costs_the_random_expert_no_update() -> None:
    assert "ground" not in {step.name for step in stages(Config())}
    steps = {step.name: step.settings for step in stages(Config(approaches=20))}
    assert steps["ground"]["dataset"] == ["{folder}/approaches"]
    updates = [steps[name]["sft"]["steps"] for name in ("ground", "sft_converted", "sft_random")]
    assert updates[0] + updates[1] == updates[2]
    assert steps["sft_converted"]["init"] == "{folder}/ground/policy"
    with pytest.raises(InputError, match="approaches"):
        Config(tasks=("libero/libero_object/0",), approaches=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_main_job_end_to_end(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    save_embedded(tmp_path / "eyes", tiny_backbone())
    run(config, resume=False)
    page = (config.out / "report.html").read_text()
    for text in ("converted", "random (reference)", "reach-v3", "rollout/reward", "sft/loss", "flow sample"):
        assert text in page
    assert page.count("<video") == 4
    seeds = {}
    for name in CANDIDATES:
        rows = read_episodes(config.out / f"evaluate_{name}" / "episodes.jsonl")
        seeds[name] = [(row["env"], row["condition"], row["seed"]) for row in rows]
        assert len(rows) == 4
    assert sorted(seeds["converted"]) == sorted(seeds["random"])
    levels = json.loads((config.out / "transfer" / "transfer.json").read_text())["levels"]
    promised = [level for level in levels if level["tolerance"] is not None]
    assert {level["level"] for level in promised} >= {"A", "B"} and all(level["kept"] for level in promised)
    marks = {path: path.stat().st_mtime_ns for path in (config.out / "steps").glob("*.json")}
    assert len(marks) == 9
    run(config, resume=False)  # nothing is done again but the page
    assert marks == {path: path.stat().st_mtime_ns for path in (config.out / "steps").glob("*.json")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tasks": ("metaworld/nope-v3",)}, "step demos: environment: expected a known name, got metaworld/nope-v3"),
        (
            {"tasks": ("metaworld/reach-v3", "nowhere"), "approaches": 0},
            "step demos: environment: expected a known name, got nowhere",
        ),
        ({"body": "goal/sawer"}, "step pretrain: environment: expected a known name, got goal/sawer"),
    ],
)
def test_what_a_step_would_refuse_is_refused_before_the_first(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    wrong = replace(tiny(tmp_path), **given)
    for begin in (lambda: plan(wrong), lambda: run(wrong, resume=False)):
        with pytest.raises(InputError) as caught:
            begin()
        assert said in str(caught.value).replace("'", "")
    assert not (tmp_path / "demo").exists()
