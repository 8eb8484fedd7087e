"""`toddle worldmodel record|train|evaluate|imagine|improve`: a model of an environment, learned from recordings of it.

Each word is a command of its own, in `worldmodel_<word>.py`; what they share is here.  A trained model is an
environment, `imagined/<folder>` (`envs.imagined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toddle.core.errors import problem
from toddle.data.lerobot_dataset import LeRobotDataset

__all__ = ["ACTIONS", "opened", "recorded_in"]

ACTIONS = {
    "record": "record whole episodes of policies, failures too, for a model to learn from",
    "train": "train a model of the environment on recordings, and a control that is shown shuffled actions",
    "evaluate": "measure it: errors over the horizon beside controls, doubt, real against imagined success",
    "imagine": "play a policy in the model and in the environment, from the same starts",
    "improve": "offline RL, a gate in the model, new episodes, again; then online RL (RL-100)",
}
"""The words after `toddle worldmodel`."""


def opened(folders: Sequence[Path]) -> list[LeRobotDataset]:
    """Open datasets, or those in the folders of `toddle worldmodel record`.  Raises InputError where there are none."""
    found = []
    for folder in folders:
        inside = sorted(path.parent.parent for path in Path(folder).glob("*/meta/info.json"))
        found += [LeRobotDataset(path) for path in inside or [folder]]
    if not found:
        raise problem("dataset", "at least one folder", "none")
    return found


def recorded_in(datasets: Sequence[LeRobotDataset]) -> str:
    """Return the one environment that datasets were recorded in.  Raises InputError where it is not one."""
    names = sorted({str(one.facts.get("env", "")) for dataset in datasets for one in dataset.episodes})
    if len(names) != 1 or not names[0]:
        found = ", ".join(name or "episodes that do not say" for name in names)
        raise problem("dataset", "episodes of one environment, as toddle worldmodel record writes them", found)
    return names[0]
