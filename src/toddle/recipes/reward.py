"""`toddle reward label|train|evaluate|fit|plot`: models that pay for progress before there is success, and terms.

Each word is a command of its own, in `reward_<word>.py`; what they share is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toddle.core.errors import problem
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import LabelConfig, LabelledEpisode, label_episodes, read_labels, time_episodes

__all__ = ["ACTIONS", "check_datasets", "labelled", "summary", "timed"]

ACTIONS = {
    "label": "label the steps of demonstrations that lead to a key frame, and draw them",
    "train": "train the process reward model on such labels",
    "fit": "train terms of a composed reward on recorded successes and failures",
    "plot": "draw every term of a composed reward over recorded episodes, beside policies that would cheat it",
    "evaluate": "measure it on episodes that were held out, beside controls that must fail",
}
"""The words after `toddle reward`."""


def labelled(
    folders: Sequence[Path], config: LabelConfig, labels: Path | None = None
) -> list[tuple[LeRobotDataset, list[LabelledEpisode]]]:
    """Open datasets and label their episodes, or take the labels of a file."""
    found = []
    for folder in folders:
        dataset = LeRobotDataset(folder)
        episodes = label_episodes(dataset, config)
        found.append((dataset, episodes if labels is None else read_labels(labels, dataset, episodes)))
    return found


def timed(folders: Sequence[Path]) -> list[tuple[LeRobotDataset, list[LabelledEpisode]]]:
    """Open datasets for a model that learns from time alone."""
    datasets = [LeRobotDataset(folder) for folder in folders]
    return [(dataset, time_episodes(dataset)) for dataset in datasets]


def summary(dataset: LeRobotDataset, episodes: Sequence[LabelledEpisode]) -> str:
    """Return in a line how many key frames and labels there are."""
    good = [one for one in episodes if one.success]
    if not any(len(one.keys) for one in good):
        steps = sum(len(one.rows) for one in good)
        return f"{dataset.path}: {len(good)} successes of {len(episodes)} episodes, {steps} steps up to success"
    steps, labels = sum(len(one.rows) for one in good), sum(int(one.labels.sum()) for one in good)
    keys, without = sum(len(one.keys) for one in good), sum(not len(one.keys) for one in good)
    return (
        f"{dataset.path}: {len(good)} successes of {len(episodes)} episodes, {steps} steps, {keys} key frames "
        f"({without} episodes without), {labels / max(1, steps):.0%} of the steps labelled"
    )


def check_datasets(folders: Sequence[Path]) -> None:
    """Raise InputError where no dataset is named."""
    if not folders:
        raise problem("dataset", "at least one folder", "none")
