"""Offline learning on Pendulum-v1: each method beside imitation and its own control of permuted rewards.

    python benchmarks/offline_learning.py FOLDER [--updates 2000] [--seeds 3] [--methods bc ...] [--without-controls]

The data (seeded, 20,000 rows): 30 episodes of a controller that swings it up, disturbed, and 70 of random torques that
are held for four steps.  Evaluation: the most likely action in 20 episodes.  FOLDER/results.json fills as runs end, and
a run that is in it is not made again.  All methods have two hidden layers of 64, batches of 128, rates of
1e-3, gamma 0.97 and slow copies at 0.01; every other setting is the same for all seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from toddle.algorithms.offline import OfflineConfig
from toddle.algorithms.offline.learner import ConservativeConfig
from toddle.data.layout import DatasetSpec
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.envs.base import BatchedEnv
from toddle.envs.make import make_env
from toddle.experience.demonstrations import demonstrate, row_features
from toddle.experience.evaluate import evaluate
from toddle.maths.intervals import t_interval
from toddle.policies.store import load_policy
from toddle.recipes import offline
from toddle.runs.metrics import read_metrics

ENV, EPISODES, WIDE = "gymnasium/Pendulum-v1", 20, (64, 64)


class Swinger:
    """Swings the pendulum up by its energy and balances it, disturbed; or random torques, each held for a while."""

    def __init__(self, *, skilled: bool) -> None:
        self.skilled = skilled

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        self.generator, self.step = np.random.default_rng(seeds[0]), 0

    def act(self, env: BatchedEnv) -> tuple[Any, Any]:
        count = env.num_envs
        if self.step % 4 == 0:
            self.held = self.generator.uniform(-1.0, 1.0, count)
        self.step += 1
        torque = self.held
        if self.skilled:
            cosine, sine, speed = np.asarray(env.current_observation()).T
            energy = 0.5 * speed**2 + 15.0 * (cosine - 1.0)  # 0 at rest at the top
            balance = -5.0 * sine - 3.0 * np.arctan2(sine, cosine) - speed
            torque = np.where(cosine > 0.9, balance, -energy * speed) / 2.0 + 0.3 * self.generator.normal(size=count)
        action = np.clip(torque, -1.0, 1.0).astype(np.float32)[:, None]
        return action, action


def data(folder: Path) -> tuple[Path, ...]:
    """Record both datasets where they are not there, and return their folders."""
    found = []
    for name, skilled, count in (("good", True, 30), ("bad", False, 70)):
        found.append(folder / name)
        if (folder / name / "meta").exists():
            continue
        env = make_env(ENV, 10)
        spec = DatasetSpec(fps=round(1 / env.dt), features=row_features(env), cameras={}, robot_type=env.body)
        with DatasetWriter(folder / name, spec) as writer:
            for first in range(0, count, 10):
                for one in demonstrate(env, Swinger(skilled=skilled), list(range(first, first + 10))):
                    writer.add_episode(one.columns, {}, one.task, {"seed": one.seed, "env": ENV})
    return tuple(found)


def described(path: Path) -> str:
    """Return a dataset's size, mean return, and what its numbers hash to."""
    found = LeRobotDataset(path)
    reward = found.column("next.reward")
    parts = (found.vector("observation.state"), found.vector("action"), reward)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:12]
    return (
        f"{path.name}: {len(found.episodes)} episodes, mean return {reward.sum() / len(found.episodes):.0f}, {digest}"
    )


def made(
    out: Path, datasets: tuple[Path, ...], method: str, permuted: bool, seed: int, updates: int
) -> dict[str, float]:
    """Make one run; return the mean return of its episodes, and its last metrics."""
    learning = OfflineConfig(
        hidden=WIDE,
        batch=128,
        learning_rate=1e-3,
        discount=0.97,
        target_rate=0.01,
        expectile=0.9,
        temperature=1.0,
        history=5,
        spare_weight=0.1,
        conservative=ConservativeConfig(samples=4, policy_rate=1e-3),
    )
    config = offline.Config(
        dataset=datasets,
        out=out,
        method=method,  # type: ignore[arg-type]
        updates=updates,
        reward="recorded",
        permute_rewards=permuted,
        hidden=WIDE,
        log_std=-0.5,
        bins=21,
        offline=learning,
        seed=seed,
    )
    offline.run(config, resume=out.exists())
    last = {name: value for name, value in read_metrics(out / "metrics.jsonl")[-1].items() if "offline/" in name}
    played = evaluate(load_policy(out / "policy", acting=True), make_env(ENV, EPISODES), seeds=range(EPISODES))
    return {"return": float(np.mean([one.episode_return for one in played]))} | last


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["bc", "iql", "cal-ql", "cql", "recap"])
    parser.add_argument("--without-controls", action="store_true", help="make no run of permuted rewards")
    given = parser.parse_args()
    folder: Path = given.folder
    datasets = data(folder)
    for path in datasets:
        print(described(path))
    store = folder / "results.json"
    results: dict[str, dict[str, float]] = json.loads(store.read_text()) if store.exists() else {}
    for seed in range(given.seeds):
        for method in given.methods:
            for permuted in (False,) if method == "bc" or given.without_controls else (False, True):
                name = f"{method}{', permuted' * permuted}"
                if f"{name} {seed}" not in results:
                    out = folder / f"{name.replace(', ', '-')}-{seed}"
                    results[f"{name} {seed}"] = found = made(out, datasets, method, permuted, seed, given.updates)
                    store.write_text(json.dumps(results, indent=1) + "\n")
                    print(name, seed, {key: round(value, 3) for key, value in found.items()}, flush=True)
    print("| method | return of 20 episodes, mean over seeds (95 %) | value | return reached |\n|---|---|---|---|")
    for name in dict.fromkeys(key.rpartition(" ")[0] for key in results):
        several = [value for key, value in results.items() if key.rpartition(" ")[0] == name]
        found = t_interval([one["return"] for one in several])
        means = [np.mean([one.get(f"offline/{key}", np.nan) for one in several]) for key in ("value", "return")]
        print(f"| {name} | {found.value:.0f} ({found.low:.0f} to {found.high:.0f}) | {means[0]:.1f} | {means[1]:.1f} |")


if __name__ == "__main__":
    main()
