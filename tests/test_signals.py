"""SIGTERM and SIGHUP, for every command: one line, status 130, what is finished is kept, and --resume ends it the same.

Commands that train go through one loop (`runs.loop`), which tests/test_machines.py and tests/test_resume.py stop; here
are those that do not, and what comes before the loop.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toddle.cli import main
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.make import make_env
from toddle.models.expert import ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.reporting.episode_log import read_episodes

ENV = "fork/point"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    save_policy(folder, GaussianPolicy(GaussianConfig(bodies=(make_env(ENV, 1).body_spec,), hidden=(8,))))
    return str(folder)


def started(*arguments: str, ignore: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup children would ignore it
        for number in ignore:
            signal.signal(number, signal.SIG_IGN)

    command = [sys.executable, "-m", "toddle", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=prepare,
    )


def when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)


def stopped(number: int, ready: Callable[[], bool], *arguments: str) -> str:
    """Send the signal when `ready`; return what the command said."""
    process = started(*arguments)
    when(process, ready)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in said, said
    return said


def toddle(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code


def recorded(folder: Path) -> list[dict[str, Any]]:
    data = LeRobotDataset(folder)
    return [data.episode(place) | {"seed": span.facts["seed"]} for place, span in enumerate(data.episodes)]


def evaluated(folder: Path) -> list[dict[str, Any]]:
    clock = ("seconds", "seconds_per_decision")
    return [{key: value for key, value in row.items() if key not in clock} for row in _rows(folder)]


def _rows(folder: Path) -> list[dict[str, Any]]:
    file = folder / "episodes.jsonl"
    return read_episodes(file) if file.exists() else []


def _episodes(folder: Path) -> int:
    return len(list((folder / "data").rglob("*.parquet")))


COMMANDS: dict[str, tuple[str, Callable[[Path], int], Callable[[Path], Any]]] = {
    "record": ("--env fork/point --policy {policy} --keep-failures --episodes 30", _episodes, recorded),
    "evaluate": (
        "--env fork/point --policy {policy} --episodes 100 --num-envs 2 --videos 0",
        lambda folder: len(_rows(folder)),
        evaluated,
    ),
}


@pytest.fixture(scope="module", params=["record", pytest.param("evaluate", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, policy: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A command, and what it leaves when nothing interrupts it."""
    command, folder = str(request.param), tmp_path_factory.mktemp("whole") / "run"
    text, _, result = COMMANDS[command]
    toddle(command, *text.format(policy=policy).split(), "--out", str(folder))
    return command, result(folder)


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP], ids=lambda number: number.name
)
def test_complete_episodes_are_kept_and_resuming_gives_the_same(
    tmp_path: Path, policy: str, whole: tuple[str, Any], number: signal.Signals
) -> None:
    (command, wanted), parts = whole, tmp_path / "parts"
    text, count, result = COMMANDS[command]
    arguments = [command, *text.format(policy=policy).split()]
    said = stopped(number, lambda: count(parts) >= 3, *arguments, "--out", str(parts))
    assert said.strip().splitlines()[-1] == f"stopped by {number.name}; what is finished is kept"
    kept = result(parts)
    assert 2 <= len(kept) < len(wanted), "whole episodes, and not all"
    np.testing.assert_equal(kept, wanted[: len(kept)])
    toddle(*arguments, "--out", str(parts), "--resume")
    np.testing.assert_equal(result(parts), wanted)


