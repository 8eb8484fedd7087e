"""`toddle prefer ask`: a person says on a small page which of two videos is better."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated

import tyro

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, Port
from toddle.core.plan import Plan
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.preferences import AnswerFile, PairConfig, check_answers, pairs
from toddle.reporting.preference_page import AskServer

__all__ = ["OUT_IS_FILE", "Config", "plan", "run"]

OUT_IS_FILE = True

PERSON = "a person"


@config
class Config:
    """Say, on a page in a browser on this machine, which of two videos of a dataset is better: keys 1, 2 and 0.

    Each answer is stored at once; the same command goes on with the file.
    Example: toddle prefer ask data/plays --answers 50 --out runs/answers.jsonl
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    """LeRobot dataset (v3.0) with pictures."""
    out: Path = Path("runs/answers.jsonl")
    """File of the answers."""
    answers: Count = 50
    """Answers to ask for, those that are in the file counted."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Which pieces are compared."""
    camera: str | None = None
    """Camera of the videos; by default the dataset's first."""
    port: Port = 0
    """Port on 127.0.0.1; 0: any that is free."""


def _dataset(config: Config) -> LeRobotDataset:
    """Open the dataset.  Raises InputError where it has no such camera, or nothing to compare."""
    dataset = LeRobotDataset(config.dataset)
    if not dataset.cameras:
        raise problem(f"dataset: {dataset.path}", "a camera", "none", "let toddle prefer judge answer")
    dataset.picture_size(config.camera or dataset.cameras[0])
    next(pairs(dataset, config.pairs))
    return dataset


def plan(config: Config) -> Plan:
    """Open the dataset and say what will be done."""
    dataset = _dataset(config)
    check_answers(config.out, dataset, config.pairs, PERSON)
    camera = config.camera or dataset.cameras[0]
    return Plan(
        steps=[
            f"show pairs of {len(dataset.episodes)} episodes of {config.dataset}, camera {camera}, on 127.0.0.1",
            f"write {config.answers} answers to {config.out}",
        ],
        memory_bytes=10**9,
        seconds=None,
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Serve the page until all is answered."""
    dataset = _dataset(config)
    with AnswerFile(config.out, dataset, config.pairs, PERSON) as file:
        server = AskServer(
            dataset,
            file,
            config.pairs,
            answers=config.answers,
            camera=config.camera,
            port=config.port,
        )
        try:
            if not server.finished.is_set():
                print(f"open {server.url} (Ctrl-C ends; what is answered is kept)", flush=True)
                server.finished.wait()
        except KeyboardInterrupt:
            said = f"stopped with {len(file.answers)} of {config.answers} answers; the same command goes on"
            raise KeyboardInterrupt(said) from None
        finally:
            server.close()
        print(f"answers: {config.out}: {len(file.answers)}")
