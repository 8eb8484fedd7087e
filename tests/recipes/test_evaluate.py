"""`toddle evaluate` end to end on a real task: same seeds, pushes, videos, a kill in the middle, wrong input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.envs.make import make_env
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.recipes import report
from toddle.recipes._steering import SteeringConfig
from toddle.recipes.evaluate import Config, plan, run
from toddle.reporting.episode_log import read_episodes

TASK = "gymnasium/Pusher-v5"


@pytest.fixture
def policies(tmp_path: Path) -> tuple[str, ...]:
    spec = make_env(TASK, 1).body_spec
    names = []
    for seed, name in enumerate(("first", "second")):
        policy = GaussianPolicy(GaussianConfig(bodies=(spec,), hidden=(8,), seed=seed))
        save_policy(tmp_path / name / "policy", policy)
        names.append(f"{name}={tmp_path / name / 'policy'}")
    return tuple(names)


def timeless(path: Path) -> list[dict[str, Any]]:
    """The episodes without what the clock says, in a fixed order."""
    clock = ("seconds", "seconds_per_decision")
    rows = [{key: value for key, value in row.items() if key not in clock} for row in read_episodes(path)]
    return sorted(rows, key=lambda row: (row["candidate"], row["condition"], row["seed"]))


def test_candidates_meet_the_same_seeds(tmp_path: Path, policies: tuple[str, ...]) -> None:
    config = Config(policy=policies, env=(TASK,), out=tmp_path / "out", episodes=3, num_envs=2, push=True, videos=1)
    assert len(plan(config).steps) == 5
    run(config, resume=False)
    rows = timeless(config.out / "episodes.jsonl")
    assert len(rows) == 12
    assert {(r["candidate"], r["condition"]): r["seed"] for r in rows}.keys() == {
        (name, condition) for name in ("first", "second") for condition in ("plain", "pushed")
    }
    assert [r["seed"] for r in rows] == [0, 1, 2] * 4
    assert all(r["length"] == 100 for r in rows)
    assert all(r["info"]["pushed"] for r in rows if r["condition"] == "pushed")
    moments = {(r["seed"], r["info"]["push_step"]) for r in rows if r["condition"] == "pushed"}
    assert len(moments) == 3  # the same moment for both candidates
    returns = {(r["candidate"], r["condition"]): r["episode_return"] for r in rows}
    assert len(set(returns.values())) == 4  # candidates differ, and so does a pushed episode
    films = sorted(path.name for path in (config.out / "videos").iterdir())
    assert len(films) == 4 and films[0] == "first-gymnasium-Pusher-v5-plain-0.mp4"
    summary = json.loads((config.out / "summary.json").read_text())
    assert {cell["episodes"] for cell in summary["cells"]} == {3}
    report.run(report.Config(runs=(config.out,)), resume=False)
    page = (config.out / "report.html").read_text()
    assert "Pusher-v5" in page and page.count("<video") == 4 and "data:video/mp4;base64," in page


def test_killed_and_resumed_it_gives_the_same_episodes(tmp_path: Path, policies: tuple[str, ...]) -> None:
    def settings(out: str) -> Config:
        return Config(
            policy=policies, env=(TASK,), episodes=24, num_envs=4, videos=0, deterministic=False, out=tmp_path / out
        )

    run(settings("whole"), resume=False)
    killed = tmp_path / "killed"
    options = ["--policy", *policies, "--env", TASK, "--episodes", "24", "--num-envs", "4", "--videos", "0"]
    command = [sys.executable, "-m", "toddle", "evaluate", *options, "--no-deterministic", "--out", str(killed)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(read_episodes(killed / "episodes.jsonl")) < 5 and time.monotonic() < until:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 5 <= len(read_episodes(killed / "episodes.jsonl")) < 48
    with pytest.raises(InputError, match="--resume"):
        run(settings("killed"), resume=False)
    run(settings("killed"), resume=True)
    assert timeless(killed / "episodes.jsonl") == timeless(tmp_path / "whole" / "episodes.jsonl")


def test_wrong_input_is_one_line(tmp_path: Path, policies: tuple[str, ...]) -> None:
    def problem_of(**fields: Any) -> str:
        given: dict[str, Any] = {"policy": policies[:1], "env": (TASK,), "out": tmp_path / "out", "episodes": 1}
        with pytest.raises(InputError) as caught:
            run(Config(**{**given, **fields}), resume=False)
        return str(caught.value)

    assert "did you mean 'gymnasium/Pusher-v5'" in problem_of(env=("gymnasium/Pushr-v5",))
    assert "policy.json" in problem_of(policy=(str(tmp_path / "nowhere"),))
    assert "different names" in problem_of(policy=("a=x", "a=y"))
    assert "to_the_end: expected nothing with gymnasium/Pusher-v5" in problem_of(to_the_end=True)
    assert "control" in problem_of(control="shuffled")
    with pytest.raises(InputError, match=r"memory: 1,000,000 worlds of gymnasium/Pusher-v5 takes"):
        plan(Config(policy=policies[:1], env=(TASK,), out=tmp_path / "out", num_envs=1_000_000))
    other = GaussianPolicy(GaussianConfig(bodies=(BodySpec(name="sawyer", proprio=17, action=4, dt=0.0125),)))
    save_policy(tmp_path / "other", other)
    text = problem_of(policy=(str(tmp_path / "other"),))
    assert "a bank for the body 'pusher'" in text and "got 'sawyer'" in text
    for fields in ({"episodes": 0}, {"policy": ()}, {"video_size": 33}):
        with pytest.raises(InputError):
            Config(**{"policy": policies, "env": (TASK,), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"candidates": 4},
        {"steer": "vgps"},
        {"steer": "vgps", "steering": SteeringConfig(critic=Path("x"), rounds=3)},
        {"steer": "cem", "steering": SteeringConfig(critic=Path("x"), temperature=0.5)},
    ],
)
def test_settings_of_steering_without_effect_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="steer"):
        Config(policy=("x",), env=("goal/sawyer",), **given)
