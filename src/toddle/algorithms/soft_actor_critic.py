"""Soft actor-critic over a replay, with any number of critics and any sources of data: SAC and RLPD are settings of it.

SAC: Haarnoja et al. 2018 (arXiv 1801.01290, 1812.05905).  RLPD: Ball et al. 2023 (arXiv 2302.02948), whose code's order
of updates this follows.  What is learned is a small actor over states; whether what it says is an action, a correction
of another policy's, or the noise that a flow begins at is the policy's business (`core.protocols.Steered`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.replay_learner import ONLINE, ReplayLearner, decisions_of
from toddle.core.config import config
from toddle.core.device import CPU, device_of
from toddle.core.errors import problem
from toddle.core.numbers import Count, Discount, Finite, Positive, Share, Size, Whole
from toddle.core.protocols import Module, Steered
from toddle.core.seeding import randn, torch_generator
from toddle.data.replay import Decisions, Replay
from toddle.experience.collect import Collector
from toddle.experience.rollout import Rollout
from toddle.maths.value_targets import one_step_target
from toddle.models.log_scale import LogScale
from toddle.models.q_ensemble import QEnsemble
from toddle.optim.flat_adam import FlatAdam

__all__ = ["ONLINE", "SACConfig", "SoftActorCritic"]


@config
class SACConfig:
    """Soft actor-critic."""

    discount: Discount = 0.99
    """gamma for one control step."""
    learning_rate: Positive = 3e-4
    """Adam's rate for actor, critics and temperature."""
    batch: Size = 256
    """B, decisions of an update."""
    ratio: Positive = 1.0
    """Updates of the critics for each decision of a world."""
    critics: Size = 2
    """E, critics; the actor climbs their mean."""
    subset: Size = 2
    """Critics whose smallest value is the target's, drawn anew for each update; `critics`: of all."""
    layer_norm: bool = False
    """Normalise the critics' hidden layers: bounds what they say of actions that nobody took."""
    critic_hidden: tuple[Size, ...] = (256, 256)
    """Widths of the critics' hidden layers."""
    target_rate: Share = 0.005
    """By how much the slow critics move towards the critics after each update."""
    actor_every: Count = 1
    """Updates of the critics for one of the actor and of the temperature."""
    temperature: Positive = 1.0
    """alpha at the start, the weight of entropy; it is learned."""
    target_entropy: Finite = -1.0
    """Entropy, for each number of an action, that alpha holds the actor to."""
    backup_entropy: bool = True
    """Whether the critics' targets count the next action's entropy."""
    learn_after: Whole = 1000
    """Decisions, all worlds together, before the first update."""
    reward_scale: Positive = 1.0
    """Rewards, demonstrations' too, are multiplied by this."""
    reward_shift: Finite = 0.0
    """Then this is added to that of each decision (-1 where success pays 1: every step before it costs)."""
    rounds: Count = 100
    """Decisions of each world between two lines of metrics."""

    def __post_init__(self) -> None:
        if self.subset > self.critics:
            raise problem("subset", f"at most the {self.critics} critics", self.subset)


