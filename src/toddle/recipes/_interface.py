"""`toddle transfer --interface.envs`: scenes in which a resampler learns the goal tokens of the policy acting there."""

from __future__ import annotations

from typing import Any, cast

import torch

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Size
from toddle.core.rendering import FAST
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of, make_env
from toddle.experience.actor import body_in
from toddle.experience.collect import CollectConfig, Collector
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.resampler import Resampler
from toddle.policies.vla import FlowVLA
from toddle.policies.watching import WatchingPolicy
from toddle.runs.loop import ProgressLine
from toddle.transfer.convert import Convertible
from toddle.transfer.interface import Moments, learn_interface, moments_of, share_unexplained

__all__ = ["InterfaceConfig", "check_scenes", "interface_bytes", "keep_interface"]

WORLDS = 10
"""Of each scene; the last is not learned from."""


@config
class InterfaceConfig:
    """Whether the expert goes on reading goal tokens, which a resampler makes of the VLM's."""

    envs: tuple[str, ...] = ()
    """Where the RL policy acts by known goals while the resampler watches: touch/<task>, with pictures and a sentence
    that says what is done.  None: an adapter takes the goal encoder's place."""
    queries: Size = 4
    """Tokens that the resampler makes."""
    decisions: Size = 2048
    """Decisions in each of the environments."""
    steps: Size = 2000
    """Steps of learning."""
    batch: Size = 64
    """Decisions of a step."""
    learning_rate: Positive = 1e-3
    """Rate at the first step; it falls to 0."""

    @property
    def length(self) -> int:
        """Decisions of each world."""
        return max(2, -(-self.decisions // WORLDS))


def check_scenes(
    asked: InterfaceConfig, source: Convertible, cameras: tuple[str, ...], backbone: BackboneConfig
) -> None:
    """Raise InputError where `envs` are not scenes that the policy can act in, or it reads no goals."""
    if asked.envs and "cross" not in source.expert.config.trunk.kinds:
        raise problem("interface.envs", "none for a policy without cross-attention, which reads no goals", "some")
    for name in asked.envs:
        env = _scene(name, 1, cameras, backbone, 0)
        try:
            body_in(source.expert.config, env)
        finally:
            env.close()


def interface_bytes(asked: InterfaceConfig, backbone: Backbone, cameras: int) -> int:
    """Return the memory of what is learned from: the backbone's tokens in float16, once by scene and once together."""
    decisions = WORLDS * (asked.length + 1) * len(asked.envs)
    return 2 * decisions * backbone.tokens(cameras) * backbone.width * 2


def keep_interface(asked: InterfaceConfig, policy: Any, vla: FlowVLA, seed: int) -> dict[str, float]:
    """Teach the VLA's resampler the policy's goal tokens; return what is left of their variance, learned and held out.

    A tenth of the worlds is held out.
    """
    parts: list[Moments] = []
    for name in asked.envs:
        env = _scene(name, WORLDS, vla.cameras, vla.config.backbone, seed)
        gathering = CollectConfig(length=asked.length, scale_rewards=False)
        collector = Collector(env, gathering, seed=seed, body=body_in(policy, env), critic_sees=False)
        collector.gather(WatchingPolicy(policy, vla.backbone, vla.cameras))
        env.close()
        assert collector.rollout is not None
        seen: Any = collector.rollout.observation
        for part in (slice(0, WORLDS - 1), slice(WORLDS - 1, WORLDS)):
            own: Any = {key: value[:-1, part] for key, value in seen.items()}
            parts.append(moments_of(policy, own))
    learned, held = (Moments(*map(torch.cat, zip(*parts[side::2]))) for side in (0, 1))
    resampler = cast(Resampler, vla.adapter)
    with ProgressLine("interface", asked.steps) as bar:
        learn_interface(
            resampler,
            learned,
            steps=asked.steps,
            batch=asked.batch,
            learning_rate=asked.learning_rate,
            seed=seed,
            on_step=lambda i, _: bar.advance(i + 1),
        )
    found = {name: share_unexplained(resampler, part) for name, part in (("learned", learned), ("held_out", held))}
    missed = f"{found['learned']:.3f} of their variance where it was learned, {found['held_out']:.3f} in other worlds"
    print(f"goal tokens made of pictures miss {missed}")
    return found


def _scene(name: str, worlds: int, cameras: tuple[str, ...], backbone: BackboneConfig, seed: int) -> BatchedEnv:
    """Make an environment with pictures and a sentence of its own, in episodes as short as approaches are."""
    if not family_of(name).takes("own_sentence", name):
        raise problem("interface.envs", "scenes with known goals, pictures and sentences (touch/<task>)", name)
    pictures: dict[str, Any] = {"cameras": cameras, "image_size": backbone.image_size or 96, "render": FAST}
    short: dict[str, Any] = {"own_sentence": True, "terminate_on_success": True, "max_episode_steps": 80}
    return make_env(name, worlds, seed=seed, **pictures, **short)
