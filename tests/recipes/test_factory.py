"""`toddle factory` and what it is made of: replays with pictures, the early stop, one dataset of several tasks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.make import make_env
from toddle.experience.replay import read_recorded, replayed
from toddle.recipes import factory, record
from toddle.recipes._factory_lines import line_of
from toddle.runs.metrics import read_metrics

pytest.importorskip("metaworld", reason="metaworld is not installed")


def toddle(*arguments: Any, status: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert end.value.code == status


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of the expert from state, without pictures."""
    folder = tmp_path_factory.mktemp("factory") / "played"
    toddle("record", "--env", "metaworld-state/reach-v3", "--episodes", 3, "--cameras", "--out", folder)
    return folder


def test_a_replay_is_the_episode_with_pictures(played: Path, tmp_path: Path) -> None:
    drawn = ("--episodes", 3, "--batch", 2, "--image-size", 32, "--out", tmp_path / "drawn")
    toddle("record", "--replay", played, "--env", "metaworld/reach-v3", *drawn)
    source, copy = LeRobotDataset(played), LeRobotDataset(tmp_path / "drawn")
    assert [episode.facts["seed"] for episode in copy.episodes] == [e.facts["seed"] for e in source.episodes]
    for one, other in zip(source.episodes, copy.episodes, strict=True):
        assert other.length == one.length, "both end with success"
        rows, theirs = slice(other.start, other.stop), slice(one.start, one.start + other.length)
        for name in ("action", "observation.tool_position", "next.success"):
            assert np.array_equal(copy.column(name)[rows], source.column(name)[theirs]), name
        # the arm's own numbers; the state's others are of objects
        assert np.array_equal(copy.column("observation.state")[rows], source.column("observation.state")[theirs, :17])
        assert copy.column("next.success")[other.stop - 1] and copy.column("next.success")[rows].sum() == 1
    assert copy.images("close", np.arange(4)).std() > 10


def test_what_does_not_go_as_recorded_is_refused(played: Path) -> None:
    recorded = read_recorded([played], "metaworld/reach-v3")
    env = make_env("metaworld/reach-v3", 2)
    recorded.actions = {seed: -actions for seed, actions in recorded.actions.items()}
    with pytest.raises(InputError, match="seed 1000000: did not succeed after 300 steps, recorded were"):
        list(replayed(env, recorded, most=1, done=(), image_stride=1))
    with pytest.raises(InputError, match=r"successes of push-v3, got 'none in"):
        read_recorded([played], "metaworld/push-v3")
    with pytest.raises(InputError, match="two of one seed"):
        read_recorded([played, played], "metaworld/reach-v3")


@pytest.mark.parametrize(("share", "early"), [(0.0, True), pytest.param(1.0, False, marks=pytest.mark.slow)])
def test_rl_stops_early_at_its_target_and_stays_finished(tmp_path: Path, share: float, early: bool) -> None:
    small = ("--worlds", 16, "--mlp.hidden", 8, "--critic-hidden", 8, "--collect.length", 16, "--steps", 16 * 16 * 20)
    run = ("pretrain", "--env", "fork/point", *small, "--stop-at", share, "--out", tmp_path)
    toddle(*run)
    lines = read_metrics(tmp_path)
    ended = np.cumsum([line.get("episode/ended", 0) for line in lines])
    assert (len(lines) < 20) == early and (tmp_path / "policy").is_dir()
    assert not early or ended[-1] >= 50 > ended[-2]
    toddle(*run, "--resume")
    assert read_metrics(tmp_path) == lines


