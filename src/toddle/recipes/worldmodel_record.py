"""`toddle worldmodel record`: whole episodes of policies as they explore, successes and failures, a dataset each."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, PictureSize, Seed, Size
from toddle.core.plan import Plan
from toddle.core.rendering import RenderSettings
from toddle.experience.taught import Taught
from toddle.policies.store import meta_of
from toddle.recipes import record
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

APART = 100_000
"""Seeds between the first episodes of two policies."""


@config
class Config:
    """Record episodes for a model of the environment: of policies that draw their actions, and of a disturbed expert.

    Nothing is left out: a model that has seen successes alone imagines nothing else.  Each policy gets a dataset of its
    own, <out>/0_<name> and so on, as `toddle record --keep-failures` writes it.
    Example: toddle worldmodel record --env tabletop/push-cube --policy runs/base --out data/push
    """

    may_change: ClassVar[tuple[str, ...]] = ("episodes",)

    env: str
    """The environment."""
    policy: tuple[str, ...]
    """Folders of policies whose draws are recorded; "expert" for the scripted expert, disturbed by `noise`."""
    out: Path = Path("data/world_model")
    """Folder of the datasets."""
    episodes: Count = 300
    """Episodes of each policy."""
    noise: NonNegative = 0.3
    """Deviation of the disturbance of "expert"; what was executed is recorded."""
    batch: Size = 50
    """Episodes played at once."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode is cut; by default the environment's own limit."""
    cameras: tuple[str, ...] = ()
    """Cameras of which a picture is kept at every control step, for a model of what a VLA sees (`train --features`)."""
    image_size: PictureSize | None = None
    """Side of the pictures; None: as the first policy that says so was taught, else 96."""
    images: Literal["image", "video"] = "image"
    """Keep pictures exactly, as a VLA sees them, or as video, which takes a tenth of the room."""
    seed: Seed = 2_000_000
    """Seed of the first episode, counting up.  Keep evaluation on other seeds (its default begins at 0)."""

    def __post_init__(self) -> None:
        if not self.policy:
            raise problem("policy", "at least one policy", "none")


def _parts(config: Config) -> list[record.Config]:
    """Return what is recorded, a dataset each, with pictures as the policies were taught with, the same in all."""
    folders = [Path(policy) for policy in config.policy if policy != "expert" and config.cameras]
    taught = [Taught.of(meta_of(folder)) for folder in folders]
    size = config.image_size or next((one.size[0] for one in taught if one.size), 96)
    render = next((one.render for one in taught if one.render), RenderSettings())
    found = []
    for number, policy in enumerate(config.policy):
        expert = policy == "expert"
        name = "expert" if expert else Path(policy).resolve().name
        found.append(
            record.Config(
                out=config.out / f"{number}_{name}",
                env=(config.env,),
                policy=policy,
                episodes=config.episodes,
                keep_failures=True,
                noise=config.noise if expert else 0.0,
                executed=expert and config.noise > 0.0,
                deterministic=False,
                cameras=config.cameras,
                image_size=size,
                image_stride=1,
                images=config.images,
                render=render,
                batch=min(config.batch, config.episodes),
                max_episode_steps=config.max_episode_steps,
                seed=config.seed + APART * number,
            )
        )
    return found


def plan(config: Config) -> Plan:
    """Check everything and say what would be recorded."""
    plans = [record.plan(part) for part in _parts(config)]
    return Plan(
        steps=[step for one in plans for step in one.steps],
        memory_bytes=max(one.memory_bytes for one in plans),
        seconds=sum(one.seconds or 0.0 for one in plans),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Record, one policy after the other."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        for part in _parts(config):
            record.run(part, resume=resume)
        folder.finish(len(config.policy))
