"""Does a critic that learned from a policy's own draws choose better ones?  `--steer vgps`, K = 10, with controls.

    python benchmarks/steering_gain.py run FOLDER [--tasks push-cube ...] [--seeds 1 2 3 4 5] [--oracle]
    python benchmarks/steering_gain.py page

For each task and seed: noisy episodes of the scripted expert, good and bad, as they were executed; a flow policy that
clones them in chunks of 4; its own episodes, failures kept; critics by `toddle offline --method sarsa`.  Then the same
starts with the policy alone, steered, and steered with shuffled and with flipped values.  --oracle: from states of the
policy's, each of its K draws is played to the end several times: what the best choice would be worth, and how the
critic ranks them.  A result that is in docs/benchmarks/steering_gain.json is not made again.  Settings were tried on
seed 100, which is not counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from steering import seconds

from toddle.algorithms.offline import OfflineConfig
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.make import make_env
from toddle.experience.actor import Actor
from toddle.experience.evaluate import evaluate
from toddle.maths.intervals import t_interval
from toddle.maths.ranks import spearman
from toddle.methods._imitation import ImitationConfig, imitate
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.guided import GuidanceConfig, GuidedPolicy
from toddle.policies.links import FlowConfig
from toddle.policies.store import load_policy, save_policy
from toddle.recipes import offline, record
from toddle.runs.critics import load_critics

OUT = Path(__file__).parent.parent / "docs/benchmarks/steering_gain"
CHUNK, K, DISCOUNT, TRIES = 4, 10, 0.97, 6
DEMONSTRATED, OWN, STARTS = 1_000_000, 3_000_000, 20_000
"""Seeds of the expert's episodes, of the policy's own, and of those that count; a seed of ours takes 1,000 of each."""


class Task(NamedTuple):
    """What differs from task to task."""

    env: str
    noise: float
    """Of the expert."""
    demonstrations: int
    own: int
    """Episodes of the policy that the critic learns from."""
    starts: int
    """Episodes that count, each way."""
    batch: int
    """Worlds at once."""
    imitation: int
    """Updates."""
    states: int
    """Of the oracle."""
    updates: int
    """Of the critics."""
    size: int
    """Of their batches."""
    rate: float
    """Their learning rate."""
    deterministic: bool
    """Whether the policy's own episodes are without the noise that its kind explores with."""


TASKS = {
    "push-cube": Task("tabletop/push-cube", 0.2, 40, 600, 100, 50, 1500, 40, 2500, 256, 3e-4, False),
    "gutter": Task("gutter/push", 0.4, 60, 200, 200, 100, 1000, 60, 1500, 128, 1e-3, True),
}
WAYS = ("alone", "vgps", "shuffled", "flipped")


# ---- run -----------------------------------------------------------------------------------------------------------
def recorded(out: Path, task: Task, seed: int, episodes: int, **beside: Any) -> Path:
    """Record episodes, failures kept, where they are not there."""
    common: dict[str, Any] = {"env": (task.env,), "keep_failures": True, "cameras": (), "after_success": 0}
    config = record.Config(out=out, episodes=episodes, batch=task.batch, seed=seed, **common | beside)
    record.run(config, resume=out.exists())
    return out


def cloned(folder: Path, task: Task, seed: int) -> DenoisingPolicy:
    """Clone what the noisy expert did, good and bad alike, where it is not done."""
    out = folder / "policy"
    if not (out / "policy.json").exists():
        noisy: dict[str, Any] = {"noise": task.noise, "executed": True}
        data = recorded(folder / "expert", task, DEMONSTRATED + 1000 * seed, task.demonstrations, **noisy)
        env = make_env(task.env, 1)
        shape: dict[str, Any] = {"horizon": CHUNK, "executed": CHUNK, "network": MlpDenoiserConfig(width=128)}
        settings = DenoisingConfig(body=env.body_spec, process=FlowConfig(), fixed_statistics=True, seed=seed, **shape)
        made = DenoisingPolicy(settings)
        updates = ImitationConfig(steps=task.imitation)
        imitate(made, LeRobotDataset(data), updates, seed, space=env.single_action_space)
        save_policy(out, made, {"dataset": str(data)})
    found: DenoisingPolicy = load_policy(out, acting=True)
    return found


def critics(folder: Path, task: Task, seed: int) -> Any:
    """Learn the policy's values from its own episodes, where it is not done."""
    out = folder / "critic"
    own = recorded(
        folder / "own",
        task,
        OWN + 1000 * seed,
        task.own,
        policy=str(folder / "policy"),
        deterministic=task.deterministic,
    )
    learning = OfflineConfig(
        hidden=(128, 128),
        batch=task.size,
        learning_rate=task.rate,
        target_rate=0.02,
        discount=DISCOUNT,
        chunk=CHUNK,
        updates_a_step=500,
    )
    sizes: dict[str, Any] = {"hidden": (16,), "updates": task.updates}
    config = offline.Config(dataset=(own,), out=out, method="sarsa", offline=learning, seed=seed, **sizes)
    if not (out / "critics").exists():
        offline.run(config, resume=out.exists())
    return load_critics(out).q.requires_grad_(False)


