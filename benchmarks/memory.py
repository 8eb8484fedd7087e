"""What `toddle sft --dry-run` forecasts of a step's memory against what a process takes at its peak, on a CPU.

    python benchmarks/memory.py                               a table in about five minutes; docs/scaling.md has it

Each row is two processes: one forecasts from steps of 2 and 4 decisions, the other makes three real steps and reads the
peak that the kernel kept (VmHWM) less what the process held before the first.  The C library is told to give large
blocks back at once (MALLOC_MMAP_THRESHOLD_), for what it keeps for itself is not the step's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import torch

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.algorithms.sft_memory import forecast
from toddle.core.memory import peak_memory, resident
from toddle.core.types import BodySpec
from toddle.models.backbones.base import BackboneConfig
from toddle.models.expert import ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.vla import FlowVLA, FlowVLAConfig

SMALL, WIDE = {"width": 192, "depth": 4, "heads": 4}, {"width": 512, "depth": 8, "heads": 8}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "warm": ({"width": 32, "depth": 2, "heads": 2}, {"batch": 2}),
    "192 x 4": (SMALL, {"batch": 512}),
    "192 x 4, checkpointing": (SMALL, {"batch": 512, "checkpointing": True}),
    "192 x 4, in 4 parts": (SMALL, {"batch": 512, "accumulate": 4}),
    "512 x 8": (WIDE, {"batch": 96}),
    "512 x 8, checkpointing": (WIDE, {"batch": 96, "checkpointing": True}),
    "512 x 8, Muon": (WIDE, {"batch": 16, "optimiser": "muon"}),
}
"""Sizes and settings; the first is of the step that both processes make before anything counts."""


class Data:
    """Decisions of numbers without meaning, of the sizes of the embedded backbone's features."""

    def __init__(self, tokens: int, width: int, window: int = 1) -> None:
        self.tokens, self.width, self.window = tokens, width, window

    def __len__(self) -> int:
        return 256

    def batch(self, samples: Any) -> dict[str, Any]:
        size, length = len(samples), self.window
        return {
            "observation": {
                "proprio": torch.zeros(length, size, 17),
                "previous_action": torch.zeros(length, size, 56),
                "first": torch.ones(length, size, dtype=torch.bool),
                "body": torch.zeros(length, size, dtype=torch.int64),
                "context": torch.ones(length, size, self.tokens, self.width),
                "context_mask": torch.ones(length, size, self.tokens, dtype=torch.bool),
            },
            "action": torch.zeros(size, 8, 7),
            "mask": torch.ones(size, 8, dtype=torch.bool),
        }


def made(name: str) -> tuple[FlowVLA, Data, SFTConfig]:
    """Return policy, data and settings of a row."""
    torch.set_num_threads(1)
    sizes, settings = ROWS[name]
    trunk = TrunkConfig(context_width=192, modulation="residual", **sizes)
    body = BodySpec(name="arm", proprio=17, action=7, dt=0.05)
    expert = ExpertConfig(trunk=trunk, bodies=(body,), horizon=8, executed=8, window=1, head="velocity")
    policy = FlowVLA.from_config(FlowVLAConfig(expert=expert, backbone=BackboneConfig()))
    return policy, Data(policy.features.shape[0], policy.features.shape[1]), SFTConfig(steps=100, **settings)  # type: ignore[union-attr]


def forecasted(name: str) -> int:
    policy, data, settings = made(name)
    return forecast(policy, lambda rows: data.batch(range(rows)), settings).peak


def measured(name: str) -> int:
    policy, data, settings = made("warm")
    SFT(policy, data, settings).step()  # what torch loads at its first step is not the step's
    policy, data, settings = made(name)
    before = resident()
    learner = SFT(policy, data, settings)
    for _ in range(3):
        learner.step()
    return peak_memory() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("HOW", "ROW"), help="forecast or measure, and a row: a number alone")
    parser.add_argument("--rows", nargs="*", default=list(ROWS)[1:], help="rows of the table")
    args = parser.parse_args()
    if args.one:
        how, name = args.one
        print(json.dumps({"forecast": forecasted, "measure": measured}[how](name)))
        return
    print("| expert, batch | forecast, MiB | measured, MiB | forecast / measured |\n|---|---|---|---|")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    for name in args.rows:
        found = []
        for how in ("forecast", "measure"):
            command = [sys.executable, __file__, "--one", how, name]
            found.append(int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout))
        batch = ROWS[name][1]["batch"]
        print(
            f"| {name}, {batch} | {found[0] / 2**20:.0f} | {found[1] / 2**20:.0f} | {found[0] / found[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
