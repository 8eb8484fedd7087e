"""Features of a frozen backbone, made once for a dataset and kept: what `sft` and `reward` learn from."""

from __future__ import annotations

from pathlib import Path

import torch

from toddle.core.types import FeatureSource
from toddle.data.augment import PictureAugmentation
from toddle.data.feature_cache import FeatureCache, cache_dataset
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.runs.loop import ProgressLine

__all__ = ["cached_features"]


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