def measured(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Return the successes of every way on the same starts."""
    task = TASKS[name]
    policy, critic = cloned(folder, task, seed), critics(folder, task, seed)
    own = [bool(one.facts["success"]) for one in LeRobotDataset(folder / "own").episodes]
    found: dict[str, Any] = {"own episodes": len(own), "own success": float(np.mean(own))}
    for way in WAYS:
        control: Any = way if way in ("shuffled", "flipped") else "none"
        steered = GuidedPolicy(policy, critic, GuidanceConfig(candidates=K, control=control))
        env = make_env(task.env, min(task.batch, task.starts), terminate_on_success=True)
        starts = range(STARTS + 1000 * seed, STARTS + 1000 * seed + task.starts)
        found[way] = [int(one.success) for one in evaluate(policy if way == "alone" else steered, env, seeds=starts)]
    return found


@torch.no_grad()
def cost(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Return the CPU milliseconds of a decision for one world, and how many of these a steered one takes."""
    task = TASKS[name]
    policy, critic = cloned(folder, task, seed), critics(folder, task, seed)
    env = make_env(task.env, 1)
    actor = Actor(env)
    actor.begin(policy)
    seen = actor.observe(env.reset(seed=0)[0])
    steered = GuidedPolicy(policy, critic, GuidanceConfig(candidates=K))
    ways: dict[str, Callable[[], Any]] = {
        "alone": lambda: policy.act(seen, None, deterministic=True),
        "steered": lambda: steered.act(seen, None, deterministic=True),
    }
    spent = seconds(ways, 40)
    ratios = [each / own for each, own in zip(spent["steered"], spent["alone"], strict=True)]
    return {"alone, ms": 1000 * float(np.median(spent["alone"])), "ratio": float(np.median(ratios))}


@torch.no_grad()
def oracle(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Play each of K draws to the end, TRIES times, from states of the policy's; in halves, so that what is chosen by
    one half of the tries is judged by the other."""
    task = TASKS[name]
    policy, critic = cloned(folder, task, seed), critics(folder, task, seed)
    env = make_env(task.env, K * TRIES, terminate_on_success=True)
    generator, drawn = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    returns, values = [], []
    for start in range(task.states):
        raw, _ = env.reset(seed=[OWN + 500_000 + 1000 * seed + start] * (K * TRIES))  # the same world, many times
        actor = Actor(env)
        actor.begin(policy)

        def decide(seen: Any, actor: Actor = actor) -> NDArray[Any]:
            return actor.executable(actor.decide(policy, seen, generator, deterministic=True))

        over = False
        for _ in range(int(drawn.integers(env.max_episode_steps // 2 // CHUNK))):
            chunk = decide(actor.observe(raw))
            raw, _, won, cut, _ = env.step_chunk(np.repeat(chunk[:1], len(chunk), 0), reset_done=False)
            over |= bool((won | cut).any())
        if over:
            continue
        seen = actor.observe(raw)
        chunk = np.repeat(decide(seen)[:K], TRIES, 0)
        tried = torch.from_numpy(chunk[::TRIES]).flatten(1)
        values.append(critic(seen["proprio"][:K], tried).amin(0).numpy())
        returns.append(played(env, actor, decide, chunk))
    env.close()
    return choices(np.array(returns), np.array(values))


def played(env: Any, actor: Actor, decide: Callable[[Any], Any], chunk: NDArray[Any]) -> NDArray[Any]:
    """Return the discounted success (K, TRIES) of chunks (K TRIES, H, A), after which the policy goes on."""
    running, steps, won = np.ones(len(chunk), bool), np.zeros(len(chunk)), np.zeros(len(chunk), bool)
    while running.any():
        raw, _, ended, cut, info = env.step_chunk(chunk, active=running, reset_done=False)
        steps += np.where(running, info["steps"], 0)
        won |= running & info["success"]
        running &= ~(ended | cut)
        chunk = decide(actor.observe(raw)) if running.any() else chunk
    return np.where(won, DISCOUNT**steps, 0.0).reshape(K, TRIES)


def choices(returns: NDArray[Any], values: NDArray[Any]) -> dict[str, Any]:
    """Return what one choice is worth by the oracle and by the critic, from returns (S, K, TRIES) and values (S, K)."""
    rows, half = np.arange(len(returns)), TRIES // 2
    first, second = returns[..., :half].mean(-1), returns[..., half:].mean(-1)
    within = returns.var(-1, ddof=1).mean() / TRIES
    mean = returns.mean(-1)
    ranked = [spearman(v, m) for v, m in zip(values, mean, strict=True) if m.std() > 0]
    halves = [spearman(a, b) for a, b in zip(first, second, strict=True) if a.std() > 0 and b.std() > 0]
    return {
        "states": len(returns),
        "mean": float(mean.mean()),
        "deviation between draws": float(np.sqrt(max(0.0, mean.var(-1, ddof=1).mean() - within))),
        "oracle gain": float((second[rows, first.argmax(-1)] - second.mean(-1)).mean()),
        "critic gain": float((mean[rows, values.argmax(-1)] - mean.mean(-1)).mean()),
        "rank correlation": float(np.mean(ranked)),
        "rank correlation of the oracle's halves": float(np.mean(halves)),
    }


def run(folder: Path, names: list[str], seeds: list[int], *, with_oracle: bool) -> None:
    """Make what is missing."""
    store = OUT.with_suffix(".json")
    for seed in seeds:
        for name in names:
            for part, make in {
                "success": measured,
                "cost": cost,
                **({"oracle": oracle} if with_oracle else {}),
            }.items():
                results = json.loads(store.read_text()) if store.exists() else {}
                key = f"{name} {seed} {part}"
                if key in results:
                    continue
                found = make(folder / name / str(seed), name, seed)
                results = (json.loads(store.read_text()) if store.exists() else {}) | {key: found}
                store.write_text(json.dumps(dict(sorted(results.items()))) + "\n")
                short = {k: float(np.mean(v)) for k, v in found.items()}
                print(key, {k: round(v, 3) for k, v in short.items()}, flush=True)


# ---- page ----------------------------------------------------------------------------------------------------------
def interval(values: list[float], digits: int = 0) -> str:
    """Return a mean over seeds with its interval."""
    found = t_interval(values)
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def page() -> str:
    """Return the page of what is stored."""
    results = json.loads(OUT.with_suffix(".json").read_text())
    lines = [(__doc__ or "").partition("\n")[0], "", "`python benchmarks/steering_gain.py run runs/gain`, `... page`."]
    lines += [
        "Success in %, mean over seeds (95 %, t over seeds); a seed has a policy, a critic and starts of its own.",
        "",
    ]
    lines += ["| task | seeds | starts | alone | `vgps` | shuffled | flipped |", "|---|---|---|---|---|---|---|"]
    more = ["| task | `vgps` less alone | shuffled less alone | `vgps` less shuffled | flipped less shuffled |"]
    more += ["|---|---|---|---|---|"]
    each = ["| task, seed | alone | `vgps` | shuffled | flipped | own episodes |", "|---|---|---|---|---|---|"]
    looked = ["| task, seed | states | mean | deviation between draws | oracle's choice | critic's choice |"]
    looked = [looked[0] + " rank correlation | of the oracle's halves |", "|---|---|---|---|---|---|---|---|"]
    dear = ["| task, seed | a decision alone, ms | a steered one, in decisions |", "|---|---|---|"]
    for name in TASKS:
        of_task = {tuple(key.split()[1:]): value for key, value in results.items() if key.startswith(f"{name} ")}
        counted = {seed: one for (seed, part), one in of_task.items() if part == "success" and int(seed) < 100}
        mean = {way: [100 * float(np.mean(one[way])) for one in counted.values()] for way in WAYS}
        if len(counted) > 1:
            cells = " | ".join(interval(mean[way]) for way in WAYS)
            lines.append(f"| {name} | {len(counted)} | {TASKS[name].starts} | {cells} |")
            pairs = (("vgps", "alone"), ("shuffled", "alone"), ("vgps", "shuffled"), ("flipped", "shuffled"))
            gains = [interval((np.array(mean[a]) - np.array(mean[b])).tolist(), 1) for a, b in pairs]
            more.append(f"| {name} | {' | '.join(gains)} |")
        for at, (seed, one) in enumerate(counted.items()):
            own = f"{one['own episodes']}, {100 * one['own success']:.0f} % succeed"
            each.append(f"| {name}, {seed} | {' | '.join(f'{mean[way][at]:.0f}' for way in WAYS)} | {own} |")
        for seed, part in of_task:
            if part == "cost":
                dear.append(
                    f"| {name}, {seed} | {of_task[seed, part]['alone, ms']:.2f} | {of_task[seed, part]['ratio']:.2f} |"
                )
            if part == "oracle":
                states, *numbers = of_task[seed, part].values()
                cells = " | ".join(f"{number:.3f}" for number in numbers)
                looked.append(f"| {name}, {seed} | {states} | {cells} |")
    lines += [
        "",
        *more,
        "",
        *each,
        "",
        f"CPU time for one world, K = {K}, one thread of a loaded machine:",
        "",
        *dear,
        "",
    ]
    if len(looked) > 2:
        tries = f"in discounted success (gamma {DISCOUNT}), {TRIES} tries of each draw:"
        lines += [f"What one choice among {K} is worth, {tries}", "", *looked, ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/steering_gain"))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--oracle", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "run":
        run(given.folder, given.tasks, given.seeds, with_oracle=given.oracle)
    else:
        OUT.with_suffix(".md").write_text(page())


if __name__ == "__main__":
    main()
