"""CQL and Cal-QL: critics that are pushed down where the data have no actions, and a policy that climbs them as SAC's.

| paper | here |
|---|---|
| CQL(H), Kumar et al. 2020 (arXiv 2006.04779), eq. 4, appendix F: by importance sampling | `conservative_gap` |
| its Lagrange form, eq. 30 | `ConservativeConfig.gap` |
| Cal-QL, Nakamoto et al. 2023 (arXiv 2303.05479), eq. 5.1: max(Q(s, a), V_mu(s)) for the policy's actions | `CalQL` |
| V_mu(s), Monte-Carlo returns | `Transitions.returns` |
| SAC's policy and temperature, Haarnoja et al. 2018 (arXiv 1812.05905), eq. 7 and 18 | `_policy_step` |

The target has no entropy, as in both papers' code.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from toddle.algorithms.offline.learner import TwinLearner
from toddle.core.protocols import Scorable, StateActor, Steered
from toddle.core.seeding import rand, randn
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import conservative_gap, one_step_target
from toddle.models.log_scale import LogScale
from toddle.models.q_ensemble import QEnsemble

__all__ = ["CQL", "CalQL", "calibrated", "values_of"]


class _Policy(Scorable, Steered, Protocol):
    """A policy whose small actor's draws can be differentiated."""


class CQL(TwinLearner):
    """Conservative Q-learning; the policy's action is what its small actor says (`core.protocols.Steered`)."""

    policy_kind = "squashed_gaussian"
    policy: _Policy

    def make_networks(self) -> None:
        """The temperature, and the Lagrange factor where there is one."""
        super().make_networks()
        self.actor: StateActor = self.policy.actor
        self.networks["temperature"] = self.temperature = LogScale(0.0)
        self.factor = LogScale(1.0) if self.config.conservative.gap is not None else None
        if self.factor is not None:
            self.networks["factor"] = self.factor

    def rate(self, name: str) -> float:
        """Policy and temperature have a rate of their own."""
        slower = name in ("policy", "temperature")
        return self.config.conservative.policy_rate if slower else self.config.learning_rate

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Policy and temperature, then the critics; all by the networks as they were before."""
        noise = randn(batch.action.shape, self.noise, batch.action.device)
        with torch.no_grad():
            following = self.best_following(batch)
            others, log_density = self.samples(batch)
        found = self._policy_step(batch, noise)
        target = one_step_target(batch.reward, batch.terminal, self.config.discount, following)
        return found | self._critic_step(batch, target, others, log_density)

    def best_following(self, batch: Transitions) -> Tensor:
        """Return the slow critics' smaller value (B,) at an action of the policy in the next state, or the best of
        several."""
        count = self.config.conservative.samples if self.config.conservative.largest_backup else 1
        action, _ = self.several(batch.following, count)
        return values_of(self.slow, batch.following, action).amin(0).amax(1)

    def samples(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Return 3 n actions (B, 3 n, A), uniform ones, the policy's there, the policy's at the next state, and their
        log-densities (B, 3 n)."""
        count, width = self.config.conservative.samples, batch.action.shape[1]
        uniform = 2.0 * rand((len(batch), count, width), self.noise, batch.action.device) - 1.0
        here, there = self.several(batch.observation, count), self.several(batch.following, count)
        flat = torch.full(uniform.shape[:2], -width * math.log(2.0), device=uniform.device)
        return torch.cat([uniform, here[0], there[0]], 1), torch.cat([flat, here[1], there[1]], 1)

    def several(self, observation: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` actions (B, n, A) that the policy draws at states (B, O), and their log-densities (B, n)."""
        repeated = observation.repeat_interleave(count, 0)
        noise = randn((len(observation), count, self.data.action.shape[1]), self.noise, observation.device)
        action, log_prob = self.actor.sample(repeated, noise.flatten(0, 1))
        return action.view_as(noise), log_prob.view(-1, count)

    def bounded(self, values: Tensor, batch: Transitions) -> Tensor:
        """Return the values (E, B, 3 n) of sampled actions as the push sees them: in CQL as they are."""
        return values

    def _policy_step(self, batch: Transitions, noise: Tensor) -> dict[str, Tensor]:
        temperature = self.temperature().detach()
        action, log_prob = self.actor.sample(batch.observation, noise)
        climb = self.q(batch.observation, action).amin(0)
        entropy = -log_prob.detach().mean()
        self.learn("temperature", self.temperature.log * (entropy + batch.action.shape[1]))
        policy_loss = self.learn("policy", (temperature * log_prob - climb).mean())
        return {"policy_loss": policy_loss, "entropy": entropy, "temperature": temperature}

    def _critic_step(
        self, batch: Transitions, target: Tensor, others: Tensor, log_density: Tensor
    ) -> dict[str, Tensor]:
        c = self.config.conservative
        value = values_of(self.q, batch.observation, torch.cat([batch.action[:, None], others], 1))
        q, sampled = value[..., 0], value[..., 1:]
        gap = conservative_gap(q, self.bounded(sampled, batch), log_density)
        push = (gap if c.least_gap is None else gap.clamp(min=c.least_gap)).mean(1)  # (E,)
        errors, weight = (q - target).square().mean(-1).sum(), gap.new_tensor(c.weight)
        found = {"q_loss": errors, "value": q.amin(0).mean(), "gap": push.mean()}
        if self.factor is not None and c.gap is not None:
            factor = self.factor().clamp(max=1e6)
            self.learn("factor", -c.weight * factor * (push.detach() - c.gap).mean())
            weight, found["factor"] = c.weight * factor, factor
        loss = errors + (weight.detach() * push).sum()
        self.learn("q", loss)
        self.follow("slow", "q")
        bound = batch.returns[:, None]
        own = sampled[..., c.samples :]
        return found | {"bound_rate": (own < bound).float().mean(), "critic_loss": loss}


class CalQL(CQL):
    """Calibrated Q-learning: sampled actions of the policy are not pushed below what the data's actions came to."""

    def bounded(self, values: Tensor, batch: Transitions) -> Tensor:
        """Return the values (E, B, 3 n), those of the policy's actions not below the return from that state on."""
        return calibrated(values, batch.returns, self.config.conservative.samples)


def calibrated(values: Tensor, returns: Tensor, uniform: int) -> Tensor:
    """Return the values (E, B, n) of sampled actions, those after the first `uniform` not below the returns (B,)."""
    return torch.cat([values[..., :uniform], torch.maximum(values[..., uniform:], returns[:, None])], -1)


def values_of(ensemble: QEnsemble, observation: Tensor, action: Tensor) -> Tensor:
    """Return the values (E, B, n) of n actions (B, n, A) at each state (B, O)."""
    count = action.shape[1]
    return ensemble(observation.repeat_interleave(count, 0), action.flatten(0, 1)).unflatten(1, (-1, count))
