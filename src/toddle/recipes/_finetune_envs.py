"""Environments of `toddle finetune`, as the policy was taught to see them, with the reward that RL learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toddle.core.protocols import Acting
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of, make_env
from toddle.experience.evaluate import VideoRequest
from toddle.experience.taught import picture_options
from toddle.recipes import _reward, _safety

__all__ = ["films", "make_seen", "pictures"]

PAID = "success"
"""What is paid where nothing else is asked for."""


def make_seen(
    config: Any, name: str, worlds: int, seed: int, policy: Acting, meta: dict[str, Any], *, learning: bool = False
) -> BatchedEnv:
    """Build an environment as the policy was taught to see it, with the reward that RL learns from."""
    family = family_of(name)
    options = dict(family.finetuning)
    if (word := _reward.own_word(config.reward, PAID)) != PAID:
        family.check("reward", name, word)
        options["reward"] = word
        if learning and family.takes("terminate_on_success", name):
            options["terminate_on_success"] = False
    family.check("cameras", name, " ".join(config.cameras or policy.cameras))
    options |= pictures(config, name, policy, meta)[0]
    if config.max_episode_steps is not None:
        family.check("max_episode_steps", name, config.max_episode_steps)
        options["max_episode_steps"] = config.max_episode_steps
    return make_env(
        name, worlds, seed=seed, threads=config.threads, noise=config.noise, **_safety.told_of(config), **options
    )


def pictures(config: Any, name: str, policy: Acting, meta: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the options with which the policy sees what it was taught with, and what differs all the same."""
    return picture_options(
        name, policy.cameras, meta, cameras=config.cameras, image_size=config.image_size, render=config.render
    )


def films(config: Any, folder: Path, stem: str) -> VideoRequest | None:
    """Return which episodes of an evaluation are filmed, and where."""
    count = config.evaluation.videos
    return VideoRequest(path=lambda seed: folder / f"{stem}-{seed}.mp4", episodes=count) if count else None
