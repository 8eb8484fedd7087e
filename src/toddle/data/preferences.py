"""Pairs of pieces of a dataset that are compared, and the answers, one JSON line each in a file that only grows.

The first line says what is compared, who answers, and how pairs were chosen; pairs follow from it, so a file is gone on
with where it ends.  A line that a kill cut short is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from toddle.core.config import changes, config, to_dict
from toddle.core.errors import InputError, problem
from toddle.core.numbers import Count, Seed, Whole
from toddle.core.reading import Kinds, check_keys, read_bytes, read_json_lines
from toddle.core.seeding import numpy_generator
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import identity

__all__ = ["Answer", "AnswerFile", "PairConfig", "Segment", "check_answers", "pairs", "read_answers", "starts_in"]

FORMAT = 1
HEADER: Kinds = {"format": int, "identity": str, "dataset": str, "pairs": dict, "by": str}
LINE: Kinds = {"first": list, "second": list, "answer": int}
Array = NDArray[Any]


@config
class PairConfig:
    """Which pieces of a dataset are compared."""

    rows: Whole = 0
    """Control steps of a piece; 0: whole episodes, up to their first success where the dataset says when that was."""
    near: Count = 5
    """The second of a pair is drawn among so many episodes of the same task that hold the states nearest to the first
    one's start (states divided by their standard deviations)."""
    choose: Literal["any", "informative"] = "any"
    """Which pair is next: any, or of twenty the one whose answer is expected to tell most about what is preferred."""
    seed: Seed = 0
    """Seed of the pairs."""


@dataclass(frozen=True)
class Segment:
    """Rows `start` to `stop`, counted from its episode's beginning, of the episode of that number."""

    episode: int
    start: int
    stop: int


@dataclass(frozen=True)
class Answer:
    """Which of two pieces was preferred: 1 the first, 2 the second, 0 neither."""

    first: Segment
    second: Segment
    answer: int


def pairs(dataset: LeRobotDataset, settings: PairConfig) -> Iterator[tuple[Segment, Segment]]:
    """Yield pairs of pieces of the same task that begin in near states, without end; the same pairs every time.

    Every piece is drawn as the first of a pair before one is a second time.
    Raises InputError where no two episodes of a task are long enough.
    """
    starts = starts_in(dataset, settings)
    state = dataset.vector("observation.state").astype(np.float64)
    state = state / np.maximum(state.std(0), 1e-6)
    by_task: dict[str, list[int]] = {}
    for place in starts:
        by_task.setdefault(dataset.task_of(dataset.episodes[place].start), []).append(place)
    drawn_from = [place for places in by_task.values() if len(places) > 1 for place in places]
    if not drawn_from:
        wanted = "two episodes of one task" + (f" of at least {settings.rows} rows" if settings.rows else "")
        raise problem(f"dataset: {dataset.path}", wanted, "none")
    generator = numpy_generator(settings.seed, "pairs")
    while True:
        for place in generator.permutation(drawn_from).tolist():
            row = int(generator.choice(starts[place]))
            others = [other for other in by_task[dataset.task_of(dataset.episodes[place].start)] if other != place]
            nearest = []
            for other in others:
                distance = np.square(state[starts[other]] - state[row]).sum(1)
                nearest.append((float(distance.min()), int(starts[other][distance.argmin()]), other))
            _, other_row, other = sorted(nearest)[int(generator.integers(min(settings.near, len(nearest))))]
            found = [_segment(dataset, settings, *each) for each in ((place, row), (other, other_row))]
            first, second = found if generator.random() < 0.5 else found[::-1]
            yield first, second


def starts_in(dataset: LeRobotDataset, settings: PairConfig) -> dict[int, Array]:
    """Return at which rows of the dataset a piece may begin, by the place of its episode."""
    if not settings.rows:
        return {place: np.array([episode.start]) for place, episode in enumerate(dataset.episodes)}
    return {
        place: np.arange(episode.start, episode.stop - settings.rows + 1)
        for place, episode in enumerate(dataset.episodes)
        if episode.length >= settings.rows
    }


def _segment(dataset: LeRobotDataset, settings: PairConfig, place: int, row: int) -> Segment:
    episode = dataset.episodes[place]
    start = row - episode.start
    if settings.rows:
        return Segment(episode.index, start, start + settings.rows)
    stop = episode.length
    if "next.success" in dataset.features:
        reached = np.flatnonzero(dataset.column("next.success")[episode.start : episode.stop])
        stop = int(reached[0]) + 1 if len(reached) else stop
    return Segment(episode.index, start, stop)


