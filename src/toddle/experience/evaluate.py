"""Evaluation: any policy, any environment, a fixed list of seeds that is the same for every candidate.

The seeds are dealt to the worlds in waves.  A world whose episode ended stands still until its wave is over, so a
wave depends on its seeds alone: resumed after a kill, it gives the episodes it would have given.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative
from toddle.core.protocols import Acting
from toddle.core.seeding import numpy_generator, torch_generator
from toddle.core.types import EpisodeResult
from toddle.data.video import write_video
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.actor import Actor, body_in
from toddle.maths.smoothness import log_dimensionless_jerk, mean_squared_jerk, no_op_count, spectral_arc_length

__all__ = ["PushConfig", "VideoRequest", "evaluate"]


@config
class PushConfig:
    """One push in the middle of every episode."""

    strength: NonNegative = 1.0
    """1 is a change of speed of 0.5 m/s, scaled to the body."""
    first_step: Count = 10
    """Earliest control step of the push."""
    last_step: Count = 50
    """Latest control step of the push; the moment is drawn from the episode's seed."""

    def __post_init__(self) -> None:
        if self.first_step > self.last_step:
            raise problem("first_step", f"at most last_step, {self.last_step}", self.first_step)

    def step(self, seed: int) -> int:
        """Return the control step after which the episode of `seed` is pushed: the same for every candidate."""
        return int(numpy_generator(seed, "push", "moment").integers(self.first_step, self.last_step + 1))


def _write_film(path: Path, frames: Array, rate: float) -> None:
    write_video(path, frames.transpose(0, 3, 1, 2), max(1, round(rate)), quality=26, pixels="yuv420p")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """Which episodes to film and where to."""

    path: Callable[[int], Path]
    """The file for the episode of a seed."""
    write: Callable[[Path, Array, float], None] = _write_film
    """Writes frames (T, height, width, 3) uint8 at a rate to a file."""
    episodes: int = 2
    """The first so many seeds are filmed."""
    rate: float = 20.0
    """Frames a second of simulated time, at most."""
    width: int = 256
    height: int = 256


def evaluate(
    policy: Acting,
    env: BatchedEnv,
    *,
    seeds: Sequence[int],
    deterministic: bool = True,
    push: PushConfig | None = None,
    video: VideoRequest | None = None,
    body: int | None = None,
    done: Mapping[int, EpisodeResult] | None = None,
    on_episode: Callable[[EpisodeResult], None] | None = None,
    noise_seed: int = 0,
) -> list[EpisodeResult]:
    """Run one episode a seed and return the results in the order of `seeds`.

    `done` holds episodes of an earlier call, which are not run again; `on_episode` is called as each episode ends.
    `body` is the environment's body in the policy's banks (None: found by its name); `noise_seed` feeds what the
    policy draws.
    Success is that of any control step of the episode; `info["success_at_end"]` is that of the last one, `horizon` the
    most control steps an episode may have, and `published_horizon` the benchmark's own where that is another.  In
    goal-tracking environments (infos goal_done, goal_success, goal_error) goals are counted into the result's `info`.
    """
    if len(set(seeds)) != len(seeds) or not seeds:
        raise problem("seeds", "at least one, all different", list(seeds))
    body = body_in(policy, env) if body is None else body
    results = dict(done or {})
    filmed = set(seeds[: video.episodes]) if video else set()
    ends, env.draw_ends = env.draw_ends, "none"
    training = policy.training if isinstance(policy, nn.Module) else False
    if isinstance(policy, nn.Module):
        policy.eval()
    try:
        for start in range(0, len(seeds), env.num_envs):
            wave = list(seeds[start : start + env.num_envs])
            if all(seed in results for seed in wave):
                continue
            run = _Wave(policy, env, wave, {seed for seed in wave if seed in results}, push, video, filmed, body)
            generator = torch_generator(noise_seed, "evaluate", wave[0])
            with torch.no_grad():
                for result in run.play(deterministic, generator):
                    results[result.seed] = result
                    if on_episode is not None:
                        on_episode(result)
    finally:
        env.draw_ends = ends
        if isinstance(policy, nn.Module):
            policy.train(training)
    return [results[seed] for seed in seeds]


