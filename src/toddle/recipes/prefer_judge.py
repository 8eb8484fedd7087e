"""`toddle prefer judge`: a scripted judge answers which of two pieces of a dataset is better."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, Seed, Share
from toddle.core.plan import Plan
from toddle.data.judging import Score, check_differs, judge, nearness, scorer
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.preferences import AnswerFile, PairConfig, check_answers
from toddle.data.progress import identity

__all__ = ["OUT_IS_FILE", "Config", "plan", "run"]

OUT_IS_FILE = True


@config
class Config:
    """Answer which of two pieces of a dataset is better, by what was recorded, with a set share of errors.

    Pairs of which neither is better are passed over.  The same command goes on with a file that holds fewer answers.
    Example: toddle prefer judge data/plays --by success --error 0.1 --answers 50 --out runs/answers.jsonl
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    """LeRobot dataset (v3.0), as `toddle record --keep-failures` writes it."""
    out: Path = Path("runs/answers.jsonl")
    """File of the answers."""
    by: Literal["success", "return", "length", "smoothness", "cost-file", "grape", "distance"] = "success"
    """What decides: a success, the sum of rewards, fewer steps, actions that change less, the costs of a file,
    (grape) first success and then the costs, or (distance) whose actions are nearer to those of `reference`."""
    costs: Path | None = None
    """cost-file and grape: JSON {"costs": {"<episode>": cost, or [[cost of each constraint] of each stage]}}; less is
    better."""
    reference: Path | None = None
    """distance: LeRobot dataset of demonstrations of the same tasks; a piece is held against as many of its rows, from
    the nearest state on."""
    answers: Count = 50
    """Answers to give."""
    error: Share = 0.0
    """Share of wrong answers."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Which pieces are compared."""
    seed: Seed = 0
    """Seed of the errors."""

    def __post_init__(self) -> None:
        costly = self.by in ("cost-file", "grape")
        if (self.costs is not None) != costly:
            raise problem("costs", "a file with --by cost-file or grape, and none else", str(self.costs))
        if costly and self.pairs.rows:
            raise problem("pairs.rows", f"0 with --by {self.by}, whose costs are of whole episodes", self.pairs.rows)
        if (self.reference is not None) != (self.by == "distance"):
            raise problem("reference", "a dataset with --by distance, and none else", str(self.reference))
        if self.by == "distance" and not self.pairs.rows:
            raise problem("pairs.rows", "above 0 with --by distance, which is of pieces of one length", 0)


def _score(config: Config, dataset: LeRobotDataset) -> tuple[Score, str]:
    """Return how pieces are scored, and the name of it."""
    if config.reference is None:
        return scorer(dataset, config.by, config.costs), config.by
    shown = LeRobotDataset(config.reference)
    return nearness(dataset, shown, config.pairs.rows), f"distance to {identity(shown)}"


def _by(config: Config, name: str) -> str:
    """Say who answers."""
    return f"judge by {name}, error {config.error:g}, seed {config.seed}"


def plan(config: Config) -> Plan:
    """Open the dataset, look whether any piece is better than another, and say what will be done."""
    dataset = LeRobotDataset(config.dataset)
    score, name = _score(config, dataset)
    check_answers(config.out, dataset, config.pairs, _by(config, name))
    check_differs(dataset, config.pairs, score)
    return Plan(
        steps=[
            f"read {len(dataset.episodes)} episodes of {config.dataset}",
            f"answer {config.answers} questions by {config.by}, {config.error:.0%} of them wrong; write {config.out}",
        ],
        memory_bytes=5 * 10**8,
        seconds=1.0 + 0.01 * config.answers,
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Answer, one line after another."""
    dataset = LeRobotDataset(config.dataset)
    score, name = _score(config, dataset)
    with AnswerFile(config.out, dataset, config.pairs, _by(config, name)) as file:
        equal = judge(dataset, file, config.pairs, score, answers=config.answers, error=config.error, seed=config.seed)
        print(f"answers: {config.out}: {len(file.answers)}; {equal} pairs of equals were passed over")
