"""Cloning of a teacher on rollouts: what reinforcement learning is compared with (supervised pretraining).

The teacher acts, the student learns its decisions by maximum likelihood over their chains, so that any policy whose
chains have densities can be cloned into one with the same chain (Pomerleau 1991; the density in place of squared error
as in Ho and Ermon 2016, arXiv 1606.03476, section 5).  The student sees as many updates as PPO would make, on
experience of the teacher alone: it never acts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.parts import Source
from toddle.core.config import config
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Positive
from toddle.core.protocols import Module, Scorable
from toddle.core.seeding import torch_generator
from toddle.core.types import Observation
from toddle.experience.rollout import Minibatch
from toddle.optim.flat_adam import FlatAdam
from toddle.optim.schedules import cosine_factor

__all__ = ["Cloning", "CloningConfig"]


@config
class CloningConfig:
    """Supervised pretraining on a teacher's rollouts (method clone)."""

    epochs: Count = 4
    """Passes over each rollout."""
    minibatches: Count = 2
    """Updates in one pass."""
    learning_rate: Positive = 5e-4
    """Adam's rate at the start; it falls to a twentieth by a half cosine, as PPO's does."""
    max_grad_norm: Positive = 0.5
    """Limit of the gradient's norm."""


class Cloning:
    """A learner: `step` gathers a rollout of the teacher and makes `epochs` x `minibatches` updates of the student."""

    def __init__(
        self,
        student: Scorable,
        teacher: Scorable,
        source: Source,
        config: CloningConfig,
        *,
        iterations: int,
        seed: int,
        beside: Mapping[str, Module] | None = None,
    ) -> None:
        """beside: what else learns at the same rate.  Raises InputError where the two do not execute the same number of
        actions."""
        if student.horizon != teacher.horizon:
            raise problem("teacher", f"a policy that executes chunks of {student.horizon}", teacher.horizon)
        self.student = student
        self.teacher: Scorable = teacher.requires_grad_(False).train()  # it hides goals as it did when it learned
        self.source, self.config, self.iterations = source, config, iterations
        parts: dict[str, Module] = {"policy": student, **(beside or {})}
        self.optimiser = FlatAdam(
            {name: (part, config.learning_rate) for name, part in parts.items()},
            max_norm=config.max_grad_norm,
            epsilon=1e-5,
        )
        self.generator = torch_generator(seed, "cloning minibatches")
        self.iteration = 0

    @property
    def sources(self) -> list[Source]:
        """Where the experience comes from."""
        return [self.source]

    def step(self) -> dict[str, float]:
        """Do one iteration.  Raises NaNError where the loss or a gradient is not finite."""
        self.optimiser.set_rates(cosine_factor(self.iteration, self.iterations, final=0.05))
        rollout, metrics = self.source.collect(self.teacher, None)
        if self.iteration == 0:
            self._normalise(rollout.observation)  # the teacher's experience is what it is: no need to start blind
        losses: list[Tensor] = []
        for _ in range(self.config.epochs):
            for part in rollout.minibatches(self.config.minibatches, self.student.sequential, self.generator):
                self.optimiser.zero_grad()
                loss = self._loss(part)
                loss.backward()
                norm = self.optimiser.clip()["policy"]
                if not math.isfinite(norm) or not torch.isfinite(loss):
                    raise NaNError(f"cloning iteration {self.iteration}: loss or gradient not finite")
                self.optimiser.step()
                losses.append(loss.detach())
        if self.iteration:
            self._normalise(rollout.observation)
        self.iteration += 1
        return metrics | {"clone/loss": float(torch.stack(losses).mean()), "clone/updates": float(len(losses))}

    def _loss(self, part: Minibatch) -> Tensor:
        return -self.student.score(part.observation, part.chain).log_prob.sum(-1).mean()

    def _normalise(self, observation: Observation) -> None:
        self.student.update_normaliser(observation)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on (the teacher is read from its folder again)."""
        return {
            "policy": dict(self.student.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "sources": [self.source.state_dict()],
            "generator": self.generator.get_state(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.student.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.source.load_state_dict(state["sources"][0])
        self.generator.set_state(state["generator"])
        self.iteration = int(state["iteration"])
