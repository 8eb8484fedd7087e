"""Workers that only step worlds, for which one process decides: one process with all worlds, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.runs.test_learners import CAUSAL, SMALL, assert_alike, of_vla, vla

from toddle.cli import main
from toddle.core.config import save_config
from toddle.core.errors import EnvironmentFault, InputError
from toddle.core.team import Place, placed
from toddle.envs.base import BatchedEnv
from toddle.recipes import finetune, pretrain
from toddle.recipes._shared import process_lines
from toddle.runs import engine
from toddle.runs.metrics import read_metrics
from toddle.runs.workers import Crew

__all__ = ["vla"]  # the fixture


class Here:
    """Workers of this process; at asking n the worker `losing[n]` is lost before it can answer, and begins anew."""

    def __init__(self, size: int, worlds: int, unit: int, environments: Callable[[], list[BatchedEnv]]) -> None:
        self.size, self.lives, self.asked, self.losing, self.told = size, [0] * size, 0, dict[int, int](), list[int]()

        def start(index: int) -> list[BatchedEnv]:
            with placed(Place(index, size, worlds, unit)):
                return environments()

        self.start, self.envs = start, [start(index) for index in range(size)]

    def ask(self, given: Callable[[int], tuple[str, int, Any]]) -> list[Any]:
        self.asked, answers = self.asked + 1, list[Any]()
        for index in range(self.size):
            if lost := self.losing.get(self.asked) == index:
                self.envs[index], self.lives[index] = self.start(index), self.lives[index] + 1
            word, at, calls = given(index)
            self.told += [len(calls)] if lost else []
            answers.append(engine.answer(self.envs[index][at], word, calls))
        return answers


GROUPS: dict[str, Any] = {
    "env": ["gymnasium/CartPole-v1"],
    "method": "grpo",
    "worlds": 6,
    "episodes": {"group": 2},
    "tokens": {"hidden": [8]},
    "max_episode_steps": 40,
}


@pytest.mark.parametrize(
    ("settings", "unit", "most"),
    [(SMALL, 1, engine.MOST_TOLD), (SMALL, 1, 5), (GROUPS, 2, engine.MOST_TOLD)],
    ids=["steps", "steps, saved often", "episodes"],
)
def test_what_is_gathered_in_worlds_elsewhere_is_what_one_process_gathers(
    settings: dict[str, Any], unit: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a worker is lost in the middle of a rollout, before and after its worlds were saved."""
    monkeypatch.setattr(engine, "MOST_TOLD", most)
    config = pretrain.configure(settings | {"acting": "engine"}, workers=2)
    crew: Any = Here(2, 6, unit, lambda: pretrain._environments(config))
    one, two = pretrain.build(config), pretrain.build(config, crew)
    sources: list[Any] = [made.sources[0] for made in (one, two)]
    for rollout in range(4):
        crew.losing[crew.asked + 7] = rollout % 2
        with torch.no_grad():
            (want, said), (found, again) = (source.collect(one.policy, None) for source in sources)
        assert again == said
        for name in ("chain", "log_prob", "reward", "terminated", "truncated", "discount", "final_at", "mask", "group"):
            if (value := getattr(want, name)) is not None:
                torch.testing.assert_close(getattr(found, name), value, atol=0.0, rtol=0.0)
        torch.testing.assert_close(found.observation["proprio"], want.observation["proprio"], atol=0.0, rtol=0.0)
        if rollout == 1:
            states = [source.state_dict() for source in sources]
        if rollout == 2:  # go back to it, in both
            for source, state in zip(sources, states, strict=True):
                source.load_state_dict(state)
    assert len(crew.told) == 4 and max(crew.told) <= min(most + 1, 3 * 40)  # nothing from before a reset or a save


def run_and_kill_a_worker(command: str, config: Any) -> None:
    """Run a command to its end, one of whose workers is killed on the way and started again."""
    save_config(config.out.with_suffix(".yaml"), config)
    arguments = [sys.executable, "-m", "toddle", command, "--config", str(config.out.with_suffix(".yaml"))]
    run = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not ((config.out / "metrics.jsonl").exists() and read_metrics(config.out)):
        time.sleep(0.02)
    found = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(found) == config.workers
    os.kill(int(found[-1]), signal.SIGKILL)
    said = run.communicate(timeout=400)[1]
    assert run.returncode == 0 and "was lost (status -9): it is started again, and goes on where it was" in said, said


