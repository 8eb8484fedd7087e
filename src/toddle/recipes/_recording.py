"""What `toddle record` and `toddle explore` share: the environment, its pictures, the policy, the dataset's layout.

`config` is that of `toddle record`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toddle.core.errors import problem
from toddle.core.memory import check_memory
from toddle.core.protocols import Acting
from toddle.core.rendering import FAST, RenderSettings, RenderVariation
from toddle.data.layout import DatasetSpec
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of, make_env
from toddle.experience.demonstrations import row_features
from toddle.experience.taught import Taught
from toddle.policies.store import meta_of
from toddle.recipes._domain import read_table

__all__ = [
    "CAMERAS",
    "SCRIPTED",
    "cameras_of",
    "check_fits",
    "check_pictures",
    "check_seen",
    "drawn_of",
    "make_recorded",
    "picture_size",
    "spec_of",
]

CAMERAS = ("close",)
"""Recorded where nothing is said."""
SCRIPTED = ("expert", "human")
"""Demonstrators that are no stored policy."""


def check_pictures(config: Any) -> int:
    """Return the bytes of the pictures of one wave of episodes, twice while they are put together.

    Raises InputError where they do not fit.
    """
    pixels = 3 * config.image_size**2 * max(len(cameras_of(config, name)) for name in config.env)
    size = 2 * config.batch * -(-(config.max_episode_steps or 300) // config.image_stride) * pixels
    check_memory(size, "pictures of one wave of episodes", "take a smaller batch, image_size, or max_episode_steps")
    return size


def make_recorded(config: Any, name: str) -> BatchedEnv:
    """Return the environment as it is to be recorded.  Raises InputError where it cannot be so."""
    family, options = family_of(name), dict[str, Any]()
    if config.max_episode_steps is not None:
        family.check("max_episode_steps", name, config.max_episode_steps)
        options["max_episode_steps"] = config.max_episode_steps
    drawing = {"render": config.render, "variation": config.variation}
    asked = [option for option, value in drawing.items() if value not in (RenderSettings(), RenderVariation())]
    for option in asked:
        family.check(option, name, "settings of it")
    if cameras_of(config, name):
        options |= {"cameras": cameras_of(config, name), "image_size": config.image_size}
        drawing["render"] = drawn_of(config)
        options |= {option: value for option, value in drawing.items() if family.takes(option, name)}
    elif asked:
        raise problem(asked[0], f"nothing where no pictures are recorded ({name})", "settings of it")
    if config.paraphrases:
        family.check("paraphrases", name, True)
        options["paraphrases"] = True
    if config.own_sentence:
        family.check("own_sentence", name, True)
        options["own_sentence"] = True
    table = read_table(config.randomise)
    if table is not None and table.drawn != RenderVariation():  # the dataset says how its pictures differ
        raise problem("randomise.look", "none in record: --variation says it, and the dataset keeps it", "a look")
    return make_env(name, config.batch, seed=config.seed, randomise=table, limits=config.limits, **options)


def drawn_of(config: Any) -> RenderSettings:
    """Return how pictures are drawn: as given, else as the policy was taught, else fast."""
    taught = None if config.policy in SCRIPTED else Taught.of(meta_of(Path(config.policy))).render
    return config.render.over(taught or FAST)


def cameras_of(config: Any, name: str) -> tuple[str, ...]:
    """Return the cameras that are recorded: those asked for, where the environment has any at all."""
    if family_of(name).takes("cameras", name):
        return tuple(config.cameras)
    if config.cameras not in ((), CAMERAS):
        family_of(name).check("cameras", name, " ".join(config.cameras))
    return ()


def check_seen(config: Any, policy: Acting, env: BatchedEnv) -> None:
    """Raise InputError where the policy `config.policy` reads other pictures than are recorded."""
    if policy.cameras and policy.cameras != env.cameras:
        raise problem("cameras", f"{' '.join(policy.cameras)}, which the policy reads", " ".join(config.cameras))
    size, own = config.image_size, Taught.of(meta_of(Path(config.policy))).size
    if policy.cameras and own is not None and own != (size, size):
        raise problem("image_size", f"{own[0]} x {own[1]}, which the policy was taught with", f"{size} x {size}")


def spec_of(config: Any, env: BatchedEnv) -> DatasetSpec:
    """Return the layout of a dataset of the environment."""
    return DatasetSpec(
        fps=_rate(env),
        features=row_features(env),
        robot_type=env.body,
        images=config.images,
        cameras=dict.fromkeys(env.cameras, picture_size(env)),
        image_stride=config.image_stride,
        render=drawn_of(config) if env.cameras and family_of(env.name).takes("render", env.name) else None,
        variation=config.variation,
    )


def picture_size(env: BatchedEnv) -> tuple[int, int]:
    """Return height and width of the pictures in an environment's observations; 0 where there are none."""
    height, width = env.single_observation_space["images"].shape[-2:] if env.cameras else (0, 0)  # type: ignore[index]
    return int(height), int(width)


def _rate(env: BatchedEnv) -> float:
    """Return the control steps of a second, to a thousandth."""
    return round(1.0 / env.dt, 3)


def check_fits(spec: DatasetSpec, env: BatchedEnv) -> None:
    """Raise InputError where the environment's rows are not those of a dataset."""
    if (env.body, row_features(env), _rate(env)) != (spec.robot_type, spec.features, spec.fps):
        raise problem(
            "env",
            f"environments of the body {spec.robot_type}",
            f"{env.name} of the body {env.body}",
            "record them into datasets of their own",
        )
