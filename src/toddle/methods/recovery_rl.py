"""Recovery RL: SAC, and a second policy that takes over where a learned critic sees a violation coming."""

from __future__ import annotations

from typing import Any

from toddle.algorithms.recovery import RecoveryConfig, RecoveryRL
from toddle.algorithms.soft_actor_critic import SoftActorCritic
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Share
from toddle.methods._actors import started_from
from toddle.methods._base import Method, Preset, Start
from toddle.methods._replay import check_env
from toddle.methods.sac import SACSettings
from toddle.policies.recovering import RecoveringConfig, RecoveringPolicy

__all__ = ["METHOD", "RecoverySettings"]


@config
class RecoverySettings(SACSettings):
    """Soft actor-critic that recovers where it is about to violate: any cost (`--cost`) is a violation."""

    threshold: Share = 0.35
    """Risk above which the recovery acts; 1: it never does."""
    recovery: RecoveryConfig = RecoveryConfig()
    """How risk is learned."""

    def policy(self, start: Start) -> Any:
        """Return the policy, fresh or stored.  Raises InputError where no costs are counted."""
        check_env(start)
        stored = None if start.init is None else started_from(start, ("recovering",))
        if start.envs[0].costs is None:
            raise problem("cost", "something that is counted, with recovery-rl", "nothing", "--cost contact")
        if stored is not None:
            return stored
        made = RecoveringConfig(
            body=start.envs[0].body_spec,
            hidden=self.hidden,
            log_std=self.log_std,
            threshold=self.threshold,
            risk_hidden=self.sac.critic_hidden,
            seed=start.seed,
        )
        return RecoveringPolicy(made).to(start.device)

    def learner(self, *rest: Any, **named: Any) -> SoftActorCritic:
        """Return what learns."""
        return RecoveryRL(*rest, settings=self.recovery, **named)


METHOD = Method(
    name="recovery-rl",
    what="SAC, and a policy that leads away from violations where a critic of risk sees them coming",
    paper="Thananjeyan et al. 2021, arXiv 2010.15920",
    policies="recovering",
    presets=(
        Preset(
            name="tasks",
            source="the paper's model-free object extraction: gamma_s 0.85, threshold 0.35; else as sac",
            settings=RecoverySettings(),
            common={"worlds": 4},
        ),
    ),
    deviations=(
        "risk is learned from the run's own first decisions, not from a set of violations made beforehand",
        "a violation ends what risk looks at, not the episode",
        "the recovery is deterministic and has no entropy",
    ),
)
