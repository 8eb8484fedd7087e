"""Runs that last, through the command line: stopped, killed and resumed is bitwise the same as never interrupted."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toddle.cli import main
from toddle.runs.checkpoint import load_state, states_equal
from toddle.runs.metrics import read_metrics

TINY_TRUNK = (
    "--causal.trunk.width",
    "16",
    "--causal.trunk.depth",
    "2",
    "--causal.trunk.heads",
    "2",
    "--causal.bank-hidden",
    "16",
    "--causal.executed",
    "4",
)
PRETRAIN = {
    "mlp": ("--env", "gymnasium/HalfCheetah-v5", "--policy", "mlp", "--mlp.hidden", "16", "--steps", "2560"),
    "dppo": (
        "--method",
        "dppo",
        "--env",
        "gymnasium/HalfCheetah-v5",
        "--denoising.network",
        "mlp",
        "--denoising.mlp.width",
        "16",
        "--denoising.horizon",
        "2",
        "--steps",
        "5120",
    ),
    "causal": ("--env", "goal/sawyer", *TINY_TRUNK, "--steps", "2560"),
}
SMALL = ("--worlds", "8", "--collect.length", "8", "--critic-hidden", "16", "--checkpoint-every", "3")


def toddle(*arguments: str) -> int:
    """Run a command in this process; return its exit status."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def stopped(number: signal.Signals, path: Path, lines: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process and send the signal a random moment after its log has so many lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "toddle", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while len(read_metrics(path)) < lines and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(np.random.default_rng().uniform(0, 0.1))
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def log(path: Path) -> list[dict[str, float]]:
    """The metrics of a run without those of the clock."""
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in read_metrics(path)]


def assert_equal_runs(first: Path, second: Path) -> None:
    """Same log, same last state, same policy, to the last bit."""
    assert log(first) == log(second) and log(first)
    newest = [sorted((path / "checkpoints").glob("step_*"))[-1] for path in (first, second)]
    assert newest[0].name == newest[1].name
    assert states_equal(load_state(newest[0])[0], load_state(newest[1])[0])
    weights = [(path / "policy/policy.safetensors").read_bytes() for path in (first, second)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def fine_tuning(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """`toddle sft` on two recorded episodes, with an untrained backbone of a few thousand weights."""
    pytest.importorskip("metaworld", reason="metaworld is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tests.policies.tiny_vla import tiny_backbone

    from toddle.models.backbones.embedded import save_embedded

    folder = tmp_path_factory.mktemp("sft")
    save_embedded(folder / "backbone", tiny_backbone())
    record = ("--env", "metaworld/handle-press-v3", "--episodes", "2", "--image-size", "32", "--after-success", "2")
    assert toddle("record", *record, "--out", str(folder / "demos")) == 0
    return (
        "sft",
        "--dataset",
        str(folder / "demos"),
        "--backbone.name",
        str(folder / "backbone"),
        "--cache",
        str(folder / "cache"),
        "--expert.trunk.width",
        "16",
        "--expert.trunk.depth",
        "2",
        "--expert.trunk.heads",
        "2",
        "--sft.batch",
        "8",
        "--sft.steps",
        "60",
        "--checkpoint-every",
        "7",
    )


@pytest.mark.slow  # tests/recipes/test_sft.py stops one without killing it
def test_sft_killed_and_resumed_is_the_uninterrupted_run(tmp_path: Path, fine_tuning: tuple[str, ...]) -> None:
    assert toddle(*fine_tuning, "--out", str(tmp_path / "whole")) == 0
    parts = ("--out", str(tmp_path / "parts"))
    killed = stopped(signal.SIGKILL, tmp_path / "parts", 10, *fine_tuning, *parts)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 10 <= len(log(tmp_path / "parts")) < len(log(tmp_path / "whole"))
    assert toddle("sft", "--resume", *parts) == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a pretraining that nothing interrupts; each is run once."""

    @functools.cache
    def folder(policy: str) -> Path:
        path = tmp_path_factory.mktemp("whole") / policy
        assert toddle("pretrain", *PRETRAIN[policy], *SMALL, "--out", str(path)) == 0
        return path

    return folder


QUICK = [pytest.param(name, marks=pytest.mark.slow) if name in ("dppo", "causal") else name for name in PRETRAIN]
"""The state of every learner is that of tests/runs/test_steps.py and tests/recipes; here it is the process."""


@pytest.mark.parametrize("policy", QUICK)
def test_pretrain_killed_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, whole: Callable[[str], Path], policy: str
) -> None:
    command, parts = ("pretrain", *PRETRAIN[policy], *SMALL), ("--out", str(tmp_path / "parts"))
    killed = stopped(signal.SIGKILL, tmp_path / "parts", 4, *command, *parts)
    assert killed.returncode == -signal.SIGKILL
    assert 4 <= len(log(tmp_path / "parts")) < len(log(whole(policy)))
    assert toddle("pretrain", "--resume", *parts) == 0
    assert_equal_runs(whole(policy), tmp_path / "parts")


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(
    tmp_path: Path, whole: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("pretrain", *PRETRAIN["mlp"], *SMALL, "--checkpoint-every", "1000")
    parts = ("--out", str(tmp_path / "parts"))
    interrupted = stopped(signal.SIGINT, tmp_path / "parts", 2, *command, *parts)
    assert interrupted.returncode == 130, interrupted.stderr
    assert "go on with --resume" in interrupted.stderr and "Traceback" not in interrupted.stderr
    assert 2 <= len(log(tmp_path / "parts")) < len(log(whole("mlp")))
    assert toddle("pretrain", "--resume", *parts) == 0
    assert_equal_runs(whole("mlp"), tmp_path / "parts")
    capsys.readouterr()
    assert toddle("pretrain", "--resume", *parts) == 0, "a finished run is no error"
    assert "already finished" in capsys.readouterr().err
    assert toddle("pretrain", "--resume", "--seed", "1", *parts) == 2
    assert "was begun with another config: seed was 0 and is 1" in capsys.readouterr().err
    (newest,) = (tmp_path / "parts/checkpoints").glob("step_00000040")
    (newest / "tensors.safetensors").write_bytes(b"damage")
    assert toddle("pretrain", "--resume", *parts) == 2
    said = capsys.readouterr().err
    assert "tensors.safetensors is damaged" in said and "delete that folder" in said and said.count("\n") == 1
