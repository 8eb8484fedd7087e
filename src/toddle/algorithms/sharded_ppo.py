"""PPO of which each of several learners keeps a part of the policy's weights, gradients and moments (FSDP2).

What acts is a copy with all weights, which are put together once an iteration, so that no learner waits for the others
between two decisions; it also scores again where acting's own log-densities do not do.  The sums over learners are
those of PPO whose learners have all weights, and so are its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from toddle.algorithms.parts import Engine, Source
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.algorithms.sharded_adam import ShardedAdam
from toddle.core.device import device_of
from toddle.core.protocols import Acting, Critic, Module, Scorable
from toddle.experience.rollout import Minibatch
from toddle.models.sharded import put, shard, whole

__all__ = ["ShardedPPO", "WholeCopy"]


class WholeCopy(Engine):
    """A copy of the policy with all of every weight acts, LoRA folded in where it has LoRA."""

    def __init__(self, copy: Scorable, merged: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """merged: within it LoRA is folded into the copy's weights."""
        self.copy, self.merged = copy, merged

    @contextmanager
    def acting(self, policy: Scorable) -> Iterator[Acting]:
        """Yield the copy, with the policy's weights as they are now; all learners call it together."""
        self.copy.load_state_dict(whole(dict(policy.state_dict())))
        with self.merged():
            yield self.copy


class ShardedPPO(PPO):
    """PPO with a policy that is shared out; the critic is whole in every learner."""

    def __init__(
        self,
        policy: Scorable,
        critic: Critic | None,
        sources: Sequence[Source],
        config: PPOConfig,
        *,
        engine: WholeCopy,
        **parts: Any,
    ) -> None:
        """Share out the policy's weights, in place.  All learners call it together."""
        shard(policy, device_of(policy), ("score", "update_normaliser"), bf16=config.bf16)
        super().__init__(policy, critic, sources, config, engine=engine, optimiser=self._adam, **parts)
        self.scorer = engine.copy

    def _adam(self, learning: dict[str, tuple[Module, float]]) -> ShardedAdam:
        config = self.config
        self.adam = ShardedAdam(learning, max_norm=config.max_grad_norm, epsilon=config.adam_epsilon)
        return self.adam

    def _gradients(self, parts: Sequence[Minibatch]) -> dict[str, Tensor]:
        """Set the gradients of one update, and return facts about it, as PPO does."""
        facts = super()._gradients(parts)
        self.adam.sum_up()
        return facts

    def _pieces(self, part: Minibatch) -> list[Minibatch]:
        """Return as many parts of a minibatch as every other learner, for weights are put together for each."""
        found = super()._pieces(part)
        most = max(self.team.objects(len(found)))
        return found + [replace(found[0], place=(0, 0, 1))] * (most - len(found))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of PPO, with all of every weight; all learners call it together."""
        found: dict[str, Any] = whole(super().state_dict())
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; each learner takes its part."""
        policy = put(dict(self.policy.state_dict()), state["policy"])
        super().load_state_dict({**state, "policy": policy})
