"""Does toddle's PPO learn as well as stable-baselines3's?  Same tasks, steps, seeds and settings.

    python benchmarks/ppo_learning.py [--steps 150000] [--seeds 15]

One run after the other, each in a process of its own; finished runs are kept under .cache/ppo_learning and are not
made again.  Three returns of each run on gymnasium's task (toddle's worlds are bit-identical to it, and take its
actions in its own units here): the mean over 20 evaluation episodes with mean actions, the same with drawn actions,
and the mean of the last 100 training episodes.  What is compared is the mean over seeds, by Welch's t interval.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peers import ROOT, machine, peer_python

TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Pusher-v5")
EPISODES, LAST = 20, 100
KINDS = {"mean": "mean actions", "drawn": "drawn actions", "training": "training"}
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
READ = (
    "The three returns of a task come from the same runs, so these are four findings rather than twelve; each interval "
    "holds for itself, and about one in twenty misses by chance. They speak of these settings and of the first steps "
    "of training, not of where either ends."
)
PARITY = (
    "Three differences are known: toddle limits the gradients of policy and critic apart (stable-baselines3: one limit "
    "over both), takes a rollout's observations into its running moments after the updates (there at every step, "
    "before they are used), and takes rewards into the reward scale once a rollout (there at every step). With these "
    "three swapped it does what stable-baselines3 does: two iterations of 20 updates end at the same weights to 1e-6 "
    "of the way they went, time limits included (`tests/algorithms/test_sb3_parity.py`, whose expected values "
    "`scripts/record_sb3_update.py` recorded)."
)


def run_toddle(task: str, seed: int, steps: int, s: dict[str, Any]) -> dict[str, list[float]]:
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
    ended: list[tuple[float, float]] = []  # of each iteration: episodes that ended, and their mean return
    for _ in range(iterations):
        facts = ppo.step()
        if facts["episode/ended"]:
            ended.append((facts["episode/ended"], facts["episode/return"]))
    last: list[float] = []
    for number, mean in reversed(ended):
        last += [mean] * min(int(number), LAST - len(last))
    worlds = make_env(f"gymnasium/{task}", EPISODES, seed=seed + 10_000, native_actions=True)
    low, high = worlds.single_action_space.low, worlds.single_action_space.high
    found = {"training": last}
    for kind in ("mean", "drawn"):
        observation, _ = worlds.reset(seed=seed + 10_000)
        generator = torch.Generator().manual_seed(seed)
        returns, active = np.zeros(EPISODES), np.ones(EPISODES, bool)
        while active.any():
            seen: Any = {"proprio": torch.from_numpy(observation).float()}
            decision, _ = policy.act(seen, generator=generator, deterministic=kind == "mean")
            action = decision.action.numpy().clip(low, high)
            observation, reward, terminated, truncated, _ = worlds.step_chunk(action, active=active, reset_done=False)
            returns += np.where(active, reward, 0.0)
            active &= ~(terminated | truncated)
        found[kind] = [float(value) for value in returns]
    return found


def run_sb3(task: str, seed: int, steps: int, s: dict[str, Any]) -> dict[str, list[float]]:
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
        stats_window_size=LAST,
        policy_kwargs={"net_arch": list(s["hidden"])},
        device="cpu",
        seed=seed,
    )
    model.learn(steps // batch * batch)
    worlds = VecNormalize(
        make_vec_env(gymnasium.spec(task).id, n_envs=1, seed=seed + 10_000), training=False, norm_reward=False
    )
    worlds.obs_rms = env.obs_rms
    assert model.ep_info_buffer is not None
    found = {"training": [float(episode["r"]) for episode in model.ep_info_buffer]}
    for kind in ("mean", "drawn"):
        worlds.seed(seed + 10_000)
        returns, _ = evaluate_policy(
            model, worlds, n_eval_episodes=EPISODES, deterministic=kind == "mean", return_episode_rewards=True
        )
        found[kind] = [float(value) for value in returns]  # type: ignore[union-attr, arg-type]
    return found


def work(name: str, task: str, seed: int, steps: int, out: Path) -> None:
    """Make one run in this process and write its result."""
    import torch

    torch.set_num_threads(1)
    began = time.process_time()
    returns = {"toddle": run_toddle, "sb3": run_sb3}[name](task, seed, steps, SETTING)
    result = {kind: sum(values) / len(values) for kind, values in returns.items()}
    result["cpu_seconds"] = time.process_time() - began
    temporary = out.with_suffix(".part")
    temporary.write_text(json.dumps(result))
    temporary.rename(out)


def verdict(low: float, high: float) -> str:
    return "higher" if low > 0 else "lower" if high < 0 else "not told apart"


def report(results: dict[str, dict[str, list[dict[str, Any]]]], steps: int, seeds: int) -> tuple[dict[str, Any], str]:
    from toddle.maths.intervals import welch_interval

    rows: dict[str, Any] = {}
    for task, both in results.items():
        sides = {name: {kind: [round(run[kind], 1) for run in runs] for kind in KINDS} for name, runs in both.items()}
        seconds = {name: round(sum(run["cpu_seconds"] for run in runs) / len(runs), 1) for name, runs in both.items()}
        rows[task] = {"runs": sides, "cpu_seconds": seconds}
    lines = [
        "# PPO: returns beside stable-baselines3's",
        "",
        f"`python benchmarks/ppo_learning.py`: {steps:,} steps, {seeds} seeds a side. {machine()}. Mean over seeds "
        "and, in brackets, the standard deviation between seeds; the difference with Welch's 95 % interval.",
        "",
        f"Shared settings: {json.dumps(SETTING)}.",
        "",
        "| task | return of | toddle | stable-baselines3 | difference | toddle's is |",
        "|---|---|---|---|---|---|",
    ]
    found = []
    for task, row in rows.items():
        for kind, label in KINDS.items():
            ours, theirs = row["runs"]["toddle"][kind], row["runs"]["sb3"][kind]
            value, low, high = welch_interval(ours, theirs)
            found.append(verdict(low, high))
            cells = [f"{sum(x) / len(x):,.0f} [{statistics.stdev(x):,.0f}]" for x in (ours, theirs)]
            cells += [f"{value:+,.0f} ({low:,.0f} to {high:,.0f})", found[-1]]
            lines.append(f"| {' | '.join([task, label, *cells])} |")
    lines += [
        "",
        f"Of {len(found)} comparisons toddle's return is higher in {found.count('higher')}, lower in "
        f"{found.count('lower')}, and not told apart in {found.count('not told apart')}. {READ}",
        "",
        PARITY,
    ]
    data = {"steps": steps, "seeds": seeds, "setting": SETTING, "machine": machine(), "tasks": rows}
    return data, "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--seeds", type=int, default=15)
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
