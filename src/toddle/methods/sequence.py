"""Sequence modelling of a policy's rollouts, before RL goes on from it: HT-2's first stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toddle.algorithms.sequence_modelling import SequenceConfig, SequenceModelling
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.experience.collect import CollectConfig
from toddle.methods._actors import CausalSettings
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods.clone import CloneSettings
from toddle.models.trunk import TrunkConfig

__all__ = ["METHOD", "SequenceSettings"]


@config
class SequenceSettings(CloneSettings):
    """A causal transformer that learns to predict the actions and the observations of a policy's rollouts."""

    clone: SequenceConfig = SequenceConfig()
    """The algorithm."""

    def build(self, start: Start) -> Run:
        """Build the student, and the teacher from its folder.  Raises InputError for a policy without a history."""
        if self.policy != "causal" or self.causal.window < 2:
            got = self.policy if self.policy != "causal" else f"causal with a window of {self.causal.window}"
            raise problem("policy", "causal with a window of at least 2, to model sequences", got, "--causal.window 4")
        told = f"predict the actions of {self.teacher}'s rollouts"
        if self.clone.observations:
            told += f", and what is seen next (weight {self.clone.observations:g})"
        told += "; pretrain --method ppo --init goes on from it"
        return replace(super().build(start), notes=(told,))

    def learner(self, student: Any, teacher: Any, source: Any, **named: Any) -> SequenceModelling:
        """Return what learns."""
        sizes = self.causal.trunk.width, student.bodies[0].proprio
        return SequenceModelling(student, teacher, source, self.clone, sizes=sizes, **named)


METHOD = Method(
    name="sequence",
    what="a causal transformer predicts actions and observations of a policy's rollouts, before ppo goes on from it",
    paper="Radosavovic et al. 2024, arXiv 2410.03654",
    policies="causal",
    presets=(
        Preset(
            name="walk",
            source="ours: the shapes of ppo's preset for walking, with a history of four decisions",
            settings=SequenceSettings(
                causal=CausalSettings(
                    trunk=TrunkConfig(width=64, depth=2, heads=4, context_width=64),
                    horizon=4,
                    executed=4,
                    window=4,
                    log_std=-0.3,
                ),
                collect=CollectConfig(length=16, discount=0.97),
            ),
            families=("walk",),
        ),
        Preset(
            name="any",
            source="ours: a history of four decisions",
            settings=SequenceSettings(causal=CausalSettings(window=4)),
        ),
    ),
    deviations=(
        "rollouts are the teacher's, made while it learns, not a mixture of recorded ones, motion capture and videos",
        "observations are predicted by a network beside the policy, which is not kept",
        "goals are seen where the teacher has them",
    ),
)