class _Wave:
    """One episode in each world, until all have ended."""

    def __init__(
        self,
        policy: Acting,
        env: BatchedEnv,
        seeds: list[int],
        skip: set[int],
        push: PushConfig | None,
        video: VideoRequest | None,
        filmed: set[int],
        body: int,
    ) -> None:
        n = env.num_envs
        self.policy, self.env, self.push, self.video = policy, env, push, video
        self.seeds: list[int] = seeds + [seeds[-1]] * (n - len(seeds))  # worlds to spare hold a copy and stand still
        self.active = np.array([i < len(seeds) and seed not in skip for i, seed in enumerate(self.seeds)])
        self.tallies = [_Tally(seed) for seed in self.seeds]
        self.push_at = np.array([push.step(seed) if push else -1 for seed in self.seeds])
        self.frames: dict[int, list[Array]] = {
            i: [] for i, seed in enumerate(self.seeds) if seed in filmed and self.active[i]
        }
        self.steps = np.zeros(n, dtype=np.int64)
        self.within = 0  # control step within the chunk
        self.actor = Actor(env, body=body)
        self.actions: Array = np.zeros((n, policy.horizon, *env.single_action_space.shape), dtype=np.float32)
        self.every = max(1, round(1.0 / (video.rate * env.dt))) if video else 1

    def play(self, deterministic: bool, generator: torch.Generator) -> Any:
        """Yield each EpisodeResult as its episode ends."""
        env, n = self.env, self.env.num_envs
        obs, _ = env.reset(seed=list(self.seeds))
        actor, began = self.actor, time.perf_counter()
        actor.begin(self.policy)
        self._film(self.active, start=True)
        while self.active.any():
            observation = actor.observe(obs)
            asked = time.perf_counter()
            decision = actor.decide(self.policy, observation, generator, deterministic=deterministic)
            self.actions = actor.executable(decision)
            thought = (time.perf_counter() - asked) / n
            self.within = 0
            actor.note(np.zeros(n, bool))
            obs, _, terminated, truncated, info = env.step_chunk(
                self.actions, active=self.active, reset_done=False, on_step=self._after_step
            )
            for world in np.flatnonzero(self.active):
                self.tallies[world].thought.append(thought)
                self.tallies[world].goal_told = False
            for world in np.flatnonzero(self.active & (terminated | truncated)):
                yield self._finish(int(world), info, bool(terminated[world]), time.perf_counter() - began)
            self.active &= ~(terminated | truncated)

    def _after_step(self, moved: Array, ended: Array, infos: dict[str, Array]) -> None:
        self.steps += moved
        for world in np.flatnonzero(moved):
            self.tallies[world].count({key: value[world] for key, value in infos.items()})
            self.tallies[world].actions.append(self.actions[world, self.within].copy())
        self._film(moved)
        for world in np.flatnonzero(moved & ~ended & (self.steps == self.push_at)):
            assert self.push is not None
            only = np.arange(self.env.num_envs) == world
            self.env.push(only, numpy_generator(self.seeds[world], "push", "direction"), self.push.strength)
            self.tallies[world].pushed = True
        self.within += 1

    def _film(self, moved: Array, *, start: bool = False) -> None:
        due = [w for w in self.frames if moved[w] and (start or self.steps[w] % self.every == 0)]
        if due and self.video is not None:
            pictures = self.env.render_worlds(due, self.video.width, self.video.height)
            for world, picture in zip(due, pictures):
                self.frames[world].append(picture)

    def _finish(self, world: int, info: dict[str, Any], terminated: bool, seconds: float) -> EpisodeResult:
        tally, seed = self.tallies[world], self.seeds[world]
        facts = tally.facts(self.env.dt) | {"terminated": terminated, "horizon": self.env.max_episode_steps}
        if self.env.published_steps is not None:
            facts["published_horizon"] = self.env.published_steps
        if self.push is not None:
            facts |= {"pushed": tally.pushed, "push_step": int(self.push_at[world])}
        if self.video is not None and self.frames.get(world):
            path = self.video.path(seed)
            self.video.write(path, np.stack(self.frames.pop(world)), 1.0 / (self.every * self.env.dt))
            facts["video"] = path.name
        return EpisodeResult(
            seed=seed,
            success=tally.success,
            episode_return=float(info["episode_return"][world]),
            length=int(self.steps[world]),
            seconds=seconds,
            seconds_per_decision=float(np.mean(tally.thought)),
            cost=tally.cost,
            interventions=tally.interventions,
            info=facts,
        )


