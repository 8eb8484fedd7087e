"""Do diffusion and flow policies learn by RL?  From scratch beside Gaussian PPO, and from noisy demonstrations.

    python benchmarks/denoising_learning.py warm [--tasks drawer-open-v3] [--methods dppo] [--seeds 3] [--steps 40000]
    python benchmarks/denoising_learning.py scratch [--tasks HalfCheetah-v5] [--seeds 3] [--steps 150000]
    python benchmarks/denoising_learning.py page

warm: success of the imitated start and after RL, on the same 50 episodes.  scratch: return of each method at equal
environment steps, as a share of Gaussian PPO's.  Every finished run leaves one JSON file in docs/results/denoising; a
run that is there is not made again, so the script may be stopped and started at will.  The page is made from what is
there, by denoising_learning_page.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from denoising_learning_page import write_page

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import to_dict
from toddle.envs.make import make_env
from toddle.experience.evaluate import evaluate
from toddle.recipes.pretrain import build, configure

OUT = Path(__file__).parent.parent / "docs/results/denoising"
SCRATCH = {"gaussian": "ppo", "dppo": "dppo", "reinflow": "reinflow"}
WARM = ("dppo", "reinflow", "flow-sde")
NOISE = {"drawer-open-v3": 0.5, "window-open-v3": 1.0, "plate-slide-v3": 0.5, "faucet-close-v3": 1.5}
"""Noise of each task's demonstrations; tasks and noise were chosen by the imitated start alone, to be mediocre."""
RETURNS = 10
"""Episodes without exploration noise after learning from scratch."""
DEMONSTRATIONS, EPISODES, WORLDS = 10, 50, 16


def scratch_config(name: str, task: str, seed: int, steps: int) -> Any:
    """Equal worlds, rollouts, epochs and rates; one action a decision."""
    shared: dict[str, Any] = {
        "epochs": 10,
        "minibatches": 8,
        "learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "lam": 0.95,
    }
    method = SCRATCH[name]
    given: dict[str, Any] = {
        "method": method,
        "env": [f"gymnasium/{task}"],
        "worlds": WORLDS,
        "steps": steps,
        "seed": seed,
        "collect": {"length": 128, "discount": 0.99},
        "critic_hidden": [64, 64],
    }
    if method == "ppo":
        ppo = to_dict(PPOConfig(**shared))
        return configure(given, policy="mlp", mlp={"hidden": [64, 64]}, ppo=ppo)
    chunk = {"network": "mlp", "mlp": {"width": 64}, "horizon": 1}
    return configure(given, denoising=chunk, ppo=shared | {"target_kl": None})


def run_scratch(name: str, task: str, seed: int, steps: int) -> dict[str, Any]:
    """Train; the score is the mean return of the last fifth of the run, exploration included, `final` is without it."""
    made = build(scratch_config(name, task, seed, steps))
    learner, policy, iterations = made.learner, made.policy, made.iterations
    began, curve = time.process_time(), []
    for _ in range(iterations):
        metrics = learner.step()
        if "episode/return" in metrics:
            curve.append([metrics["rollout/total_steps"], metrics["episode/return"], metrics["episode/ended"]])
    tail = [row for row in curve if row[0] > 0.8 * steps]
    score = float(np.average([row[1] for row in tail], weights=[row[2] for row in tail]))
    seconds = round(time.process_time() - began, 1)
    env = make_env(f"gymnasium/{task}", RETURNS)
    final = [result.episode_return for result in evaluate(policy, env, seeds=range(RETURNS))]  # type: ignore[arg-type]
    return {
        "task": task,
        "method": name,
        "seed": seed,
        "steps": steps,
        "score": score,
        "final": final,
        "curve": curve,
        "cpu_seconds": seconds,
    }


def demonstrations(folder: Path, task: str, seed: int) -> Path:
    """Record noisy demonstrations of the scripted expert, once."""
    from toddle.recipes.record import Config as RecordConfig
    from toddle.recipes.record import run as record

    path = folder / f"{task}_{seed}"
    record(
        RecordConfig(
            out=path,
            env=(f"metaworld-state/{task}",),
            episodes=DEMONSTRATIONS,
            attempts=10,
            noise=NOISE[task],
            seed=1_000_000 + 1000 * seed,
            cameras=(),
        ),
        resume=path.exists(),
    )
    return path


def warm_config(method: str, task: str, seed: int, steps: int, folder: Path) -> Any:
    """Every method with its own defaults after imitation; MLPs of 128, chunks of 4."""
    return configure(
        out=folder / f"{method}_{task}_{seed}",
        method=method,
        env=[f"metaworld-state/{task}"],
        worlds=WORLDS,
        steps=steps,
        seed=seed,
        warm_start=demonstrations(folder, task, seed),
        imitation={"steps": 1500},
        collect={"length": 32, "discount": 0.99},
        critic_hidden=[128, 128],
        denoising={"network": "mlp", "mlp": {"width": 128}, "horizon": 4},
    )


def run_warm(method: str, task: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Imitate, measure success, learn by RL, measure again on the same episodes."""
    began = time.process_time()
    settings = warm_config(method, task, seed, steps, folder)
    made = build(settings, folder=settings.out)
    learner, policy, iterations = made.learner, made.policy, made.iterations
    env = make_env(f"metaworld-state/{task}", 10)

    def success() -> list[int]:
        return [int(bool(result.success)) for result in evaluate(policy, env, seeds=range(EPISODES))]  # type: ignore[arg-type]

    before, curve = success(), []
    for _ in range(iterations):
        metrics = learner.step()
        if "episode/success" in metrics:
            curve.append([metrics["rollout/total_steps"], metrics["episode/success"], metrics["episode/ended"]])
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "steps": steps,
        "before": before,
        "after": success(),
        "curve": curve,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main() -> None:
    """Make the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("scratch", "warm", "page"))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="0 to 2 are counted; try settings on 10 and more")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "toddle_denoising_learning")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    tasks = given.tasks or (["HalfCheetah-v5", "Hopper-v5"] if given.part == "scratch" else list(NOISE))
    steps = given.steps or (150_000 if given.part == "scratch" else 40_000)
    for seed in range(given.first_seed, given.first_seed + (given.seeds if given.part != "page" else 0)):
        for task in tasks:
            for method in given.methods or (SCRATCH if given.part == "scratch" else WARM):
                file = given.out / f"{given.part}_{task}_{method}_{seed}.json"
                if file.exists():
                    continue
                if given.part == "scratch":
                    made = run_scratch(method, task, seed, steps)
                else:
                    made = run_warm(method, task, seed, steps, given.work)
                file.write_text(json.dumps(made))
                lists = {key: round(float(np.mean(made[key])), 2) for key in ("before", "after") if key in made}
                print({key: value for key, value in made.items() if key != "curve"} | lists, flush=True)
    if given.out == OUT:
        write_page(OUT)


if __name__ == "__main__":
    main()
