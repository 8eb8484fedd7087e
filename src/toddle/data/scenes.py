"""Rendered scenes for the pretraining of a backbone: one file per task, written atomically, so rendering resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from toddle.core.errors import InputError
from toddle.core.files import write_atomic

__all__ = ["POSES", "Scenes", "load_scenes", "save_scenes", "scenes_file"]

POSES = ("hand", "object", "goal")


class Scenes:
    """Frames with what they show.

    images (N, 3, S, S) uint8; poses (N, 3, 3) float32 metres of hand, object and goal (NaN where a task has none);
    task (N,) int64 index into `sentences`; episode (N,) int64, frames of one episode never part.
    """

    def __init__(self, images: Any, poses: Any, task: Any, episode: Any, sentences: list[tuple[str, ...]]) -> None:
        self.images, self.poses = images, np.asarray(poses, np.float32)
        self.task, self.episode = np.asarray(task, np.int64), np.asarray(episode, np.int64)
        self.sentences = sentences

    def __len__(self) -> int:
        return len(self.task)

    def where(self, rows: Any) -> Scenes:
        """Return the frames of `rows` (a mask or indices)."""
        return Scenes(self.images[rows], self.poses[rows], self.task[rows], self.episode[rows], self.sentences)


def scenes_file(folder: Path, task: str) -> Path:
    """Return the file of a task's frames."""
    return Path(folder) / f"{task}.safetensors"


def save_scenes(folder: Path, task: str, arrays: dict[str, Any]) -> None:
    """Write `images`, `poses` and `episode` of one task."""
    write_atomic(scenes_file(folder, task), lambda path: safetensors.numpy.save_file(arrays, path))


def load_scenes(folder: Path, sentences: dict[str, tuple[str, ...]]) -> Scenes:
    """Read the frames of all tasks in `sentences`.  Raises InputError when a file is missing or damaged."""
    parts: dict[str, list[Any]] = {"images": [], "poses": [], "episode": [], "task": []}
    for index, task in enumerate(sentences):
        try:
            arrays = safetensors.numpy.load_file(scenes_file(folder, task))
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(
                f"scenes: {scenes_file(folder, task)} cannot be read ({error}); delete it and run again"
            ) from None
        for name in ("images", "poses", "episode"):
            parts[name].append(arrays[name])
        parts["task"].append(np.full(len(arrays["episode"]), index, np.int64))
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return Scenes(sentences=list(sentences.values()), **joined)
