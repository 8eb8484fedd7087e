"""What a model of an environment is worth on held-out recordings: errors over the horizon, doubt, heads; and a policy's
episodes in it beside those in the environment, from the same starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toddle.algorithms.world_model_training import OpenLoop, open_loop
from toddle.core.protocols import Acting
from toddle.core.seeding import numpy_generator
from toddle.core.types import EpisodeResult
from toddle.data.recordings import Recordings
from toddle.envs.base import Array, BatchedEnv
from toddle.envs.imagined import ImaginedEnv
from toddle.experience.actor import Actor, body_in
from toddle.experience.evaluate import evaluate
from toddle.experience.trajectories import states_of
from toddle.maths.ranks import spearman
from toddle.maths.world_models import calibration, error_over_copy
from toddle.models.world_model import WorldModel

__all__ = ["HORIZONS", "agreement", "errors", "side_by_side", "starts_of"]

HORIZONS = (1, 2, 4, 8, 16, 32)
"""Steps after which errors are told."""
MOVED = 1e-3
"""Metres by which the object moves in a step in which it counts as moving."""


def errors(
    model: WorldModel,
    data: Recordings,
    *,
    thing: Sequence[int] | None,
    felt: int | None = None,
    rows: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Return errors over those of "nothing changes", and what doubt says of them, on held-out steps.

    thing: where in the state the object's place is, where it is anywhere; then steps in which it moves are told apart.
    felt: how many numbers of the state are no components of what a VLA sees, where some are; then both are told apart.
    """
    generator = numpy_generator(seed, "held-out steps")
    held = torch.nonzero(data.held[data.episode])[:, 0].numpy()
    drawn = torch.from_numpy(np.sort(generator.choice(held, min(rows, len(held)), replace=False)))
    steps = min(max(HORIZONS), int(data.lengths.max()) - 1)
    found = open_loop(model, data, drawn, steps)
    varying = model.spread > 0
    counts = model.weight[varying]
    scale = (counts / counts.mean()).sqrt()
    predicted, first = ((model.norm(value)[..., varying] * scale).numpy() for value in (found.predicted, found.first))
    truth = torch.where(found.after[..., None], model.norm(found.truth)[..., varying] * scale, torch.nan).numpy()
    ratio = error_over_copy(predicted, truth, first)
    size = np.sqrt(((predicted - truth) ** 2).mean(-1))  # (B, L), NaN where the episode was over
    horizons = [h for h in HORIZONS if h <= steps and (~np.isnan(size[:, h - 1])).sum() > 10]
    told: dict[str, Any] = {
        "steps": len(drawn),
        "horizons": horizons,
        "error_over_copy": [float(ratio[h - 1]) for h in horizons],
        "doubt": [_doubt(found, size, h, generator) for h in horizons],
    }
    if felt is not None:
        own = int(varying[:felt].sum())
        for name, part in (("felt", slice(None, own)), ("seen", slice(own, None))):
            apart = error_over_copy(predicted[..., part], truth[..., part], first[..., part])
            told[f"error_over_copy_{name}"] = [float(apart[h - 1]) for h in horizons]
    if thing is not None and horizons:
        moved = np.linalg.norm((found.truth - found.first[:, None])[:, 0, list(thing)].numpy(), axis=1) > MOVED
        for name, chosen in (("moving", moved), ("still", ~moved)):
            chosen = chosen & ~np.isnan(size[:, 0])
            if chosen.sum() > 10:
                one = error_over_copy(predicted[chosen, :1], truth[chosen, :1], first[chosen])
                told[f"error_over_copy_{name}"] = {"steps": int(chosen.sum()), "value": float(one[0])}
    return told


def _doubt(found: OpenLoop, size: Array, horizon: int, generator: np.random.Generator) -> dict[str, float | None]:
    """Return how the doubt after so many steps goes with the error there, and a shuffled doubt (the control)."""
    some = ~np.isnan(size[:, horizon - 1])
    doubt, error = found.doubt[:, horizon - 1].numpy()[some], size[some, horizon - 1]
    said = calibration(doubt, error)
    mixed = spearman(generator.permutation(doubt), error)
    numbers = {"rank": said.rank, "scale": said.scale, "coverage": said.coverage, "shuffled_rank": mixed}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def side_by_side(
    policy: Acting, real: BatchedEnv, imagined: ImaginedEnv, seeds: Sequence[int], *, deterministic: bool
) -> tuple[list[EpisodeResult], list[EpisodeResult]]:
    """Play a policy in the environment and in its model from the same starts; the results in the order of `seeds`."""
    imagined.fixed = starts_of(real, seeds, imagined, policy)
    played = evaluate(policy, real, seeds=seeds, deterministic=deterministic)
    dreamt = evaluate(policy, imagined, seeds=seeds, deterministic=deterministic)
    imagined.fixed = {}
    return played, dreamt


def starts_of(env: BatchedEnv, seeds: Sequence[int], imagined: ImaginedEnv, policy: Any) -> dict[int, Array]:
    """Return the state (O,) of a model in which the episode of each seed begins; a VLA's backbone reads the pictures
    where the model is of what it sees."""
    found: dict[int, Array] = {}
    for first in range(0, len(seeds), env.num_envs):
        wave: list[int | None] = list(seeds[first : first + env.num_envs])
        observation, _ = env.reset(seed=wave + [wave[-1]] * (env.num_envs - len(wave)))
        states = imagined.state_of(_seen(policy, env, observation, pictures=imagined.components is not None))
        found |= {seed: np.array(state, np.float32) for seed, state in zip(seeds[first:], states)}
    return found


@torch.no_grad()
def _seen(policy: Any, env: BatchedEnv, observation: Any, *, pictures: bool) -> Any:
    if not pictures:
        return {"proprio": states_of(observation)}
    actor = Actor(env, body=body_in(policy, env))
    actor.begin(policy)
    seen = policy.encode(actor.observe(observation))
    return {name: seen[name].cpu() for name in ("proprio", "context")}


def agreement(pairs: Sequence[tuple[Sequence[EpisodeResult], Sequence[EpisodeResult]]]) -> dict[str, float | None]:
    """Return how returns in the model go with those in the environment, over all starts of all policies."""
    real = np.array([one.episode_return for played, _ in pairs for one in played])
    dreamt = np.array([one.episode_return for _, imagined in pairs for one in imagined])
    spread = float(real.std() * dreamt.std())
    r = float(((real - real.mean()) * (dreamt - dreamt.mean())).mean() / spread) if spread else None
    return {"pearson": r, "over_estimate": float((dreamt - real).mean()), "episodes": float(len(real))}
