"""Rollouts with halves of the worlds in turns (`--overlap`) against one half, with one and with two physics threads.

    python benchmarks/overlap.py [--env goal/ant] [--worlds 64] [--rounds 7] [--device cpu]

All ways gather in turns in one process, so that what else the machine does meets all of them alike; printed are medians
of control steps a second, and the ratio to the first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from toddle.recipes import pretrain

WAYS: dict[str, dict[str, Any]] = {
    "one half, 1 physics thread": {},
    "one half, 2 physics threads": {"threads": 2},
    "overlap, 1 physics thread each": {"overlap": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="goal/ant")
    parser.add_argument("--worlds", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    given = {"env": (args.env,), "worlds": args.worlds, "device": args.device, "collect": {"length": args.length}}
    made = {name: pretrain.build(pretrain.configure(given | more)) for name, more in WAYS.items()}
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(args.rounds + 1):
        for name, run in made.items():
            learner: Any = run.learner
            began = time.perf_counter()
            learner.sources[0].collect(run.policy, None)
            if turn:  # the first one allocates
                steps = args.worlds * args.length * run.policy.horizon
                rates[name].append(steps / (time.perf_counter() - began))
    first = statistics.median(rates["one half, 1 physics thread"])
    print(
        f"| {args.env}, {args.worlds} worlds | control steps a second, median of {args.rounds} | ratio |\n|---|---|---|"
    )
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {statistics.median(found) / first:.2f} |")


if __name__ == "__main__":
    main()
