"""What demonstrations are worth: control steps of RLPD until 9 of 10 episodes succeed; SAC without any, and a control.

    python benchmarks/off_policy_demonstrations.py DATASET [--seeds 1] [--steps 4000] [--out FILE]

tabletop/push-cube from state; success pays and ends an episode, every step before it costs 1.  Small networks and few
updates, alike in all arms, so that a run takes a minute of one core.  Arms: rlpd; zeroed, whose demonstrations pay as
if nothing in them ever succeeded or ended; sac, the same learner without demonstrations.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import toddle
from toddle.experience.evaluate import evaluate
from toddle.recipes.pretrain import build, configure

TASK, EPISODES, ENOUGH = "tabletop/push-cube", 20, 18
SMALL = {
    "critics": 5,
    "subset": 2,
    "layer_norm": True,
    "critic_hidden": [64, 64],
    "batch": 128,
    "ratio": 4.0,
    "actor_every": 4,
    "learn_after": 500,
    "rounds": 250,
    "discount": 0.95,
    "learning_rate": 1e-3,
    "target_rate": 0.01,
    "target_entropy": -0.5,
    "temperature": 0.1,
    "backup_entropy": False,
    "reward_shift": -1.0,
}


def run(arm: str, seed: int, dataset: Path, steps: int) -> list[dict[str, float]]:
    """Return, after each 250 control steps, how many of 20 episodes succeed; it ends where 18 do twice in a row."""
    given: dict[str, Any] = {"env": [TASK], "worlds": 1, "reward": "success", "terminate_on_success": True}
    given |= {"steps": steps, "seed": seed, "hidden": [64, 64], "sac": SMALL}
    given |= {"method": "sac"} if arm == "sac" else {"method": "rlpd", "demonstrations": [str(dataset)]}
    made = build(configure(given))
    learner: Any = made.learner
    if arm == "zeroed":
        store = learner.replay.stores["offline"]
        old = store.at(torch.arange(len(store)))
        nothing = torch.full_like(old.reward, SMALL["reward_shift"])  # type: ignore[arg-type]
        store.add(replace(old, reward=nothing, discount=torch.full_like(nothing, SMALL["discount"])))  # type: ignore[arg-type]
    env = toddle.make_env(TASK, EPISODES, seed=10_000, reward="success", terminate_on_success=True)
    found, began = list[dict[str, float]](), time.process_time()
    for _ in range(made.iterations):
        metrics = learner.step()
        results = evaluate(made.policy, env, seeds=list(range(EPISODES)))
        row = {"steps": metrics["rollout/total_steps"], "successes": sum(bool(each.success) for each in results)}
        row |= {"cpu": round(time.process_time() - began, 1)}
        row |= {name: metrics[name] for name in ("sac/value", "sac/entropy", "sac/temperature") if name in metrics}
        found.append(row)
        print(arm, seed, row, flush=True)
        if len(found) > 1 and min(each["successes"] for each in found[-2:]) >= ENOUGH:
            break
    return found


def main() -> None:
    """Run all arms and write what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--arms", nargs="+", default=["rlpd", "zeroed", "sac"])
    parser.add_argument("--out", type=Path, default=Path("off_policy_demonstrations.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for seed in range(given.seeds):
        for arm in given.arms:
            found[f"{arm} {seed}"] = run(arm, seed, given.dataset, given.steps)
            given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
