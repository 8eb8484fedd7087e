"""What acting from pictures costs: toddle's collector beside the way of the released SimpleVLA-RL and vlarl loops.

    python benchmarks/pixel_acting.py [--rounds 5] [--decisions 12]

16 worlds of metaworld/push-v3 (pictures of 96 x 96, toddle's fast drawing), a flow VLA of `toddle sft`'s sizes on the
embedded backbone with untrained weights, drawn by Flow-SDE in 4 steps, 8 actions a decision.  CPU time of the one
process on one thread, medians over interleaved rounds of the same number of control steps.

The released loops' way, as it is compared here: a picture at every control step, whether a decision reads it or not,
one observation at a time through the network, one world after another.  It is written here with toddle's environment,
drawing, network and sampler and decides at the same control steps (SimpleVLA-RL executes 8 actions a decision), so that
nothing but the way differs.  Neither repository's code runs: their networks have 7 billion parameters, their simulator
is LIBERO, and what they do on GPUs is not measured.  The last row decides at every control step, as OpenVLA and so
vlarl's policy do; another policy would act there.  toddle's row includes what a rollout stores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toddle.core.seeding import torch_generator
from toddle.envs.base import BatchedEnv
from toddle.envs.make import make_env
from toddle.experience.actor import Actor
from toddle.experience.collect import CollectConfig, Collector
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.models.expert import ExpertConfig
from toddle.models.lora import merged_copy
from toddle.models.trunk import TrunkConfig
from toddle.policies.flow_explorer import FlowExplorer, SamplerConfig
from toddle.policies.vla import FlowVLA, FlowVLAConfig

OUT = Path(__file__).parent.parent / "docs/benchmarks"
TASK, WORLDS, CHUNK = "metaworld/push-v3", 16, 8
OPTIONS: dict[str, Any] = {"cameras": ("close",), "image_size": 96, "reward": "success", "terminate_on_success": True}
OPTIONS |= {"max_episode_steps": 200, "privileged": True}
PARTS = {"physics": "physics", "pictures": "pictures", "backbone": "backbone", "expert": "expert and sampler"}
TITLES = {
    "toddle": "toddle's collector",
    "batched, pictures at decisions": "the same, nothing stored",
    "batched, every picture": "a picture every control step",
    "single, pictures at decisions": "one observation at a time",
    "single, every picture": "both: the released loops' way",
    "single, every decision": "and a decision every control step",
}
RELEASED = "single, every picture"


class Spent:
    """CPU seconds by part of the work, and how often it was done."""

    def __init__(self) -> None:
        self.seconds, self.calls = defaultdict[str, float](float), Counter[str]()

    def of(self, owner: Any, method: str, part: str) -> None:
        """Count what `owner.method` takes from now on as `part`."""
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*given: Any, **more: Any) -> Any:
            began = time.process_time()
            result = inner(*given, **more)
            self.seconds[part] += time.process_time() - began
            self.calls[part] += 1
            return result

        setattr(owner, method, timed)


def make_policy(executed: int = CHUNK) -> FlowExplorer:
    """Return the VLA that explores, with untrained weights."""
    env = make_env(TASK, 1, **OPTIONS)
    trunk = TrunkConfig(modulation="residual")
    expert = ExpertConfig(
        trunk=trunk, bodies=(env.body_spec,), horizon=CHUNK, executed=executed, window=1, head="velocity"
    )
    env.close()
    return FlowVLA.from_config(FlowVLAConfig(expert=expert)).explorer(SamplerConfig()).eval()


def watched(env: BatchedEnv, spent: Spent) -> BatchedEnv:
    """Return the environment, its physics and pictures counted."""
    spent.of(env, "_step_worlds", "physics")
    spent.of(env, "_picture", "pictures")
    return env


def way(envs: list[BatchedEnv], policy: FlowExplorer, *, every: bool) -> Callable[[int], int]:
    """Return a loop over so many control steps of each world that says how many it made.

    Each environment acts by itself, one after another; `every`: each control step is a call, which draws pictures.
    """
    actors = [Actor(env) for env in envs]
    seen = [env.reset(seed=index)[0] for index, env in enumerate(envs)]
    for actor in actors:
        actor.begin(policy)
    generator = torch_generator(0, "pixel acting")

    def run(length: int) -> int:
        steps = 0
        for _ in range(length // policy.horizon):
            for index, (env, actor) in enumerate(zip(envs, actors, strict=True)):
                decision = actor.decide(policy, policy.encode(actor.observe(seen[index])), generator)
                chunk, ended = actor.executable(decision), np.zeros(env.num_envs, bool)
                for part in np.split(chunk, policy.horizon, 1) if every else [chunk]:
                    seen[index], _, terminated, truncated, info = env.step_chunk(part)
                    ended |= terminated | truncated
                    steps += int(info["steps"].sum())
                actor.note(ended)
        return steps

    return run


def collector(policy: FlowExplorer, spent: Spent, decisions: int) -> Callable[[int], int]:
    """Return toddle's own loop."""
    env = watched(make_env(TASK, WORLDS, **OPTIONS), spent)
    source = Collector(env, CollectConfig(length=decisions), seed=0, critic_sees=False)

    def run(_: int) -> int:
        before = source.total_steps
        source.collect(policy, None)
        return source.total_steps - before

    return run


