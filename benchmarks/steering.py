"""What steering costs: a decision of `--steer vgps` and `cem` against one of the policy alone, K = 10.

    python benchmarks/steering.py [--rounds 20] [--policy runs/sft]      with --policy: that of a VLA that flows

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
from toddle.experience.taught import Taught
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.guided import GuidanceConfig, GuidedPolicy
from toddle.policies.links import FlowConfig
from toddle.policies.store import load_policy, meta_of

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


def of_states(rounds: int) -> None:
    """Print a table for policies of states."""
    critic = QEnsemble(BODY.proprio, BODY.action, hidden=(256, 256), count=2, seed=0)
    policies: dict[str, Any] = {
        "flow": DenoisingPolicy(DenoisingConfig(body=BODY, process=FlowConfig())).train(False),
        "gaussian": GaussianPolicy(GaussianConfig(bodies=(BODY,), hidden=(256, 256))).train(False),
        "denoising": DenoisingPolicy(DenoisingConfig(body=BODY)).train(False),
    }
    print("| policy, worlds | alone, ms | `vgps` | `cem` |\n|---|---|---|---|")
    for kind, policy in policies.items():
        for worlds in (1, 25):
            row(f"{kind}, {worlds}", policy, critic, seen(worlds), ("vgps", "cem"), rounds)


def of_vla(folder: str, rounds: int) -> None:
    """Print a table for a stored VLA that flows, with ten decisions beside it."""
    policy = load_policy(folder, acting=True)
    body, side = policy.bodies[0], Taught.of(meta_of(folder)).size or (96, 96)
    critic = QEnsemble(body.proprio + policy.context_width, body.action, hidden=(256, 256), count=2, seed=0)
    print("| VLA, worlds | alone, ms | ten decisions | `vgps` | `guidance` | `hume` |\n|---|---|---|---|---|---|")
    for worlds in (1, 25):
        given: Any = seen(worlds) | {
            "proprio": torch.randn(worlds, body.proprio),
            "previous_action": torch.zeros(worlds, policy.horizon * body.action),
            "images": torch.randint(0, 256, (worlds, len(policy.cameras), 3, *side), dtype=torch.uint8),
        }
        ways = ("ten", "vgps", "guidance", "hume")
        row(f"{policy.kind}, {worlds}", policy, critic, given, ways, rounds)


def row(name: str, policy: Any, critic: QEnsemble, given: Any, ways: tuple[str, ...], rounds: int) -> None:
    """Print what the ways of steering cost beside the policy alone."""

    def decide(acting: Any, times: int = 1) -> Callable[[], Any]:
        def act() -> None:
            for _ in range(times):
                acting.act(given, acting.initial_memory(len(given["proprio"])), deterministic=True)

        return act

    contenders = {"alone": decide(policy)}
    for way in ways:
        if way == "ten":
            contenders[way] = decide(policy, 10)
        else:
            named: Any = {"method": way, "period": 1}
            contenders[way] = decide(GuidedPolicy(policy, critic, GuidanceConfig(**named)))
    spent = seconds(contenders, rounds)
    ratios = [
        statistics.median(each / own for each, own in zip(spent[way], spent["alone"], strict=True)) for way in ways
    ]
    own = 1000 * statistics.median(spent["alone"])
    print(f"| {name} | {own:.2f} | " + " | ".join(f"x {ratio:.1f}" for ratio in ratios) + " |", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--policy", help="folder of a VLA that flows, in place of policies of states")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.policy:
        of_vla(given.policy, given.rounds)
    else:
        of_states(given.rounds)


if __name__ == "__main__":
    main()
