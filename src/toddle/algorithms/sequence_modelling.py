"""Sequence modelling of rollouts before RL: the first stage of HT-2.

Radosavovic et al. 2024, "Learning Humanoid Locomotion over Challenging Terrain" (arXiv 2410.03654), after "Humanoid
Locomotion as Next Token Prediction" (arXiv 2402.19469): a transformer over observations and actions in turn predicts
each from all that came before it; then it is fine-tuned by PPO.  Here actions are predicted by their density, as in
cloning, and observations by the squared error of a network on what the trunk makes of all until the action before.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from toddle.algorithms.cloning import Cloning, CloningConfig
from toddle.algorithms.parts import Source
from toddle.core.config import config
from toddle.core.device import device_of
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative, Size
from toddle.core.protocols import Module, Scorable
from toddle.core.seeding import derived_seed
from toddle.core.types import Observation, Score
from toddle.experience.rollout import Minibatch
from toddle.models.mlp import make_mlp

__all__ = ["Recalling", "SequenceConfig", "SequenceModelling"]


class Recalling(Scorable, Protocol):
    """A policy with a history that others may read."""

    def score_and_recall(self, observation: Observation, chain: Tensor) -> tuple[Score, Tensor, Tensor]:
        """Score chains; return also what is known before each observation (T, B, d), and that observation (T, B, O)."""


@config
class SequenceConfig(CloningConfig):
    """Sequence modelling of a teacher's rollouts."""

    observations: NonNegative = 1.0
    """Weight of the squared error of predicted observations (normalised, mean over their numbers); 0: cloning."""
    hidden: Size = 128
    """Hidden units of what predicts them."""
    shuffled: bool = False
    """The control: observations are predicted from another world's past, in which there is nothing of them."""


class SequenceModelling(Cloning):
    """A learner: cloning that also predicts what is seen next."""

    def __init__(
        self,
        student: Recalling,
        teacher: Scorable,
        source: Source,
        config: SequenceConfig,
        *,
        sizes: tuple[int, int],
        seed: int,
        **named: Any,
    ) -> None:
        """sizes: d and O, numbers of the trunk and of an observation.  Raises InputError as `Cloning`, and for a policy
        that remembers nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "predicted observations"))
            self.predictor = make_mlp([sizes[0], config.hidden, sizes[1]]).to(device_of(student))
        self.settings, self.recalling = config, student
        self.errors: list[Tensor] = []
        beside: dict[str, Module] = {"predictor": self.predictor} if config.observations else {}
        super().__init__(student, teacher, source, config, seed=seed, beside=beside, **named)
        if not student.sequential:
            raise problem("policy", "one with a history, to model sequences", student.kind)

    def _loss(self, part: Minibatch) -> Tensor:
        if not self.settings.observations:
            return super()._loss(part)
        score, past, now = self.recalling.score_and_recall(part.observation, part.chain)
        if self.settings.shuffled:
            past = past.roll(1, 1)
        known = ~part.observation["first"][1:]  # of an episode's first nothing came before
        error = (self.predictor(past[1:]) - now[1:]).square().mean(-1)[known]
        still = (now[1:] - now[:-1]).square().mean(-1)[known]
        self.errors.append(torch.stack([error.detach().sum(), still.sum()]))
        return -score.log_prob.sum(-1).mean() + self.settings.observations * error.mean()

    def step(self) -> dict[str, float]:
        """As `Cloning.step`, with how well observations are predicted."""
        self.errors = []
        metrics = super().step()
        if not self.errors:
            return metrics
        error, still = torch.stack(self.errors).sum(0).tolist()
        return metrics | {"clone/predicted": 1.0 - error / max(still, 1e-12)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return super().state_dict() | {"predictor": dict(self.predictor.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.predictor.load_state_dict(state["predictor"])
