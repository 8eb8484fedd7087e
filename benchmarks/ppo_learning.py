"""Does toddle's PPO learn as well as stable-baselines3's?  Same tasks, steps, seeds and settings.

    python benchmarks/ppo_learning.py [--steps 150000] [--seeds 3]

One run after the other, each in a process of its own; finished runs are kept under .cache/ppo_learning and are not
made again.  The final return of a run is the mean over 20 evaluation episodes with mean actions on gymnasium's task
(toddle's worlds are bit-identical to it, and take its actions in its own units here); what is compared is the
interquartile mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peers import ROOT, machine, peer_python

TASKS = ("HalfCheetah-v5", "Hopper-v5", "Pusher-v5")
EPISODES = 20
SETTING = {
    "worlds": 16,
    "length": 128,
    "minibatches": 8,
    "epochs": 10,
    "rate": 3e-4,
    "clip": 0.2,
    "gamma": 0.99,
    "lam": 0.95,
    "hidden": (64, 64),
    "target_kl": 0.02,
    "final_rate": 0.05,
    "max_grad_norm": 0.5,
}
"""Shared by both: sizes of the network as stable-baselines3 has them by default, cosine rate, KL stop."""


def run_toddle(task: str, seed: int, steps: int, s: dict[str, Any]) -> list[float]:
    import numpy as np
    import torch

    from toddle.algorithms.ppo import PPO, PPOConfig
    from toddle.envs.make import make_env
    from toddle.experience.collect import CollectConfig, Collector
    from toddle.policies.critic import CriticConfig, ValueNet
    from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

    env = make_env(f"gymnasium/{task}", s["worlds"], seed=seed, native_actions=True)
    policy = GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), hidden=s["hidden"], seed=seed))
    critic = ValueNet(CriticConfig(inputs=(env.body_spec.proprio,), hidden=s["hidden"], seed=seed))
    config = PPOConfig(
        epochs=s["epochs"],
        minibatches=s["minibatches"],
        learning_rate=s["rate"],
        critic_learning_rate=s["rate"],
        schedule="cosine",
        final_rate=s["final_rate"],
        lam=s["lam"],
        clip_low=s["clip"],
        clip_high=s["clip"],
        max_grad_norm=s["max_grad_norm"],
        target_kl=s["target_kl"],
    )
    source = Collector(env, CollectConfig(length=s["length"], discount=s["gamma"]), seed=seed)
    iterations = steps // source.decisions
    ppo = PPO(policy, critic, [source], config, iterations=iterations, seed=seed)
    for _ in range(iterations):
        ppo.step()
    worlds = make_env(f"gymnasium/{task}", EPISODES, seed=seed + 10_000, native_actions=True)
    observation, _ = worlds.reset(seed=seed + 10_000)
    low, high = worlds.single_action_space.low, worlds.single_action_space.high
    returns, active = np.zeros(EPISODES), np.ones(EPISODES, bool)
    while active.any():
        seen = {"proprio": torch.from_numpy(observation).float()}
        action = policy.act(seen, deterministic=True)[0].action.numpy().clip(low, high)  # type: ignore[arg-type]
        observation, reward, terminated, truncated, _ = worlds.step_chunk(action, active=active, reset_done=False)
        returns += np.where(active, reward, 0.0)
        active &= ~(terminated | truncated)
    return [float(value) for value in returns]


def run_sb3(task: str, seed: int, steps: int, s: dict[str, Any]) -> list[float]:
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    def rate(remaining: float) -> float:  # the same half cosine
        cosine = 0.5 * (1.0 + math.cos(math.pi * (1.0 - remaining)))
        return float(s["rate"] * (s["final_rate"] + (1.0 - s["final_rate"]) * cosine))

    env = VecNormalize(make_vec_env(task, n_envs=s["worlds"], seed=seed), gamma=s["gamma"])
    batch = s["worlds"] * s["length"]
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=s["length"],
        batch_size=batch // s["minibatches"],
        n_epochs=s["epochs"],
        learning_rate=rate,
        gamma=s["gamma"],
        gae_lambda=s["lam"],
        clip_range=s["clip"],
        target_kl=s["target_kl"],
        max_grad_norm=s["max_grad_norm"],
        policy_kwargs={"net_arch": list(s["hidden"])},
        device="cpu",
        seed=seed,
    )
    model.learn(steps // batch * batch)
    worlds = VecNormalize(
        make_vec_env(gymnasium.spec(task).id, n_envs=1, seed=seed + 10_000), training=False, norm_reward=False
    )
    worlds.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(model, worlds, n_eval_episodes=EPISODES, return_episode_rewards=True)
    return [float(value) for value in returns]


def work(name: str, task: str, seed: int, steps: int, out: Path) -> None:
    """Make one run in this process and write its result."""
    import torch

    torch.set_num_threads(1)
    began = time.process_time()
    returns = {"toddle": run_toddle, "sb3": run_sb3}[name](task, seed, steps, SETTING)
    result = {"returns": returns, "mean": sum(returns) / len(returns), "cpu_seconds": time.process_time() - began}
    temporary = out.with_suffix(".part")
    temporary.write_text(json.dumps(result))
    temporary.rename(out)


def interquartile_mean(values: list[float]) -> float:
    """Mean of the middle half of the sorted values, those at its edges counted in part (Agarwal et al. 2021)."""
    n, total, weight = len(values), 0.0, 0.0
    for index, value in enumerate(sorted(values)):
        share = max(0.0, min((index + 1) / n, 0.75) - max(index / n, 0.25))
        total, weight = total + share * value, weight + share
    return total / weight


def report(results: dict[str, dict[str, list[dict[str, Any]]]], steps: int, seeds: int) -> tuple[dict[str, Any], str]:
    rows = {
        task: {
            name: {
                "iqm": round(interquartile_mean([run["mean"] for run in runs]), 1),
                "seeds": [round(run["mean"], 1) for run in runs],
                "cpu_seconds": round(sum(run["cpu_seconds"] for run in runs) / len(runs), 1),
            }
            for name, runs in both.items()
        }
        for task, both in results.items()
    }
    lines = [
        "# PPO: final returns beside stable-baselines3's",
        "",
        f"`python benchmarks/ppo_learning.py`: {steps:,} steps, {seeds} seeds; final return = mean of {EPISODES} "
        "evaluation episodes with mean actions; interquartile mean over seeds. "
        f"{machine()}. Shared settings: {json.dumps(SETTING)}.",
        "",
        "| task | toddle | stable-baselines3 | at least as high | seeds of toddle | seeds of stable-baselines3 |",
        "|---|---|---|---|---|---|",
    ]
    for task, row in rows.items():
        ours, theirs = row["toddle"], row["sb3"]
        verdict = "yes" if ours["iqm"] >= theirs["iqm"] else "no"
        lists = [", ".join(f"{value:,.0f}" for value in side["seeds"]) for side in (ours, theirs)]
        lines.append(f"| {task} | {ours['iqm']:,} | {theirs['iqm']:,} | {verdict} | {lists[0]} | {lists[1]} |")
    data = {"steps": steps, "seeds": seeds, "setting": SETTING, "machine": machine(), "tasks": rows}
    return data, "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--work", nargs=3, metavar=("NAME", "TASK", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], options.work[1], int(options.work[2]), options.steps, options.result)
        return
    cache = ROOT / ".cache" / "ppo_learning" / str(options.steps)
    cache.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {task: {"toddle": [], "sb3": []} for task in TASKS}
    for seed in range(options.seeds):
        for task in TASKS:
            for name in ("toddle", "sb3"):
                path = cache / f"{name}-{task}-{seed}.json"
                if not path.exists():
                    python = sys.executable if name == "toddle" else peer_python(name)
                    command = [python, __file__, "--work", name, task, str(seed), "--steps", str(options.steps)]
                    environment = os.environ | {"OMP_NUM_THREADS": "1"}
                    subprocess.run([*command, "--result", str(path)], check=True, env=environment)
                results[task][name].append(json.loads(path.read_text()))
                print(name, task, seed, round(results[task][name][-1]["mean"], 1), flush=True)
    data, text = report(results, options.steps, options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ppo_learning.json").write_text(json.dumps(data, indent=1) + "\n")
    (options.out / "ppo_learning.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