def test_mistakes_are_one_line(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: Any) -> str:
        capsys.readouterr()
        toddle("factory", "--out", tmp_path / "out", "--dry-run", *arguments, status=2)
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and not (tmp_path / "out").exists()
        return said

    assert "did you mean 'metaworld/reach-v3'" in refused("--tasks", "metaworld/reech-v3")
    assert "'nothing'" in refused("--tasks", "metaworld/reach-v3", "--cameras", "nothing")
    assert "expert: expected an environment with a scripted expert" in refused("--tasks", "gymnasium/Pendulum-v1")
    assert "tasks: expected different ones" in refused("--tasks", "metaworld/reach-v3", "metaworld/reach-v3")
    wrong = refused("--tasks", "touch/reach-v3")
    assert "touch/reach-v3" in wrong and "--observe pictures" in wrong
    assert "1,000,000 worlds of" in refused("--tasks", "metaworld/reach-v3", "--worlds", 1_000_000)
    wrong = refused("--tasks", "metaworld/push-v3", "--demonstrations", played)
    assert "episodes of metaworld-state/push-v3, got 'metaworld-state/reach-v3'; record them" in wrong
    seeing = ("--tasks", "metaworld/reach-v3", "--observe", "pictures")
    assert "cameras: expected one at least" in refused(*seeing, "--cameras")
    assert "imitation: expected its defaults with observe pictures" in refused(*seeing, "--imitation.steps", 9)
    assert "sft: expected its defaults with observe state" in refused("--sft.steps", 9)
    assert "nothing with goal/sawyer" in refused("--tasks", "goal/sawyer", *seeing[2:])
    wrong = refused(*seeing, "--demonstrations", played)
    assert "episodes of metaworld/reach-v3" in wrong and "--policy human --cameras close --env metaworld/" in wrong
    toddle("factory", "--out", tmp_path / "out", *seeing, "--dry-run")
    assert "from pictures, through the frozen backbone, for 1200 updates" in capsys.readouterr().out
    toddle(
        "factory", "--out", tmp_path / "out", "--tasks", "metaworld/reach-v3", "--demonstrations", played, "--dry-run"
    )
    assert "take 3 demonstrations" in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_task_is_made_killed_and_gone_on_with(processes: int, tmp_path: Path) -> None:
    """One task that comes to its successes and one that cannot, killed in the first one's RL."""
    small = ("--human-episodes", 4, "--imitation.steps", 600, "--steps", 1536, "--worlds", 8, "--episodes", 3)
    tasks = ("--tasks", "metaworld/reach-v3", "metaworld/peg-insert-side-v3", "--attempts", 12, "--image-size", 32)
    arguments = ["factory", "--out", str(tmp_path), *map(str, (*tasks, *small, "--processes", processes))]
    command = [sys.executable, "-m", "toddle", *arguments]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    learned = tmp_path / "tasks/metaworld_reach-v3/rl/metrics.jsonl"
    until = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < until and not (learned.exists() and learned.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "factory.json").exists()
    toddle("factory", "--out", tmp_path, "--processes", processes, "--resume")
    good, bad = json.loads((tmp_path / "factory.json").read_text())
    assert (good["task"], good["status"], good["recorded"]) == ("metaworld/reach-v3", "done", 3)
    assert (bad["task"], bad["status"]) == ("metaworld/peg-insert-side-v3", "failed") and "of 40 episodes" in bad["why"]
    assert good["costs"]["rl"]["cpu_seconds"] > 0 and bad["steps"] > 0
    made = LeRobotDataset(tmp_path / "dataset")
    assert {episode.facts["env"] for episode in made.episodes} == {"metaworld/reach-v3"} and made.cameras == ("close",)
    assert all(made.column("next.success")[episode.stop - 1] for episode in made.episodes)
    page = (tmp_path / "index.html").read_text()
    assert "1 of 2" in page and "peg-insert-side-v3" in page and "of 40 episodes" in page


def kill_when(command: list[str], mark: Path) -> None:
    """Start a command and kill it once a file is there and holds something."""
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < until and not (mark.exists() and mark.stat().st_size):
        time.sleep(0.05)
    assert process.poll() is None and mark.exists(), f"it ended before {mark.name} was there"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(("before", "after", "plays"), [(0.9, 0.5, "imitation/policy"), (0.5, 0.5, "rl/policy")])
