"""Where a LeRobot dataset has what `data.quality` judges, and what is odd of it as a whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import numbers_of
from toddle.maths.quality import late_shift

__all__ = ["ACTION", "STATE", "QualityConfig", "Source", "calibration", "sources", "task_of"]

Array = NDArray[Any]
TOOL = "observation.tool_position"
STATE, ACTION = "observation.state", "action"


@config
class QualityConfig:
    """Where a dataset has what is judged."""

    path: str | None = None
    """Column of the hand's path in metres; a part of a column as `observation.state:0,1,2`; by default
    observation.tool_position, or the numbers of the state that are named x, y and z."""
    gripper: tuple[str, ...] | None = None
    """Numbers of an action that are grippers, by name or place (-1: the last); by default those named gripper, or the
    last number where actions have no names; `--judge.gripper` alone: none."""
    absolute: bool | None = None
    """Whether actions are positions to go to, and so a no-op repeats the last one; by default found by whether actions
    follow the state."""
    rate: Positive | None = None
    """Rows a second at which paths are compared; by default the lowest of the datasets."""


@dataclass(kw_only=True)
class Source:
    """A dataset, opened, and where it has what is judged."""

    dataset: LeRobotDataset
    path: str | None
    gripper: tuple[int, ...]
    absolute: bool
    notes: list[str]
    """What was left out, or is odd, a line each."""


def task_of(dataset: LeRobotDataset, place: int) -> str:
    """Return what an episode is compared under: its environment where that is known, else its sentence."""
    episode = dataset.episodes[place]
    return str(episode.facts.get("env") or dataset.task_of(episode.start))


def sources(datasets: Sequence[LeRobotDataset], config: QualityConfig) -> list[Source]:
    """Find in each dataset what is judged.  Raises InputError where actions, or a column that is named, are missing."""
    return [_source(dataset, config) for dataset in datasets]


def _source(dataset: LeRobotDataset, config: QualityConfig) -> Source:
    actions, notes = dataset.vector(ACTION), []
    path = config.path or _find_path(dataset)
    if path is None:
        notes.append(
            f"no {TOOL} and no state named x, y, z: squared_jerk, log_jerk, arc_length, efficiency and idle are left "
            "out; name the hand's place with --judge.path observation.state:0,1,2"
        )
    else:
        numbers_of(dataset, path)
    gripper = _grippers(dataset, actions.shape[1], config)
    if not gripper:
        notes.append("no gripper among the actions: gripper_changes is left out, and no_ops go by motion alone")
    absolute = _absolute(dataset, actions) if config.absolute is None else config.absolute
    if absolute:
        notes.append("actions follow the state: they are taken as positions, and a no-op repeats the last action")
    if "next.success" not in dataset.features:
        notes.append("no next.success: every episode is taken for a success")
    notes += _sentences(dataset)
    return Source(dataset=dataset, path=path, gripper=gripper, absolute=absolute, notes=notes)


def _grippers(dataset: LeRobotDataset, size: int, config: QualityConfig) -> tuple[int, ...]:
    """Return the places of the grippers in an action."""
    names = [name.lower() for name in dataset.names(ACTION) or ()]
    if config.gripper is None:
        found = [place for place, name in enumerate(names) if "grip" in name] if names else [size - 1]
        return tuple(found) if len(found) < size else ()
    places = []
    for asked in config.gripper:
        if asked.lower() in names:
            places.append(names.index(asked.lower()))
        elif asked.lstrip("-").isdigit() and -size <= int(asked) < size:
            places.append(int(asked) % size)
        else:
            known = f"a place from {-size} to {size - 1}" + (f" or one of {', '.join(names)}" if names else "")
            raise problem("judge.gripper", known, asked)
    if len(set(places)) == size:
        raise problem("judge.gripper", f"fewer than all {size} numbers of an action", " ".join(config.gripper))
    return tuple(places)


def _find_path(dataset: LeRobotDataset) -> str | None:
    if TOOL in dataset.features:
        return TOOL
    names = [name.lower() for name in dataset.names(STATE) or ()] if STATE in dataset.features else []
    if all(axis in names for axis in "xyz"):
        return f"{STATE}:{','.join(str(names.index(axis)) for axis in 'xyz')}"
    return None


def _absolute(dataset: LeRobotDataset, actions: Array) -> bool:
    """Whether actions have the state's numbers and follow them."""
    if STATE not in dataset.features or (state := dataset.vector(STATE)).shape != actions.shape:
        return False
    spread = state.std(axis=0) * actions.std(axis=0)
    joint = ((state - state.mean(axis=0)) * (actions - actions.mean(axis=0))).mean(axis=0)
    return bool(np.median(np.divide(joint, spread, out=np.zeros_like(joint), where=spread > 0)) > 0.9)


def _sentences(dataset: LeRobotDataset) -> list[str]:
    """Say which sentences are odd: empty, differing only in their spelling, or several for one environment."""
    notes, plain, of_env = [], dict[str, set[str]](), dict[str, set[str]]()
    for episode in dataset.episodes:
        said = dataset.task_of(episode.start)
        plain.setdefault(" ".join(re.findall(r"\w+", said.lower())), set()).add(said)
        of_env.setdefault(str(episode.facts.get("env", "")), set()).add(said)
    if "" in plain:
        notes.append("sentences: some episodes have none")
    for spellings in plain.values():
        if len(spellings) > 1:
            notes.append(f"sentences: one in {len(spellings)} spellings: {' / '.join(sorted(spellings))}")
    notes += [f"sentences: {len(said)} for {env}" for env, said in of_env.items() if env and len(said) > 1]
    return notes


def calibration(source: Source) -> list[str]:
    """Say where a state's answer to the actions has shifted between the first and the last third of a task's episodes.

    The answer is the state's change (for positions: its distance from the action) less the best linear guess of it
    from the actions in the first third; a shift counts beyond 5 standard errors and 2 % of the answer's deviation.
    """
    if STATE not in source.dataset.features:
        return []
    tasks: dict[str, list[slice]] = {}
    for place, episode in enumerate(source.dataset.episodes):
        if episode.length > 2:
            tasks.setdefault(task_of(source.dataset, place), []).append(slice(episode.start, episode.stop))
    return [note for task, spans in tasks.items() if len(spans) >= 12 for note in _shifted(source, task, spans)]


def _shifted(source: Source, task: str, spans: list[slice]) -> list[str]:
    state, actions = (source.dataset.vector(name).astype(np.float64) for name in (STATE, ACTION))
    if source.absolute:
        answers = [state[rows] - actions[rows] for rows in spans]
        inputs = [np.ones((len(part), 1)) for part in answers]
    else:
        answers = [np.diff(state[rows], axis=0) for rows in spans]
        inputs = [np.insert(actions[rows][:-1], 0, 1.0, axis=1) for rows in spans]
    first = len(spans) // 3
    guess, *_ = np.linalg.lstsq(np.concatenate(inputs[:first]), np.concatenate(answers[:first]), rcond=None)
    left = np.stack([(answer - given @ guess).mean(axis=0) for answer, given in zip(answers, inputs, strict=True)])
    shift, errors = late_shift(left)
    scale = np.concatenate(answers).std(axis=0)
    names = source.dataset.names(STATE) or tuple(f"{STATE}:{index}" for index in range(state.shape[1]))
    moved = np.flatnonzero((np.abs(errors) > 5.0) & (np.abs(shift) > 0.02 * scale))
    return [
        f"calibration: {names[i]} answers to actions by {shift[i]:+.3g} a row differently in the last third of {task}"
        for i in moved[:4]
    ]
