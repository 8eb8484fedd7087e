"""Workers that Ray places: on a Ray of this machine they are one process, and one whose Ray process is killed begins
again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.runs.test_learners import SMALL, assert_alike, newest, of_vla, vla

from toddle.cli import main
from toddle.core.config import save_config
from toddle.core.errors import InputError
from toddle.recipes import finetune, pretrain
from toddle.runs import placing
from toddle.runs.metrics import read_metrics

__all__ = ["vla"]  # the fixture

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ADDRESS", "local")


@needs_ray
@pytest.mark.slow
def test_two_workers_that_ray_has_placed_are_one_process(vla: Path, tmp_path: Path, local_ray: None) -> None:
    settings = of_vla(vla, "grpo") | {"imitation": {"weight": 1.0}}
    outs = [tmp_path / placement for placement in ("here", "ray")]
    for workers, out in enumerate(outs, 1):
        finetune.run(finetune.configure(settings, workers=workers, placement=out.name, out=out))
    assert_alike(*outs)


def placed_under(parent: int) -> list[int]:
    """Return the ids of the Ray processes below a process in which workers run."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    known = {int(pid): (int(up), said) for pid, up, said in (line.split(None, 2) for line in lines.splitlines())}

    def below(pid: int) -> bool:
        return pid == parent or (pid in known and below(known[pid][0]))

    return [pid for pid, (_, said) in known.items() if said.startswith("ray::worker_process") and below(pid)]


@needs_ray
@pytest.mark.slow
def test_a_worker_whose_ray_process_is_killed_is_placed_again(tmp_path: Path, local_ray: None) -> None:
    out = tmp_path / "run"
    config = pretrain.configure(SMALL, steps=4000, workers=2, placement="ray", out=out)
    save_config(tmp_path / "settings.yaml", config)
    command = [sys.executable, "-m", "toddle", "pretrain", "--config", str(tmp_path / "settings.yaml")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not ((out / "metrics.jsonl").exists() and len(read_metrics(out)) > 2):
        time.sleep(0.02)
    found = placed_under(run.pid)
    assert len(found) == 2
    os.kill(found[0], signal.SIGKILL)
    said = run.communicate(timeout=240)[1]
    assert run.returncode == 0 and "was lost (status -9): it is started again" in said, said
    assert len(read_metrics(out)) == round(4000 / 96) and newest(out)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": 1}, "workers: expected above 1 with placement ray"),
        ({"workers": 2, "listen": "127.0.0.1:5000"}, "listen: expected nothing with placement ray"),
    ],
)
def test_what_ray_cannot_place_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        pretrain.configure(SMALL, placement="ray", **settings)


def test_without_ray_there_is_one_line_at_a_dry_run_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(placing, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(
            [*["pretrain", "--env", "fork/point", "--worlds", "6", "--workers", "2", "--placement", "ray", "--dry-run"]]
        )
    found = capsys.readouterr().err
    assert stopped.value.code == 2 and found.count("\n") == 1
    assert "placement: package 'ray' is missing; install toddle[ray]" in found
