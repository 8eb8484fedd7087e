"""What PPO is put together from: where advantages come from, what is added to rewards, what is added to the loss.

Each part is a small object with a state of its own, which PPO saves and restores.  GRPO, leave-one-out, guidance by a
teacher and a Lagrangian cost are PPO with other parts (docs/ppo.md), not other algorithms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from toddle.core.protocols import Acting, Critic, Scorable
from toddle.core.types import Score
from toddle.experience.rollout import Minibatch, Rollout

__all__ = ["Auxiliary", "Engine", "Estimator", "Optimiser", "Part", "RewardTerm", "Source", "drawn"]


class Part:
    """Base of every part: without a state unless it has one."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next iteration depends on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


class Estimator(Part):
    """Fills in `advantage` and the critic's `target`; may mark decisions as not real (`mask`)."""

    def fill(self, rollout: Rollout) -> dict[str, float]:
        """Write the advantages into a rollout; return metrics."""
        raise NotImplementedError


class RewardTerm(Part):
    """Something that is added to the rewards of a rollout before advantages are estimated."""

    looks_at_ends = False
    """Whether it looks at what was seen where an episode was cut, which a rollout then must keep whole."""
    shapes = False
    """Whether it pays gamma potential' - potential, which leaves the best policy what it was."""

    def reward(self, rollout: Rollout) -> Tensor:
        """Return what is added, (T, B), in the units of the rollout's (scaled) rewards."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Return what is to be logged of the last iteration."""
        return {}


class Auxiliary(Part):
    """Something that is added to the policy's loss."""

    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Get ready for an iteration (write columns into its rollouts, say); return metrics."""
        return {}

    def draw(self, parts: Sequence[Minibatch]) -> None:
        """Get ready for the losses of a minibatch, which are asked for part by part in this order."""

    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a number) of a minibatch with gradients, and detached facts; both count by its share."""
        raise NotImplementedError

    def rehearse(self, rollouts: Sequence[Rollout]) -> None:
        """Get ready to compute what comes later in a run too, for a forecast of its memory."""

    def finish(self, iterations: int) -> dict[str, float]:
        """Do what comes after an iteration's updates, `iterations` having been made; return metrics."""
        return {}


def drawn(auxiliaries: Sequence[Auxiliary], parts: Sequence[Minibatch]) -> Sequence[Minibatch]:
    """Return the parts of a minibatch, for whose losses the auxiliaries have got ready."""
    for auxiliary in auxiliaries:
        auxiliary.draw(parts)
    return parts


class Engine:
    """What acts for the learner: the policy itself, or one that takes its weights over once an iteration (merged
    LoRA; another device).  It has no state of its own."""

    @contextmanager
    def acting(self, policy: Scorable) -> Iterator[Acting]:
        """Yield what gathers this iteration's experience, with the policy's weights as they are now."""
        yield policy

    def elsewhere(self) -> Engine:
        """Return what yields the weights for others that act in its place, each of which merges LoRA for itself."""
        return self


class Source(Protocol):
    """What PPO takes experience from: `experience.collect.Collector`, `experience.episodes.GroupCollector`."""

    label: str
    """Names the source in metrics where there are several."""

    @property
    def worlds(self) -> int:
        """Worlds of this learner."""

    def collect(self, policy: Acting, critic: Critic | None) -> tuple[Rollout, dict[str, float]]:
        """Return a filled rollout, with `value` and `next_value` where there is a critic, and metrics."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next rollout depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


class Optimiser(Protocol):
    """What makes PPO's steps: `optim.flat_adam.FlatAdam`, or one for sharded parameters."""

    def zero_grad(self) -> None:
        """Set every gradient to zero."""

    def gradients(self) -> list[Tensor]:
        """Return every gradient, to be summed over learners in place."""

    def set_rates(self, factor: float) -> None:
        """Set each learning rate to `factor` times what it was at the start."""

    def rate(self, name: str) -> float:
        """Return the present learning rate of a module."""

    def clip(self) -> dict[str, float]:
        """Hold each module's gradient to its limit; return the norms before, by module."""

    def step(self) -> None:
        """Make one step."""

    def restart(self) -> None:
        """Forget moments and steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return moments and counts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
