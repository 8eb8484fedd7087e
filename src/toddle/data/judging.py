"""A scripted judge of pieces of a dataset: which of two is better, by what was recorded, with a set share of errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toddle.core.errors import InputError, problem
from toddle.core.reading import read_json
from toddle.core.seeding import numpy_generator
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.preferences import Answer, AnswerFile, PairConfig, Segment, pairs, starts_in
from toddle.data.queries import questions
from toddle.maths.preferences import external_log_reward, trajectory_score

__all__ = ["JUDGES", "Score", "check_differs", "judge", "nearness", "scorer"]

Score = Callable[[Segment], float]
"""How good a piece is."""
TRIED = 1000
"""Pairs that are tried for one answer, before it is said that none is better than the other."""
JUDGES = {
    "success": "next.success",
    "return": "next.reward",
    "length": "action",
    "smoothness": "action",
    "cost-file": "action",
    "grape": "next.success",
}
"""What may decide, and the column it needs."""


def scorer(dataset: LeRobotDataset, by: str, costs: Path | None = None) -> Score:
    """Return how pieces are scored.

    success: 1 where there is one.  return: the sum of rewards.  length: fewer rows are better.  smoothness: actions
    that change less from one row to the next (mean square) are better.  cost-file: as `costs` says, a JSON file
    {"costs": {"<episode>": cost or [[cost of each constraint] of each stage]}}: less is better.
    grape: a success counts 1, the costs a hundredth (GRAPE's ranking without the policy's own likelihood).
    Raises InputError where the dataset or the file has not what is needed.
    """
    column = JUDGES[by]
    if column not in dataset.features:
        raise InputError(f"dataset: {dataset.path} has no column '{column}', which the judge by {by} needs")
    values = dataset.column(column).astype(np.float64).reshape(dataset.num_frames, -1)
    begin = {episode.index: episode.start for episode in dataset.episodes}

    def part(segment: Segment) -> np.ndarray[Any, Any]:
        return values[begin[segment.episode] + segment.start : begin[segment.episode] + segment.stop]

    if by in ("cost-file", "grape"):
        external = _costs(dataset, costs)
        if by == "cost-file":
            return lambda segment: external[segment.episode]
        return lambda segment: trajectory_score(external[segment.episode], bool(part(segment).any()))
    ways: dict[str, Score] = {
        "success": lambda segment: float(part(segment).any()),
        "return": lambda segment: float(part(segment).sum()),
        "length": lambda segment: float(segment.start - segment.stop),
        "smoothness": lambda segment: (
            -float(np.square(np.diff(part(segment), axis=0)).sum(1).mean()) if segment.stop - segment.start > 1 else 0.0
        ),
    }
    return ways[by]


def nearness(dataset: LeRobotDataset, reference: LeRobotDataset, rows: int) -> Score:
    """Return the score of pieces of `rows` rows: minus the mean absolute difference of their actions to demonstrated
    ones.

    Those are the actions of `reference` from the state of the same task on that is nearest to the piece's first (states
    divided by their standard deviations).  So NORA-1.5 (arXiv 2511.14659) labels chunks, but for its other part, the
    distance to a goal that a world model foresees.
    Raises InputError where `reference` has other states or actions, or no piece so long of a task of `dataset`.
    """
    for name in ("observation.state", "action"):
        wanted, found = (each.vector(name).shape[1] for each in (dataset, reference))
        if wanted != found:
            raise problem(f"reference: {reference.path}: {name}", f"{wanted} numbers, as {dataset.path} has", found)
    shown = reference.vector("observation.state").astype(np.float64)
    scale = np.maximum(shown.std(0), 1e-6)
    by_task: dict[str, list[np.ndarray[Any, Any]]] = {}
    for place, starts in starts_in(reference, PairConfig(rows=rows)).items():
        by_task.setdefault(reference.task_of(reference.episodes[place].start), []).append(starts)
    begins = {task: np.concatenate(starts) for task, starts in by_task.items()}
    for task in {dataset.task_of(episode.start) for episode in dataset.episodes} - set(begins):
        raise problem(f"reference: {reference.path}", f"an episode of at least {rows} rows of {task!r}", "none")
    state, done, meant = dataset.vector("observation.state"), dataset.vector("action"), reference.vector("action")
    begin = {episode.index: episode.start for episode in dataset.episodes}

    def score(segment: Segment) -> float:
        row = begin[segment.episode] + segment.start
        starts = begins[dataset.task_of(row)]
        nearest = starts[np.square((shown[starts] - state[row]) / scale).sum(1).argmin()]
        return -float(np.abs(done[row : row + rows] - meant[nearest : nearest + rows]).mean())

    return score


def _costs(dataset: LeRobotDataset, path: Path | None) -> dict[int, float]:
    if path is None:
        raise problem("costs", "a file of costs with --by cost-file or grape", "none")
    given, found = read_json(path, {"costs": dict})["costs"], {}
    for episode in dataset.episodes:
        cost = given.get(str(episode.index))
        try:
            stages = np.asarray(cost, np.float64).reshape(1, 1) if np.ndim(cost) == 0 else np.asarray(cost, np.float64)
        except (TypeError, ValueError):
            stages = np.zeros(0)
        if stages.ndim != 2 or not np.isfinite(stages).all():
            wanted = "a number, or a list of stages, each a list of as many costs"
            raise problem(f"{path}: costs: episode {episode.index}", wanted, str(cost)[:60])
        found[episode.index] = float(external_log_reward(torch.from_numpy(stages)))
    return found


def check_differs(dataset: LeRobotDataset, settings: PairConfig, score: Score) -> None:
    """Raise InputError where of the first pairs that would be tried for an answer none has a better piece."""
    if all(score(first) == score(second) for first, second in itertools.islice(pairs(dataset, settings), TRIED)):
        raise problem(f"dataset: {dataset.path}", "pieces of which one is better", f"{TRIED} pairs of equals")


def judge(
    dataset: LeRobotDataset,
    file: AnswerFile,
    settings: PairConfig,
    score: Score,
    *,
    answers: int,
    error: float,
    seed: int,
) -> int:
    """Answer until the file holds `answers`; return how many pairs were passed over since neither piece was better.

    A share `error` of the answers, drawn by `seed`, is wrong.  Raises InputError where no piece is better than another.
    """
    wrong = numpy_generator(seed, "wrong answers")
    given = equal = 0

    def known() -> list[Answer]:
        return file.answers[:given]

    for tried, (first, second) in enumerate(questions(dataset, settings, known)):
        if given >= answers:
            break
        if tried - given >= TRIED * (given + 1):
            raise problem(f"dataset: {dataset.path}", "pieces of which one is better", f"{tried} pairs of equals")
        difference = score(first) - score(second)
        if difference == 0.0:
            equal += 1
            continue
        better = 1 if difference > 0 else 2
        answer = Answer(first, second, 3 - better if wrong.random() < error else better)
        if given >= len(file.answers):
            file.append(answer)
        given += 1
    return equal
