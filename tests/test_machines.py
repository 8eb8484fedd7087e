"""Machines as people have them: no OpenGL, odd locales, a closed pipe, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WITHOUT_GL = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "OpenGL" or name == "mujoco.egl":
            raise ImportError(f"cannot load libEGL for {name}")

sys.meta_path.insert(0, Hidden())
from toddle.cli import main

codes = []
for command in " ".join(sys.argv[1:]).split(" THEN "):
    try:
        main(command.split())
    except SystemExit as end:
        codes.append(end.code or 0)
print(codes)
"""
"""Commands one after the other in one process: loading the libraries is most of what a short one takes."""
TRAIN = ("pretrain", "--env", "gymnasium/Pusher-v5", "--worlds", "2", "--mlp.hidden", "8", "--critic-hidden", "8")


def environment(**changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "LC_ALL", "LANG")}
    return kept | {"OMP_NUM_THREADS": "1"} | changes


def toddle(*arguments: str, code: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    start = ["-m", "toddle"] if code is None else ["-c", code]
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**variables), timeout=120)


def test_a_bare_machine_does_all_that_needs_no_picture_and_no_letters(tmp_path: Path) -> None:
    """No OpenGL, and C as Python took it before it meant UTF-8: what is in ASCII works, the rest is one line."""
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    train = (*TRAIN, "--steps", "64", "--out", str(tmp_path / "run"))
    record = ("record", "--env", "metaworld/reach-v3", "--episodes", "1", "--out", str(tmp_path / "data"))
    other = (*TRAIN, "--out", str(tmp_path / "läuft"))
    said = toddle("methods", "THEN", *train, "THEN", *record, "THEN", *other, code=WITHOUT_GL, **bare)
    assert said.stdout.endswith("[0, 0, 2, 2]\n") and "Traceback" not in said.stderr, said.stderr
    picture, letter = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert "rendering: no OpenGL context" in picture and "libegl1" in picture
    assert letter.startswith("error: arguments: expected text in UTF-8")
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["run"]


@pytest.mark.slow  # a stricter one is below
@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}])
def test_a_plain_locale(tmp_path: Path, variables: dict[str, str]) -> None:
    done = toddle(*TRAIN, "--steps", "64", "--out", str(tmp_path / "läuft"), **variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m toddle methods | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment())
    assert "Traceback" not in done.stderr and "Broken pipe" not in done.stderr


@pytest.mark.slow  # tests/test_resume.py stops training by SIGINT, tests/test_signals.py recording by SIGHUP
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    arguments = (*TRAIN, "--steps", "10000000", "--checkpoint-every", "1000000", "--out", str(tmp_path / "run"))
    child = subprocess.Popen(
        [sys.executable, "-m", "toddle", *arguments], stderr=subprocess.PIPE, text=True, env=environment()
    )
    metrics, until = tmp_path / "run/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in said, said
    assert list((tmp_path / "run/checkpoints").glob("step_*"))
