"""What the methods of `toddle finetune` share that steer a frozen VLA by a small actor, off-policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig
from toddle.algorithms.steering import Steering, SteeringConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.memory import size_text
from toddle.core.numbers import Count
from toddle.data.replay import Replay, Store
from toddle.experience.collect import CollectConfig, Collector
from toddle.methods._actors import label_of
from toddle.methods._base import Run, Start
from toddle.methods._vla import numbers_of
from toddle.policies.steered import SteeredConfig, SteeredPolicy

__all__ = ["SMALL", "KeptSettings", "SteeredSettings", "check_alone"]


SMALL = SACConfig(
    discount=0.99,
    learning_rate=1e-3,
    batch=128,
    ratio=1.0,
    layer_norm=True,
    critic_hidden=(128, 128),
    target_rate=0.02,
    temperature=0.01,
    backup_entropy=False,
    rounds=10,
)
"""What the presets for small VLAs share: few updates a decision, little entropy, success alone."""


def check_alone(start: Start) -> None:
    """Raise InputError for several environments, and for parts of PPO."""
    if len(start.envs) != 1:
        raise problem("env", "one environment, with a method that learns off-policy", len(start.envs))
    for part, setting in (("rewards", "process_reward.model"), ("auxiliaries", "imitation.weight")):
        if start.parts.get(part):
            raise problem(setting, "nothing with a method that learns off-policy", "a value")


@config
class KeptSettings:
    """What is kept of what was done: pooled features, which take little memory."""

    capacity: Count = 200_000
    """Decisions; then the oldest go."""
    kind: Literal["float32", "float16"] = "float16"
    """Type of the features and of what was said (rewards are float32)."""


@config
class SteeredSettings:
    """A small actor over a frozen flow VLA, by soft actor-critic."""

    steered: SteeredConfig = SteeredConfig()
    """What the actor says, and its network."""
    steering: SteeringConfig = SteeringConfig()
    """How it takes over from the VLA, and what it is paid."""
    critic: Literal["auto", "privileged", "features"] = "auto"
    """What the critics see beside what the actor sees: the simulator's state, or nothing more.  auto: the state where
    the environment gives it."""
    replay: KeptSettings = KeptSettings()
    """What is kept."""
    sac: SACConfig = SACConfig()
    """The algorithm; a decision is a whole chunk."""

    def build(self, start: Start) -> Run:
        """Build the learner around the VLA of `start.init`, or go on with the steered one that it is."""
        check_alone(start)
        (env,), policy = start.envs, self._policy(start)
        known = numbers_of(env, "critic")
        if self.critic == "privileged" and not known:
            raise problem("critic", "an environment that gives a critic the simulator's state", self.critic)
        privileged = 0 if self.critic == "features" else known
        states, numbers = policy.state_sizes
        store = Store(self.replay.capacity, states + privileged, numbers, kind=self.replay.kind)
        collect = CollectConfig(length=1, discount=self.sac.discount, scale_rewards=False)
        collector = Collector(env, collect, seed=start.seed, label=label_of(env.name))
        learner = self._learner(start, policy, collector, store, privileged)
        iterations = max(1, round(start.steps / (self.sac.rounds * collector.decisions * policy.horizon)))
        what = {"noise": "the noise it begins at", "residual": "what is added to its actions"}[self.steered.mode]
        note = f"the {policy.base.kind} stays as it is; an actor says {what}, {numbers} numbers of {states}"
        return Run(
            learner=learner,
            policy=policy,
            iterations=iterations,
            sources=[learner],
            show=("episode/success", "sac/value"),
            notes=(note, f"keep the last {self.replay.capacity:,} decisions, {size_text(store.size)} when full"),
            rehearse=learner.learn_at_once,
        )

    def _learner(
        self, start: Start, policy: SteeredPolicy, collector: Collector, store: Store, privileged: int
    ) -> Steering:
        """Return the learner; `store` is of what is done."""
        replay = Replay({ONLINE: store}, {ONLINE: 1.0})
        return Steering(policy, collector, replay, self.sac, self.steering, seed=start.seed, privileged=privileged)

    def _policy(self, start: Start) -> SteeredPolicy:
        found: Any = start.init
        if found.kind == SteeredPolicy.kind:
            if replace(found.config, seed=self.steered.seed) != self.steered:
                raise problem("policy", "one steered with the same settings, to go on from, or a VLA", found.config)
            steered: SteeredPolicy = found
        else:
            steered = SteeredPolicy(self.steered, found, start.meta)
        return steered.to(start.device)
