"""What steering costs: a decision of `--steer vgps` and `cem` against one of the policy alone, K = 10.

    python benchmarks/steering.py [--rounds 20]

Networks have fresh weights (the cost does not depend on them): 49 numbers seen, 7 of action, as on tabletop/push-cube.
Contenders run interleaved in one process on one thread; CPU seconds, medians over the rounds of the time of a decision
for all worlds, and of the ratio to the policy alone in the same round.  It prints a table for docs/steering.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from toddle.core.types import BodySpec, Observation
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.guided import GuidanceConfig, GuidedPolicy

BODY = BodySpec(name="arm", proprio=49, action=7, dt=0.05)
DECISIONS = 5
"""Decisions of a contender in a round."""


def seen(worlds: int) -> Observation:
    """Return an observation of all worlds."""
    return {
        "proprio": torch.randn(worlds, BODY.proprio),
        "first": torch.ones(worlds, dtype=torch.bool),
        "body": torch.zeros(worlds, dtype=torch.int64),
        "previous_action": torch.zeros(worlds, BODY.action),
        "instruction": ["push"] * worlds,
    }


def seconds(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of a decision in each round, of contenders in turn; a first round is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, decide in contenders.items():
            begin = time.process_time()
            for _ in range(DECISIONS):
                decide()
            spent[name].append((time.process_time() - begin) / DECISIONS)
    return {name: values[1:] for name, values in spent.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    critic = QEnsemble(BODY.proprio, BODY.action, hidden=(256, 256), count=2, seed=0)
    policies: dict[str, Any] = {
        "gaussian": GaussianPolicy(GaussianConfig(bodies=(BODY,), hidden=(256, 256))).train(False),
        "denoising": DenoisingPolicy(DenoisingConfig(body=BODY)).train(False),
    }
    print("| policy, worlds | alone, ms | `vgps` | `cem` |\n|---|---|---|---|")
    for kind, policy in policies.items():
        vgps, cem = (GuidedPolicy(policy, critic, GuidanceConfig(method=way)) for way in ("vgps", "cem"))  # type: ignore[arg-type]
        for worlds in (1, 25):
            given = seen(worlds)
            contenders = {
                name: lambda acting=acting, given=given: acting.act(given, deterministic=True)
                for name, acting in (("alone", policy), ("vgps", vgps), ("cem", cem))
            }
            spent = seconds(contenders, rounds)
            ratios = [
                statistics.median(way / own for way, own in zip(spent[name], spent["alone"], strict=True))
                for name in ("vgps", "cem")
            ]
            own = 1000 * statistics.median(spent["alone"])
            print(f"| {kind}, {worlds} | {own:.2f} | " + " | ".join(f"x {ratio:.1f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
