"""A LeRobot dataset of a toy body on disk: three episodes, pictures every second row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_writer import DatasetWriter

LENGTHS = (9, 6, 8)
TASKS = ("open the drawer", "press the red button", "open the drawer")


def write_toy_dataset(folder: Path, *, seed: int = 0) -> Path:
    """States are 5 numbers, actions 3, one camera "close" of 32 x 32 pixels, 20 rows a second."""
    rng = np.random.default_rng(seed)
    spec = DatasetSpec(
        fps=20,
        features={"observation.state": Feature(size=5), "action": Feature(size=3)},
        robot_type="toy",
        cameras={"close": (32, 32)},
        images="image",
        image_stride=2,
    )
    with DatasetWriter(folder, spec) as writer:
        for number, (length, task) in enumerate(zip(LENGTHS, TASKS)):
            columns = {
                "observation.state": rng.normal(size=(length, 5)).astype(np.float32),
                "action": rng.uniform(-1, 1, (length, 3)).astype(np.float32),
            }
            pictures = rng.integers(0, 256, (-(-length // 2), 3, 32, 32), dtype=np.uint8)
            writer.add_episode(columns, {"close": pictures}, task, {"env": f"toy/{task[:4]}", "seed": number})
    return folder
