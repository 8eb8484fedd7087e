"""What `toddle pretrain` and `toddle finetune` share of a limit on costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from toddle.algorithms.safety import LagrangianSettings
from toddle.core.config import config, from_dict
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative
from toddle.core.reading import read_yaml
from toddle.core.terms import parse_terms
from toddle.envs.costs import COSTS, CostSettings
from toddle.envs.limits import LimitsConfig
from toddle.envs.stages import StagesConfig
from toddle.methods._base import Run, Safety
from toddle.recipes._domain import read_table

__all__ = ["LimitSettings", "WatchedSettings", "check_costs", "check_limited", "limit_lines", "safety_of", "told_of"]


@config
class WatchedSettings:
    """What is counted as cost, and what actions are held to."""

    cost: str = ""
    """What is counted as cost: a sum of contact, force, knocked, joint, own, each perhaps weighed: contact+2*force."""
    costs: CostSettings = CostSettings()
    """Where these begin."""
    limits: LimitsConfig = LimitsConfig()
    """Of speed, force and place, below the policy: every action is held to them."""
    stages: Path | None = None
    """YAML plan above the policy: where the tool is brought before it acts, stage by stage (docs/exploration.md)."""

    def __post_init__(self) -> None:
        """Check that nothing is given without effect."""
        check_costs(self.cost, self.costs)


@config
class LimitSettings(WatchedSettings):
    """What is counted as cost, and a limit on it."""

    safety: Literal["none", "lagrangian"] = "none"
    """lagrangian: PPO that holds the mean cost of an episode at `limit`, with a critic of costs (docs/safety.md)."""
    limit: NonNegative = 1.0
    """Wanted cost of an episode."""
    lagrangian: LagrangianSettings = LagrangianSettings()
    """How the limit is held."""


def check_costs(cost: str, costs: CostSettings) -> None:
    """Raise InputError for a sum that is none, and for settings of costs that are not counted."""
    parse_terms(cost, COSTS, "cost")
    if not cost and costs != CostSettings():
        raise problem("cost", f"a sum of {', '.join(COSTS)}, for costs", "none")


def told_of(config: Any) -> dict[str, Any]:
    """Return what `envs.make.make_env` is told of costs, of limits, and of what differs from episode to episode."""
    told = {"cost": config.cost, "costs": config.costs, "limits": config.limits}
    return told | {"randomise": read_table(config.randomise), "stages": _plan_in(config.stages)}


def _plan_in(path: Path | None) -> StagesConfig | None:
    return None if path is None else from_dict(StagesConfig, read_yaml(path), where=str(path))


def safety_of(config: Any) -> Safety | None:
    """Return the limit that settings ask for.  Raises InputError for what has no effect without one."""
    if config.safety == "lagrangian":
        return Safety(limit=config.limit, settings=config.lagrangian)
    if config.lagrangian != LagrangianSettings() or (config.limit != LimitSettings.limit and config.method != "rcpo"):
        what = "lagrangian" if config.limit == LimitSettings.limit else "limit"
        raise problem("safety", f"lagrangian, without which {what} has no effect", config.safety)
    return None


def check_limited(config: Any, made: Run) -> Run:
    """Return the run.  Raises InputError where a limit is asked for that the method does not hold."""
    if config.safety != "none" and not made.safe:
        remedy = "methods that are PPO with a critic hold it: ppo, dppo, reinflow, ..."
        raise problem("safety", f"none with method {config.method}", config.safety, remedy)
    return made


def limit_lines(config: Any) -> list[str]:
    """Return what a plan says of costs and their limit, and of what differs from episode to episode."""
    counted = [f"let every episode differ as {config.randomise} says"] if config.randomise else []
    counted += [f"count costs: {config.cost}"] if config.cost else []
    counted += ["hold every action within limits"] if config.limits.any else []
    counted += [f"bring the tool where {config.stages} says, before the policy acts"] if config.stages else []
    if config.limits.speed is not None and config.limits.turn is None:
        counted += [
            "let turns swing the tool faster than limits.speed, where it turns at all: hold them by limits.turn"
        ]
    if config.safety == "none":
        return counted
    return [*counted, f"hold an episode's cost at {config.limit:g} by a multiplier ({config.safety})"]
