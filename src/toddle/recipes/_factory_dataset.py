"""The one dataset of `toddle factory`: the successes of all tasks, drawn by several processes and put together.

A policy of states plays without pictures.  Its successes are played once more, in shares that are `toddle record
--replay` of their own, each of which goes on where it was killed; the shares then become one dataset.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toddle.core.files import write_text_atomic
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.subset import write_subset
from toddle.recipes._factory_lines import Line
from toddle.runs.steps import Step, run_steps, toddle_step
from toddle.runs.steps_board import StepBar

__all__ = ["write_dataset"]

SHARE = 100
"""Episodes of a task that are drawn by one process, at most; they do not depend on how many processes there are."""


def write_dataset(config: Any, lines: Sequence[Line]) -> None:
    """Write <out>/dataset of the plays of these tasks; what is there already is of an earlier, killed call."""
    out: Path = config.out / "dataset"
    shares: Path = config.out / "drawn"
    if not (out / "meta" / "info.json").exists():
        drawn = bool(config.cameras) and config.observe == "state"
        datasets = _drawn(config, lines, shares) if drawn else [LeRobotDataset(line.plays) for line in lines]
        write_subset(out, [(each, range(len(each.episodes))) for each in datasets])
    if not (out / "README.md").exists():
        write_text_atomic(out / "README.md", _card(config, lines, LeRobotDataset(out)))
    shutil.rmtree(shares, ignore_errors=True)


def _drawn(config: Any, lines: Sequence[Line], folder: Path) -> list[LeRobotDataset]:
    """Draw the plays in shares; return these, in the order of tasks and seeds."""
    steps = list[Step]()
    for line in lines:
        plays = LeRobotDataset(line.plays)
        order = sorted(range(len(plays.episodes)), key=lambda place: int(plays.episodes[place].facts["seed"]))
        count = max(-(-len(order) // SHARE), 2 if len(config.tasks) == 1 else 1)
        for share in range(min(count, len(order))):
            own = order[share * len(order) // count : (share + 1) * len(order) // count]
            name = f"{line.folder.name}_{share}"
            source = folder / "plays" / name
            if not (source / "meta" / "info.json").exists():
                write_subset(source, [(plays, sorted(own))])
            settings = {
                "env": [line.task],
                "replay": [str(source.resolve())],
                "episodes": len(own),
                "batch": min(config.worlds, len(own)),
                "cameras": list(config.cameras),
                "image_size": config.image_size,
                "image_stride": config.image_stride,
            }
            steps.append(toddle_step(name, "record", settings, seconds=5 + 0.5 * len(own)))
    with StepBar("drawing") as bar:
        run_steps(steps, folder, processes=config.processes, progress=bar)
    return [LeRobotDataset(folder / step.name) for step in steps]


def _card(config: Any, lines: Sequence[Line], dataset: LeRobotDataset) -> str:
    """Return the dataset's card."""
    pictures = f"pictures of {' '.join(dataset.cameras)}" if dataset.cameras else "no pictures"
    began = "the human stand-in's" if config.demonstrations is None else str(config.demonstrations)
    size = f"{len(dataset.episodes)} episodes, {dataset.num_frames} rows, {pictures}"
    return "\n".join(
        [
            "# Demonstrations by diffusion RL",
            "",
            f"{size}, made by `toddle factory` in simulation.",
            "",
            f"- environments: {', '.join(line.task for line in lines)}",
            f"- demonstrator: diffusion policies that saw {config.observe}, imitated and learned on by RL",
            f"- demonstrations: {began}",
            "- exploration noise: none; failures: left out",
            "",
        ]
    )
