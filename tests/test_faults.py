"""An environment that fails in the middle of a run: one line that names it, status 1, and nothing lost."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.tiny_env import StartsEnv

from toddle.cli import main
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.base import Array
from toddle.envs.make import add_env
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.reporting.episode_log import read_episodes

NAME = "tiny/faulty"
FAULTS = {
    "reset": "environment: 'tiny/faulty' raised ValueError in reset: the arm is gone (TODDLE_DEBUG=1 shows where)",
    "step": "environment: 'tiny/faulty' raised ValueError in step: the arm is gone (TODDLE_DEBUG=1 shows where)",
    "reward inf": "tiny/faulty: the reward of world 1 is inf at control step",
    "reward nan": "tiny/faulty: the reward of world 1 is nan at control step",
    "observation inf": "tiny/faulty: the observation 'proprio' of world 1, number 3 is inf at control step",
    "observation nan": "tiny/faulty: the observation 'proprio' of world 1, number 3 is nan at control step",
}
"""A fault, and what is said of it."""


class FaultyEnv(StartsEnv):
    """Reach, until something goes wrong after so many calls; the count is part of its state unless it `forgets`."""

    fault: ClassVar[str] = ""
    after: ClassVar[int] = 0
    forgets: ClassVar[bool] = False

    def __init__(self, num_envs: int, *, seed: int = 0, **options: Any) -> None:
        self.calls = 0
        super().__init__(num_envs, **options)
        self.name = NAME

    def _due(self, fault: str) -> bool:
        return self.fault == fault and self.calls > self.after

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        if self._due("reset"):
            raise ValueError("the arm\nis gone")
        super()._reset_worlds(mask, seeds)

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        self.calls += 1
        if self._due("step"):
            raise ValueError("the arm\nis gone")
        reward, terminated, truncated = super()._step_worlds(action, active)
        for value in (np.inf, np.nan):
            if self._due(f"reward {value}"):
                reward[1] = value
        return reward, terminated, truncated

    def _observe(self) -> Array:
        found = super()._observe()
        for value in (np.inf, np.nan):
            if self._due(f"observation {value}"):
                found[1, 3] = value
        return found

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.calls = self.calls if self.forgets else int(state["calls"])


add_env(NAME, FaultyEnv)
COMMANDS = {
    "ppo": "pretrain --env tiny/faulty --worlds 4 --mlp.hidden 8 --critic-hidden 8 --collect.length 8 --steps 640 "
    "--checkpoint-every 1000",
    "grpo": "pretrain --env tiny/faulty --method grpo --worlds 8 --mlp.hidden 8 --steps 960 --checkpoint-every 1000",
    "evaluate": "evaluate --env tiny/faulty --policy {policy} --num-envs 2 --episodes 8 --videos 0",
    "record": "record --env tiny/faulty --policy {policy} --batch 2 --episodes 8 --keep-failures",
}


@pytest.fixture
def policy(tmp_path: Path) -> str:
    save_policy(tmp_path / "policy", GaussianPolicy(GaussianConfig(bodies=(FaultyEnv(1).body_spec,), hidden=(8,))))
    return str(tmp_path / "policy")


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The weights that a command of RL ends with where nothing goes wrong; each is run once."""

    @functools.cache
    def weights(command: str) -> bytes:
        folder = tmp_path_factory.mktemp(command)
        assert ended(*COMMANDS[command].split(), "--out", str(folder)) == 0
        return (folder / "policy/policy.safetensors").read_bytes()

    return weights


TRIED = [
    *(("record", fault) for fault in FAULTS),
    *(("evaluate", fault) for fault in ("reset", "step", "reward inf", "observation nan")),
    *(("ppo", fault) for fault in ("reset", "step", "observation nan")),
    *(("grpo", fault) for fault in ("step", "reward nan")),
]
"""What is wrong is found in one place (envs/base.py), for all commands: each fault once, and each kind with each."""


