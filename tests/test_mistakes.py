"""Mistakes and misfortunes through the command line: one clear line each, a non-zero exit, nothing lost."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from toddle.cli import main
from toddle.runs.checkpoint import load_state, states_equal
from toddle.runs.run import RunFolder

TINY = (
    "pretrain",
    "--env",
    "gymnasium/HalfCheetah-v5",
    "--policy",
    "mlp",
    "--mlp.hidden",
    "8",
    "--critic-hidden",
    "8",
    "--worlds",
    "4",
    "--collect.length",
    "8",
    "--checkpoint-every",
    "2",
)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == status
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return said[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrain", "--env", "goal/sawyr"], "got 'goal/sawyr'; did you mean 'goal/sawyer'?"),
        (["pretrain", "--env", "gymnasium/Ant-v55"], "did you mean 'gymnasium/Ant-v5'?"),
        (["record", "--env", "metaworld/reech-v3"], "did you mean 'metaworld/reach-v3'?"),
        (["pretrain", "--ppo.learnign-rate", "1"], "did you mean --ppo.learning-rate?"),
        (["pretrain", "--ppo.epochs", "0"], "ppo.epochs: expected a whole number, at least 1, got 0"),
        (["pretrain", "--config", "no.yaml"], "no.yaml does not exist"),
        (["evaluate", "--policy", "nowhere", "--env", "goal/sawyer"], "got 'nowhere'"),
        (["sft", "--dataset", "nowhere"], "got 'nowhere'"),
        (["sft"], "--dataset"),
        (["record", "--env", "gymnasium/CartPole-v1", "--dry-run"], "expert: expected an environment with a scripted"),
        (
            ["pretrain", "--steps", str(2**62)],
            "a whole number, at least 1 and at most 1,000,000,000",
        ),
    ],
)
def test_a_wrong_name_or_value_gives_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in complaint(capsys, *arguments, "--out", str(tmp_path / "run"))


def test_a_second_run_cannot_write_into_a_live_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from toddle.recipes.pretrain import configure

    with RunFolder.open(tmp_path, configure(out=tmp_path)):
        said = complaint(capsys, *TINY, "--out", str(tmp_path))
        assert "in use by a run that is still going" in said
        assert "in use" in complaint(capsys, *TINY, "--out", str(tmp_path), "--resume")


def test_a_nan_stops_the_run_with_a_state_that_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate that no network survives; the state before the step gives the same end again."""
    wild = (*TINY, "--steps", "3200", "--ppo.learning-rate", "1e12", "--ppo.target-kl", "None")
    said = complaint(capsys, *wild, "--out", str(tmp_path / "run"), status=1)
    assert "--resume replays from there" in said
    state, meta = load_state(tmp_path / "run/nan")
    again = complaint(capsys, *wild, "--out", str(tmp_path / "run"), "--resume", status=1)
    assert again == said
    assert states_equal(load_state(tmp_path / "run/nan"), (state, meta))


def test_a_full_disk_gives_one_line_and_keeps_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on file size, reached by checkpoints of a wider network, stands for a disk that is full."""
    # Python would cut its own compiled modules short without a word, and the next process could not load them
    code = "import signal, sys; sys.dont_write_bytecode = True; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    code += "from toddle.cli import main; main()"
    wide = (*TINY[:6], "256", *TINY[7:], "--steps", "320", "--out", str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", code, *wide],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and "the disk is full" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(SystemExit) as end:
        main([*wide, "--resume"])
    assert end.value.code == 0, "with space again the run goes on"
