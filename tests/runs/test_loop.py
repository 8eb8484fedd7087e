"""Runs that last, on a small real learner: linear regression by Adam on noisy minibatches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toddle.core.config import config
from toddle.core.errors import EnvironmentFault, InputError, NaNError
from toddle.core.seeding import numpy_generator, torch_generator
from toddle.runs.checkpoint import load_state, states_equal
from toddle.runs.loop import run_loop
from toddle.runs.metrics import read_metrics
from toddle.runs.run import RunFolder


@config
class Config:
    """The run's config."""

    seed: int = 0
    rate: float = 0.05
    out: Path = Path("out")


class Regression:
    """Everything a real learner has: parameters, optimiser moments, a torch and a numpy generator, a counter."""

    def __init__(self, config: Config, *, nan_at: int = 0, kill_at: int = 0, pause: float = 0.0) -> None:
        self.torch_generator = torch_generator(config.seed, "noise")
        self.numpy_generator = numpy_generator(config.seed, "data")
        self.model = torch.nn.Linear(3, 1)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.normal_(generator=self.torch_generator)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.rate)
        self.steps, self.nan_at, self.kill_at, self.pause = 0, nan_at, kill_at, pause

    def step(self) -> dict[str, float]:
        self.steps += 1
        time.sleep(self.pause)
        if self.kill_at == self.steps:
            os.kill(os.getpid(), signal.SIGKILL)
        inputs = torch.from_numpy(self.numpy_generator.normal(size=(8, 3)).astype(np.float32))
        noise = 0.1 * torch.randn(8, 1, generator=self.torch_generator)
        loss = (self.model(inputs) - inputs.sum(1, keepdim=True) + noise).square().mean()
        if self.steps == self.nan_at:
            loss = loss * float("nan")
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"train/loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
            "torch": self.torch_generator.get_state(),
            "numpy": self.numpy_generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.torch_generator.set_state(state["torch"])
        self.numpy_generator.bit_generator.state = state["numpy"]
        self.steps = state["steps"]


def train(path: Path, iterations: int, *, resume: bool = False, every: int = 2, **options: Any) -> Regression:
    learner = Regression(Config(), **options)
    with RunFolder.open(path, Config(), resume=resume) as run:
        run_loop(learner, run, iterations, checkpoint_every=every, label="test")
    return learner


def log(path: Path) -> list[dict[str, float]]:
    """The metrics without those of the clock."""
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in read_metrics(path)]


def test_train_8_is_train_3_and_resume_5(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 8)
    stopped = Regression(Config())

    def interrupt(step: int, metrics: dict[str, float]) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with (
        RunFolder.open(tmp_path / "parts", Config()) as run,
        pytest.raises(KeyboardInterrupt, match="stopped after step 3 of 8; go on with --resume"),
    ):
        run_loop(stopped, run, 8, checkpoint_every=2, on_iteration=interrupt)
    assert run.latest() == tmp_path / "parts/checkpoints/step_00000003"
    resumed = train(tmp_path / "parts", 8, resume=True)
    assert states_equal(whole.state_dict(), resumed.state_dict())
    assert log(tmp_path / "whole") == log(tmp_path / "parts") and len(log(tmp_path / "whole")) == 8
    assert whole.step()["train/loss"] == resumed.step()["train/loss"]


