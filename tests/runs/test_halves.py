"""Half the worlds beside the other half, each in a thread: one collector with all worlds, and bitwise resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_learners import CAUSAL, SMALL, assert_alike

from toddle.cli import main
from toddle.recipes import pretrain


def train(out: Path, *, resume: bool = False, **settings: Any) -> Path:
    pretrain.run(pretrain.configure(SMALL | settings, out=out), resume=resume)
    return out


def test_what_both_halves_gather_is_one_rollout() -> None:
    config = pretrain.configure(SMALL)
    found = []
    for overlap in (False, True):
        learner: Any = pretrain.build(replace(config, overlap=overlap)).learner
        source = learner.sources[0]
        for _ in range(2):
            rollout, facts = source.collect(learner.policy, None)
        found.append((rollout, facts))
    (one, told), (two, also) = found
    assert also == pytest.approx(told, abs=1e-5)
    for name in ("chain", "log_prob", "reward", "terminated", "truncated", "discount"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(two.observation["proprio"], one.observation["proprio"], atol=1e-5, rtol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, CAUSAL], ids=["mlp", "causal"])
def test_halves_are_one_collector_with_all_worlds(settings: dict[str, Any], tmp_path: Path) -> None:
    """Also where a run with halves goes on without them."""
    one, two = train(tmp_path / "one", **settings), train(tmp_path / "two", overlap=True, **settings)
    assert_alike(one, two)
    (two / "finished.json").unlink()
    last = max((two / "checkpoints").glob("step_*"))
    last.rename(tmp_path / "last")
    assert_alike(one, train(two, resume=True, **settings))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--workers 2", "overlap: expected nothing with several workers"),
        ("--learners 2", "overlap: expected nothing with several learners"),
        ("--method ddiffpg", "overlap: expected nothing with method ddiffpg"),
    ],
)
def test_what_halves_cannot_do_is_told(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "--env", "fork/point", "--worlds", "6", "--overlap", *given.split(), "--dry-run"])
    found = capsys.readouterr().err
    assert stopped.value.code == 2 and said in found and found.count("\n") == 1, found
