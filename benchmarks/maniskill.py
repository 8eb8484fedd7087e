"""ManiSkill and tabletop side by side: rules on the same states, rewards of the same actions, experts, steps a second.

    pip install 'toddle[maniskill]'
    python benchmarks/maniskill.py           docs/benchmarks/maniskill.{json,md}

rules    on every state that the expert, disturbed in every second world, meets in ManiSkill: tabletop's success and
         dense reward beside the package's own (whether something is held is ManiSkill's word in both)
open     the same starts and the same actions in both simulations, each with its own contacts: correlation of the
         rewards over worlds and steps, and how far the tool is apart at the end
closed   the same starts, and tabletop's expert acting in each, undisturbed: correlation of the rewards, tasks solved
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from toddle.envs.make import make_env
from toddle.envs.maniskill_rules import REPLICAS, Replica
from toddle.envs.tabletop.tasks import TASKS

OUT = Path(__file__).parent.parent / "docs/benchmarks"
WORLDS, STEPS = 8, 40
Array = np.ndarray[Any, Any]


def put(env: Any, other: Any, replica: Replica) -> None:
    """Put tabletop's worlds where ManiSkill's stand."""
    now, everyone = other.moment(), np.ones(env.num_envs, bool)
    qpos = np.zeros((env.num_envs, env.pool.model.nq))
    qpos[:, :9] = other.current_observation()["proprio"][:, :9]
    for index, thing in enumerate(env.task.things):
        at = 9 + 7 * index
        qpos[:, at : at + 3] = now.at[thing.name]
        qpos[:, at + 3 : at + 7] = now.rotation[thing.name].as_quat(scalar_first=True)
    place, turn = env.pool.mocap_pos.copy(), env.pool.mocap_quat.copy()
    for name, index in env._mocap.items():
        place[:, index], turn[:, index] = now.at[name], now.rotation[name].as_quat(scalar_first=True)
    for name, values in now.sizes.items():
        env._sizes[name][:] = values
    if now.sizes:
        env._reshape(np.arange(env.num_envs))
    env.pool.set_state(everyone, qpos, np.zeros((env.num_envs, env.pool.model.nv)), mocap_pos=place, mocap_quat=turn)
    env.pool.ctrl[:, :7] = qpos[:, :7]
    env._moment = None


def pair(task: str) -> tuple[Any, Any]:
    """Return ManiSkill's worlds and tabletop's at the same starts."""
    replica = REPLICAS[task]
    theirs: Any = make_env(f"maniskill/{task}", WORLDS, seed=0)
    ours: Any = make_env(f"tabletop/{replica.task}", WORLDS, seed=0)
    theirs.reset(seed=0)
    ours.reset(seed=0)
    put(ours, theirs, replica)
    return theirs, ours


def correlation(rewards: list[tuple[Array, Array]]) -> float:
    one, two = (np.concatenate(each) for each in zip(*rewards))
    return float(np.corrcoef(one, two)[0, 1])


def closed(task: str) -> dict[str, Any]:
    """Return what the expert does in each."""
    theirs, ours = pair(task)
    rewards = []
    for _ in range(STEPS):
        made = [env.step(env.expert_action()) for env in (theirs, ours)]
        rewards.append((made[0][1], made[1][1]))
    solved = {
        "closed_maniskill": int(made[0][-1]["success"].sum()),
        "closed_tabletop": int(made[1][-1]["success"].sum()),
    }
    return solved | {"closed_correlation": correlation(rewards)}


def compare(task: str) -> dict[str, Any]:
    """Return everything measured of one task."""
    rule = TASKS[REPLICAS[task].task]
    theirs, ours = pair(task)
    random = np.random.default_rng(0)
    disturbed = np.where(np.arange(WORLDS) % 2, 0.3, 0.0)[:, None]
    agree, gap, wins = 0, 0.0, 0
    rewards: list[tuple[Array, Array]] = []
    spent = {"maniskill": 0.0, "tabletop": 0.0}
    for _ in range(STEPS):
        action = theirs.expert_action() + disturbed * random.normal(size=(WORLDS, 7))
        action = np.clip(action, -1, 1).astype(np.float32)
        began = time.process_time()
        _, reward, _, _, info = theirs.step(action)
        spent["maniskill"] += time.process_time() - began
        began = time.process_time()
        other = ours.step(action)[1]
        spent["tabletop"] += time.process_time() - began
        now = theirs.moment()
        told = np.asarray(rule.solved(now))
        agree, wins = agree + int((told == info["success_now"]).sum()), wins + int(told.sum())
        gap = max(gap, float(np.abs(np.where(told, 1.0, rule.dense(now) / rule.best) - reward).max()))
        rewards.append((reward, other))
    apart = np.linalg.norm(theirs.tool_pose()["tool_position"] - ours.tool_pose()["tool_position"], axis=1)
    return closed(task) | {
        "task": task,
        "states": WORLDS * STEPS,
        "solved_states": wins,
        "agree": agree,
        "reward_gap": gap,
        "open_correlation": correlation(rewards),
        "tool_apart_mm": float(1000 * np.median(apart)),
        "maniskill_steps": WORLDS * STEPS / spent["maniskill"],
        "tabletop_steps": WORLDS * STEPS / spent["tabletop"],
    }


def main() -> None:
    load = os.getloadavg()[0]
    rows = [compare(task) for task in REPLICAS]
    (OUT / "maniskill.json").write_text(json.dumps({"load": load, "rows": rows}) + "\n")
    text = "# ManiSkill and tabletop side by side\n\n"
    text += (
        f"`python benchmarks/maniskill.py`, mani_skill 3.0.1 on a CPU, load average {load:.1f} at the start; {WORLDS} "
    )
    text += f"starts of ManiSkill's, {STEPS} control steps.\n\n"
    text += "Same states (the expert acts in ManiSkill, disturbed in every second world): how often tabletop's success "
    text += "rule says what the package says, and the largest difference of the dense reward (1 is what success pays). "
    text += "Same actions: these in both simulations, blindly. Expert: acting in each by what it sees there.\n\n"
    text += "| task | success rule agrees (of it solved) | largest gap of the reward | same actions: correlation of "
    text += "rewards; tools apart at the end | expert: correlation of rewards; solved in ManiSkill, in tabletop "
    text += "| control steps a CPU second: ManiSkill, tabletop |\n|---|---|---|---|---|---|\n"
    for row in rows:
        text += (
            f"| {row['task']} | {row['agree']} of {row['states']} ({row['solved_states']}) | {row['reward_gap']:.1e} "
        )
        text += f"| {row['open_correlation']:.2f}; {row['tool_apart_mm']:.0f} mm "
        text += f"| {row['closed_correlation']:.2f}; {row['closed_maniskill']}, {row['closed_tabletop']} "
        text += f"| {row['maniskill_steps']:.0f}, {row['tabletop_steps']:.0f} |\n"
    (OUT / "maniskill.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