@pytest.mark.parametrize(("command", "fault"), TRIED)
def test_one_line_names_the_environment_and_nothing_is_lost(
    tmp_path: Path,
    policy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: Callable[[str], bytes],
    command: str,
    fault: str,
) -> None:
    arguments, out = COMMANDS[command].format(policy=policy).split(), tmp_path / "run"
    monkeypatch.setattr(FaultyEnv, "fault", fault)
    monkeypatch.setattr(FaultyEnv, "after", 50)
    capsys.readouterr()
    assert ended(*arguments, "--out", str(out)) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and FAULTS[fault] in said[0], said
    if arguments[0] == "pretrain":
        assert "--resume" in said[0]
    elif command == "evaluate":
        assert 0 < len(read_episodes(out / "episodes.jsonl")) < 8
    else:
        assert 0 < len(LeRobotDataset(out).episodes) < 8
    monkeypatch.setattr(FaultyEnv, "fault", "")  # mended
    assert ended(*arguments, "--out", str(out), "--resume") == 0
    if arguments[0] == "pretrain":
        weights = (out / "policy/policy.safetensors").read_bytes()
        assert weights == whole(command), "as if nothing had happened"


@pytest.mark.parametrize("forgets", [False, True])
def test_a_fault_leaves_the_last_state_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forgets: bool
) -> None:
    """Where an environment does not go back to what it was, the state is that of the last copy."""
    monkeypatch.setattr(FaultyEnv, "fault", "step")
    monkeypatch.setattr(FaultyEnv, "after", 100)  # in the 13th of 20 iterations
    monkeypatch.setattr(FaultyEnv, "forgets", forgets)
    assert ended(*COMMANDS["ppo"].split(), "--out", str(tmp_path)) == 1
    (newest,) = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name != "step_00000000"] or [""]
    assert newest == "step_00000012" or (forgets and newest < "step_00000012")


def test_the_traceback_is_there_for_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaultyEnv, "fault", "step")
    monkeypatch.setenv("TODDLE_DEBUG", "1")
    with pytest.raises(ValueError, match="the arm is gone") as error:
        main([*COMMANDS["ppo"].split(), "--out", str(tmp_path)])
    cause: BaseException | None = error.value
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    assert str(cause) == "the arm\nis gone"


# ---- what happens to the run's folder, and to memory -----------------------------------------------------------------
class MeddlingEnv(StartsEnv):
    """Does something to the run's folder after 30 control steps."""

    done: ClassVar[Any] = None

    def __init__(self, num_envs: int, *, seed: int = 0, **options: Any) -> None:
        self.calls = 0
        super().__init__(num_envs, **options)

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        self.calls += 1
        if self.calls == 30:
            MeddlingEnv.done()
        return super()._step_worlds(action, active)


add_env("tiny/meddling", MeddlingEnv)


@pytest.mark.parametrize("what", ["deleted", "a file"])
def test_a_run_folder_that_goes_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    out = tmp_path / "run"

    def meddle() -> None:
        shutil.rmtree(out)
        if what == "a file":
            out.write_text("mine")

    monkeypatch.setattr(MeddlingEnv, "done", staticmethod(meddle))
    text = COMMANDS["ppo"].replace("faulty", "meddling").replace("--checkpoint-every 1000", "--checkpoint-every 2")
    assert ended(*text.split(), "--out", str(out)) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and str(out) in said, said
    assert (out.read_text() == "mine") if what == "a file" else not out.exists(), "nothing is made in its place"


SLOW = pytest.mark.slow


@pytest.mark.parametrize("limit", [400_000, *(pytest.param(n, marks=SLOW) for n in (900_000, 1_500_000, 2_500_000))])
def test_a_memory_limit_is_one_line_wherever_it_is_met(tmp_path: Path, limit: int) -> None:
    """`ulimit -v`, in KiB: while libraries are loaded, while the environment is built, or later."""
    command = f"ulimit -v {limit}; exec {sys.executable} -m toddle pretrain --env goal/sawyer --steps 100"
    done = subprocess.run(
        ["bash", "-c", f"{command} --out {tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    said = done.stderr.strip().splitlines()
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert sum(line.startswith("error: ") for line in said) == 1 and "memory" in said[-1].lower(), said
