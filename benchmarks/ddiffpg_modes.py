"""Does DDiffPG keep both ways round the wall of fork/point, where a single-mode actor keeps one?

    python benchmarks/ddiffpg_modes.py            # all seeds and actors that are not there yet, then the page

Diffusion actor against the deterministic baseline (TD3's actor on one critic, the same exploration, bonus and memory),
equal environment steps.  100 episodes each at the end, without exploration noise and without a mode embedding; the
entropy is that of the sides of the wall on which successful episodes passed.  One JSON file a run: resumable.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from toddle.algorithms.ddiffpg import DDiffPG, DDiffPGConfig
from toddle.envs.fork import ForkEnv
from toddle.maths.trajectories import mode_entropy

matplotlib.use("Agg")
OUT = Path(__file__).parent.parent / "docs/results/ddiffpg"
ACTORS = ("diffusion", "deterministic")
WORLDS, EPISODES = 64, 100


@torch.no_grad()
def evaluate(learner: DDiffPG, seed: int) -> dict[str, Any]:
    """Play 100 episodes; return success, the sides of the wall and the paths."""
    env = ForkEnv(EPISODES)
    observation, _ = env.reset(seed=10_000 + seed)
    live, won = np.ones(EPISODES, bool), np.zeros(EPISODES, bool)
    side, paths = np.zeros(EPISODES, int), [[row[:2].round(3).tolist()] for row in observation]
    blank = torch.zeros(EPISODES, learner.config.embedding)
    while live.any():
        action = (
            learner.actor.act(torch.from_numpy(np.asarray(observation, np.float32)), blank, learner.generator)
            .numpy()
            .clip(-1, 1)
        )
        observation, _, terminated, truncated, info = env.step(action)
        side = np.where(live & (info["side"] != 0), info["side"], side)
        won |= live & info["success"]
        for world in np.flatnonzero(live & ~(terminated | truncated)):
            paths[world].append(observation[world][:2].round(3).tolist())
        live &= ~(terminated | truncated)
    entropy = mode_entropy(side[won]) if won.any() else 0.0
    above, below = int((side[won] == 1).sum()), int((side[won] == -1).sum())
    return {
        "success": float(won.mean()),
        "entropy": entropy,
        "above": above,
        "below": below,
        "paths": paths,
        "won": won.tolist(),
    }


def train(actor: Any, seed: int, iterations: int) -> dict[str, Any]:
    """Train one actor and evaluate it."""
    torch.set_num_threads(1)
    learner = DDiffPG(ForkEnv(WORLDS, seed=seed), DDiffPGConfig(actor=actor), seed=seed)
    began, curve = time.process_time(), []
    for iteration in range(iterations):
        metrics = learner.step()
        if iteration % 10 == 9:
            curve.append(
                {
                    "steps": learner.total_steps,
                    "success": metrics.get("episode/success", 0.0),
                    "modes": metrics["ddiffpg/modes"],
                }
            )
    seconds = time.process_time() - began
    return {
        "actor": actor,
        "seed": seed,
        "steps": learner.total_steps,
        "cpu_seconds": round(seconds, 1),
        "curve": curve,
        **evaluate(learner, seed),
    }


def draw(runs: list[dict[str, Any]]) -> None:
    """Paint the paths of every run."""
    from matplotlib import pyplot
    from matplotlib.patches import Circle, Rectangle

    seeds = sorted({run["seed"] for run in runs})
    figure, axes = pyplot.subplots(2, len(seeds), figsize=(4 * len(seeds), 5.4), squeeze=False)
    for run in runs:
        axis = axes[ACTORS.index(run["actor"]), seeds.index(run["seed"])]
        axis.add_patch(Rectangle((0.92, -0.6), 0.16, 1.2, color="0.4"))
        axis.add_patch(Circle((2, 0), 0.25, color="#7fc97f"))
        for path, won in zip(run["paths"], run["won"], strict=True):
            axis.plot(*np.array(path).T, color="#d95f02" if won else "0.8", lw=0.7, alpha=0.6)
        axis.set(xlim=(-0.6, 2.6), ylim=(-1.3, 1.3), aspect="equal")
        axis.set_title(f"{run['actor']}, seed {run['seed']}: {run['success']:.0%}, {run['entropy']:.2f} bit", size=9)
    figure.tight_layout()
    figure.savefig(OUT / "paths.png", dpi=80)


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page in Markdown."""
    rows = [
        f"| {r['actor']} | {r['seed']} | {r['success']:.0%} | {r['above']} / {r['below']} "
        f"| {max(0.0, r['entropy']):.2f} | {r['steps']:,} | {r['cpu_seconds']:.0f} |"
        for r in runs
    ]
    means = {a: np.mean([r["entropy"] for r in runs if r["actor"] == a] or [0.0]) for a in ACTORS}
    kept = sum(r["entropy"] > 0.5 for r in runs if r["actor"] == "diffusion")
    total = sum(r["actor"] == "diffusion" for r in runs)
    return "\n".join(
        [
            "# DDiffPG on a task with two solutions",
            "",
            "`python benchmarks/ddiffpg_modes.py`",
            "",
            __doc__.split("\n\n")[2].strip(),
            "",
            "| actor | seed | success | above / below | entropy, bit | steps | CPU s |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Entropy over the two ways, mean of the seeds: diffusion {means['diffusion']:.2f} bit, deterministic "
            f"{means['deterministic']:.2f} bit.  Above 0.5 bit: {kept} of {total} diffusion runs.",
            "",
            "![paths](paths.png)",
            "",
            "Small-scale analogue: a point and a wall, 1/100 of the paper's steps.  What differs stands in "
            "`src/toddle/algorithms/ddiffpg.py`.",
            "",
        ]
    )


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--actors", nargs="+", choices=ACTORS, default=list(ACTORS))
    parser.add_argument("--iterations", type=int, default=130)
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for actor in arguments.actors:
            file = OUT / f"{actor}_{seed}.json"
            if not file.exists():
                run = train(actor, seed, arguments.iterations)
                file.write_text(json.dumps(run))
                print(f"{actor} {seed}: success {run['success']:.2f}, entropy {run['entropy']:.2f}", flush=True)
    runs = [json.loads(file.read_text()) for file in sorted(OUT.glob("*_*.json"))]
    draw(runs)
    (OUT / "README.md").write_text(page(runs))


if __name__ == "__main__":
    main()
