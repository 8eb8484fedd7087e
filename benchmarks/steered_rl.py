"""A frozen flow VLA steered off-policy (DSRL, PLD) from pictures on Meta-World, measured while it learns.

    python benchmarks/pixel_rl.py prepare --work runs/pixel_rl          demonstrations and the VLA that PPO improves too
    python benchmarks/steered_rl.py --work runs/pixel_rl --task dial-turn-v3 --method dsrl [--seed 0] [--shuffled]

A line of `steered_METHOD_TASK_SEED.jsonl` in --work is an evaluation: control steps so far, successes of the same 50
episodes without exploring, CPU minutes with evaluations.  The first line is the VLA alone, after 0 steps.
`--shuffled`, the control, pays every world what another one earned.  Settings of `toddle finetune` may follow.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toddle import cli
from toddle.experience.actor import body_in
from toddle.experience.evaluate import evaluate
from toddle.recipes import finetune
from toddle.recipes._finetune_envs import make_seen

EPISODES, EVERY = 50, 20_000
"""Episodes of an evaluation, and control steps between two."""


def successes(config: Any, policy: Any, meta: dict[str, Any]) -> int:
    """Return how many of the same episodes succeed without exploring."""
    env = make_seen(config, config.env[0], 10, 0, policy, meta)
    found = evaluate(policy, env, seeds=list(range(EPISODES)), body=body_in(policy, env))
    env.close()
    return sum(bool(one.success) for one in found)


def shuffle(learner: Any) -> None:
    """Pay every world what another one earned."""
    generator, paid = torch.Generator().manual_seed(9), learner._paid

    def others(reward: Tensor, discount: Tensor) -> Tensor:
        found: Tensor = paid(reward[torch.randperm(len(reward), generator=generator)], discount)
        return found

    learner._paid = others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--task", default="dial-turn-v3")
    parser.add_argument("--method", choices=("dsrl", "pld"), default="dsrl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shuffled", action="store_true")
    given, settings = parser.parse_known_args()
    name = f"steered_{given.method}{'-shuffled' if given.shuffled else ''}_{given.task}_{given.seed}"
    start = ["--policy", str(given.work / "sft"), "--env", f"metaworld/{given.task}", "--method", given.method]
    start += ["--seed", str(given.seed), "--worlds", "32", "--out", str(given.work / name), *settings]
    _, _, config = cli.read("finetune", start)
    made, meta = finetune.build(config)
    learner: Any = made.learner
    if given.shuffled:
        shuffle(learner)
    with open(given.work / f"{name}.jsonl", "w") as file:

        def measure(metrics: dict[str, float]) -> None:
            line = {"steps": learner.total_steps, "successes": successes(config, made.policy, meta)}
            line |= {"episodes": EPISODES, "cpu_minutes": time.process_time() / 60, "metrics": metrics}
            print(json.dumps(line), file=file, flush=True)

        measure({})
        for number in range(made.iterations):
            before, metrics = learner.total_steps, learner.step()
            if before // EVERY < learner.total_steps // EVERY or number == made.iterations - 1:
                measure(metrics)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
