"""A policy is shown what it was taught with: its pictures' cameras, size and drawing come from the data set.

`toddle sft` writes into a policy's meta what its data set says of itself; whoever makes an environment for the policy
(`toddle evaluate`, `toddle record`) asks `picture_options`; `load_policy_and_env` is for scripts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toddle.core.config import changes, from_dict, to_dict
from toddle.core.device import CPU
from toddle.core.errors import problem
from toddle.core.rendering import FAST, RenderSettings
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of, make_env
from toddle.experience.actor import body_in
from toddle.policies.store import load_policy, meta_of

__all__ = ["Taught", "drawings", "load_policy_and_env", "picture_options"]


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a policy's pictures were; None where its folder does not say (an older one, or another's data set)."""

    size: tuple[int, int] | None = None
    """Height and width in pixels."""
    render: RenderSettings | None = None

    @classmethod
    def of(cls, meta: dict[str, Any]) -> Taught:
        """Read it from a policy's meta.  Raises InputError where that is damaged."""
        drawn = meta.get("render")
        sides = [meta[name] for name in ("image_size", "image_width") if name in meta]
        for side in sides:
            if not (isinstance(side, int) and 8 <= side <= 2**14):
                raise problem("policy.json: meta: image_size", "a number of pixels", side, "restore or retrain it")
        if drawn is not None and not isinstance(drawn, dict):
            raise problem("policy.json: meta: render", "render settings", drawn, "restore or retrain it")
        render = None if drawn is None else from_dict(RenderSettings, drawn, where="policy.json: meta: render")
        return cls(size=(sides[0], sides[-1]) if sides else None, render=render)

    @classmethod
    def by(cls, datasets: Sequence[LeRobotDataset], cameras: tuple[str, ...]) -> Taught:
        """Return what policies are taught with by data sets: the first's, as far as it is known."""
        known = [dataset.render for dataset in datasets if dataset.render is not None]
        return cls(size=datasets[0].picture_size(*cameras), render=known[0] if known else None)

    def to_meta(self) -> dict[str, Any]:
        """Return the entries of a policy's meta."""
        size = {} if self.size is None else {"image_size": self.size[0]}
        wide = {} if self.size is None or self.size[0] == self.size[1] else {"image_width": self.size[1]}
        return size | wide | ({} if self.render is None else {"render": to_dict(self.render)})


def drawings(datasets: Sequence[LeRobotDataset], *, mix: bool = False) -> list[str]:
    """Say how the pictures were drawn.  Raises InputError where that differs between data sets and `mix` is False."""
    known = [dataset for dataset in datasets if dataset.render is not None]
    drawn = [{"render": to_dict(each.render), "variation": to_dict(each.variation)} for each in known]
    for other, facts in zip(known[1:], drawn[1:]):
        if (found := changes(drawn[0], facts)) and not mix:
            name, was, got = found[0]
            remedy = "train a policy for each, or mix them: --mix-renderings"
            raise problem(f"dataset: {other.path}: {name}", f"{was}, as {known[0].path} has it", got, remedy)
    lines = [f"pictures of {each.path} were drawn with {each.render}" for each in known]
    return [*lines, *(f"how pictures of {each.path} were drawn is not known" for each in datasets if each not in known)]


def picture_options(
    environment: str,
    own: tuple[str, ...],
    meta: dict[str, Any],
    *,
    cameras: tuple[str, ...] = (),
    image_size: int,
    render: RenderSettings,
) -> tuple[dict[str, Any], list[str]]:
    """Return the options with which `environment` shows a policy what it was taught with, and what to tell the user.

    own: the policy's cameras; none for a policy of states.  meta: the policy's.  cameras, render: what the user gave,
    which wins.  image_size: where the meta does not say.
    What differs from the teaching is told; InputError where the environment cannot do what the user gave.
    """
    family, told = family_of(environment), list[str]()
    given = {"render": render} if render != RenderSettings() else {}
    for option, value in (("render", given and str(render)), ("cameras", " ".join(cameras))):
        if value:
            family.check(option, environment, value)
    if not (cameras or own):
        return given, told
    taught = Taught.of(meta)
    options: dict[str, Any] = given
    if cameras or family.takes("cameras", environment):  # else it has pictures of its own, or none
        height, width = taught.size or (image_size, image_size)
        options |= {"cameras": cameras or own, "image_size": height}
        if height != width:
            told.append(f"taught with pictures of {height} x {width}, {environment} draws {height} x {height}")
        if own and cameras and cameras != own:
            told.append(f"taught with the cameras {' '.join(own)}, shown {' '.join(cameras)}")
    if not family.takes("render", environment):
        if taught.render is not None:
            told.append(f"taught with {taught.render}; {environment} cannot set how it draws")
        return options, told
    shown = render.over(taught.render or FAST)
    if taught.render is None and own:
        told.append(f"how the pictures it was taught with were drawn is not known; shown {shown}")
    elif taught.render is not None and shown != taught.render.over(FAST):
        told.append(f"taught with {taught.render.over(FAST)}; shown {shown}, as asked for")
    return options | {"render": shown}, told


def load_policy_and_env(
    folder: Path | str,
    environment: str,
    num_envs: int,
    *,
    seed: int = 0,
    threads: int = 1,
    device: torch.device = CPU,
    **options: Any,
) -> tuple[Any, BatchedEnv]:
    """Load a policy, and build worlds in which it sees what it was taught with, as `toddle evaluate` does.

    options: of the environment, in place of those that evaluation sets for its family.  What differs from the teaching
    is told on stderr.  Raises InputError where the folder is damaged or policy and environment do not fit.
    """
    policy = load_policy(folder, device)
    pictures, told = picture_options(
        environment, policy.cameras, meta_of(folder), image_size=96, render=RenderSettings()
    )
    for line in told:
        print(line, file=sys.stderr)
    asked = {**family_of(environment).evaluation, **pictures, **options}
    env = make_env(environment, num_envs, seed=seed, threads=threads, **asked)
    body_in(policy, env)
    return policy, env
