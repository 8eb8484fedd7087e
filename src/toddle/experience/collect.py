"""The collector: a policy acts in a batched environment and a Rollout is filled, for any policy and any environment.

Whatever the learner needs to go on bitwise after a kill (the environment's state, what was executed last, the action
generator, reward scale) is in the collector's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Discount, Positive, Size
from toddle.core.protocols import Acting, Critic
from toddle.core.seeding import numpy_generator, torch_generator
from toddle.core.team import team
from toddle.core.types import Observation
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.actor import Actor
from toddle.experience.curriculum import TaskCurriculum, TaskCurriculumConfig
from toddle.experience.guide import Guide
from toddle.experience.notes import Gathered, Notes
from toddle.experience.reward_scale import RewardScale
from toddle.experience.rollout import Rollout

__all__ = ["CollectConfig", "Collector"]

GOAL_FACTS = ("goal_success", "goal_error", "goal_items")
"""What goal-tracking environments report of a goal that ended."""
EPISODE_FACTS = ("success", "interventions")
"""What environments may report of an episode that ended (costs are summed over it)."""


@config
class CollectConfig:
    """How experience is gathered."""

    length: Size = 32
    """T, decisions of each world in one rollout."""
    discount: Discount = 0.99
    """gamma for one control step."""
    scale_rewards: bool = True
    """Divide rewards by the running standard deviation of discounted returns."""
    reward_clip: Positive = 10.0
    """Scaled rewards are held to plus or minus this."""
    keep: Literal["features", "pictures"] = "features"
    """What a rollout keeps of a policy that sees: its frozen backbone's features (encoded once, in float16), or the
    pictures (uint8), which are encoded again at every update; see the memory in the plan."""


class Collector:
    """Gathers rollouts from one environment.  `body` is the index of its embodiment in the policy's banks."""

    of_worlds: ClassVar[tuple[str, ...]] = ("env", "actor", "generator", "episode_cost", "succeeded")
    """What of the state is where the worlds are."""

    def __init__(
        self,
        env: BatchedEnv,
        config: CollectConfig,
        *,
        seed: int,
        body: int = 0,
        label: str | None = None,
        critic_sees: bool = True,
        tasks: TaskCurriculumConfig | None = None,
        values: int = 1,
        ends: Literal["cut", "all"] = "cut",
    ) -> None:
        """Reset the environment with `seed` and get ready.  `label` names it in metrics (its body).

        critic_sees: whether the critic reads pictures or what is made of them; else none is drawn for it alone.
        tasks: how tasks are drawn, in an environment that has several.
        values: that the critic says of a decision; above 1 every action of the chunk has a value and a reward.
        ends: which episodes' last observations a rollout keeps: those of episodes that were cut, or all.
        """
        env.draw_ends, self.critic_sees = ends if critic_sees else "none", critic_sees
        self.env, self.config, self.body, self.label, self.ends = env, config, body, label or env.body, ends
        self.total_steps, self.values, self.seed = 0, values, seed
        self.rollout: Rollout | None = None
        shape = (config.length, env.num_envs)
        self._outcome = {  # of the rollout under way: what the environment says, taken over by the rollout at its end
            "reward": np.zeros(shape, np.float32),
            "discount": np.full(shape, config.discount, np.float32),
            "terminated": np.zeros(shape, bool),
            "truncated": np.zeros(shape, bool),
        }
        self._steps = np.zeros(shape, np.int64)
        self.reward_scale = RewardScale(env.num_envs)
        self.team = team()
        first, self.all_worlds = self.team.place(env.num_envs)
        part = (first, env.num_envs, self.all_worlds) if self.all_worlds > env.num_envs else None
        self.generator = torch_generator(seed, "actions", env.name, body, part=part)
        self.actor = Actor(env, body=body)
        self.tasks = TaskCurriculum(tasks, env.tasks) if tasks is not None and env.tasks else None
        self._task_draws = numpy_generator(seed, "tasks", env.name, body)
        if self.tasks is not None:
            env.choose = self._choose
        self.guide: Guide | None = None  # asks a teacher on the way, where there is one
        self._begun = False  # the actor's sizes are the policy's, once there is one
        self._raw, _ = env.reset(seed=first + int(torch.randint(2**31 - 1, (), generator=self.generator)))
        self._last: Observation | None = None  # what the rollout before ended with, encoded
        self.notes = Notes()
        self._cost: NDArray[Any] | None = None  # (T, B), once the environment has reported one
        self._succeeded: NDArray[np.bool_] | None = None  # (T + 1, B), before each decision, once it is reported
        self._reached = np.zeros(shape, bool)  # whether success was reported in a decision
        self._episode_cost: NDArray[Any] = np.zeros(env.num_envs)

    @property
    def worlds(self) -> int:
        """Worlds of this learner."""
        return self.env.num_envs

    @property
    def decisions(self) -> int:
        """Decisions in one rollout, all worlds (of all learners) together."""
        return self.config.length * self.all_worlds

    @property
    def bytes(self) -> int:
        """Memory of the rollout, once there is one."""
        return 0 if self.rollout is None else self.rollout.bytes

    def collect(self, policy: Acting, critic: Critic | None) -> tuple[Rollout, dict[str, float]]:
        """Fill the rollout with T decisions a world and their values; return it with metrics of ended episodes.

        A sequential policy starts each rollout with an empty memory and `first` set, so that scoring the stored
        segment gives the same log-densities again.  The rollout is the collector's own and is overwritten next time.
        """
        return self.finish(critic, [self.gather(policy)])

    def told(self) -> None:
        """Return what worlds elsewhere are told before a rollout: they know all that it begins with."""

    def gather(self, policy: Acting, told: None = None) -> Gathered:
        """Fill `rollout` with T decisions a world; return what came of it."""
        length, worlds, actor = self.config.length, self.env.num_envs, self.actor
        if self._begun:
            actor.restart(policy, first=policy.sequential)
        else:
            actor.begin(policy)
            self._begun = True
        if self.env.cameras and self.env.rendering != bool(policy.cameras):  # no picture that nobody looks at
            self.env.rendering = bool(policy.cameras)
            self._raw, self._last = self.env.current_observation(), None
        finals: list[tuple[int, NDArray[Any], Observation]] = []
        steps = 0
        if self._succeeded is not None:
            self._succeeded[0] = self._succeeded[-1]
        if self.guide is not None:
            self.guide.begin()
        for t in range(length):
            known = self._last if t == 0 and not policy.sequential else None  # else `first` is set anew
            observation = self._observation(policy) if known is None else known
            decision = actor.decide(policy, observation, self.generator)
            if self.rollout is None:
                self.rollout = Rollout(length, worlds, observation, decision, values=self.values)
            self.rollout.observe(t, observation)
            self.rollout.decide(t, decision)
            steps += self._advance(t, self._guided(t, actor.executable(decision)), policy, finals)
            self.rollout.execute(t, actor.previous)
        rollout = self.rollout
        assert rollout is not None
        self._last = self._observation(policy)
        rollout.observe(length, self._last)
        for name, values in self._outcome.items():
            getattr(rollout, name).copy_(torch.from_numpy(values))
        if self._cost is not None:
            rollout.columns["cost"] = torch.from_numpy(self._cost.copy()).to(rollout.reward.device)
        if self._succeeded is not None:
            rollout.columns["succeeded"] = torch.from_numpy(self._succeeded[:-1].copy()).to(rollout.reward.device)
            rollout.reached = torch.from_numpy(self._reached.copy())
        if policy.horizon > 1:
            rollout.steps = torch.from_numpy(self._steps.copy()).to(rollout.reward.device)
        rollout.keep_finals(finals)
        notes, self.notes = self.notes, Notes()
        return Gathered(steps, notes)

    def begin_again(self, worlds: NDArray[np.bool_]) -> None:
        """Let somebody reset the worlds (B,), between two rollouts: what they did so far is no episode."""
        self._raw, _ = self.env.reset(options={"reset_mask": worlds})
        self._last = None
        self.actor.note(self.actor.first | worlds)
        self._episode_cost[worlds] = 0.0
        if self._succeeded is not None:
            self._succeeded[-1] &= ~worlds

    def finish(self, critic: Critic | None, parts: Sequence[Gathered]) -> tuple[Rollout, dict[str, float]]:
        """Value and scale the rollout; return it with metrics of its parts, whose worlds follow one another."""
        rollout, steps = self.rollout, sum(part.steps for part in parts)
        assert rollout is not None
        self.notes.beside(part.notes for part in parts)
        if critic is not None:
            self._value(critic, rollout)
        if self.config.scale_rewards:
            self.reward_scale.scale(rollout, self.config.reward_clip)
        return rollout, self._metrics(rollout, steps) | ({} if self.guide is None else self.guide.end(rollout))

    def _guided(self, t: int, chunk: Array) -> Array:
        """Return the chunk (B, H, A) that is executed, where a guide may put another in its place."""
        if self.guide is None:
            return chunk
        executed = self.guide.step(t, self._raw, self.actor.first, chunk)
        self.actor.previous = executed.reshape(len(executed), -1)
        return executed

    def _choose(self, count: int) -> NDArray[np.int64]:
        assert self.tasks is not None
        return self.tasks.draw(count, self._task_draws)

    def _observation(self, policy: Acting) -> Observation:
        seen = self.actor.observe(self._raw)
        return policy.encode(seen) if self.config.keep == "features" else seen

    def _advance(
        self, t: int, chunk: Array, policy: Acting, finals: list[tuple[int, NDArray[Any], Observation]]
    ) -> int:
        """Execute the chunks (B, H, A), note what came of them, return the control steps made."""
        gamma = self.config.discount
        self._raw, reward, terminated, truncated, info = self.env.step_chunk(chunk, discount=gamma)
        outcome = self._outcome
        outcome["reward"][t], outcome["terminated"][t], outcome["truncated"][t] = reward, terminated, truncated
        self._steps[t] = info["steps"]
        if self.rollout is not None:
            self.rollout.gain(t, info["rewards"], info["steps"])
        if chunk.shape[1] > 1:
            outcome["discount"][t] = gamma ** info["steps"].astype(np.float32)
        ended = terminated | truncated
        self.actor.note(ended)
        self._note_step(t, info)
        if "success" in info:
            if self._succeeded is None:
                self._succeeded = np.zeros((self.config.length + 1, self.env.num_envs), bool)
            reached = np.asarray(info["success"], bool)
            self._reached[t] = reached
            self._succeeded[t + 1] = (self._succeeded[t] | reached) & ~ended
        if ended.any():
            self._note_ends(t, truncated, info, policy, finals)
        return int(info["steps"].sum())

    def _note_step(self, t: int, info: dict[str, Any]) -> None:
        """Sum what is reported at every decision, and list what is reported of goals that ended."""
        if "cost" in info:
            if self._cost is None:
                self._cost = np.zeros((self.config.length, self.env.num_envs), np.float32)
                self._episode_cost = np.zeros(self.env.num_envs)
            self._cost[t] = info["cost"]
            self._episode_cost += info["cost"]
        for key, value in info.items():
            if key == "level" or key.startswith("reward/"):
                self.notes.add("goal/level" if key == "level" else key, value)
        done = info.get("goal_done")
        if done is not None and done.any():
            for key in GOAL_FACTS:
                self.notes.end(key.replace("_", "/", 1), info[key][done])

    def _note_ends(
        self, t: int, truncated: NDArray[Any], info: dict[str, Any], policy: Acting, finals: list[Any]
    ) -> None:
        ended = np.flatnonzero(self.actor.first)
        facts = {"return": info["episode_return"], "length": info["episode_length"]}
        facts |= {key: info[key] for key in EPISODE_FACTS if key in info}
        if self._cost is not None:
            facts["cost"] = self._episode_cost.copy()
            self._episode_cost[ended] = 0.0
        if self.tasks is not None:
            if "success" not in info:
                raise problem("tasks.kind", "environments that report success", self.env.name)
            self.tasks.note(info["task"][ended], np.asarray(info["success"], bool)[ended, None])
        for key, value in facts.items():
            self.notes.end(f"episode/{key}", value[ended])
        cut = ended if self.ends == "all" else np.flatnonzero(truncated)
        if len(cut):
            final = info["final_obs"]
            rows = {k: v[cut] for k, v in final.items()} if isinstance(final, dict) else final[cut]
            said = None if self.env.instruction is None else [self.env.instruction[world] for world in cut]
            if blind := not self.critic_sees and bool(policy.cameras):
                rows, said = {key: value for key, value in rows.items() if key != "images"}, None
            seen = self.actor.as_observation(rows, np.zeros(len(cut), bool), self.actor.previous[cut], said)
            finals.append((t, cut, seen if blind or self.config.keep == "pictures" else policy.encode(seen)))

    @torch.no_grad()
    def _value(self, critic: Critic, rollout: Rollout) -> None:
        """Value every observation in one pass, and the final observations of episodes that were cut in another."""
        values = critic.value(rollout.observation_and_last)
        rollout.value.copy_(values[:-1])
        rollout.next_value.copy_(rollout.first_value(values[1:]))
        if rollout.finals is not None:
            rows, columns = rollout.final_at.unbind(1)
            rollout.next_value[rows, columns] = rollout.first_value(critic.value(rollout.finals))

    def _metrics(self, rollout: Rollout, steps: int) -> dict[str, float]:
        """Means over the episodes and goals that ended in this rollout and over its decisions (docs/metrics.md)."""
        reward = float(rollout.reward.mean())
        if self.team.size > 1:
            reward, steps = self._pool(float(rollout.reward.sum()), steps)
        metrics, self.notes = self.notes.means(rollout.length), Notes()
        self.total_steps += steps
        metrics["rollout/reward"] = reward
        metrics["rollout/total_steps"] = float(self.total_steps)
        return metrics | ({} if self.tasks is None else self.tasks.metrics())

    def _pool(self, reward: float, steps: int) -> tuple[float, int]:
        """Take in what the other learners' worlds have reported; return the mean reward and the steps of all."""
        found = self.team.objects((self.notes, reward, steps))
        self.notes = Notes()
        self.notes.beside(notes for notes, _, _ in found)
        return sum(each[1] for each in found) / self.decisions, sum(each[2] for each in found)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next rollout depends on."""
        return {
            "env": self.env.state_dict(),
            "actor": self.actor.state_dict() if self._begun else None,
            "generator": self.generator.get_state(),
            "reward_scale": self.reward_scale.state_dict(),
            "episode_cost": None if self._cost is None else self._episode_cost.copy(),
            "succeeded": None if self._succeeded is None else self._succeeded[-1].copy(),
            "total_steps": self.total_steps,
            "guide": None if self.guide is None else self.guide.state_dict(),
            "tasks": None if self.tasks is None else self.tasks.state_dict(),
            "task_draws": None if self.tasks is None else self._task_draws.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.env.load_state_dict(state["env"])
        self._raw, self._last = self.env.current_observation(), None
        if state["actor"] is not None:
            self.actor.load_state_dict(state["actor"])
            self._begun = True
        self.generator.set_state(state["generator"])
        self.reward_scale.load_state_dict(state["reward_scale"])
        if state["episode_cost"] is not None:
            self._cost = np.zeros((self.config.length, self.env.num_envs), np.float32)
            self._episode_cost = np.asarray(state["episode_cost"]).copy()
        if state.get("succeeded") is not None:  # a checkpoint of before has none: its episodes count from here
            self._succeeded = np.zeros((self.config.length + 1, self.env.num_envs), bool)
            self._succeeded[-1] = np.asarray(state["succeeded"], bool)
        self.total_steps = int(state["total_steps"])
        if self.guide is not None:
            self.guide.load_state_dict(state["guide"])
        if self.tasks is not None:
            self.tasks.load_state_dict(state["tasks"])
            self._task_draws.bit_generator.state = state["task_draws"]
