"""`toddle reward label|train|evaluate` end to end on demonstrations of Meta-World, and what is wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("metaworld", reason="metaworld is not installed")

from tests.data.test_progress import write_progress_dataset
from tests.policies.tiny_vla import tiny_backbone

from toddle.algorithms.process_reward import load_process_reward
from toddle.cli import main
from toddle.core.tensors import load_tensors
from toddle.models.backbones.embedded import save_embedded
from toddle.policies.process_reward import load_reward_model
from toddle.runs.metrics import read_metrics

TASK = "metaworld/handle-press-v3"


def toddle(*arguments: str, status: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == status


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    toddle("reward", *arguments, status=2)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


def commands(root: Path) -> dict[str, list[str]]:
    data = ["--dataset", str(root / "data"), "--label.still", "0.6"]
    net = ["--model.backbone.name", str(root / "eyes"), "--model.width", "16", "--train.steps", "12", "--controls", "2"]
    cache = ["--cache", str(root / "cache")]
    return {
        "label": [*data, "--strips", "2", "--out", str(root / "labels")],
        "train": [*data, *net, *cache, "--labels", str(root / "labels/labels.json"), "--out", str(root / "run")],
        "evaluate": ["--model", str(root / "run"), *cache, "--out", str(root / "evaluation")],
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three commands in their order, each dry before it is run."""
    folder = tmp_path_factory.mktemp("reward")
    save_embedded(folder / "eyes", tiny_backbone())
    small = ("--episodes", "4", "--image-size", "32", "--image-stride", "2", "--seed", "50")
    toddle("record", "--env", TASK, *small, "--out", str(folder / "data"))
    for word, arguments in commands(folder).items():
        before = {path for path in folder.rglob("*") if path.is_file()}
        toddle("reward", word, *arguments, "--dry-run")
        assert {path for path in folder.rglob("*") if path.is_file()} == before, "--dry-run writes nothing"
        toddle("reward", word, *arguments)
    return folder


def test_labels_strips_and_page(root: Path) -> None:
    content = json.loads((root / "labels/labels.json").read_text())
    episodes = content["datasets"][0]["episodes"]
    assert len(episodes) == 4 and content["label"]["still"] == 0.6
    assert content["datasets"][0]["grippers"] == ["observation.state:6"]
    for one in episodes:  # the press is one approach: the hand is slowest above the handle
        (key,) = one["key_frames"]
        assert np.flatnonzero(one["labels"]).tolist() == list(range(key - 5, key))
        assert len(one["labels"]) == one["steps"]
    strips = sorted((root / "labels/strips").glob("*.png"))
    assert len(strips) == 2
    drawn = np.asarray(Image.open(strips[0]).convert("RGB"))
    assert drawn.shape[1] > 900 and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100
    page = (root / "labels/index.html").read_text()
    assert page.count("data:image/png") == 2 and "4 key frames" in page and "http" not in page.replace("http-equiv", "")


def test_a_model_controls_and_episodes_that_were_held_out(root: Path) -> None:
    model, meta = load_reward_model(root / "run")
    part = meta["datasets"][0]
    assert sorted(part["trained_on"] + part["held_out"]) == [0, 1, 2, 3] and len(part["held_out"]) == 1
    assert {path.name for path in (root / "run").glob("control_*")} == {"control_0", "control_1"}
    lines = read_metrics(root / "run")
    assert len(lines) == 12 and lines[-1]["reward_model/loss"] < lines[0]["reward_model/loss"] + 0.5
    assert {"reward_model/accuracy", "reward_model/loss_of_control_1"} <= set(lines[-1])
    assert load_process_reward(root / "run", features=model.features, cameras=("close",)).model.config == model.config


