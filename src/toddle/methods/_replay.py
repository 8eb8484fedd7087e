"""What methods of states share that learn from a replay: what is kept, and demonstrations beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from toddle.algorithms.replay_learner import ONLINE, Pace, ReplayLearner
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.memory import size_text
from toddle.core.numbers import Count
from toddle.core.protocols import Acting
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.replay import Store, decisions_from
from toddle.data.transitions import Transitions, read_transitions
from toddle.methods._actors import check_continuous, has_goals
from toddle.methods._base import Run, Start
from toddle.runs.run import KEPT

__all__ = ["OFFLINE", "ReplaySettings", "check_env", "demonstrated", "empty_store", "replay_run", "stored"]

OFFLINE = "offline"
"""The store of demonstrations."""


@config
class ReplaySettings:
    """What is kept of what the policy did."""

    capacity: Count = 1_000_000
    """Decisions; then the oldest go."""
    kind: Literal["float32", "float16"] = "float32"
    """Type of the states and actions that are kept (rewards are float32)."""
    keep: Literal["memory", "file"] = "memory"
    """Where: in memory, or in files of the run's folder that are mapped into memory."""


def check_env(start: Start) -> None:
    """Raise InputError unless there is one environment, of continuous actions and without goal items."""
    check_continuous(start.envs, "off-policy learning")
    if len(start.envs) != 1 or has_goals(start.envs):
        names = ", ".join(env.name for env in start.envs)
        raise problem("env", "one environment without goal items, with off-policy learning", names)


def empty_store(
    start: Start, sizes: tuple[int, int], replay: ReplaySettings, pace: Pace, *, where: str, returns: bool = False
) -> Store:
    """Return the store of what the policy will do, states and actions of `sizes`; `where`: the settings of `pace`."""
    file: Path | Literal["temporary"] | None = None
    if replay.keep == "file":
        file = "temporary" if start.folder is None else start.folder / "replay" / ONLINE
    if pace.learn_after > replay.capacity:
        wanted = f"at most the {replay.capacity:,} decisions of the replay"
        raise problem(f"{where}.learn_after", wanted, pace.learn_after)
    between = start.envs[0].num_envs * pace.rounds * start.checkpoint_every
    slack = (KEPT + 1) * between
    return Store(replay.capacity, *sizes, kind=replay.kind, file=file, slack=slack, returns=returns)


def demonstrated(
    paths: Sequence[Path],
    policy: Acting,
    sizes: tuple[int, int],
    *,
    reward: Literal["success", "recorded"],
    scale: float,
    shift: float,
    discount: float,
) -> Transitions:
    """Return all transitions of the datasets.  Raises InputError where they are not of the policy's `sizes`."""
    parts = [
        read_transitions(LeRobotDataset(path), reward=reward, scale=scale, shift=shift, discount=discount)
        for path in paths
    ]
    data = Transitions.joined(parts)
    found = data.observation.shape[1], data.action.shape[1]
    if policy.horizon != 1 or found != sizes:
        wanted = "{} numbers of state and {} of action".format(*sizes)
        raise problem("demonstrations", wanted, "{} and {}".format(*found))
    return data


def stored(data: Transitions, discount: float, kind: Literal["float32", "float16"], *, returns: bool = False) -> Store:
    """Return a store of all these transitions."""
    store = Store(len(data), data.observation.shape[1], data.action.shape[1], kind=kind, returns=returns)
    store.add(decisions_from(data, discount))
    return store


def replay_run(start: Start, policy: Acting, learner: ReplayLearner, offline_share: float) -> Run:
    """Return the run of a learner; the plan says what is kept."""
    per_step = learner.pace.rounds * learner.collector.decisions * policy.horizon
    store = learner.replay.stores[ONLINE]
    where = "in memory" if store.file is None else f"in files of {store.rows:,} rows"
    note = f"keep the last {store.capacity:,} decisions, {size_text(store.size)} {where}"
    if OFFLINE in learner.replay.stores:
        offline = learner.replay.stores[OFFLINE]
        note += f"; {offline_share:.0%} of each batch from {len(offline):,} demonstrated ones"
    return Run(
        learner=learner,
        policy=policy,
        iterations=max(1, round(start.steps / per_step)),
        sources=[learner],
        show=("episode/success", "episode/return"),
        notes=(note,),
        rehearse=learner.learn_at_once,
    )
