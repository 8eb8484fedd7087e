"""From `toddle pretrain --env walk/ant` to what an evaluation says of walking, with one trunk for an arm too."""

from __future__ import annotations

from pathlib import Path

import pytest

from toddle.cli import main
from toddle.core.reading import read_json
from toddle.reporting.episode_log import read_episodes


def toddle(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 0


@pytest.mark.slow
def test_an_ant_and_an_arm_learn_and_the_ant_is_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("metaworld")
    run, seen = str(tmp_path / "run"), tmp_path / "seen"
    envs = ["--env", "walk/ant", "goal/sawyer"]
    toddle("pretrain", *envs, "--worlds", "8", "--steps", "2048", "--ppo.minibatches", "1", "--out", run)
    evaluate = ["evaluate", "--policy", f"{run}/policy", "--env", "walk/ant", "--episodes", "2", "--num-envs", "2"]
    toddle(*evaluate, "--push", "--videos", "1", "--video-size", "64", "--out", str(seen))
    plain, pushed = read_json(seen / "summary.json", {"cells": list})["cells"]
    assert plain["walking"]["velocity_goals"] >= 1 and 0.0 <= plain["walking"]["tracked"] <= 1.0
    assert "pushed_survived" in pushed["walking"] and plain["goals"] >= 6
    assert (seen / "walking.svg").read_text().startswith("<svg") and len(list((seen / "videos").iterdir())) == 2
    assert "velocity goals, walked" in capfd.readouterr().err
    toddle(*evaluate, "--videos", "0", "--control", "shuffled", "--out", str(tmp_path / "shuffled"))
    own, other = (
        [episode["info"]["commands"] for episode in read_episodes(folder / "episodes.jsonl")]
        for folder in (seen, tmp_path / "shuffled")
    )
    asked = [[row[:1] + row[2:5] for row in commands][:1] for commands in own[:2]]
    assert asked == [
        [row[:1] + row[2:5] for row in commands][:1] for commands in other
    ]  # paid for its own, shown another
