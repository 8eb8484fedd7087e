"""Do diffusion and flow policies learn by RL?  From scratch beside Gaussian PPO, and from noisy demonstrations.

    python benchmarks/denoising_learning.py scratch [--tasks HalfCheetah-v5 Hopper-v5] [--seeds 3] [--steps 150000]
    python benchmarks/denoising_learning.py warm [--tasks reach-v3 button-press-v3 drawer-open-v3] [--seeds 3]

scratch: return of each method at equal environment steps, as a share of Gaussian PPO's.  warm: success of the imitated
start and after RL.  Every finished run leaves one JSON file in docs/results/denoising; a run that is there is not made
again, so the script may be stopped and started at will.  The page is written from what is there.
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

from toddle.algorithms.ppo import PPOConfig
from toddle.envs.make import make_env
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.recipes.imitation import ImitationConfig
from toddle.recipes.methods import DenoisingSettings, settings_of
from toddle.recipes.pretrain import Config, MlpSettings, build
from toddle.recipes.pretrain import run as pretrain
from toddle.training.collect import CollectConfig
from toddle.training.evaluate import evaluate
from toddle.training.metrics import read_metrics

OUT = Path(__file__).parent.parent / "docs/results/denoising"
SCRATCH = {"gaussian": "ppo", "dppo": "dppo", "reinflow": "reinflow", "fpo": "fpo"}
WARM = ("dppo", "reinflow", "flow-sde")
WORLDS, LAST = 16, 5


def scratch_config(name: str, task: str, seed: int, steps: int) -> Config:
    """Equal worlds, rollouts, epochs and rates; one action a decision."""
    shared: dict[str, Any] = {
        "epochs": 10, "minibatches": 8, "learning_rate": 3e-4, "critic_learning_rate": 3e-4, "lam": 0.95,
    }  # fmt: skip
    method = SCRATCH[name]
    ppo = PPOConfig(**shared)
    if method != "ppo":
        own = {key: value for key, value in settings_of(method, False).ppo.items() if key not in shared}
        ppo = PPOConfig(**shared | own | {"target_kl": None})
    return Config(
        method=method, policy="mlp", env=(f"gymnasium/{task}",), worlds=WORLDS, steps=steps, seed=seed, ppo=ppo,
        collect=CollectConfig(length=128, discount=0.99), mlp=MlpSettings(hidden=(64, 64)), critic_hidden=(64, 64),
        denoising=DenoisingSettings(network="mlp", mlp=MlpDenoiserConfig(width=64), horizon=1),
    )  # fmt: skip


def run_scratch(name: str, task: str, seed: int, steps: int) -> dict[str, Any]:
    """Train; the score is the mean return of the episodes of the last fifth of the run, exploration included."""
    learner, _, iterations = build(scratch_config(name, task, seed, steps))
    began, curve = time.process_time(), []
    for _ in range(iterations):
        metrics = learner.step()
        if "episode/return" in metrics:
            curve.append([metrics["rollout/total_steps"], metrics["episode/return"], metrics["episode/ended"]])
    tail = [row for row in curve if row[0] > 0.8 * steps]
    score = float(np.average([row[1] for row in tail], weights=[row[2] for row in tail]))
    return {"task": task, "method": name, "seed": seed, "steps": steps, "score": score, "curve": curve,
            "cpu_seconds": round(time.process_time() - began, 1)}  # fmt: skip


def demonstrations(folder: Path, task: str, seed: int, count: int, noise: float) -> Path:
    """Record noisy demonstrations, once."""
    from toddle.recipes.record import Config as RecordConfig
    from toddle.recipes.record import run as record

    path = folder / f"{task}_{seed}"
    if not (path / "meta/info.json").exists():
        record(RecordConfig(
            out=path, env=(f"metaworld/{task}",), episodes=count, noise=noise, seed=1_000_000 + 1000 * seed, cameras=()
        ), resume=path.exists())  # fmt: skip
    return path


def run_warm(method: str, task: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Imitate 10 noisy demonstrations, measure success, learn by RL, measure again (50 episodes, the same seeds)."""
    from toddle.policies.store import load_policy

    out = folder / f"{method}_{task}_{seed}"
    config = Config(
        out=out, method=method, env=(f"metaworld/{task}",), worlds=WORLDS, steps=steps, seed=seed,  # type: ignore[arg-type]
        warm_start=demonstrations(folder, task, seed, 10, 0.5), imitation=ImitationConfig(steps=1500),
        collect=CollectConfig(length=32, discount=0.99), critic_hidden=(128, 128),
        denoising=DenoisingSettings(network="mlp", mlp=MlpDenoiserConfig(width=128), horizon=4),
    )  # fmt: skip
    began = time.process_time()
    pretrain(config, resume=out.exists())
    success = {}
    for stage in ("warm_start", "policy"):
        env = make_env(f"metaworld/{task}", 10)
        policy = load_policy(out / stage)
        results = evaluate(policy, env, seeds=range(50))
        success[stage] = float(np.mean([bool(result.success) for result in results]))
        env.close()
    return {"task": task, "method": method, "seed": seed, "steps": steps, "before": success["warm_start"],
            "after": success["policy"], "cpu_seconds": round(time.process_time() - began, 1),
            "curve": [line.get("episode/success") for line in read_metrics(out)]}  # fmt: skip