def test_the_evaluation_counts_held_out_steps_alone(root: Path) -> None:
    found = json.loads((root / "evaluation/evaluation.json").read_text())
    labels = json.loads((root / "labels/labels.json").read_text())["datasets"][0]["episodes"]
    (held,) = load_reward_model(root / "run")[1]["datasets"][0]["held_out"]
    assert found["model"]["episodes"] == 1 and found["model"]["steps"] == labels[held]["steps"]
    assert found["model"]["area"]["low"] is None and 0 <= found["model"]["area"]["value"] <= 1
    assert found["controls"]["number"] == 2 and set(found["each_control"]) == {"control_0", "control_1"}
    assert found["verdicts"] == ["the model: not resolved, too few episodes"]
    assert "<svg" in (root / "evaluation/index.html").read_text()


def test_going_on_is_the_same_and_a_second_run_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, arguments in commands(root).items():
        assert "already holds a run; --resume goes on" in refused(capsys, word, *arguments)
    weights = (root / "run/model/reward.safetensors").read_bytes()
    toddle("reward", "train", *commands(root)["train"], "--resume")
    assert (root / "run/model/reward.safetensors").read_bytes() == weights
    toddle("reward", "label", *commands(root)["label"], "--resume")
    toddle("reward", "evaluate", "--resume", "--out", str(root / "evaluation"))  # the settings of the run that is there


