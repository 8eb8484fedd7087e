"""Run by `test_lerobot.py` in lerobot's own environment: load a dataset with LeRobotDataset, save what it gives.

Usage: python read_by_lerobot.py DATASET OUT.npz
"""

import sys

import numpy as np
import torch

library = torch.library.Library("torchvision", "DEF")
try:
    import torchvision  # noqa: F401
except RuntimeError:  # the registry's torchvision lacks its operators beside a CPU build of torch: declare them
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402


def main(path: str, out: str) -> None:
    rate = 20
    data = LeRobotDataset("local/dataset", root=path, delta_timestamps={"action": [i / rate for i in range(4)]})
    found: dict[str, list[object]] = {}
    for index in range(len(data)):
        for key, value in data[index].items():
            found.setdefault(key, []).append(value if isinstance(value, str) else np.asarray(value))
    arrays = {key: np.asarray(values) for key, values in found.items()}
    stats = {
        f"stats/{key}/{name}": np.asarray(value)
        for key, part in data.meta.stats.items()
        for name, value in part.items()
    }
    ends = np.asarray([int(row["dataset_to_index"]) for row in data.meta.episodes])
    np.savez(out, ends=ends, fps=data.fps, robot=data.meta.robot_type, **arrays, **stats)


if __name__ == "__main__":
    main(*sys.argv[1:])