def go_on(recipe: Any, config: Any) -> None:
    """Take the last checkpoint away, and make what followed anew."""
    (config.out / "finished.json").unlink()
    max((config.out / "checkpoints").glob("step_*")).rename(config.out.with_name("last"))
    recipe.run(config, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "acting"), [(SMALL, "workers"), (CAUSAL, "engine")], ids=["mlp", "causal"])
def test_an_engine_whose_worker_is_killed_is_one_process(settings: dict[str, Any], acting: str, tmp_path: Path) -> None:
    """And it goes on with three workers, that decide or have an engine too."""
    given = settings | {"steps": 2880}
    pretrain.run(pretrain.configure(given, out=tmp_path / "one"))
    two = pretrain.configure(given, workers=2, acting="engine", out=tmp_path / "two")
    run_and_kill_a_worker("pretrain", two)
    assert_alike(tmp_path / "one", two.out)
    go_on(pretrain, pretrain.configure(given, workers=3, acting=acting, out=two.out))
    assert_alike(tmp_path / "one", two.out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_an_engine_for_a_vla_whose_worker_is_killed_is_one_process(vla: Path, method: str, tmp_path: Path) -> None:
    settings = of_vla(vla, method) | {"steps": 640, "imitation": {"weight": 1.0}}
    finetune.run(finetune.configure(settings, out=tmp_path / "one"))
    two = finetune.configure(settings, workers=2, acting="engine", out=tmp_path / "two")
    run_and_kill_a_worker("finetune", two)
    assert_alike(tmp_path / "one", two.out)
    go_on(finetune, finetune.configure(settings, out=two.out))
    assert_alike(tmp_path / "one", two.out)


@pytest.mark.slow
def test_two_learners_with_an_engine_each_are_one_process(vla: Path, tmp_path: Path) -> None:
    settings = of_vla(vla, "ppo") | {"imitation": {"weight": 0.0}}
    finetune.run(finetune.configure(settings, out=tmp_path / "one"))
    finetune.run(finetune.configure(settings, learners=2, workers=4, acting="engine", out=tmp_path / "four"))
    assert_alike(tmp_path / "one", tmp_path / "four")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "workers: expected above 1 with acting engine, got 1"),
        ("--workers 2 --overlap", "overlap: expected nothing with several workers"),
        ("--workers 2 --method ddiffpg", "workers: expected 1 with method ddiffpg"),
    ],
)
def test_what_an_engine_cannot_do_is_told(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "--env", "fork/point", "--worlds", "6", "--acting", "engine", *given.split(), "--dry-run"])
    found = capsys.readouterr().err
    assert stopped.value.code == 2 and said in found and found.count("\n") == 1, found


def test_worlds_of_a_learned_model_have_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "family_of", lambda name: SimpleNamespace(modelled=name == "imagined/runs/model"))
    config = pretrain.configure(SMALL, workers=2, acting="engine")
    engine.check_engine(config)
    with pytest.raises(InputError, match="acting: expected workers in a learned model"):
        engine.check_engine(SimpleNamespace(acting="engine", workers=2, env=("fork/point", "imagined/runs/model")))


class Failing(Crew):
    """A crew whose worker ends by an error of its own."""

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("replays", [True, False])
def test_a_worker_that_would_fail_again_ends_the_run(replays: bool, tmp_path: Path) -> None:
    """Told the same again it would do the same again; one that decides plays other episodes."""
    crew = Failing(1, "pretrain", tmp_path, engine=replays)
    crew.links[0] = Connection(os.open(os.devnull, os.O_RDWR))  # it had said that it was ready
    try:
        if replays:
            with pytest.raises(EnvironmentFault, match="worker 0 has ended with status 3"):
                crew._lost(0)
        else:
            crew._lost(0)
            assert crew.lives == [1]
    finally:
        crew.close()


def test_a_plan_says_who_decides() -> None:
    config = pretrain.configure(SMALL, workers=2, acting="engine")
    assert process_lines(config) == ["2 other processes step worlds, for all of which one decides"]