def test_the_imitation_plays_where_rl_made_it_worse(
    before: float, after: float, plays: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_of(factory.Config(out=tmp_path, observe="pictures"), "metaworld/reach-v3")
    cells = [{"candidate": name, "success": {"value": won}} for name, won in (("before", before), ("after", after))]
    (line.folder / "rl").mkdir(parents=True)
    (line.folder / "rl/summary.json").write_text(json.dumps({"cells": cells}))
    asked = list[record.Config]()
    monkeypatch.setattr(record, "run", lambda settings, resume: asked.append(settings))
    dict(line.steps())["plays"]()
    assert asked[0].policy == str(line.folder / plays) and asked[0].max_episode_steps == 200
    assert (line.measured["success_at_first"], line.measured["success_after_rl"]) == (before, after)


@pytest.mark.slow
def test_shares_that_are_drawn_beside_each_other_are_the_replay(played: Path, tmp_path: Path) -> None:
    """One task's pictures by two processes, killed in between, as one `toddle record --replay` draws them."""
    out, code = (
        tmp_path / "factory",
        (
            "import sys; from pathlib import Path;"
            "from toddle.recipes import factory as f, _factory_dataset as d, _factory_lines as l;"
            "c = f.Config(out=Path(sys.argv[1]), tasks=('metaworld/reach-v3',), processes=2, image_size=32);"
            "d.write_dataset(c, [l.line_of(c, c.tasks[0])])"
        ),
    )
    shutil.copytree(played, out / "tasks/metaworld_reach-v3/plays")
    command = [sys.executable, "-c", code, str(out)]
    kill_when(command, out / "drawn/metaworld_reach-v3_0/meta/info.json")
    assert not (out / "dataset").exists()
    subprocess.run(command, check=True)
    drawn = ("--episodes", 3, "--image-size", 32, "--out", tmp_path / "whole")
    toddle("record", "--replay", played, "--env", "metaworld/reach-v3", *drawn)
    made, whole = LeRobotDataset(out / "dataset"), LeRobotDataset(tmp_path / "whole")
    assert [one.facts for one in made.episodes] == [one.facts for one in whole.episodes]
    for name in ("action", "observation.state", "timestamp"):
        assert np.array_equal(made.column(name), whole.column(name)), name
    rows = np.arange(0, whole.num_frames, 4)
    assert np.array_equal(made.images("close", rows), whole.images("close", rows))
    assert not (out / "drawn").exists() and "3 episodes" in (out / "dataset/README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_pictures_it_goes_on_after_a_kill_in_every_step(tmp_path: Path) -> None:
    """Equal to the run that nobody killed, to the last bit of every action."""
    drawn = ("--cameras", "top", "--image-size", 32)
    toddle("record", "--env", "dots/one", "--episodes", 8, *drawn, "--out", tmp_path / "given")
    small = ("--demonstrations", tmp_path / "given", "--sft.steps", 200, "--sft.batch", 16)
    small = (*small, "--steps", 6400, "--episodes", 3, "--attempts", 60, *drawn, "--observe", "pictures")
    arguments = ["factory", "--tasks", "dots/one", *map(str, small)]
    command = [sys.executable, "-m", "toddle", *arguments, "--out", str(tmp_path / "parts")]
    task = tmp_path / "parts/tasks/dots_one"
    marks = ("demonstrations/meta/info.json", "imitation/metrics.jsonl", "rl/episodes.jsonl", "rl/metrics.jsonl")
    for mark in (*marks, "plays/config.yaml"):
        kill_when(command, task / mark)
        command = [sys.executable, "-m", "toddle", "factory", "--out", str(tmp_path / "parts"), "--resume"]
    toddle("factory", "--out", tmp_path / "parts", "--resume")
    toddle(*arguments, "--out", tmp_path / "whole")
    parts, whole = (LeRobotDataset(tmp_path / name / "dataset") for name in ("parts", "whole"))
    assert len(whole.episodes) == 3 and whole.cameras == ("top",)
    for name in ("action", "observation.state", "next.success"):
        assert np.array_equal(parts.column(name), whole.column(name)), name
    assert np.array_equal(parts.images("top", np.arange(8)), whole.images("top", np.arange(8)))
    one, other = (json.loads((tmp_path / name / "factory.json").read_text())[0] for name in ("parts", "whole"))
    assert one["success_after_rl"] == other["success_after_rl"] and one["steps"] == other["steps"] > 0
    assert set(one["costs"]) == {"demonstrations", "imitation", "rl", "measured", "plays"}
