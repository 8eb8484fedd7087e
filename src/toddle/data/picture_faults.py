"""Faults of an episode's pictures: black, frozen while the robot moves, or late.  It decodes every picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import numbers_of
from toddle.data.quality_source import STATE
from toddle.maths.quality import lag

__all__ = ["Looked", "look", "picture_faults"]

Array = NDArray[Any]
BLACK = 12.0
"""Brightest pixel, of 255, up to which a picture is black (H.264 does not keep an exact 0)."""
STILL = 0.02
"""Share of the dataset's typical change (its 90 % quantile) below which a picture is the one before."""
MOST_LAG, FEWEST = 8, 24
"""Pictures by which one may be found late, at most, and the fewest changes from which that is asked."""
LIKE, BETTER = 0.6, 0.25
"""Correlation of changes and motion from which a lag counts, and by how much it must beat that without a lag."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was seen of an episode through one camera: n pictures."""

    changes: list[float]
    """Mean absolute change from the picture before, of 255, (n - 1,)."""
    moves: list[float]
    """How far the hand moved between them, in metres, or the state in its own units, (n - 1,)."""
    black: float
    """Share of black pictures."""


def look(dataset: LeRobotDataset, camera: str, place: int, path: str | None) -> Looked:
    """Decode an episode's pictures.  path: column of the hand's path; without one the state's motion counts.

    Raises InputError where they cannot be read.
    """
    episode = dataset.episodes[place]
    rows = np.arange(episode.start, episode.stop, dataset.image_stride)
    pictures = dataset.images(camera, rows).astype(np.int16)
    changes = np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2, 3))
    where = path or (STATE if STATE in dataset.features else None)
    moved = np.zeros((len(rows), 1)) if where is None else numbers_of(dataset, where)[rows]
    return Looked(
        changes=changes.tolist(),
        moves=np.linalg.norm(np.diff(moved, axis=0), axis=1).tolist(),
        black=float((pictures.max(axis=(1, 2, 3)) <= BLACK).mean()),
    )


def picture_faults(looked: Sequence[Looked], camera: str, seconds: float) -> list[list[str]]:
    """Return the faults of each of a dataset's episodes through one camera.

    seconds: between two pictures.  A picture is frozen where it equals the one before while the motion is at least half
    its median; an episode with a tenth of such pictures has the fault, and one with a twentieth of black ones.
    """
    every = np.concatenate([np.asarray(one.changes) for one in looked])
    still = STILL * float(np.quantile(every, 0.9)) if len(every) else 0.0
    return [_faults(one, camera, seconds, still) for one in looked]


def _faults(one: Looked, camera: str, seconds: float, still: float) -> list[str]:
    if one.black > 0.05:
        return [f"{camera}: {one.black:.0%} of the pictures are black"]
    changes, moves = np.asarray(one.changes), np.asarray(one.moves)
    if not len(changes) or not moves.any():
        return []
    moving = moves >= 0.5 * np.median(moves)
    frozen = float(((changes <= still) & moving).mean())
    if frozen > 0.1:
        return [f"{camera}: {frozen:.0%} of the pictures are frozen"]
    if len(changes) >= FEWEST:
        by, there, without = lag(changes, moves, MOST_LAG)
        if by > 0 and there >= LIKE and there >= without + BETTER:
            return [f"{camera}: pictures are late by about {by * seconds:.2g} s"]
    return []
