"""What `toddle evaluate --steer` makes of a policy, and the settings of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from toddle.core.config import config
from toddle.core.device import CPU
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Share, Size
from toddle.policies.guided import GuidanceConfig, GuidedPolicy
from toddle.runs.critics import load_critics

__all__ = ["CANDIDATES", "SteeringConfig", "check_steering", "steered"]

CANDIDATES = 10
"""Chunks compared where nothing is said."""
OF = {"temperature": "vgps", "rounds": "cem", "elites": "cem", "spread": "cem"}


@config
class SteeringConfig:
    """How a critic steers a policy at test time (docs/steering.md)."""

    critic: Path | None = None
    """Run of `toddle offline`, or its `critics/`."""
    width: Share = GuidanceConfig.width
    """Candidates are drawn with this share of the policy's deviation from its most likely action; 1: as it draws."""
    temperature: NonNegative = GuidanceConfig.temperature
    """vgps: softness of the choice in standard deviations of the candidates' values; 0: the best."""
    rounds: Count = GuidanceConfig.rounds
    """cem: times that a Gaussian is fitted and drawn from."""
    elites: Share = GuidanceConfig.elites
    """cem: share of the candidates that it is fitted to, at least two."""
    spread: Positive = GuidanceConfig.spread
    """cem: the fitted standard deviation is multiplied by this."""
    control: Literal["none", "shuffled", "flipped"] = "none"
    """Controls: each candidate has another one's value (no gain is due), or the worst is best (harm is)."""


Steer = Literal["none", "vgps", "cem"]


def check_steering(steer: Steer, candidates: Size, steering: SteeringConfig) -> None:
    """Raise InputError where settings have no effect or the critic is missing."""
    if steer == "none":
        if (candidates, steering) != (CANDIDATES, SteeringConfig()):
            raise problem("candidates, steering", "nothing without --steer", "some")
        return
    if steering.critic is None:
        raise problem("steering.critic", f"a run of toddle offline for --steer {steer}", "none")
    given, usual = asdict(steering), asdict(SteeringConfig())
    for name, method in OF.items():
        if method != steer and given[name] != usual[name]:
            raise problem(f"steering.{name}", f"nothing without --steer {method}", given[name])


def steered(policy: Any, steer: Steer, candidates: Size, steering: SteeringConfig, device: Any = CPU) -> Any:
    """Return the policy as it is to act.  Raises InputError where critic and policy do not fit."""
    if steer == "none":
        return policy
    assert steering.critic is not None
    critic = load_critics(steering.critic).q.requires_grad_(False).to(device)
    own = {name: value for name, value in asdict(steering).items() if name != "critic"}
    return GuidedPolicy(policy, critic, GuidanceConfig(method=steer, candidates=candidates, **own))
