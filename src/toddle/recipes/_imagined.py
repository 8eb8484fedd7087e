"""Policies in a model and in the environment that it models: what evaluate and imagine share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toddle.algorithms.world_model_evaluation import side_by_side, starts_of
from toddle.core.errors import problem
from toddle.core.rendering import RenderSettings
from toddle.core.types import EpisodeResult
from toddle.envs.base import Array, BatchedEnv
from toddle.envs.imagined import ImaginedEnv
from toddle.envs.make import make_env
from toddle.experience.actor import body_in
from toddle.experience.taught import picture_options
from toddle.experience.trajectories import traces
from toddle.maths.intervals import matched_interval, wilson_interval
from toddle.policies.store import load_policy, meta_of
from toddle.reporting.gates import gains_of

__all__ = [
    "Played",
    "check_knows",
    "check_policies",
    "gate_line",
    "gated",
    "line_of",
    "named_policies",
    "paths",
    "play",
    "told",
]


class Played(NamedTuple):
    """A policy's episodes from the same starts."""

    name: str
    real: list[EpisodeResult]
    imagined: list[EpisodeResult]


def named_policies(policies: Sequence[str]) -> dict[str, Path]:
    """Return folders by name, of `folder` or `name=folder`.  Raises InputError where two have one name."""
    found: dict[str, Path] = {}
    for text in policies:
        name, equals, folder = text.partition("=")
        path = Path(folder if equals else text)
        name = name if equals else (path.parent.name if path.name == "policy" else path.name)
        if name in found or not name:
            raise problem("policy", "different names, name=folder", name or text)
        found[name] = path
    return found


def check_knows(imagined: ImaginedEnv, policy: Any, path: Path) -> None:
    """Raise InputError where a policy sees what a model does not foresee."""
    own = policy.features.fingerprint if policy.cameras and policy.features else ""
    if own != imagined.fingerprint or bool(policy.cameras) != bool(imagined.fingerprint):
        wanted = "a VLA on the backbone that the model knows" if imagined.fingerprint else "a policy of states"
        raise problem("policy", f"{wanted}, in {imagined.name}", str(path))


def check_policies(model: Path, policies: Sequence[str]) -> str:
    """Return the name of the environment that a model is of.  Raises InputError where a policy does not fit it."""
    imagined = ImaginedEnv(model, 1)
    for path in named_policies(policies).values():
        policy = load_policy(path, acting=True)
        body_in(policy, imagined)
        check_knows(imagined, policy, path)
    return imagined.modelled


def _real(imagined: ImaginedEnv, policy: Any, path: Path, seed: int) -> BatchedEnv:
    """Return the environment that is imagined, with the pictures that the policy was taught with, if it reads any."""
    options, _ = picture_options(
        imagined.modelled, policy.cameras, meta_of(path), image_size=96, render=RenderSettings()
    )
    return make_env(imagined.modelled, imagined.num_envs, seed=seed, **options)


def play(
    model: Path, policies: Sequence[str], *, seed: int, episodes: int, worlds: int, deterministic: bool
) -> list[Played]:
    """Play each policy, which `check_policies` has passed, in both, on the same seeds; the pictures are the first's."""
    imagined, real = ImaginedEnv(model, min(worlds, episodes), seed=seed), None
    seeds, found = list(range(seed, seed + episodes)), []
    try:
        for label, path in named_policies(policies).items():
            policy = load_policy(path, acting=True)
            real = _real(imagined, policy, path, seed) if real is None else real
            found.append(Played(label, *side_by_side(policy, real, imagined, seeds, deterministic=deterministic)))
    finally:
        if real is not None:
            real.close()
    return found


def paths(
    model: Path, policy: Path, *, seed: int, starts: int, deterministic: bool
) -> dict[str, list[tuple[Array, Array]]]:
    """Return, of the tool and of the object where the environment names them, where they go (T, 2) from each start: in
    the environment, and in the model."""
    loaded, seeds = load_policy(policy, acting=True), list(range(seed, seed + starts))
    imagined = ImaginedEnv(model, starts, seed=seed)
    real = _real(imagined, loaded, policy, seed)
    try:
        imagined.fixed = starts_of(real, seeds, imagined, loaded)
        both = [traces(loaded, env, seeds, deterministic=deterministic) for env in (real, imagined)]
    finally:
        real.close()
    found = {}
    for name in ("tool", "object"):
        if name in imagined.named:
            at = list(imagined.named[name].at[:2])
            found[name] = [(one[:, at], other[:, at]) for one, other in zip(*both, strict=True)]
    return found


def told(played: Played) -> dict[str, Any]:
    """Return success with its 95 % interval (Wilson), return and length, real and imagined, as JSON values."""

    def of(results: list[EpisodeResult]) -> dict[str, Any]:
        good, count = sum(bool(one.success) for one in results), len(results)
        return {
            "success": list(wilson_interval(good, count)),
            "return": sum(one.episode_return for one in results) / count,
            "length": sum(one.length for one in results) / count,
        }

    return {
        "policy": played.name,
        "episodes": len(played.real),
        "real": of(played.real),
        "imagined": of(played.imagined),
    }


def gated(played: Sequence[Played], share: float) -> list[dict[str, Any]]:
    """Return of each policy after the first what it gains on that in the model, over the same starts, and whether that
    is more than this share of the first one's return (RL-100, arXiv 2510.14830); beside it what it gains in the
    environment.  Gains have 95 % intervals of the starts alone."""

    def gain(new: list[EpisodeResult], old: list[EpisodeResult]) -> list[float]:
        paid, before = ([each.episode_return for each in part] for part in (new, old))
        return list(matched_interval(paid, before))

    first, *later = played
    least = share * abs(sum(one.episode_return for one in first.imagined)) / len(first.imagined)
    rows = list[dict[str, Any]]()
    for one in later:
        inside = gain(one.imagined, first.imagined)
        rows.append(
            {
                "policy": one.name,
                "imagined": inside,
                "real": gain(one.real, first.real),
                "accepted": inside[0] > least,
            }
        )
    return rows


def gate_line(row: dict[str, Any]) -> str:
    """Return what is printed of a row of `gated`."""
    inside, outside = gains_of(row)
    word = "accepted" if row["accepted"] else "refused"
    return f"{row['policy']}: {word}, return {inside} in the model, {outside} real"


def line_of(row: dict[str, Any]) -> str:
    """Return what is printed of what `told` says: never the imagined success alone."""
    real, imagined = (100 * row[where]["success"][0] for where in ("real", "imagined"))
    return f"{row['policy']}: success {real:.0f} % real, {imagined:.0f} % imagined, of {row['episodes']} starts"