def page() -> str:
    """Return the page in Markdown, from the files that are there."""
    runs = [json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))]
    lines = ["# Diffusion and flow policies by RL: what was measured", "",
             "`python benchmarks/denoising_learning.py scratch` and `... warm`; small-scale runs on a CPU.", "",
             "## From scratch, beside Gaussian PPO at equal environment steps", "",
             "Score: mean return of the episodes in the last fifth of the run, exploration noise included.", "",
             "| task | method | seeds | steps | score (each seed) | share of Gaussian PPO | CPU s |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    scratch = [run for run in runs if "score" in run]
    for task in sorted({run["task"] for run in scratch}):
        base = [run["score"] for run in scratch if run["task"] == task and run["method"] == "gaussian"]
        for name in SCRATCH:
            own = [run for run in scratch if run["task"] == task and run["method"] == name]
            if not own:
                continue
            scores = [run["score"] for run in own]
            share = f"{np.mean(scores) / np.mean(base):.0%}" if base and np.mean(base) > 0 else "-"
            lines.append(f"| {task} | {name} | {len(own)} | {own[0]['steps']:,} | "
                         f"{np.mean(scores):.0f} ({', '.join(f'{s:.0f}' for s in scores)}) | {share} | "
                         f"{np.mean([run['cpu_seconds'] for run in own]):.0f} |")  # fmt: skip
    warm = [run for run in runs if "before" in run]
    if warm:
        lines += ["", "## From 10 noisy demonstrations, Meta-World, 50 episodes each", "",
                  "| task | method | seed | imitation | after RL | control steps | CPU s |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += [f"| {r['task']} | {r['method']} | {r['seed']} | {r['before']:.0%} | {r['after']:.0%} | "
                  f"{r['steps']:,} | {r['cpu_seconds']:.0f} |" for r in warm]  # fmt: skip
    return "\n".join([*lines, ""])


def main() -> None:
    """Make the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("scratch", "warm", "page"))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "toddle_denoising_learning")
    given = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    tasks = given.tasks or (["HalfCheetah-v5", "Hopper-v5"] if given.part == "scratch" else
                            ["reach-v3", "button-press-v3", "drawer-open-v3"])  # fmt: skip
    for seed in range(given.seeds if given.part != "page" else 0):
        for task in tasks:
            for method in given.methods or (SCRATCH if given.part == "scratch" else WARM):
                file = OUT / f"{given.part}_{task}_{method}_{seed}.json"
                if file.exists():
                    continue
                if given.part == "scratch":
                    made = run_scratch(method, task, seed, given.steps)
                else:
                    made = run_warm(method, task, seed, given.steps, given.work)
                file.write_text(json.dumps(made))
                print({key: value for key, value in made.items() if key != "curve"}, flush=True)
    (OUT / "README.md").write_text(page())


if __name__ == "__main__":
    main()
