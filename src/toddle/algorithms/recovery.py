"""Recovery RL: soft actor-critic of a task beside a critic of risk and a policy that leads away from it.

Thananjeyan et al. 2021, "Recovery RL: Safe Reinforcement Learning with Learned Recovery Zones" (arXiv 2010.15920).

    risk     y = c + (1 - c) gamma_s max_i Q_i(s', a'),   a' ~ the task's actor,  c = 1 at a violation, which ends
    recovery min over a of max_i Q_i(s, a)

The task learns from what it PROPOSED with what came of what was executed, the risk from what was EXECUTED.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.soft_actor_critic import SoftActorCritic
from toddle.core.config import config
from toddle.core.device import CPU
from toddle.core.errors import problem
from toddle.core.numbers import Count, Discount, Positive, Share, Whole
from toddle.core.seeding import randn, torch_generator
from toddle.data.replay import Decisions, Replay, Store
from toddle.experience.rollout import Rollout
from toddle.maths.value_targets import one_step_target
from toddle.optim.flat_adam import FlatAdam
from toddle.policies.recovering import RecoveringPolicy

__all__ = ["RecoveryConfig", "RecoveryRL"]

SAFE, UNSAFE = "safe", "unsafe"


@config
class RecoveryConfig:
    """How risk is learned; when the recovery acts is the policy's `threshold`."""

    discount: Discount = 0.85
    """gamma_s: a violation d decisions away is a risk of gamma_s^d."""
    violations: Share = 0.3
    """Share of every batch of the risk's that ended in a violation, once there are any."""
    first: Whole = 1000
    """Updates of risk and recovery before the recovery acts at all."""
    capacity: Count = 100_000
    """Decisions that are kept for the risk, of either kind."""
    learning_rate: Positive = 3e-4
    """Adam's rate of the risk and of the recovery."""
    target_rate: Share = 0.005
    """By how much the slow critics of risk move after each update."""
    shuffled: bool = False
    """The control: violations are those of other worlds, so that nothing can be known of risk."""


class RecoveryRL(SoftActorCritic):
    """A learner: SAC's, and after each of its updates one of the risk and one of the recovery."""

    group = "sac"

    def __init__(self, policy: RecoveringPolicy, *rest: Any, settings: RecoveryConfig, seed: int, **named: Any) -> None:
        """As `SoftActorCritic`; the environment must count costs, of which any is a violation."""
        self.cautious, self.settings = policy, settings
        self.slow_risk = copy.deepcopy(policy.risk).requires_grad_(False)
        self.slow_risk.scale = policy.risk.scale
        super().__init__(policy, *rest, seed=seed, **named)
        self.kept = {name: Store(settings.capacity, *policy.state_sizes) for name in (SAFE, UNSAFE)}
        parts: dict[str, Any] = {"risk": policy.risk, "recovery": policy.recovery}
        for name, module in parts.items():
            self.optimisers[name] = FlatAdam({name: (module, settings.learning_rate)}, max_norm=math.inf)
            self.learned[name] = [p for p in module.parameters() if p.requires_grad]
        self.slow_risk.to(self.device)
        self.risk_updates = 0
        self.draws = torch_generator(seed, "risk batches")

    def _look(self, states: Tensor) -> None:
        super()._look(states)
        for part in (self.cautious.recovery.scale, self.cautious.risk.scale):
            part.update(states)

    def _watched(self, rollout: Rollout, made: Decisions) -> dict[str, float]:
        """Keep what was executed, and whether it was a violation."""
        if "cost" not in rollout.columns:
            raise problem("cost", "an environment that counts costs", "none", "name what is counted: --cost contact")
        assert rollout.executed is not None
        executed = rollout.executed.flatten(0, 1)
        violated = (rollout.columns["cost"].cpu().flatten() > 0).float()
        if self.settings.shuffled:
            violated = violated[torch.randperm(len(violated), generator=self.draws)]
        follows = self.settings.discount * (1.0 - violated) * (made.discount > 0)
        seen = Decisions(made.observation, executed, made.following, violated, follows)
        for name, which in ((SAFE, violated == 0), (UNSAFE, violated > 0)):
            if which.any():
                self.kept[name].add(seen.at(which))
        recovered = (executed - made.action).abs().amax(1) > 1e-6
        return {"recovery/acted": float(recovered.float().mean()), "recovery/violations": float(violated.mean())}

    def learn(self, batches: Decisions) -> dict[str, list[Tensor]]:
        """Make SAC's updates, and as many of risk and recovery."""
        found = super().learn(batches)
        has = {name: len(store) > 0 for name, store in self.kept.items()}
        share = self.settings.violations if all(has.values()) else float(has[UNSAFE])
        count = len(batches) + max(0, self.settings.first - self.risk_updates)  # the first ones all at once
        drawn = Replay(self.kept, {SAFE: 1.0 - share, UNSAFE: share}).draw(count, self.config.batch, self.draws)
        for index in range(count):
            batch = drawn.at(index) if self.device == CPU else drawn.at(index).to(self.device)
            for name, value in self.update_risk(batch).items():
                found.setdefault(name, []).append(value.detach())
        self.cautious.armed.fill_(True)
        return found

    def update_risk(self, batch: Decisions) -> dict[str, Tensor]:
        """Move the critics of risk to their target, and the recovery down them."""
        policy, rate = self.cautious, self.settings.target_rate
        with torch.no_grad():
            noise = randn(batch.action.shape, self.draws, self.device)
            action, _ = policy.actor.sample(batch.following, noise)
            following = policy.riskiness(batch.following, action, self.slow_risk)
            target = one_step_target(batch.reward, torch.zeros_like(following), 1.0, batch.discount * following)
        value = policy.risk(batch.observation, batch.action).sigmoid()
        loss = self._descend("risk", (value - target).square().mean())
        with torch.no_grad():
            torch._foreach_lerp_([*self.slow_risk.parameters()], [*policy.risk.parameters()], rate)
        led = policy.riskiness(batch.observation, policy.recover(batch.observation)).mean()
        self._descend("recovery", led)
        self.risk_updates += 1
        return {"risk_loss": loss, "risk": value.mean(), "risk_recovered": led}

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return super().state_dict() | {
            "slow_risk": dict(self.slow_risk.state_dict()),
            "kept": {name: store.state_dict() for name, store in self.kept.items()},
            "draws": self.draws.get_state(),
            "risk_updates": self.risk_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.slow_risk.load_state_dict(state["slow_risk"])
        for name, store in self.kept.items():
            store.load_state_dict(state["kept"][name])
        self.draws.set_state(state["draws"])
        self.risk_updates = int(state["risk_updates"])
