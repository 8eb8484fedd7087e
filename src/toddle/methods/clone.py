"""Cloning of a teacher's rollouts: the supervised control of PPO's pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from toddle.algorithms.cloning import Cloning, CloningConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.experience.collect import CollectConfig
from toddle.methods._actors import CausalSettings, MlpSettings, for_bodies, iterations_of, make_collectors, make_policy
from toddle.methods._base import Method, Preset, Run, Start
from toddle.policies.store import load_policy

__all__ = ["METHOD", "CloneSettings"]


@config
class CloneSettings:
    """Imitation of a policy that PPO made, on its own rollouts."""

    teacher: Path | None = None
    """Folder of the policy whose rollouts are imitated."""
    policy: Literal["causal", "mlp"] = "causal"
    """Kind of policy; the teacher's."""
    causal: CausalSettings = CausalSettings()
    """Settings of the causal transformer."""
    mlp: MlpSettings = MlpSettings()
    """Settings of the multilayer perceptron."""
    goal_width: Size = 64
    """Width of the pooled goal in the multilayer perceptron."""
    collect: CollectConfig = CollectConfig(length=16, discount=0.95)
    """How experience is gathered."""
    clone: CloningConfig = CloningConfig()
    """The algorithm."""

    def build(self, start: Start) -> Run:
        """Build the student, and the teacher from its folder."""
        if len(start.envs) != 1:
            raise problem("env", "one environment with method clone", len(start.envs))
        if self.teacher is None:
            raise problem("teacher", "a policy folder with method clone", "none")
        if start.init is not None:
            raise problem("init", "nothing with method clone", "a policy", "the student starts from random weights")
        policy = make_policy(self.policy, start, causal=self.causal, mlp=self.mlp, goal_width=self.goal_width).to(
            start.device
        )
        teacher = for_bodies(load_policy(self.teacher).to(start.device), start.envs)
        if teacher.kind != policy.kind:
            raise problem("teacher", f"a policy of kind '{policy.kind}'", teacher.kind)
        if policy.sequential and self.clone.minibatches > start.envs[0].num_envs:
            most = f"at most {start.envs[0].num_envs} (worlds): the policy needs whole worlds"
            raise problem("clone.minibatches", most, self.clone.minibatches)
        (source,) = make_collectors(start, self.collect)
        iterations = iterations_of(start, policy, [source])
        learner = self.learner(policy, teacher, source, iterations=iterations, seed=start.seed)
        return Run(learner=learner, policy=policy, iterations=iterations, sources=[source])

    def learner(self, student: Any, teacher: Any, source: Any, **named: Any) -> Cloning:
        """Return what learns."""
        return Cloning(student, teacher, source, self.clone, **named)


METHOD = Method(
    name="clone",
    what="imitation of a policy that ppo made: the supervised control",
    paper="Pomerleau 1991; Ho and Ermon 2016, arXiv 1606.03476, section 5",
    policies="causal, gaussian",
    presets=(Preset(name="any", source="ours: as many updates as PPO would make", settings=CloneSettings()),),
)
