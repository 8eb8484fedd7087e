"""Environments of `toddle finetune`, as the policy was taught to see them, with the reward that RL learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toddle.core.protocols import Acting
from toddle.core.rendering import RenderSettings
from toddle.envs.base import BatchedEnv
from toddle.envs.imagined import ImaginedEnv
from toddle.envs.make import family_of, make_env
from toddle.experience.evaluate import VideoRequest
from toddle.experience.taught import picture_options
from toddle.models.world_model import world_model_meta
from toddle.recipes import _reward, _safety
from toddle.recipes._imagined import check_knows

__all__ = ["films", "make_seen", "pictures", "real_of"]

PAID = "success"
"""What is paid where nothing else is asked for."""


def make_seen(
    config: Any, name: str, worlds: int, seed: int, policy: Acting, meta: dict[str, Any], *, learning: bool = False
) -> BatchedEnv:
    """Build an environment as the policy was taught to see it, with the reward that RL learns from.

    The environment beside a model, in which nothing is learned, pays success.
    """
    family = family_of(name)
    if family.modelled:
        return _imagined(config, name, worlds, seed, policy, learning=learning)
    options = dict(family.finetuning)
    beside = name not in config.env
    if (word := _reward.own_word(config.reward, PAID)) != PAID and not beside:
        family.check("reward", name, word)
        options["reward"] = word
        if learning and family.takes("terminate_on_success", name):
            options["terminate_on_success"] = False
    family.check("cameras", name, " ".join(config.cameras or policy.cameras))
    options |= pictures(config, name, policy, meta)[0]
    if config.max_episode_steps is not None and not beside:
        family.check("max_episode_steps", name, config.max_episode_steps)
        options["max_episode_steps"] = config.max_episode_steps
    return make_env(
        name, worlds, seed=seed, threads=config.threads, noise=config.noise, **_safety.told_of(config), **options
    )


def _imagined(config: Any, name: str, worlds: int, seed: int, policy: Any, *, learning: bool) -> ImaginedEnv:
    """Build worlds of a model, which shows tokens and no pictures; episodes are as long as recorded ones where nothing
    is learned.  Raises InputError where it does not foresee what the policy sees."""
    options = dict(family_of(name).finetuning)
    if learning:
        options |= {"reward": _reward.own_word(config.reward, PAID), "max_episode_steps": config.max_episode_steps}
    for option, value in (("cameras", config.cameras), ("render", config.render != RenderSettings())):
        if value:
            family_of(name).check(option, name, "settings of it")
    env = make_env(name, worlds, seed=seed, noise=config.noise, **_safety.told_of(config), **options)
    assert isinstance(env, ImaginedEnv)
    if learning:  # else it is what acts for a policy that was looked at
        check_knows(env, policy, config.policy)
    return env


def real_of(names: Sequence[str]) -> dict[str, str]:
    """Return model -> the environment it is of, for the models among environments."""
    models = [name for name in names if family_of(name).modelled]
    return {name: str(world_model_meta(name.partition("/")[2])["env"]["name"]) for name in models}


def pictures(config: Any, name: str, policy: Acting, meta: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the options with which the policy sees what it was taught with, and what differs all the same."""
    return picture_options(
        name, policy.cameras, meta, cameras=config.cameras, image_size=config.image_size, render=config.render
    )


def films(config: Any, folder: Path, stem: str) -> VideoRequest | None:
    """Return which episodes of an evaluation are filmed, and where."""
    count = config.evaluation.videos
    return VideoRequest(path=lambda seed: folder / f"{stem}-{seed}.mp4", episodes=count) if count else None
