"""Every command end to end at tiny size, through the command line: each takes what the one before it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import toddle as toddle_api
from doc_commands import README, commands
from toddle.cli import main
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.policies.store import load_policy
from toddle.runs.metrics import read_metrics

pytest.importorskip("metaworld", reason="metaworld is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
TASK = "metaworld/handle-press-v3"
COMMANDS = {
    "pretrain": """
        --env goal/sawyer --steps 1280 --worlds 8 --collect.length 8 --critic-hidden 16
        --causal.executed 4 --causal.bank-hidden 16 --causal.trunk.width 16
        --causal.trunk.depth 2 --causal.trunk.heads 2""",
    "transfer": "--source {root}/pretrain/policy --backbone.name {root}/backbone",
    "record": f"--env {TASK} --episodes 2 --image-size 32 --after-success 2",
    "sft": """
        --dataset {root}/record --init {root}/transfer/policy --cache {root}/cache --sft.steps 12 --sft.batch 8
        --episodes 2""",
    "evaluate": f"--policy tiny={{root}}/sft/policy --env {TASK} --episodes 2 --videos 1 --max-episode-steps 40 --push",
}


def toddle(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All commands once, in order, each dry before it is run."""
    from tests.policies.tiny_vla import tiny_backbone

    from toddle.models.backbones.embedded import save_embedded

    folder = tmp_path_factory.mktemp("recipes")
    save_embedded(folder / "backbone", tiny_backbone())
    for command, text in COMMANDS.items():
        arguments = [command, *text.format(root=folder).split(), "--out", str(folder / command)]
        toddle(*arguments, "--dry-run")
        assert not (folder / command).exists(), "--dry-run writes nothing"
        toddle(*arguments)
    toddle("report", "--runs", str(folder))
    return folder


def test_pretrain_leaves_a_policy_and_sound_metrics(root: Path) -> None:
    lines = read_metrics(root / "pretrain")
    assert [line["step"] for line in lines] == list(range(1, 6))
    assert lines[-1]["rollout/total_steps"] == pytest.approx(1280, rel=0.05)  # an episode's end cuts a chunk short
    assert all(0 <= line["ppo/clipped"] <= 1 and line["ppo/kl"] < 0.1 for line in lines)
    assert lines[-1]["ppo/learning_rate"] < lines[0]["ppo/learning_rate"]
    assert load_policy(root / "pretrain/policy").kind == "causal"


def test_transfer_keeps_the_function(root: Path) -> None:
    record = json.loads((root / "transfer/transfer.json").read_text())
    assert {level["level"] for level in record["levels"]} >= {"A", "B", "C"}
    assert all(level["kept"] and level["deviation"] < 1e-4 for level in record["levels"])
    assert load_policy(root / "transfer/policy").kind == "flow_vla"


def test_record_leaves_successful_episodes(root: Path) -> None:
    data = LeRobotDataset(root / "record")
    assert len(data.episodes) == 2 and data.cameras == ("close",)
    assert all(data.episode(span.index)["next.success"].any() for span in data.episodes)


def test_sft_learns_from_the_converted_policy(root: Path) -> None:
    lines = read_metrics(root / "sft")
    assert len(lines) == 12
    loss = [line["sft/loss"] for line in lines]
    assert np.mean(loss[-4:]) < np.mean(loss[:4])
    assert 0 < lines[-1]["sft/trunk_drift"] < 0.5


def test_evaluate_counts_every_episode(root: Path) -> None:
    episodes = [json.loads(line) for line in (root / "evaluate/episodes.jsonl").read_text().splitlines()]
    assert sorted((e["condition"], e["seed"]) for e in episodes) == [
        ("plain", 0),
        ("plain", 1),
        ("pushed", 0),
        ("pushed", 1),
    ]
    assert all(0 < e["length"] <= 40 for e in episodes)
    cells = json.loads((root / "evaluate/summary.json").read_text())["cells"]
    assert [cell["candidate"] for cell in cells] == ["tiny", "tiny"]
    assert len(list((root / "evaluate/videos").glob("*.mp4"))) == 2


def test_a_script_plays_what_evaluate_played(root: Path) -> None:
    """Pictures as the policy was taught with, from its folder alone: the episodes of `toddle evaluate` again."""
    policy, env = toddle_api.load_policy_and_env(root / "sft", TASK, 2, max_episode_steps=40)
    assert env.single_observation_space["images"].shape == (1, 3, 32, 32)  # type: ignore[index]
    found = [result.episode_return for result in toddle_api.evaluate(policy, env, seeds=[0, 1])]
    env.close()
    rows = [json.loads(line) for line in (root / "evaluate/episodes.jsonl").read_text().splitlines()]
    assert found == [row["episode_return"] for row in rows if row["condition"] == "plain"]


def test_the_report_is_one_page(root: Path) -> None:
    page = (root / "report.html").read_text()
    assert "tiny" in page and TASK in page and "<svg" in page and "<video" in page
    assert not re.search(r'(src|href)="https?://', page), "it opens without a network"
    toddle("report", "--runs", str(root / "evaluate"), "--out", str(root / "in a folder"))
    assert (root / "in a folder/report.html").exists(), "a browser opens only what ends in .html as a page"


IN_README = {"pretrain": "pretrain", "transfer": "transfer", "record": "demos", "sft": "sft", "evaluate": "evaluation"}
"""Command -> what README calls the folder that it makes."""


def told(slow: bool) -> list[list[str]]:
    """README's commands whose inputs are at hand; `slow`: all but the first of each whose dry run is short."""
    # what needs assets, foreign weights, a teacher, demonstrations in which the hand slows, or recordings
    apart = (
        "libero",
        "folder_of_pi0",
        "--teacher",
        "reward",
        "runs/mixed",
        "runs/good",
        "runs/offline",
        "runs/few",
        "runs/half",
        "runs/plays",
        "runs/watched",
    )
    found = [command for command in commands(README) if not any(word in " ".join(command) for word in apart)]
    # a dry run tries what it is of, and goal tracking and pictures take long
    late = [command[0] == "finetune" or (command[0] == "pretrain" and "goal/sawyer" in command) for command in found]
    soon = [command for command, is_late in zip(found, late, strict=True) if not is_late]
    first = list({command[0]: command for command in reversed(soon)}.values())
    return [command for command in found if command not in first] if slow else first


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_readme_can_be_followed(slow: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command there, as it stands, passes its dry run where its inputs are."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for command, name in IN_README.items():
        Path("runs", name).symlink_to(root / command)
    assert len(told(slow)) >= (5 if slow else 12)
    for command in told(slow):
        fresh = ["new/" + text if before == "--out" else text for before, text in zip(["", *command], command)]
        toddle(*fresh, "--dry-run")


def test_every_metric_is_documented(root: Path) -> None:
    table = (Path(__file__).parent.parent / "docs/metrics.md").read_text()
    known = set(re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE))
    logged = {name for command in COMMANDS for line in read_metrics(root / command) for name in line} - {"step"}
    assert len(logged) > 25
    assert {re.sub(r"^reward/.*", "reward/<part>", name) for name in logged} - known == set()


def test_configs_are_kept_and_load_back(root: Path) -> None:
    for command in COMMANDS:
        saved = yaml.safe_load((root / command / "config.yaml").read_text())
        assert saved["out"] == str(root / command)


def test_help_of_every_command_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    from toddle.cli import COMMANDS as ALL

    for command in ALL:
        capsys.readouterr()
        toddle(command, "--help")
        said = capsys.readouterr().out
        assert "--dry-run" in said and "--resume" in said, command
