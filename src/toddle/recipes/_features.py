"""Features of a frozen backbone, made once for a dataset and kept: what `sft`, `reward` and `offline` learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toddle.core.errors import problem
from toddle.core.types import FeatureSource
from toddle.data.augment import PictureAugmentation
from toddle.data.feature_cache import FeatureCache, cache_dataset, picture_index
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.runs.loop import ProgressLine

__all__ = ["cached_features", "check_pictures", "states_seen", "tokens_seen"]

Array = NDArray[Any]


def cached_features(
    root: Path,
    source: FeatureSource,
    cameras: tuple[str, ...],
    dataset: LeRobotDataset,
    augment: PictureAugmentation | None = None,
) -> FeatureCache:
    """Return the features of a dataset's pictures (and of their changed copies), made where they are missing."""
    augment = augment or PictureAugmentation()
    with torch.no_grad(), ProgressLine("features", augment.copies * dataset.num_pictures) as bar:
        return cache_dataset(
            root,
            source.fingerprint,
            dataset,
            cameras,
            source.shape,
            source.encode,
            augment=augment,
            on_block=bar.advance,
        )


def states_seen(root: Path, vla: Any, dataset: LeRobotDataset) -> Array:
    """Return what critics of a VLA see at every row (N, D): the state, and the mean of the frozen backbone's tokens.

    Raises InputError where its backbone learns, or the dataset lacks its pictures.
    """
    if not vla.cameras or vla.features is None:
        raise problem("features", "a VLA whose backbone is frozen", f"kind '{vla.kind}'")
    context, mask = cached_features(root, vla.features, vla.cameras, dataset).load()
    pooled = np.stack([tokens[real].astype(np.float32).mean(0) for tokens, real in zip(context, mask, strict=True)])
    rows = picture_index(dataset, np.arange(dataset.num_frames))
    return np.concatenate([dataset.vector("observation.state"), pooled[rows]], 1)


def check_pictures(vla: Any, dataset: LeRobotDataset) -> Array:
    """Return the picture (N,) of every row.  Raises InputError where a VLA's backbone learns, the dataset lacks its
    pictures, or rows share one."""
    if vla.features is None or not vla.cameras:
        raise problem("features", "a VLA whose backbone is frozen", f"kind '{vla.kind}'")
    if missing := [camera for camera in vla.cameras if camera not in dataset.cameras]:
        raise problem("dataset", f"pictures of {' '.join(missing)}", str(dataset.path), "record them with --cameras")
    rows = picture_index(dataset, np.arange(dataset.num_frames))
    if len(np.unique(rows)) < len(rows):
        raise problem("dataset", "a picture of every control step", str(dataset.path), "toddle worldmodel record")
    return rows


def tokens_seen(root: Path, vla: Any, dataset: LeRobotDataset) -> tuple[Array, Array]:
    """Return the frozen backbone's tokens (N, G, D) float16 at every row, and which are real (G,) bool.

    Raises InputError as `check_pictures`, and where sentences are of several lengths.
    """
    rows = check_pictures(vla, dataset)
    context, mask = cached_features(root, vla.features, vla.cameras, dataset).load()
    if not (mask == mask[0]).all():
        raise problem("dataset", "sentences of one length", str(dataset.path))
    return context[rows], mask[0]