def measure(rounds: int, decisions: int) -> dict[str, Any]:
    """Return for each way the CPU microseconds of a control step, by part, of each round."""
    spent, policy, hasty = Spent(), make_policy(), make_policy(executed=1)
    batch = [watched(make_env(TASK, WORLDS, **OPTIONS), spent)]
    single = [watched(make_env(TASK, 1, **OPTIONS), spent) for _ in range(WORLDS)]
    for each in (policy, hasty):
        spent.of(each, "encode", "backbone")
        spent.of(each, "act", "expert")
    ways = {
        "toddle": collector(policy, spent, decisions),
        "batched, pictures at decisions": way(batch, policy, every=False),
        "batched, every picture": way(batch, policy, every=True),
        "single, pictures at decisions": way(single, policy, every=False),
        "single, every picture": way(single, policy, every=True),
        "single, every decision": way(single, hasty, every=True),
    }
    found: dict[str, Any] = {name: {part: [] for part in (*PARTS, "rest", "whole")} for name in ways}
    names = list(ways)
    for index in range(rounds + 1):  # the first warms up
        for name in names[index % len(names) :] + names[: index % len(names)]:
            spent.seconds.clear()
            spent.calls.clear()
            began = time.process_time()
            steps = ways[name](CHUNK * decisions if not name.endswith("every decision") else 2 * CHUNK)
            whole = time.process_time() - began
            if not index:
                continue
            own = {part: 1e6 * spent.seconds[part] / steps for part in PARTS}
            rest = 1e6 * whole / steps - sum(own.values())
            for part, value in (own | {"rest": rest, "whole": 1e6 * whole / steps}).items():
                found[name][part].append(value)
            found[name].setdefault("drawn", []).append(spent.calls["pictures"] / steps)
    return found


def lora(rounds: int, rank: int = 8) -> dict[str, list[float]]:
    """Return the CPU milliseconds in which the backbone reads 16 pictures, with LoRA beside its weights and merged."""
    adapters = load_backbone(BackboneConfig(lora_rank=rank))
    readers = {"adapters": adapters, "merged": merged_copy(adapters)}
    images = torch.randint(0, 256, (WORLDS, 1, 3, 96, 96), dtype=torch.uint8)
    found: dict[str, list[float]] = {name: [] for name in readers}
    for index in range(4 * rounds + 1):
        for name, reader in readers.items():
            began = time.process_time()
            with torch.no_grad():
                reader.encode(images, ["push the puck to the goal"] * WORLDS)
            if index:
                found[name].append(1e3 * (time.process_time() - began))
    return found


def page(record: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    medians = {
        name: {part: statistics.median(values) for part, values in parts.items()}
        for name, parts in record["ways"].items()
    }
    whole = [parts["whole"] for parts in record["ways"].values()]
    ratios = {
        name: statistics.median(b / a for a, b in zip(whole[0], parts["whole"], strict=True))
        for name, parts in record["ways"].items()
    }
    lines = [
        "# Acting from pictures",
        "",
        f"`python benchmarks/pixel_acting.py`: {record['rounds']} interleaved rounds of {record['decisions']} "
        f"decisions of {WORLDS} worlds each; Python {record['python']}, torch {record['torch']}, mujoco "
        f"{record['mujoco']}; load average {record['load'][0]:.1f} at the start, {record['load'][1]:.1f} at the end.",
        "",
        *__doc__.split("\n\n", 2)[2].strip().splitlines(),
        "",
        "CPU microseconds of a control step, and pictures drawn for one:",
        "",
        f"| | {' | '.join(PARTS.values())} | rest | whole | as much as toddle | pictures |",
        "|---|" + "---|" * 8,
    ]
    for name, title in TITLES.items():
        own = medians[name]
        numbers = " | ".join(f"{own[part]:,.0f}" for part in (*PARTS, "rest", "whole"))
        ratio = "" if name == "toddle" else f"x {ratios[name]:.2f}"
        lines.append(f"| {title} | {numbers} | {ratio} | {own['drawn']:.3f} |")
    reading = {name: statistics.median(values) for name, values in record["lora"].items()}
    single = [b / a for a, b in zip(whole[0], record["ways"][RELEASED]["whole"], strict=True)]
    reached = "reached" if ratios[RELEASED] >= 5 else "not reached"
    lines += [
        "",
        f"Wanted: the released loops' way costs at least five times as much as toddle: {reached} "
        f"(x {ratios[RELEASED]:.2f}; single rounds {min(single):.2f} to {max(single):.2f}).",
        "",
        f"With LoRA of rank 8 on the embedded backbone {WORLDS} pictures are read in {reading['adapters']:.1f} CPU ms "
        f"with the adapters beside the weights, and in {reading['merged']:.1f} with them merged, as rollouts and "
        "evaluation do.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the record and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=12)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = os.getloadavg()[0]
    record = {
        "ways": measure(given.rounds, given.decisions),
        "lora": lora(given.rounds),
        "rounds": given.rounds,
        "decisions": given.decisions,
        "load": [began, os.getloadavg()[0]],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mujoco": version("mujoco"),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "pixel_acting.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.out / "pixel_acting.md").write_text(page(record))
    print(page(record))


if __name__ == "__main__":
    main()