def test_a_resume_that_forgets_a_generator_is_caught(tmp_path: Path) -> None:
    """Negative control: the comparison above sees one missing piece of state."""
    train(tmp_path, 8)
    state, _ = load_state(tmp_path / "checkpoints/step_00000006")
    first, second = Regression(Config()), Regression(Config())
    first.load_state_dict(state)
    second.load_state_dict(state)
    second.torch_generator.manual_seed(0)
    first.step(), second.step()
    assert not states_equal(first.state_dict(), second.state_dict())


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_loop import train
train(Path(sys.argv[1]), 40, every=7, pause=0.01, kill_at=int(sys.argv[2]))
"""


@pytest.mark.parametrize("kill_at", [pytest.param(1, marks=pytest.mark.slow), 18])
def test_kill_9_then_resume_equals_the_uninterrupted_run(tmp_path: Path, kill_at: int) -> None:
    whole = train(tmp_path / "whole", 40, every=7)
    code = KILLED.format(tests=str(Path(__file__).parent))
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed"), str(kill_at)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with (tmp_path / "killed/metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "train/lo')  # a line cut short by the kill
    (tmp_path / "killed/checkpoints/.step_00000021.x").mkdir()  # a checkpoint under way
    resumed = train(tmp_path / "killed", 40, resume=True, every=7)
    assert states_equal(whole.state_dict(), resumed.state_dict())
    assert log(tmp_path / "whole") == log(tmp_path / "killed")
    assert sorted(p.name for p in (tmp_path / "killed/checkpoints").iterdir()) == ["step_00000035", "step_00000040"]


def test_tensorboard_shows_the_log_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(NaNError):
        train(tmp_path, 6, nan_at=6)
    train(tmp_path, 6, resume=True)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = [(event.step, event.value) for event in board.Scalars("train/loss")]
    expected = [(line["step"], np.float32(line["train/loss"])) for line in log(tmp_path)]
    assert shown == expected and len(shown) == 6


def test_a_nan_stops_the_run_and_replays(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 8)
    with pytest.raises(NaNError, match=r"step 6: train/loss is nan; the state after step 5 is in .*nan; --resume"):
        train(tmp_path / "run", 8, nan_at=6, every=100)
    assert len(log(tmp_path / "run")) == 5
    state, meta = load_state(tmp_path / "run/nan")
    assert meta["step"] == 5
    healthy = Regression(Config())
    for _ in range(5):
        healthy.step()
    assert states_equal(state, healthy.state_dict()), "the state BEFORE the step that failed"
    with pytest.raises(NaNError, match="step 6"):
        train(tmp_path / "run", 8, nan_at=6, every=100, resume=True)  # the replay fails at once, at the same step
    mended = train(tmp_path / "run", 8, every=100, resume=True)
    assert states_equal(mended.state_dict(), whole.state_dict())
    assert log(tmp_path / "run") == log(tmp_path / "whole")


def test_a_nan_far_from_the_last_snapshot_still_saves_the_state_before(tmp_path: Path) -> None:
    """Fast steps share one snapshot; the steps since are made again."""
    with pytest.raises(NaNError):
        train(tmp_path, 400, nan_at=300, every=1000)
    assert load_state(tmp_path / "nan")[1]["step"] == 299


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(tmp_path, 4)
    again = train(tmp_path, 4, resume=True)
    assert "already finished (4 steps)" in capsys.readouterr().err
    assert states_equal(first.state_dict(), again.state_dict()), "restored, for what follows the loop"


def test_metrics_of_the_callback_are_on_the_same_line(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, Config()) as run:
        run_loop(
            Regression(Config()),
            run,
            3,
            checkpoint_every=9,
            on_iteration=lambda step, metrics: {"eval/success": 0.5} if step == 2 else None,
        )
    assert [line.get("eval/success") for line in read_metrics(tmp_path)] == [None, 0.5, None]


def test_a_state_of_another_version_is_one_line(tmp_path: Path) -> None:
    train(tmp_path, 2)
    with RunFolder.open(tmp_path, Config(), resume=True) as run:
        run.save_tree(3, {"weights": []})
        with pytest.raises(InputError, match=r"step_00000003: its learner's state .*KeyError.*another --out"):
            run.restore(Regression(Config()))


def test_a_fault_while_a_state_is_restored_is_not_called_another_version(tmp_path: Path) -> None:
    class Lost(Regression):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise EnvironmentFault("worker 0 has ended with status 1; what it said stands above")

    train(tmp_path, 2)
    with (
        RunFolder.open(tmp_path, Config(), resume=True) as run,
        pytest.raises(EnvironmentFault, match=r"^worker 0 has ended"),
    ):
        run.restore(Lost(Config()))


def test_a_damaged_checkpoint_names_the_one_before(tmp_path: Path) -> None:
    whole = train(tmp_path, 8)
    newest = tmp_path / "checkpoints/step_00000008"
    (newest / "tensors.safetensors").write_bytes(b"\0" * 8)
    with pytest.raises(InputError, match=r"damaged.*delete that folder to go on from step_00000006"):
        train(tmp_path, 8, resume=True)
    for path in sorted(newest.iterdir()):
        path.unlink()
    newest.rmdir()
    (tmp_path / "finished.json").unlink()
    assert states_equal(train(tmp_path, 8, resume=True).state_dict(), whole.state_dict())
