"""What the methods of `toddle jumpstart` share: PPO of a Gaussian policy of states, with or without a teacher."""

from __future__ import annotations

import dataclasses
from typing import Any

from toddle.algorithms.guided_acting import ActingConfig, GuidedActing
from toddle.algorithms.jump_start import HintConfig, JumpStart
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.guide import Guide, Hints, Takeover
from toddle.experience.teacher import Teacher, parts_of
from toddle.methods._actors import MlpSettings, make_policy, ppo_run, started_from
from toddle.methods._base import Method, Preset, Run, Start

__all__ = ["ActingSettings", "HintSettings", "StateSettings", "jump_method"]

SOURCE = "ours, tried on tabletop/push-cube: rollouts of 50 steps as ManiSkill's baseline has, a higher rate and gamma"
VLAJS = 'after "Jump-Start RL with VLA Regularization" (VLAJS)'


@config
class StateSettings:
    """PPO of a Gaussian policy of states that decides at every control step."""

    mlp: MlpSettings = MlpSettings()
    """The policy."""
    critic_hidden: tuple[Size, ...] = (256, 256)
    """Widths of the critic's hidden layers."""
    collect: CollectConfig = CollectConfig(length=50, discount=0.95)
    """How experience is gathered."""
    ppo: PPOConfig = PPOConfig(
        epochs=4, minibatches=8, learning_rate=1e-3, critic_learning_rate=1e-3, lam=0.9, target_kl=0.1
    )
    """The algorithm."""

    def __post_init__(self) -> None:
        if self.mlp.horizon != 1:
            raise problem("mlp.horizon", "1: it acts at the full control rate", self.mlp.horizon)

    def build(self, start: Start) -> Run:
        """Build PPO around the policy, which is fresh or stored."""
        if start.init is not None:
            policy = started_from(start, ("gaussian",))
        else:
            policy = make_policy("mlp", start, mlp=self.mlp, goal_width=64)
        made = ppo_run(start, policy, self.ppo, self.collect, critic_hidden=self.critic_hidden, goal_width=64)
        return dataclasses.replace(made, show=("episode/success", "jumpstart/on", "jumpstart/calls"))

    def _teacher(self, start: Start) -> Teacher:
        if start.teacher is None:
            raise problem("teacher", "one with this method", "none")
        return start.teacher


def _guided(made: Run, guide: Guide) -> Run:
    """Let a guide into the collector."""
    collector: Any = made.sources[0]
    assert isinstance(collector, Collector)
    collector.guide = guide
    return made


@config
class HintSettings(StateSettings):
    """PPO with a teacher's directions in its loss."""

    hint: HintConfig = HintConfig()
    """What is asked of the teacher, and when it ends."""

    def build(self, start: Start) -> Run:
        """Build PPO with the loss."""
        (env,) = start.envs
        guide = Hints(self._teacher(start), env, self.collect.length, hold=self.hint.hold, seed=start.seed)
        term = JumpStart(guide, self.hint, parts_of(env))
        return _guided(super().build(dataclasses.replace(start, parts={"auxiliaries": [term]})), guide)


@config
class ActingSettings(StateSettings):
    """PPO whose behaviour is the teacher's in part."""

    acting: ActingConfig = ActingConfig()
    """When the teacher acts."""

    def build(self, start: Start) -> Run:
        """Build PPO with the schedule."""
        (env,) = start.envs
        guide = Takeover(self._teacher(start), env, self.collect.length, seed=start.seed)
        made = super().build(start)
        learner: Any = made.learner
        assert isinstance(learner, PPO)
        learner.auxiliaries.append(GuidedActing(guide, self.acting, made.iterations))
        return _guided(made, guide)


def jump_method(name: str, what: str, paper: str, settings: StateSettings, source: str = VLAJS) -> Method:
    """Return a method with one preset."""
    preset = Preset(name="states", source=f"{source}; PPO {SOURCE}", settings=settings)
    return Method(name=name, what=what, paper=paper, policies="gaussian", presets=(preset,))
