"""Recorded episodes as the terms of a composed reward read them: features of each step, up to success."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from toddle.algorithms.reward_training import ProgressSamples
from toddle.algorithms.rewards.learned import RecordedEpisode
from toddle.algorithms.rewards.steps import Seen, Steps, features_of
from toddle.core.types import FeatureSource
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import time_episodes
from toddle.recipes._features import cached_features

__all__ = ["recorded", "steps_of_episode"]


def recorded(
    folders: Sequence[Path],
    *,
    source: FeatureSource | None,
    cameras: tuple[str, ...],
    cache: Path,
    every: int = 1,
) -> list[RecordedEpisode]:
    """Return the episodes of datasets, every so many of their steps (and the last).

    source: the frozen backbone whose features come before the state; None: the state alone.
    """
    found = []
    for folder in folders:
        dataset = LeRobotDataset(folder)
        episodes = time_episodes(dataset)
        if source is None:
            states = dataset.vector("observation.state").astype(np.float32)
            features = [torch.from_numpy(states[one.rows]) for one in episodes]
        else:
            samples = ProgressSamples([(dataset, cached_features(cache, source, cameras, dataset), episodes)])
            places = [np.flatnonzero(samples.episode == number) for number in range(len(episodes))]
            features = [features_of(samples.batch(own)) for own in places]  # type: ignore[arg-type]
        for one, rows in zip(episodes, features, strict=True):
            kept = torch.arange(len(rows) - 1, -1, -every).flip(0)
            found.append(RecordedEpisode(rows[kept], one.success, one.task))
    return found


def steps_of_episode(one: RecordedEpisode, states: int, discount: float = 0.99) -> Steps:
    """Return an episode as a term reads it; the last of its steps ends it.  states: numbers of a state, the last."""
    features = one.features[:, None]
    no = torch.zeros(features.shape[:2], dtype=torch.bool)
    last, first = no.clone(), no.clone()
    last[-1], first[0] = True, True
    following = torch.cat([features[1:], features[-1:]])
    return Steps(
        now=Seen(features, features[..., -states:]),
        following=Seen(following, following[..., -states:]),
        first=first,
        terminated=last if one.success else no,
        truncated=no if one.success else last,
        success=last if one.success else no,
        discount=torch.full(no.shape, discount),
        environment=(last if one.success else no).float(),
        real=~no,
    )