def test_stopped_and_resumed_equals_whole(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toddle.algorithms.reward_training import RewardTraining

    arguments = [*commands(root)["train"][:-1], str(tmp_path / "run"), "--checkpoint-every", "3"]
    steps, original = [0], RewardTraining.step

    def failing(self: RewardTraining) -> dict[str, float]:
        steps[0] += 1
        if steps[0] == 6:
            raise OSError("pulled the plug")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(RewardTraining, "step", failing)
        toddle("reward", "train", *arguments, status=2)
    toddle("reward", "train", *arguments, "--resume")
    for name in ("model", "control_1"):
        cards = [json.loads((run / name / "reward.json").read_text()) for run in (root / "run", tmp_path / "run")]
        assert cards[0] == cards[1]
        load_tensors(tmp_path / "run" / name / "reward.safetensors", cards[0]["sha256"])


def test_failures_are_asked_about_too(root: Path, tmp_path: Path) -> None:
    """Another dataset with two failures: nothing of it was trained on."""
    write_progress_dataset(tmp_path / "data", success=(50, 55, None, None))
    arguments = ["--model", str(root / "run"), "--dataset", str(tmp_path / "data"), "--cache", str(tmp_path / "cache")]
    toddle("reward", "evaluate", *arguments, "--out", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert found["model"]["episodes"] == 2 and set(found["tasks"]) == {"open the drawer", "press the red button"}
    assert found["failures"]["episodes"] == 2 and found["failures"]["steps_an_episode"] == 30
    assert found["successes"]["steps_an_episode"] == (26 + 28) / 2
    assert "Failures" in (tmp_path / "out/index.html").read_text()


def test_the_words(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toddle("reward", "--help")
    said = capsys.readouterr().out
    assert said.startswith("usage: toddle reward label|train|fit|plot|evaluate ") and "--dry-run" in said
    toddle("reward", status=2)
    assert "usage: " in capsys.readouterr().out
    assert refused(capsys, "labl") == "error: toddle reward: unknown word 'labl'; did you mean 'label'?\n"
    assert "unknown word '--dataset'; known: evaluate, fit, label, plot, train" in refused(capsys, "--dataset", "x")
    toddle("reward", "label", *commands(root)["label"][:-1], "somewhere", "--dry-run")
    assert capsys.readouterr().out.startswith("toddle reward label would:\n  1. label ")
    toddle("reward", "train", "--help")
    assert "--label.still" in capsys.readouterr().out


def test_what_is_wrong_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = str(root / "data"), ("--out", str(tmp_path / "out"), "--dry-run")
    good = ("--dataset", data, "--label.still", "0.6")
    eyes = ("--model.backbone.name", str(root / "eyes"))
    for arguments, expected in (
        (("label",), "--dataset"),
        (("label", "--dataset", "nowhere"), "expected a folder with meta/info.json, got 'nowhere'"),
        (("label", "--dataset", data, data), "dataset: expected different ones"),
        (("label", "--dataset", data), "none in 4 successes"),
        (("label", *good, "--label.window", "0"), "label.window: expected a whole number, at least 1, got 0"),
        (("label", *good, "--label.stil", "1"), "did you mean --label.still?"),
        (("label", *good, "--camera", "wrist"), "dataset camera: expected a camera of"),
        (("label", *good, "--label.gripper", "action:9"), "expected numbers from -4 to 3 after the colon"),
        (("label", "--dataset", data, "--label.path", "observation.hand"), "label.path: expected a column of"),
        (("train", *good, *eyes, "--labels", "none.json"), "none.json does not exist"),
        (("train", *good, *eyes, "--model.proprio", "3"), "model.proprio: expected 0 or 17"),
        (("train", *good, *eyes, "--model.cameras", "wrist"), "dataset camera: expected a camera of"),
        (("train", *good, "--model.backbone.name", "no/where"), "no/where"),
        (("train", *good, "--model.backbone.lora-rank", "2"), "backbone.lora_rank: expected 0"),
        (("train", *good, *eyes, "--device", "tpu"), "device: expected cpu"),
        (("train", *good, *eyes, "--model.width", "1048576"), "memory: a network "),
        (("train", *good, "--held-out", "1.5"), "held_out: expected a number from 0 to 1"),
        (("evaluate", "--model", "nowhere"), "expected one with reward.json, got 'nowhere'"),
        (("evaluate", "--model", str(root / "run"), "--dataset", "nowhere"), "got 'nowhere'"),
    ):
        assert expected in refused(capsys, *arguments, *out), arguments
    assert not (tmp_path / "out").exists()
    toddle("evaluate", "--policy", str(root / "run"), "--env", TASK, *out, status=2)
    assert "policy.json" in capsys.readouterr().err  # a reward model is no policy


@pytest.mark.slow
@pytest.mark.parametrize("says", ["order", "steps-to-go"])
def test_a_model_of_progress_learns_without_labels(
    root: Path, tmp_path: Path, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, cache = ["--dataset", str(root / "data")], ["--cache", str(root / "cache")]
    net = ["--model.backbone.name", str(root / "eyes"), "--model.width", "16", "--train.steps", "12", "--controls", "2"]
    asked = ["train", *data, *net, *cache, "--model.says", says, "--out", str(tmp_path / "run")]
    assert "model.says: expected key-frame" in refused(capsys, *asked, "--label.still", "0.6")
    assert "labels: expected none with" in refused(capsys, *asked, "--labels", str(root / "labels/labels.json"))
    toddle("reward", *asked)
    evaluation = ["evaluate", "--model", str(tmp_path / "run"), *cache, "--out", str(tmp_path / "evaluation")]
    toddle("reward", *evaluation)
    found = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert -1.0 <= found["model"]["order"]["value"] <= 1.0 and found["controls"]["number"] == 2
    assert "rises" in (tmp_path / "evaluation/index.html").read_text()
    toddle(
        "record",
        "--env",
        TASK,
        "--episodes",
        "2",
        "--image-size",
        "32",
        "--image-stride",
        "2",
        "--seed",
        "70",
        "--noise",
        "3",
        "--keep-failures",
        "--max-episode-steps",
        "20",
        "--out",
        str(tmp_path / "bad"),
    )
    assert "an episode that succeeded" in refused(
        capsys, *asked[:1], "--dataset", str(tmp_path / "bad"), *asked[3:-1], str(tmp_path / "none")
    )
    more = ["--dataset", str(root / "data"), str(tmp_path / "bad")]
    toddle("reward", *evaluation[:-1], str(tmp_path / "beside"), *more)
    found = json.loads((tmp_path / "beside/evaluation.json").read_text())
    assert 0.0 <= found["beside_failures"]["below"] <= 1.0 and found["beside_failures"]["failures"]["episodes"] >= 1
