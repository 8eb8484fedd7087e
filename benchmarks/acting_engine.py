"""Decisions a second of one process, of workers that decide (`--workers N`) and of an engine that decides for them
(`--acting engine`), and the memory that a worker takes.

    python benchmarks/acting_engine.py                                  PPO on a VLA of random weights, dots/reach
    python benchmarks/acting_engine.py --command pretrain --env goal/ant --worlds 64      a causal transformer

All ways gather in turns, so that what else the machine does meets all of them alike; what learns is changed a little
before each, so that workers are sent it as in a run.  Printed are medians of decisions a second, the median of the
ratios to one process within a round, and the memory of the first worker: resident, and without what it shares.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from toddle.core.config import save_config
from toddle.core.types import BodySpec
from toddle.models.backbones.base import BackboneConfig
from toddle.models.expert import ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.store import save_policy
from toddle.policies.vla import FlowVLA, FlowVLAConfig
from toddle.recipes import finetune, pretrain
from toddle.runs.beside import beside
from toddle.runs.workers import Crew, crew


def vla(folder: Path, width: int, depth: int) -> Path:
    """Keep a VLA of random weights for dots/ in a folder."""
    trunk = TrunkConfig(context_width=192, modulation="residual", width=width, depth=depth, heads=width // 64)
    body = BodySpec(name="dot", proprio=2, action=2, dt=0.1)
    expert = ExpertConfig(trunk=trunk, bodies=(body,), horizon=8, executed=4, window=1, head="velocity")
    made = FlowVLA.from_config(FlowVLAConfig(expert=expert, backbone=BackboneConfig(), cameras=("top",)))
    print(f"a VLA of {sum(p.numel() for p in made.parameters()) / 1e6:.0f} million weights")
    save_policy(folder, made)
    return folder


def memory(crew: Crew) -> tuple[float, float]:
    """Return the MiB that the first worker holds: resident, and its own alone."""
    process: Any = crew.processes[0]
    found = dict.fromkeys(("Rss", "Private_Clean", "Private_Dirty"), 0)
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes = line.split()[:2]
        if name[:-1] in found:
            found[name[:-1]] = int(kilobytes)
    return found["Rss"] / 1024, (found["Private_Clean"] + found["Private_Dirty"]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=("finetune", "pretrain"), default="finetune")
    parser.add_argument("--policy", type=Path, help="the VLA's folder; none: one of random weights")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 4), help="width and depth of that one's expert")
    parser.add_argument("--env", default="dots/reach")
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--length", type=int, default=8, help="decisions of a world in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe: Any = finetune if args.command == "finetune" else pretrain
    several = {"workers": args.workers}
    ways = {"one process": {}, "workers": several, "engine": several | {"acting": "engine"}}
    with ExitStack() as held:
        root = Path(held.enter_context(TemporaryDirectory()))
        given: dict[str, Any] = {"env": [args.env], "worlds": args.worlds, "device": args.device}
        given["collect"] = {"length": args.length}
        if args.command == "finetune":
            given["policy"] = args.policy or vla(root / "vla", *args.size)
        runs: dict[str, tuple[Any, Any, Crew | None]] = {}
        for name, more in ways.items():
            config = recipe.configure(given | more, out=root / name.replace(" ", "_"))
            config.out.mkdir()
            save_config(config.out / "config.yaml", config)
            workers = held.enter_context(crew(config, args.command, config.out))
            made = recipe.build(config, workers)
            made = beside(config, made[0] if isinstance(made, tuple) else made, workers)
            learner: Any = made.learner
            runs[name] = learner.sources[0], made.acting or made.policy, workers
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(args.rounds + 1):
            for name, (source, policy, _) in runs.items():
                with torch.no_grad():
                    for weight in policy.parameters():
                        if weight.requires_grad:
                            weight.mul_(1.0 - 1e-6)
                began = time.perf_counter()
                source.collect(policy, None)
                if turn:  # the first one starts the workers and allocates
                    rates[name].append(args.worlds * args.length / (time.perf_counter() - began))
        print(f"| {args.env}, {args.worlds} worlds | decisions/s | ratio | MiB of a worker | of it its own |")
        print("|---|---|---|---|---|")
        for name, found in rates.items():
            ratios = [rate / first for rate, first in zip(found, rates["one process"], strict=True)]
            held_there = (
                "| - | - |" if (workers := runs[name][2]) is None else "| {:.0f} | {:.0f} |".format(*memory(workers))
            )
            print(f"| {name} | {statistics.median(found):,.0f} | {statistics.median(ratios):.2f} {held_there}")


if __name__ == "__main__":
    main()
