"""What `toddle sft` checks of weights that are shared out, and examples of its batches before there are features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from toddle.algorithms.sft import SFTConfig
from toddle.core.errors import problem
from toddle.core.protocols import FineTunable
from toddle.data.demonstrations import Demonstrations
from toddle.data.windows import WindowDataset

__all__ = ["check_sharding", "examples"]


def check_sharding(sharded: bool, learners: int, config: SFTConfig) -> None:
    """Raise InputError where weights cannot be shared out."""
    kept = {"one learner": learners == 1, "sft.regime adapter_first": config.regime != "joint"}
    kept |= {"sft.l2_sp": config.l2_sp > 0, "sft.optimiser muon": config.optimiser == "muon"}
    kept |= {"sft.compile": config.compile}
    for what, given in kept.items():
        if sharded and given:
            raise problem("sharding", f"none with {what}", "full")


def examples(policy: FineTunable, windows: list[WindowDataset]) -> Callable[[int], dict[str, Any]]:
    """Return what makes a batch of so many samples, with features of 0 in place of those that are not made yet."""
    data = Demonstrations(windows, body=policy.body_index(windows[0].dataset.robot_type), cameras=policy.cameras)
    if policy.features is not None:
        shape = policy.features.shape
        features, real = np.zeros((1, *shape), np.float16), np.ones((1, shape[0]), bool)
        data.maps = [(features, real)] * len(windows)
        data.pictures[:] = 0
    return lambda rows: data.batch(np.arange(rows) % len(data))
