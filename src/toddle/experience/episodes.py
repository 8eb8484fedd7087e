"""Whole episodes, in groups that begin at the same start: what methods without a critic compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Seed, Size, Whole
from toddle.core.protocols import Acting, Critic
from toddle.core.seeding import numpy_generator, torch_generator
from toddle.core.team import team
from toddle.core.types import Observation
from toddle.envs.base import BatchedEnv
from toddle.experience.actor import Actor
from toddle.experience.curriculum import (
    MAX_STARTS,
    StartCurriculum,
    StartCurriculumConfig,
    TaskCurriculum,
    TaskCurriculumConfig,
)
from toddle.experience.notes import Gathered
from toddle.experience.rollout import Rollout

__all__ = ["EpisodesConfig", "GroupCollector"]


@config
class EpisodesConfig:
    """How whole episodes are gathered."""

    group: Size = 8
    """Episodes that begin at the same start; the worlds are divided into so many groups."""
    stop_together: bool = False
    """End every episode of a group as soon as one of them succeeds, so that all have the same length."""
    starts: Whole = 0
    """Starts that are drawn from, of seeds counting up from `first_start`; 0: a new one every time."""
    first_start: Seed = 2_000_000
    """Seed of the first start.  Evaluation takes seeds from 0, demonstrations from 1,000,000."""
    success_return: bool = False
    """Compare episodes by success (1 or 0) in place of their sums of rewards."""
    curriculum: StartCurriculumConfig = StartCurriculumConfig()
    """Which starts are drawn more often."""
    keep: Literal["features", "pictures"] = "features"
    """What a rollout keeps of a policy that sees, as `collect.keep` of PPO says."""

    def __post_init__(self) -> None:
        if self.curriculum.chooses and not 1 <= self.starts <= MAX_STARTS:
            raise problem("episodes.starts", f"1 to {MAX_STARTS:,}, for a curriculum", self.starts)


class Told(NamedTuple):
    """What a rollout of whole episodes begins with."""

    starts: NDArray[Any]  # (groups of all worlds,), seeds
    drawn: NDArray[Any]  # (groups,), what the curriculum calls them
    noise: Tensor  # where the generator stands


class GroupCollector:
    """Plays one whole episode in every world; worlds of a group are reset with the same seed, and so to the same start.

    The rollout is as long as the longest episode can be; `mask` is True while a world's episode runs.  A world whose
    episode has ended stands still until all have.
    """

    of_worlds: ClassVar[tuple[str, ...]] = ()
    """What of the state is where the worlds are: every episode begins at a reset, from what is told."""

    def __init__(
        self,
        env: BatchedEnv,
        config: EpisodesConfig,
        *,
        seed: int,
        body: int = 0,
        label: str | None = None,
        tasks: TaskCurriculumConfig | None = None,
    ) -> None:
        """Get ready; the worlds must make whole groups.

        tasks: how tasks (with `config.starts`, pairs of task and start) are drawn in an environment that has several.
        """
        if env.num_envs % config.group:
            raise problem("worlds", f"a multiple of the group's {config.group}", env.num_envs)
        env.draw_ends = "none"
        self.env, self.config, self.label = env, config, label or env.body
        self.actor = Actor(env, body=body)
        self.total_steps = 0
        self.starts: np.random.Generator = numpy_generator(seed, "starts", env.name, body)
        self.team = team()
        self.place = self.team.place(env.num_envs)
        part = (self.place[0], env.num_envs, self.place[1]) if self.team.size > 1 else None
        self.generator = torch_generator(seed, "episodes", env.name, body, part=part)
        self.rollout: Rollout | None = None
        self.last: Told  # what the last rollout began with
        self.curriculum = StartCurriculum(config.curriculum, config.starts) if config.curriculum.chooses else None
        if tasks is not None and env.tasks:
            if self.curriculum is not None:
                given = config.curriculum.kind
                raise problem("episodes.curriculum.kind", "uniform beside tasks.kind, which draws starts too", given)
            self.curriculum = TaskCurriculum(tasks, env.tasks, starts=max(config.starts, 1))

    @property
    def bytes(self) -> int:
        """Memory of the rollout, once there is one."""
        return 0 if self.rollout is None else self.rollout.bytes

    @property
    def worlds(self) -> int:
        """Worlds of this learner."""
        return self.env.num_envs

    @property
    def decisions(self) -> int:
        """The most decisions of one rollout, for chunks of one action."""
        return self.env.max_episode_steps * self.place[1]

    def collect(self, policy: Acting, critic: Critic | None) -> tuple[Rollout, dict[str, float]]:
        """Play; return the rollout with `group`, `mask`, `episode_return` and `success`, and metrics.

        The rollout is the collector's own and is overwritten next time.  A critic is not asked.
        """
        return self.finish(critic, [self.gather(policy, self.told())])

    def told(self) -> Told:
        """Draw the starts of a rollout; return them with all else that it begins with, for worlds elsewhere."""
        self.last = Told(*self._draw(self.place[1] // self.config.group), self.generator.get_state())
        return self.last

    def gather(self, policy: Acting, told: Told) -> Gathered:
        """Play one episode in every world of this process, from its share of the starts; fill `rollout`."""
        config, env, actor, worlds = self.config, self.env, self.actor, self.env.num_envs
        groups, length, steps = worlds // config.group, -(-env.max_episode_steps // policy.horizon), 0
        own = self._own(groups)
        if env.tasks and self.curriculum is not None:
            task = told.drawn[own] // max(config.starts, 1)
            env.choose = lambda count: np.repeat(task, count // groups)
        self.generator.set_state(told.noise)
        seeds = np.repeat(told.starts[own], config.group)
        raw, _ = env.reset(seed=[int(seed) for seed in seeds])
        actor.begin(policy)
        running, mask = np.ones(worlds, bool), np.zeros((length, worlds), bool)
        rewards: NDArray[Any] = np.zeros((length, worlds), np.float32)
        ends = [np.zeros((length, worlds), bool), np.zeros((length, worlds), bool)]
        success: NDArray[Any] | None = None
        succeeded, reached = np.zeros((length, worlds), bool), np.zeros((length, worlds), bool)  # before, in a decision
        executed = np.full((length, worlds), policy.horizon)
        for t in range(length):
            if success is not None:
                succeeded[t] = success
            seen = self._seen(policy, actor.observe(raw), running)
            decision = actor.decide(policy, seen, self.generator)
            if self.rollout is None:
                self.rollout = Rollout(length, worlds, seen, decision)
            self.rollout.observe(t, seen)
            self.rollout.decide(t, decision)
            mask[t] = running
            raw, reward, terminated, truncated, info = env.step_chunk(
                actor.executable(decision), active=running, reset_done=False
            )
            executed[t] = np.where(running, info["steps"], policy.horizon)
            rewards[t], ends[0][t], ends[1][t] = np.where(running, reward, 0.0), terminated, truncated
            if "success" in info:
                reached[t] = np.asarray(info["success"], bool) & running
                success = reached[t].copy() if success is None else success | reached[t]
            self.rollout.execute(t, actor.previous)
            actor.note(np.zeros(worlds, bool))
            steps += int(info["steps"][running].sum())
            running = running & ~(terminated | truncated)
            if config.stop_together:
                if success is None:
                    raise problem("stop_together", "an environment that reports success", env.name)
                running &= ~np.repeat(success.reshape(-1, config.group).any(1), config.group)
            if not running.any():
                break
        assert self.rollout is not None
        if policy.horizon > 1:
            self.rollout.steps = torch.from_numpy(executed).to(self.rollout.reward.device)
        if success is not None:
            self.rollout.columns["succeeded"] = torch.from_numpy(succeeded).to(self.rollout.reward.device)
            self.rollout.reached = torch.from_numpy(reached)
        last = self._seen(policy, actor.observe(raw), np.ones(worlds, bool))
        self._write(self.rollout, last, rewards, ends, mask, success)
        return Gathered(steps, decisions=t + 1, noise=self.generator.get_state())

    def _own(self, groups: int) -> slice:
        """Return which of all groups are this process's."""
        first = self.place[0] // self.config.group
        return slice(first, first + groups)

    def _seen(self, policy: Acting, observation: Observation, running: NDArray[Any]) -> Observation:
        """Return what is kept of an observation, and acted on."""
        return observation if self.config.keep == "pictures" else _encoded(policy, observation, running)

    def _draw(self, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the seeds of this rollout's starts (count,), all different where there are enough, and what the
        curriculum calls them."""
        config = self.config
        drawn = np.zeros(count, np.int64) if self.curriculum is None else self.curriculum.draw(count, self.starts)
        if not config.starts:
            return self.starts.integers(2**31 - 1, size=count), drawn
        if self.curriculum is None:
            drawn = self.starts.choice(config.starts, size=count, replace=count > config.starts)
        return config.first_start + drawn % config.starts, drawn

    def _write(
        self,
        rollout: Rollout,
        last: Observation,
        rewards: NDArray[Any],
        ends: list[NDArray[Any]],
        mask: NDArray[Any],
        success: NDArray[Any] | None,
    ) -> None:
        """Write what became of the episodes."""
        device = rollout.reward.device
        rollout.observe(rollout.length, last)
        rollout.reward.copy_(torch.from_numpy(rewards))
        rollout.terminated.copy_(torch.from_numpy(ends[0]))
        rollout.truncated.copy_(torch.from_numpy(ends[1]))
        rollout.discount.fill_(1.0)
        rollout.mask = torch.from_numpy(mask).to(device)
        rollout.success = None if success is None else torch.from_numpy(success).to(device)
        rollout.episode_return = rollout.reward.sum(0)
        if self.config.success_return:
            if rollout.success is None:
                raise problem("success_return", "an environment that reports success", self.env.name)
            rollout.episode_return = rollout.success.float()

    def finish(self, critic: Critic | None, parts: Sequence[Gathered]) -> tuple[Rollout, dict[str, float]]:
        """Say which episodes began alike, and note how each start went; return the rollout with metrics of its parts,
        whose worlds follow one another."""
        rollout, told = self.rollout, self.last
        assert rollout is not None
        parts = [part for each in self.team.objects(list(parts)) for part in each]
        own = self._own(rollout.worlds // self.config.group)
        same = np.unique(np.stack([told.starts, told.drawn], 1), axis=0, return_inverse=True)[1].reshape(-1)[own]
        rollout.group = torch.from_numpy(np.repeat(same, self.config.group)).to(rollout.reward.device)
        if len(parts) > 1:  # noise is drawn for all worlds, as long as the longest of all episodes lasts
            noise = max(parts, key=lambda part: part.decisions).noise
            assert noise is not None
            self.generator.set_state(noise)
        if self.curriculum is not None:
            if rollout.success is None:
                raise problem("episodes.curriculum", "an environment that reports success", self.env.name)
            succeeded = rollout.success.cpu().numpy().reshape(-1, self.config.group)
            self.curriculum.note(told.drawn[own], succeeded)
        self.total_steps += sum(part.steps for part in parts)
        return rollout, self._metrics(rollout)

    def _metrics(self, rollout: Rollout) -> dict[str, float]:
        """Return the means over all learners' episodes."""
        assert rollout.episode_return is not None and rollout.mask is not None
        metrics = {
            "episode/return": float(self.team.gather(rollout.reward.sum(0), 0).mean()),
            "episode/length": float(self.team.gather(rollout.mask.sum(0), 0).double().mean()),
            "episode/ended": float(self.place[1]),
            "rollout/total_steps": float(self.total_steps),
        }
        if rollout.success is not None:
            metrics["episode/success"] = float(self.team.gather(rollout.success.float(), 0).mean())
        return metrics | ({} if self.curriculum is None else self.curriculum.metrics())

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next rollout depends on; every episode begins at a reset, so no world is in it."""
        return {
            "starts": self.starts.bit_generator.state,
            "generator": self.generator.get_state(),
            "total_steps": self.total_steps,
            "curriculum": None if self.curriculum is None else self.curriculum.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.starts.bit_generator.state = state["starts"]
        self.generator.set_state(state["generator"])
        self.total_steps = int(state["total_steps"])
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])


def _encoded(policy: Acting, seen: Observation, running: NDArray[Any]) -> Observation:
    """Return `policy.encode` of what the running worlds (B,) see; the first of them stands in the places of the others,
    whose decisions nobody reads."""
    if running.all() or not policy.cameras:
        return policy.encode(seen)
    worlds = np.flatnonzero(running)
    found: Any = policy.encode(_rows(seen, worlds))
    return _rows(found, np.where(running, np.cumsum(running) - 1, 0))


def _rows(observation: Observation, rows: NDArray[Any]) -> Observation:
    """Return some rows of an observation (B, ...)."""
    index = torch.from_numpy(rows)
    found: Any = {key: value[index] for key, value in observation.items() if isinstance(value, torch.Tensor)}
    if "instruction" in observation:
        found["instruction"] = [observation["instruction"][row] for row in rows]
    return found
