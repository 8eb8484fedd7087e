"""PA-RL: a critic improves the chunks that a VLA of any kind draws, they are executed, and the VLA imitates them.

Mark et al. 2024, arXiv 2412.06685.  The critics are learned off-policy from a replay.  What follows a decision is worth
what an improved chunk is worth there; the chunks that the VLA drew are kept with each decision, so an update never runs
the VLA but to imitate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.soft_actor_critic import SACConfig
from toddle.algorithms.steering import Steering, SteeringConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Size, Whole
from toddle.core.seeding import torch_generator
from toddle.core.types import Observation
from toddle.data.replay import Decisions, Replay
from toddle.experience.collect import Collector
from toddle.experience.rollout import Rollout
from toddle.maths.action_optimisation import best, chosen, climbed
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.optimised import OptimisedPolicy

__all__ = ["ActionOptimisation", "OptimiseConfig"]


@config
class OptimiseConfig:
    """How a critic improves chunks, and how the VLA imitates them."""

    draws: Size = 8
    """K, chunks that the VLA draws for a decision."""
    keep: Size = 4
    """The best of them go on."""
    steps: Whole = 5
    """Steps of each up the critics' gradient; the best that it meets counts."""
    rate: Positive = 0.05
    """Length of a step: of the largest number of a chunk, or with `normalise` False in units of one over value."""
    normalise: bool = True
    """Divide the gradient by its largest number: the released 3e-4 in units of one over value moves nothing where
    values lie within 1."""
    temperature: NonNegative = 0.02
    """One of those is drawn by softmax(value / temperature); 0: the best."""
    learning_rate: Positive = 3e-4
    """Adam's rate of the imitation."""
    imitate_every: Count = 4
    """Updates of the critics for one of the imitation."""
    batch: Size = 64
    """Decisions of an update of the imitation."""
    latest: Count = 4_000
    """Decisions whose features are kept to be imitated, the latest."""

    def __post_init__(self) -> None:
        if self.keep > self.draws:
            raise problem("keep", f"at most the {self.draws} draws", self.keep)


class ActionOptimisation(Steering):
    """Critics by one-step targets, a VLA by imitation of what they prefer.  Until `learn_after` the VLA acts alone."""

    def __init__(
        self,
        policy: OptimisedPolicy,
        collector: Collector,
        replay: Replay,
        config: SACConfig,
        settings: SteeringConfig,
        optimise: OptimiseConfig,
        *,
        seed: int,
    ) -> None:
        """Learn; the actor's settings of `config` have no effect but `actor_every`, which `optimise` replaces."""
        config = replace(config, actor_every=optimise.imitate_every, backup_entropy=False)
        super().__init__(policy, collector, replay, config, settings, seed=seed, sees=policy.seen)
        self.optimised, self.optimise = policy, optimise
        self.optimisers["actor"].set_rates(optimise.learning_rate / config.learning_rate)
        self.draws = torch_generator(seed, "what is imitated")
        self.kept: dict[str, Tensor] = {}  # of the latest decisions: what was observed, and their states
        policy.choose = self._improved

    # ---- actions -------------------------------------------------------------------------------------------------
    def improve(self, state: Tensor, critics: QEnsemble, generator: torch.Generator | None) -> Tensor:
        """Return the chunk (B, N) that the critics make of those in states (B, O)."""
        o, policy = self.optimise, self.optimised
        seen = state[:, : policy.seen]

        def value(actions: Tensor) -> Tensor:
            count = actions.shape[-2]
            rows = seen.repeat_interleave(count, 0)
            return critics(rows, actions.flatten(0, 1)).mean(0).view(-1, count)

        kept = best(value, policy.candidates(state), o.keep)
        found, worth = climbed(
            value, kept, low=policy.low, high=policy.high, steps=o.steps, rate=o.rate, normalise=o.normalise
        )
        return chosen(found, worth, o.temperature, generator)[0]

    def _improved(self, state: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.improve(state, self.critics, generator)

    # ---- what is kept --------------------------------------------------------------------------------------------
    def _look(self, states: Tensor) -> None:
        self.critics.scale.update(states[..., : self.optimised.seen])

    def _noted(self, rollout: Rollout) -> None:
        """Keep what was observed, with the states, for the imitation."""
        assert rollout.state is not None
        seen = {name: value[0] for name, value in rollout.observation.items() if isinstance(value, Tensor)}
        seen = {name: value for name, value in seen.items() if name not in ("task", "critic")}
        rows = {name: value.cpu().clone() for name, value in (seen | {"state": rollout.state[0]}).items()}
        self.kept = {
            name: torch.cat([self.kept[name], value])[-self.optimise.latest :] if self.kept else value
            for name, value in rows.items()
        }

    # ---- learning ------------------------------------------------------------------------------------------------
    def update_critics(self, batch: Decisions) -> dict[str, Tensor]:
        """Move the critics to y = r + discount (min of some slow critics at an improved chunk)."""
        return super().update_critics(replace(batch, observation=batch.observation[:, : self.optimised.seen]))

    def _value_after(self, batch: Decisions) -> Tensor:
        action = self.improve(batch.following, self.slow, self.noise)
        return self.slow(batch.following[:, : self.optimised.seen], action, self._some()).amin(0)

    def update_actor(self, batch: Decisions) -> dict[str, Tensor]:
        """Make the VLA imitate improved chunks of the latest decisions."""
        count = len(self.kept["state"])
        rows = torch.randint(count, (self.optimise.batch,), generator=self.draws)
        held = {name: value[rows].to(self.device) for name, value in self.kept.items()}
        state = held.pop("state")
        action = self.improve(state, self.critics, self.noise)
        horizon = self.optimised.vla.window_sizes[0]
        chunk = action.view(len(rows), self.optimised.horizon, -1)
        ahead = torch.arange(horizon, device=self.device)
        target = chunk[:, ahead.clamp(max=chunk.shape[1] - 1)]
        observation: Any = Observation(**{name: value[None] for name, value in held.items()})  # type: ignore[typeddict-item]
        mask = (ahead < chunk.shape[1]).expand(len(rows), -1)
        loss, _ = self.optimised.actor.loss({"observation": observation, "action": target, "mask": mask}, self.noise)
        first = self.optimised.candidates(state)[:, 0]
        self._descend("actor", loss)
        return {"imitation_loss": loss, "moved": (action - first).abs().mean()}

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return super().state_dict() | {"kept": dict(self.kept), "draws": self.draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.kept = dict(state["kept"])
        self.draws.set_state(state["draws"])