def _header(dataset: LeRobotDataset, settings: PairConfig, by: str) -> dict[str, Any]:
    header: dict[str, Any] = {"format": FORMAT, "identity": identity(dataset), "dataset": str(dataset.path)}
    return header | {"pairs": to_dict(settings), "by": by}


def _begun(path: Path, dataset: LeRobotDataset, header: dict[str, Any]) -> tuple[int, list[Answer]]:
    """Return how many bytes of a file of answers are whole lines, and the answers; raises InputError where it holds
    answers to other questions than `header` says, or something else."""
    found, answers = read_bytes(path), list[Answer]()
    if begun := found.rfind(b"\n") + 1:
        was, answers = _read(path, dataset)
        for name, before, now in changes({k: was[k] for k in ("pairs", "by")}, {k: header[k] for k in ("pairs", "by")}):
            raise problem(f"{path}: {name}", f"{before}, with which it was begun", now, "or take another file")
    elif found and not found.startswith(b'{"format"'):
        raise problem(str(path), "a file of answers, or none", "something else")
    return begun, answers


def check_answers(path: Path, dataset: LeRobotDataset, settings: PairConfig, by: str) -> None:
    """Raise InputError where `AnswerFile` could not go on with what is at `path`; nothing is made or written."""
    if Path(path).exists():
        _begun(Path(path), dataset, _header(dataset, settings, by))


class AnswerFile:
    """A file of answers, open for more, by one process at a time.  Opening it drops a line that a kill cut short."""

    def __init__(self, path: Path, dataset: LeRobotDataset, settings: PairConfig, by: str) -> None:
        """Begin the file, or go on with it; `by` says who answers.

        Raises InputError where it holds answers to other questions or of somebody else, or is in use.
        """
        self.path = Path(path)
        header = _header(dataset, settings, by)
        if self.path.exists():
            _begun(self.path, dataset, header)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(f"{self.path} is in use by another process") from None
        begun, self.answers = _begun(self.path, dataset, header)
        self._file.truncate(begun)
        if not begun:
            self._write(header)

    def append(self, answer: Answer) -> None:
        """Add an answer; when this returns it is on disk."""
        self._write({"first": astuple(answer.first), "second": astuple(answer.second), "answer": answer.answer})
        self.answers.append(answer)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_answers(path: Path, dataset: LeRobotDataset) -> list[Answer]:
    """Return the answers of a file.  Raises InputError where it is damaged, has none, or is of another dataset."""
    if not Path(path).exists():
        raise problem("answers", "a file of answers", str(path), "make it: toddle prefer judge, or toddle prefer ask")
    _, answers = _read(Path(path), dataset)
    return answers


def _read(path: Path, dataset: LeRobotDataset) -> tuple[dict[str, Any], list[Answer]]:
    rows = read_json_lines(path)
    if not rows:
        raise problem(str(path), "a first line that says what is compared", "nothing")
    header = check_keys(rows[0], f"{path}: line 1", HEADER)
    if header["format"] != FORMAT:
        raise problem(f"{path}: line 1: format", str(FORMAT), header["format"])
    if header["identity"] != identity(dataset):
        raise problem(f"{path}: identity", f"answers about {dataset.path}", f"about another, {header['dataset']}")
    lengths = {episode.index: episode.length for episode in dataset.episodes}
    return header, [_answer(row, f"{path}: line {number}", lengths) for number, row in enumerate(rows[1:], 2)]


def _answer(row: dict[str, Any], where: str, lengths: dict[int, int]) -> Answer:
    check_keys(row, where, LINE)
    if row["answer"] not in (0, 1, 2):
        raise problem(f"{where}: answer", "0, 1 or 2", row["answer"])
    parts = [_read_segment(row[name], f"{where}: {name}", lengths) for name in ("first", "second")]
    return Answer(parts[0], parts[1], row["answer"])


def _read_segment(value: Sequence[Any], where: str, lengths: dict[int, int]) -> Segment:
    if len(value) != 3 or not all(type(each) is int for each in value):
        raise problem(where, "three whole numbers: episode, start, stop", str(list(value))[:60])
    if value[0] not in lengths:
        raise problem(where, "an episode of the dataset", value[0])
    if not 0 <= value[1] < value[2] <= lengths[value[0]]:
        raise InputError(f"{where}: expected rows within episode {value[0]}, 0 to {lengths[value[0]]}, got {value[1:]}")
    return Segment(*value)