@pytest.mark.slow
def test_under_nohup_a_hangup_stops_nothing(tmp_path: Path) -> None:
    """`nohup` and a shell's logout: SIGHUP is ignored and stays so."""
    arguments = "pretrain --env fork/point --worlds 2 --mlp.hidden 8 --critic-hidden 8 --collect.length 8 --steps 320"
    process = started(*arguments.split(), "--out", str(tmp_path), ignore=(signal.SIGHUP,))
    metrics = tmp_path / "metrics.jsonl"
    when(process, lambda: metrics.exists() and metrics.stat().st_size > 0)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and (tmp_path / "finished.json").exists(), said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_backbone_keeps_the_tasks_it_has_rendered(tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("metaworld", reason="metaworld is not installed")
    text = """backbone --render.tasks reach-v3 push-v3 door-open-v3 --render.episodes 6 --render.frames 2
        --render.steps 20 --render.size 32 --training.steps 3 --training.batch 4 --held-out 0.4 --sizes.image-size 32"""
    scenes = tmp_path / "parts/scenes"
    parts = ("--out", str(tmp_path / "parts"))
    stopped(number, lambda: any(scenes.glob("*.safetensors")), *text.split(), *parts)
    kept = {path: path.read_bytes() for path in scenes.glob("*.safetensors")}
    assert 1 <= len(kept) < 3
    toddle(*text.split(), *parts, "--resume")
    toddle(*text.split(), "--out", str(tmp_path / "whole"))
    assert all(path.read_bytes() == content for path, content in kept.items())
    weights = [next((tmp_path / name / "embedded").glob("*.safetensors")) for name in ("parts", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_demo_stops_its_stages_which_keep_their_state(tmp_path: Path, number: signal.Signals) -> None:
    metrics = tmp_path / "pretrain/metrics.jsonl"
    arguments = ("demo", "--processes", "1", "--pretrain-steps", "10000000", "--worlds", "8", "--out", str(tmp_path))
    said = stopped(number, lambda: metrics.exists() and metrics.stat().st_size > 0, *arguments)
    assert "the same command goes on where it was" in said
    checkpoints = list((tmp_path / "pretrain/checkpoints").glob("step_*"))
    assert checkpoints and not list((tmp_path / "pretrain").glob("finished.json"))


TRAINING = {
    "sft": "--dataset {data} --cameras top --cache {cache} --sft.steps 60 --sft.batch 8 --expert.trunk.width 32 "
    "--expert.trunk.depth 1 --expert.trunk.heads 2 --expert.horizon 4 --expert.executed 4 --checkpoint-every 20",
    "finetune": "--policy {sft} --env dots/one --worlds 8 --steps 1920 --collect.length 5 --ppo.minibatches 2 "
    "--evaluation.episodes 2 --evaluation.videos 0 --checkpoint-every 2",
}


@pytest.mark.slow
def test_what_trains_a_vla_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    shown = f"record --env dots/one --episodes 3 --cameras top --images image --out {tmp_path / 'data'}"
    toddle(*shown.split())
    places = {name: str(tmp_path / name) for name in ("data", "cache")} | {"sft": str(tmp_path / "sft-whole")}
    for command, number in zip(TRAINING, (signal.SIGTERM, signal.SIGHUP), strict=True):
        arguments = [command, *TRAINING[command].format(**places).split()]
        toddle(*arguments, "--out", str(tmp_path / f"{command}-whole"))
        parts = tmp_path / f"{command}-parts"
        metrics = parts / "metrics.jsonl"
        stopped(
            number,
            lambda metrics=metrics: metrics.exists() and metrics.read_text().count("\n") >= 2,
            *arguments,
            "--out",
            str(parts),
        )
        assert not (parts / "finished.json").exists(), f"{command} was over before it was stopped"
        toddle(*arguments, "--out", str(parts), "--resume")
        weights = [
            next((tmp_path / f"{command}-{name}/policy").glob("*.safetensors")).read_bytes()
            for name in ("whole", "parts")
        ]
        assert weights[0] == weights[1], command


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_conversion_that_was_stopped_is_made_again_the_same(tmp_path: Path, number: signal.Signals) -> None:
    trunk = TrunkConfig(width=16, depth=4, heads=2, context_width=8)
    body = make_env("goal/sawyer", 1).body_spec
    save_policy(
        tmp_path / "rl/policy", CausalPolicy(CausalConfig(expert=ExpertConfig(trunk=trunk, bodies=(body,), window=3)))
    )
    text = f"transfer --source {tmp_path / 'rl'} --vlm-width 10 --convert.context-mode replace --distill-steps 40"
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    stopped(number, (parts / "run.json").exists, *text.split(), "--out", str(parts))
    assert not (parts / "finished.json").exists() and not (parts / "expert").exists()
    toddle(*text.split(), "--out", str(parts), "--resume")
    toddle(*text.split(), "--out", str(whole))
    for file in ("expert/expert.safetensors", "transfer.json"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