class _Tally:
    """What one episode has come to so far, read from the environment's infos after each control step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.success: bool | None = None
        self.at_end: bool | None = None  # success at the last step so far
        self.cost: float | None = None
        self.interventions: int | None = None
        self.takeovers, self._helped = 0, False  # times a person began to act; whether one acted last
        self.pushed = False
        self.tracks_goals = False
        self.goal_told = False  # the environment says `goal_done` until the chunk is over
        self.goal_errors: list[float] = []
        self.goals_reached = 0
        self.commands: list[list[float]] = []  # of walking: kind, whether it was met, what was asked and reached
        self.walked: float | None = None
        self.actions: list[Array] = []
        self.path: list[Array] = []
        self.thought: list[float] = []

    def count(self, infos: dict[str, Any]) -> None:
        """Take in the infos of this world after one control step."""
        if "goal_done" in infos:
            self.tracks_goals = True
            if infos["goal_done"] and not self.goal_told:
                self.goals_reached += int(infos["goal_success"])
                self.goal_errors.append(float(infos["goal_error"]))
                if "goal_command" in infos:
                    speeds = [*infos["goal_command"], *infos["goal_velocity"]]
                    facts = [int(infos["goal_kind"]), int(infos["goal_success"])]
                    self.commands.append([*facts, *(round(float(speed), 4) for speed in speeds)])
            self.goal_told = bool(infos["goal_done"])
        elif "success" in infos:
            self.success = bool(self.success) or bool(infos["success"])
            self.at_end = bool(infos.get("success_now", infos["success"]))
        if "walked" in infos:
            self.walked = float(infos["walked"])
        if "cost" in infos:
            self.cost = (self.cost or 0.0) + float(infos["cost"])
        if "intervention" in infos:
            helped = bool(infos["intervention"])
            self.interventions = (self.interventions or 0) + int(helped)
            self.takeovers, self._helped = self.takeovers + int(helped and not self._helped), helped
        if "tool_position" in infos:
            self.path.append(np.array(infos["tool_position"], dtype=np.float64))

    def facts(self, dt: float) -> dict[str, Any]:
        """Return goals and smoothness as JSON values."""
        facts: dict[str, Any] = {"dt": dt} | ({} if self.at_end is None else {"success_at_end": self.at_end})
        if self.interventions is not None:
            facts["takeovers"] = self.takeovers
        if self.tracks_goals:
            facts |= {"goals": len(self.goal_errors), "goals_reached": self.goals_reached}
            if self.goal_errors:
                facts["goal_error"] = float(np.mean(self.goal_errors))
        if self.walked is not None:
            facts |= {"walked": self.walked, "commands": self.commands}
        actions = np.stack(self.actions)
        facts["no_ops"] = no_op_count(actions)
        if len(actions) > 1:
            facts["action_change"] = float((np.diff(actions, axis=0) ** 2).mean())
        if len(self.path) >= 5:
            path = np.stack(self.path)
            speed = np.linalg.norm(np.diff(path, axis=0), axis=1) / dt
            facts["tool_squared_jerk"] = mean_squared_jerk(path, dt)
            if speed.max() > 0.0 and np.isfinite(smooth := log_dimensionless_jerk(speed, dt)):
                facts |= {"tool_log_jerk": smooth, "tool_arc_length": spectral_arc_length(speed, dt)}
        return facts
