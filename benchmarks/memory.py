"""What `toddle sft --dry-run` and `toddle finetune --dry-run` forecast of a step's (an iteration's) memory against what
a process takes at its peak, on a CPU.

    python benchmarks/memory.py                               a table in about ten minutes; docs/scaling.md has it

Each row is two processes: one forecasts from steps of 2 and 4 decisions (worlds), the other makes three real steps (two
iterations) and reads the peak that the kernel kept (VmHWM) less what the process held before the first.  The C library
is told to give large blocks back at once (MALLOC_MMAP_THRESHOLD_), for what it keeps for itself is not the step's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from toddle.algorithms.own_successes import OwnSuccesses, OwnSuccessesConfig
from toddle.algorithms.ppo import PPOConfig
from toddle.algorithms.sft import SFT, SFTConfig
from toddle.algorithms.sft_memory import forecast
from toddle.core.memory import peak_memory, resident
from toddle.core.types import BodySpec
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig
from toddle.methods._base import Run, Start
from toddle.methods._vla import VLAPPOSettings
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


RL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "RL warm": ({"width": 32, "depth": 2, "heads": 2}, {"worlds": 4}),
    "RL 192 x 4": (SMALL, {"worlds": 96}),
    "RL 192 x 4, checkpointing": (SMALL, {"worlds": 96, "checkpointing": True}),
    "RL 192 x 4, in 4 parts": (SMALL, {"worlds": 96, "accumulate": 4}),
    "RL 192 x 4, imitation beside": (SMALL, {"worlds": 48, "imitation": 256}),
    "RL 192 x 4, pictures": (SMALL, {"worlds": 32, "keep": "pictures"}),
    "RL 512 x 8": (WIDE, {"worlds": 32}),
    "RL 512 x 8, checkpointing, in 2 parts": (WIDE, {"worlds": 32, "checkpointing": True, "accumulate": 2}),
}
"""The same of PPO on a VLA on dots/reach: rollouts of 8 decisions in so many worlds, two minibatches."""


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


def made_rl(name: str) -> tuple[FlowVLA, Callable[[], Run]]:
    """Return a VLA, and what builds PPO around it and one iteration's settings."""
    torch.set_num_threads(1)
    sizes, settings = RL[name]
    ppo = {"epochs": 1, "minibatches": 2, "critic_warm_up": 0, "target_kl": None}
    ppo |= {key: settings[key] for key in ("accumulate", "checkpointing") if key in settings}
    body = BodySpec(name="dot", proprio=2, action=2, dt=0.1)
    trunk = TrunkConfig(context_width=192, modulation="residual", **sizes)
    expert = ExpertConfig(trunk=trunk, bodies=(body,), horizon=8, executed=4, window=1, head="velocity")
    policy = FlowVLA.from_config(FlowVLAConfig(expert=expert, backbone=BackboneConfig(), cameras=("top",)))
    env = make_env("dots/reach", settings["worlds"], seed=0, cameras=("top",), image_size=96)
    imitation = OwnSuccesses(policy, OwnSuccessesConfig(weight=1.0, batch=settings.get("imitation", 1)))
    start = Start(
        envs=[env],
        steps=10**6,
        init=policy.train(),
        parts={"auxiliaries": [imitation] if "imitation" in settings else []},
    )
    collect = CollectConfig(length=8, keep=settings.get("keep", "features"))
    return policy, lambda: VLAPPOSettings(collect=collect, ppo=PPOConfig(**ppo)).build(start)


def forecasted(name: str) -> int:
    if name in RL:
        run = made_rl(name)[1]()
        assert run.forecast is not None
        return run.forecast().peak
    policy, data, settings = made(name)
    return forecast(policy, lambda rows: data.batch(range(rows)), settings).peak


def measured_rl(name: str) -> int:
    made_rl("RL warm")[1]().learner.step()
    build = made_rl(name)[1]
    before = resident()
    run = build()
    learner: Any = run.learner
    for part in learner.auxiliaries:
        part.rehearse([learner.sources[0].collect(run.acting, None)[0]])
    for _ in range(2):
        learner.step()
    return peak_memory() - before


def measured(name: str) -> int:
    if name in RL:
        return measured_rl(name)
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
    parser.add_argument("--rows", nargs="*", default=[*list(ROWS)[1:], *list(RL)[1:]], help="rows of the table")
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
        batch = ROWS[name][1]["batch"] if name in ROWS else RL[name][1]["worlds"]
        print(
            f"| {name}, {batch} | {found[0] / 2**20:.0f} | {found[1] / 2**20:.0f} | {found[0] / found[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
