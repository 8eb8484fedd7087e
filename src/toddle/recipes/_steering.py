"""What `toddle evaluate --steer` makes of a policy, and the settings of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from toddle.core.config import config
from toddle.core.device import CPU
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Share, Size
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.models.world_model import load_world_model
from toddle.policies.guided import GuidanceConfig, GuidedPolicy
from toddle.policies.recalling import RecallConfig, RecallingPolicy, Remembered
from toddle.policies.retrying import RetryConfig, RetryingPolicy
from toddle.policies.searching import SearchConfig, SearchingPolicy
from toddle.recipes._features import states_seen
from toddle.runs.critics import load_critics

__all__ = ["CANDIDATES", "Steer", "SteeringConfig", "check_steering", "rows_of", "steered"]

CANDIDATES = 10
"""Chunks compared where nothing is said."""
BY_VALUE = ("vgps", "cem", "guidance", "hume")
NEEDS = {"critic": (*BY_VALUE, "retry"), "memory": ("strap", "ra-dt"), "model": ("mcts",)}
"""What must be given, and for which ways."""
RECALLS = ("strap", "ra-dt")
OF = {
    "critic": (*NEEDS["critic"], "mcts"),
    "memory": RECALLS,
    "model": ("mcts",),
    "search": ("mcts",),
    "recall": RECALLS,
    "retry": ("retry",),
    "width": ("vgps", "cem", "hume", "mcts"),
    "temperature": ("vgps", "guidance", "hume"),
    "rounds": ("cem",),
    "elites": ("cem",),
    "spread": ("cem",),
    "strength": ("guidance",),
    "stagger": ("hume",),
    "period": ("hume",),
    "refine": ("hume",),
}
"""Which ways a setting has an effect with."""


@config
class SteeringConfig:
    """How a critic, or a memory, steers a policy at test time (docs/steering.md)."""

    critic: Path | None = None
    """Run of `toddle offline`, or its `critics/`; for a VLA one with `--features`."""
    width: Share = GuidanceConfig.width
    """Candidates are drawn with this share of the policy's deviation from its most likely action; 1: as it draws."""
    temperature: NonNegative = GuidanceConfig.temperature
    """vgps, guidance, hume: softness of the choice in standard deviations of the candidates' values; 0: the best."""
    rounds: Count = GuidanceConfig.rounds
    """cem: times that a Gaussian is fitted and drawn from."""
    elites: Share = GuidanceConfig.elites
    """cem: share of the candidates that it is fitted to, at least two."""
    spread: Positive = GuidanceConfig.spread
    """cem: the fitted standard deviation is multiplied by this."""
    strength: NonNegative = GuidanceConfig.strength
    """guidance: how far a chunk is moved on the way, in normalised actions (root mean square)."""
    stagger: Share = GuidanceConfig.stagger
    """hume: candidates begin at flow times from 0 to this, each from pure noise."""
    period: Size = GuidanceConfig.period
    """hume: decisions for which a chosen chunk lasts; the policy's chunks must be so long."""
    refine: Share = GuidanceConfig.refine
    """hume: share of noise to which the rest of a chosen chunk is noised before it flows again; 0: it is executed."""
    memory: tuple[Path, ...] = ()
    """strap, ra-dt: datasets that are remembered; strap takes their successes alone."""
    recall: RecallConfig = RecallConfig()
    """strap, ra-dt: how what is remembered has its say."""
    model: Path | None = None
    """mcts: run of `toddle worldmodel train`, of the environment that the policy acts in.  With a critic of
    `--reward-shift -1` tries are paid in steps until success and end in its value, else in the model's reward."""
    search: SearchConfig = SearchConfig()
    """mcts: how the policy searches in the model."""
    retry: RetryConfig = RetryConfig()
    """retry: when a policy tries again, and how."""
    cache: Path = Path("runs/cache")
    """Where features of a memory's pictures are kept."""
    control: Literal["none", "shuffled", "flipped"] = "none"
    """Controls.  shuffled: each candidate has another one's value, each remembered moment another one's actions, alarms
    come at random (no gain is due).  flipped: the worst candidate is the best (harm is)."""


Steer = Literal["none", "vgps", "cem", "guidance", "hume", "strap", "ra-dt", "retry", "mcts"]