class SoftActorCritic(ReplayLearner):
    """A learner: a round is a decision in every world and the updates it pays for; `step` makes `rounds` of them."""

    group = "sac"

    def __init__(
        self,
        policy: Steered,
        collector: Collector,
        replay: Replay,
        config: SACConfig,
        *,
        seed: int,
        critics: QEnsemble | None = None,
        slow: QEnsemble | None = None,
    ) -> None:
        """Learn with what `collector` gathers, which goes to the store ONLINE of `replay`.

        critics, slow: E networks and their slow copies, to go on from (None: fresh ones; copies as they are).
        Statistics of states begin with what the replay holds.  Raises InputError for a policy with memory.
        """
        if policy.sequential:
            raise problem("policy", "one without memory with soft actor-critic", policy.kind)
        super().__init__(collector, replay, config, batch=config.batch, seed=seed)
        self.policy, self.config = policy, config
        self.actor, self.device = policy.actor, device_of(policy)
        self.critics = (self._fresh(seed) if critics is None else critics).to(self.device)
        self.slow = (copy.deepcopy(self.critics) if slow is None else slow).to(self.device).requires_grad_(False)
        self.slow.scale = self.critics.scale
        self.temperature = LogScale(math.log(config.temperature)).to(self.device)
        parts: dict[str, Module] = {"actor": self.actor, "critics": self.critics, "temperature": self.temperature}
        self.optimisers = {
            name: FlatAdam({name: (module, config.learning_rate)}, max_norm=math.inf) for name, module in parts.items()
        }
        self.learned = {name: [p for p in module.parameters() if p.requires_grad] for name, module in parts.items()}
        self.target_entropy = config.target_entropy * policy.state_sizes[1]
        self.noise = torch_generator(seed, "actor-critic noise")
        for store in replay.stores.values():
            if len(store):
                self._look(store.at(torch.arange(len(store))).observation.to(self.device))

    def _fresh(self, seed: int) -> QEnsemble:
        """Return new critics."""
        c, first = self.config, int(torch.randint(2**62, (), generator=torch_generator(seed, "critics")))
        options: Any = {"hidden": c.critic_hidden, "count": c.critics, "seed": first, "layer_norm": c.layer_norm}
        return QEnsemble(*self.policy.state_sizes, **options)

    # ---- experience ----------------------------------------------------------------------------------------------
    def _look(self, states: Tensor) -> None:
        self.actor.update_normaliser(states)
        self.critics.scale.update(states)

    def _gather(self) -> dict[str, float]:
        rollout, metrics = self.collector.collect(self.policy, None)
        made = decisions_of(self.policy.state, rollout, rollout.chain.tanh())
        paid = self.config.reward_scale * made.reward + self.config.reward_shift
        made = replace(made, reward=paid)
        self.replay.stores[ONLINE].add(made)
        self._look(made.observation.to(self.device))
        return metrics | self._watched(rollout, made)

    def _watched(self, rollout: Rollout, made: Decisions) -> dict[str, float]:
        """Hear of a rollout and of its decisions as they are kept, for what is kept besides; return metrics."""
        return {}

    # ---- learning ------------------------------------------------------------------------------------------------
    def learn(self, batches: Decisions) -> dict[str, list[Tensor]]:
        """Make an update for each of (U, B) decisions; the actor's is made with every `actor_every`-th.

        Returns metrics without dimensions, one an update.
        """
        found: dict[str, list[Tensor]] = {}
        for index in range(len(batches)):
            batch = batches.at(index)
            if self.device != CPU:
                batch = batch.to(self.device)
            metrics = self.update_critics(batch)
            self.updates += 1
            if self.updates % self.config.actor_every == 0:
                metrics |= self.update_actor(batch)
            for name, value in metrics.items():
                found.setdefault(name, []).append(value.detach())
        return found

    def update_critics(self, batch: Decisions) -> dict[str, Tensor]:
        """Move the critics to y = r + discount (min of some slow critics at the actor's next action - alpha log pi)."""
        target = self._target(batch)
        value = self.critics(batch.observation, batch.action)
        loss = self._descend("critics", (value - target).square().mean())
        self._follow()
        return {"critic_loss": loss, "value": value.mean(), "target": target.mean()}

    @torch.no_grad()
    def _target(self, batch: Decisions) -> Tensor:
        """Return y (B,)."""
        following = self._value_after(batch)
        return one_step_target(batch.reward, following.new_zeros(()), 1.0, batch.discount * following)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the slow critics towards the critics."""
        torch._foreach_lerp_([*self.slow.parameters()], [*self.critics.parameters()], self.config.target_rate)

    def _value_after(self, batch: Decisions) -> Tensor:
        """Return what the slow critics say (B,) of what the actor does next."""
        action, log_prob = self.actor.sample(batch.following, self._drawn(batch))
        following = self.slow(batch.following, action, self._some()).amin(0)
        return following - self.temperature() * log_prob if self.config.backup_entropy else following

    def _some(self) -> Tensor | None:
        """Draw the critics of a target; None where it is of all."""
        c = self.config
        if c.subset == c.critics:
            return None
        return torch.randperm(c.critics, generator=self.noise)[: c.subset].to(self.device)

    def update_actor(self, batch: Decisions) -> dict[str, Tensor]:
        """Move the actor up the critics' mean and its entropy, then alpha to where the entropy is as asked."""
        alpha = self.temperature().detach()
        action, log_prob = self.actor.sample(batch.observation, self._drawn(batch))
        value = self.critics(batch.observation, action).mean()
        entropy = -log_prob.mean()
        loss = self._descend("actor", -alpha * entropy - value)
        self._descend("temperature", self.temperature() * (entropy.detach() - self.target_entropy))
        return {"actor_loss": loss, "entropy": entropy, "temperature": alpha}

    def _drawn(self, batch: Decisions) -> Tensor:
        return randn(batch.action.shape, self.noise, self.device)

    def _descend(self, name: str, loss: Tensor) -> Tensor:
        """Make one step of one part down `loss`; what else the loss depends on gets no gradient."""
        self.optimisers[name].zero_grad()
        loss.backward(inputs=self.learned[name])
        self.optimisers[name].step()
        return loss

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return super().state_dict() | {
            "policy": dict(self.policy.state_dict()),
            "critics": dict(self.critics.state_dict()),
            "slow": dict(self.slow.state_dict()),
            "temperature": dict(self.temperature.state_dict()),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "generators": [self.batches.get_state(), self.noise.get_state()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.policy.load_state_dict(state["policy"])
        self.critics.load_state_dict(state["critics"])
        self.slow.load_state_dict(state["slow"])
        self.temperature.load_state_dict(state["temperature"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        for generator, saved in zip((self.batches, self.noise), state["generators"], strict=True):
            generator.set_state(saved)