def check_steering(steer: Steer, candidates: Size, steering: SteeringConfig) -> None:
    """Raise InputError where settings have no effect, or the critic or the memory is missing."""
    given, usual = asdict(steering), asdict(SteeringConfig())
    if steer == "none":
        changed = ["candidates"] * (candidates != CANDIDATES)
        changed += [f"steering.{name}" for name in given if given[name] != usual[name]]
        if changed:
            raise problem(", ".join(changed), "nothing without --steer", "some")
        return
    for name, ways in OF.items():
        if steer not in ways and given[name] != usual[name]:
            raise problem(f"steering.{name}", f"nothing without --steer {' or '.join(ways)}", given[name])
    if steer in NEEDS["model"] and steering.model is None:
        raise problem("steering.model", f"a run of toddle worldmodel train for --steer {steer}", "none")
    if steer in NEEDS["critic"] and steering.critic is None:
        raise problem("steering.critic", f"a run of toddle offline for --steer {steer}", "none")
    if steer in RECALLS and not steering.memory:
        raise problem("steering.memory", f"datasets for --steer {steer}", "none")
    if steer in RECALLS and candidates != CANDIDATES:
        raise problem("candidates", f"nothing with --steer {steer}", candidates)
    if steering.control == "flipped" and steer not in (*BY_VALUE, "mcts"):
        raise problem("steering.control", "none or shuffled", "flipped")


def steered(policy: Any, steer: Steer, candidates: Size, steering: SteeringConfig, device: Any = CPU) -> Any:
    """Return the policy as it is to act.  Raises InputError where critic or memory and policy do not fit."""
    if steer == "none":
        return policy
    if steer == "strap" or steer == "ra-dt":
        warped = steer == "strap"
        rows = (part.to(device) for part in _remembered(policy, steering, warped))
        return RecallingPolicy(policy, Remembered(*rows), steering.recall, warped=warped)
    stored = load_critics(steering.critic) if steering.critic else None
    critic = stored.q.requires_grad_(False).to(device) if stored else None
    discount = float(stored.facts.get("discount", 0.99)) if stored else steering.search.discount
    if stored and steer in ("retry", "mcts") and stored.facts.get("reward_shift") != -1.0:
        found = stored.facts.get("reward_shift", 0.0)
        raise problem("steering.critic", "critics of --reward-shift -1, which count steps", found)
    if steer == "mcts":
        assert steering.model is not None
        model, _ = load_world_model(steering.model, device)
        options: dict[str, Any] = {"width": steering.width, "critic": critic, "control": steering.control}
        return SearchingPolicy(
            policy, model, replace(steering.search, discount=discount), candidates=candidates, **options
        )
    assert critic is not None
    if steer == "retry":
        control = steering.control == "shuffled"
        return RetryingPolicy(policy, critic, discount, steering.retry, candidates=candidates, control=control)
    names = set(GuidanceConfig.__dataclass_fields__) & set(SteeringConfig.__dataclass_fields__)
    own = {name: value for name, value in asdict(steering).items() if name in names}
    return GuidedPolicy(policy, critic, GuidanceConfig(method=steer, candidates=candidates, **own))


def _remembered(policy: Any, steering: SteeringConfig, successes: bool) -> tuple[torch.Tensor, ...]:
    """Return the parts of `Remembered`: the rows of the datasets that are remembered."""
    parts = [rows_of(policy, LeRobotDataset(path), steering.cache, successes) for path in steering.memory]
    if not any(len(state) for state, *_ in parts):
        raise problem("steering.memory", "a success in what is remembered", "none")
    state, chunk, begins, worth = (torch.cat(part) for part in zip(*parts, strict=True))
    low, high = worth.min(), worth.max()
    worth = (worth - low) / (high - low) if high > low else torch.ones_like(worth)
    if steering.control == "shuffled":
        order = torch.randperm(len(chunk), generator=torch.Generator().manual_seed(0))
        chunk = chunk[order]
    return state, chunk, begins, worth


def rows_of(policy: Any, dataset: LeRobotDataset, cache: Path, successes: bool) -> tuple[torch.Tensor, ...]:
    """Return states, chunks, beginnings and the discounted success of the rows of a dataset's episodes."""
    seen = states_seen(cache, policy, dataset) if policy.cameras else dataset.vector("observation.state")
    action, reached = dataset.vector("action"), dataset.column("next.success").astype(bool)
    kept, chunk, begins, worth = list[Any](), list[Any](), list[Any](), list[Any]()
    for episode in dataset.episodes:
        won = np.flatnonzero(reached[episode.start : episode.stop])
        if successes and not len(won):
            continue
        stop = episode.start + int(won[0]) + 1 if len(won) else episode.stop
        rows = np.arange(episode.start, stop)
        kept.append(seen[rows])
        chunk.append(action[np.minimum(rows[:, None] + np.arange(policy.horizon), stop - 1)])
        begins.append(rows == episode.start)
        worth.append(np.full(len(rows), 0.99 ** len(rows) if len(won) else 0.0))
    wide, numbers = seen.shape[1], action.shape[1]
    empty = (np.zeros((0, wide)), np.zeros((0, policy.horizon, numbers)), np.zeros(0, bool), np.zeros(0))
    made = [np.concatenate([none, *part]) for none, part in zip(empty, (kept, chunk, begins, worth), strict=True)]
    return tuple(torch.from_numpy(part if part.dtype == bool else part.astype(np.float32)) for part in made)
