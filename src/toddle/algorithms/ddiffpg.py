"""DDiffPG: Li et al. 2024, "Learning Multimodal Behaviors from Scratch with Diffusion Policy Gradient", 2406.00681.

    part of the paper                              where
    exploration noise, one spread a world          ddiffpg_actors.Exploring
    novelty bonus (RND, or NovelD as released)      models.novelty.Novelty
    trajectories grouped by DTW, average linkage   algorithms.modes.assign_modes
    a critic per mode, inherited                   algorithms.modes.inherit
    target actions by gradient ascent on min Q     ddiffpg_actors.DiffusionActor.improve
    the diffusion actor copies them (eq. 6)        policies.denoising.DenoisingPolicy.imitation_loss
    mode embeddings, half of them blanked          DDiffPG._conditions

Deviations:
 1. The target of the twins is the twin distribution with the smaller mean, not the elementwise minimum of both
    (which does not sum to 1).
 2. Paths are resampled to 24 points before DTW, and distances are cached.
 3. The constant offset that the released code adds for its maze is not there.
 4. Exploration noise and the random actions of the warm-up are correlated in time (`noise_correlation`).
 5. Half of a mode's batch are steps of its successful trajectories (`winners`), and the memory drops failures
    first: with 1/100 of the paper's steps success is too rare to be drawn by chance.
 6. `actor="deterministic"` is the single-mode baseline: TD3's actor on one critic, the same exploration and bonus.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from toddle.algorithms.ddiffpg_actors import DeterministicActor, DiffusionActor, Exploring, Lesson, ModeActor, TanhActor
from toddle.algorithms.modes import Mode, assign_modes, inherit
from toddle.core.config import config
from toddle.core.device import CPU, to_device
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Discount, NonNegative, Positive, Share, Size, Whole
from toddle.core.seeding import numpy_generator, rand, randn, torch_generator
from toddle.core.types import BodySpec
from toddle.data.trajectory_buffer import Batch, TrajectoryBuffer
from toddle.envs.base import BatchedEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.trajectories import Trajectories
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.mode_critic import ModeCritic
from toddle.models.novelty import Novelty
from toddle.optim.adam_state import adam_state, load_adam_state
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.links import DiffusionConfig

__all__ = ["DDiffPG", "DDiffPGConfig"]


@config
class DDiffPGConfig:
    """Diffusion policy gradient with a critic per mode.

    The defaults are for tasks of some thirty steps on a few CPU minutes; the paper's, for 4 million steps of 256
    worlds: updates 8, batch 4096, capacity 2000, regroup_every 100, networks (512, 256, 128, 128), top 5, discount
    0.99, rates 5e-4, noise 0.05 to 0.6 without correlation, ascent_steps 20, target noise 0.8.
    """

    actor: Literal["diffusion", "deterministic"] = "diffusion"
    """The diffusion actor of the paper, or the single-mode baseline (one critic, TD3's actor)."""
    steps: Count = 8
    """Control steps of every world in one iteration."""
    updates: Count = 12
    """Updates of every group in one iteration."""
    batch: Size = 128
    """Steps of every group in one update."""
    capacity: Size = 300
    """Trajectories kept."""
    path: tuple[Whole, ...] = (0, 1)
    """Columns of the observation that make up the path by which trajectories are grouped."""
    warm_up: Whole = 24
    """First iterations with random actions."""
    regroup_every: Count = 12
    """Iterations between two groupings."""
    merge_share: Share = 0.7
    """Groups are cut at this share of the highest merge."""
    hidden: tuple[Size, ...] = (64, 64)
    """Hidden layers of the critics."""
    actor_width: Size = 64
    """Channels of the diffusion actor's residual stream."""
    winners: Share = 0.5
    """Share of a mode's batch that comes from its successful trajectories; the paper draws from all alike (0)."""
    atoms: Size = 51
    """Values on the critics' grid."""
    top: Positive = 1.5
    """Highest value on the grid (the lowest is 0)."""
    discount: Discount = 0.97
    """gamma for one control step."""
    critic_learning_rate: Positive = 1e-3
    """Adam's rate of the critics and of the novelty predictor."""
    actor_learning_rate: Positive = 1e-3
    """Adam's rate of the actor."""
    slow_share: Share = 0.05
    """Share by which the slow critics follow at each update."""
    target_noise: NonNegative = 0.1
    """Noise on the next action in the critics' targets (held to +-0.2)."""
    noise: tuple[NonNegative, NonNegative] = (0.05, 0.5)
    """Exploration noise of the first and of the last world; the others lie between."""
    noise_correlation: Discount = 0.95
    """Correlation of the noise from one control step to the next; 0 is the paper's, which hardly leaves the start."""
    ascent_steps: Count = 5
    """Adam steps of a target action."""
    ascent_learning_rate: Positive = 0.03
    """Adam's rate of a target action."""
    novelty: Literal["rnd", "noveld"] = "noveld"
    """The exploration bonus (the paper's code takes NovelD)."""
    novelty_weight: NonNegative = 0.05
    """Weight of the bonus."""
    embedding: Size = 5
    """Numbers of a mode embedding."""
    denoising_steps: Count = 5
    """DDPM steps of the actor."""

    def __post_init__(self) -> None:
        for name, least in (("capacity", self.capacity), ("atoms", self.atoms)):
            if least < 2:
                raise problem(name, "at least 2", least)
        if not self.path:
            raise problem("path", "at least one column", "none")


class DDiffPG:
    """A learner: `step` explores, groups what succeeded, improves the critics, the target actions and the actor."""

    def __init__(self, env: BatchedEnv, config: DDiffPGConfig, *, seed: int, device: torch.device = CPU) -> None:
        """Build everything for `env`, whose info must report `success`, and reset it.  Networks go to `device`."""
        self.env, self.config, self.device, spec = env, config, device, env.body_spec
        self.iteration = 0
        self.random, self.generator = numpy_generator(seed, "ddiffpg"), torch_generator(seed, "ddiffpg actions")
        self.seed, self.size = seed, (spec.proprio, spec.action)
        if max(config.path) >= spec.proprio:
            raise problem("ddiffpg.path", f"columns of the {spec.proprio} numbers seen, from 0", max(config.path))
        self.buffer = TrajectoryBuffer(config.capacity, env.max_episode_steps, *self.size, config.path)
        self.novelty = Novelty(spec.proprio, seed=seed).to(device)
        self.actor = self._new_actor(spec)
        self.actor_optimiser = torch.optim.Adam(self.actor.policy.parameters(), lr=config.actor_learning_rate)
        self.novelty_optimiser = torch.optim.Adam(self.novelty.predictor.parameters(), lr=config.critic_learning_rate)
        self.explorer, self.modes = self._new_mode(0), list[Mode]()
        gathering = CollectConfig(length=config.steps, discount=config.discount, scale_rewards=False)
        self.collector = Collector(env, gathering, seed=seed, ends="all")
        self.trajectories = Trajectories(env)
        self.exploring = Exploring(
            self.actor,
            spec,
            torch.linspace(*config.noise, env.num_envs),
            self.explorer.embedding[None],
            correlation=config.noise_correlation,
        ).to(device)

    @property
    def total_steps(self) -> int:
        """Control steps so far."""
        return self.collector.total_steps

    @property
    def bytes(self) -> int:
        """Memory of what it keeps."""
        return self.collector.bytes + sum(array.nbytes for array in self.buffer.steps.values())

    def _new_actor(self, spec: BodySpec) -> ModeActor:
        c, norm = self.config, self.novelty.norm
        if c.actor == "deterministic":
            return DeterministicActor(TanhActor(*self.size, self.seed).to(self.device), norm)
        policy = DenoisingPolicy(
            DenoisingConfig(
                body=spec,
                horizon=1,
                executed=1,
                process=DiffusionConfig(train_steps=c.denoising_steps, min_sampling_std=0.0, min_log_prob_std=0.1),
                condition=c.embedding,
                seed=self.seed,
                network=MlpDenoiserConfig(width=c.actor_width),
            )
        )
        return DiffusionActor(policy.to(self.device), norm, steps=c.ascent_steps, learning_rate=c.ascent_learning_rate)

    def _new_mode(self, number: int) -> Mode:
        c, seed = self.config, self.seed + number
        critic = ModeCritic(*self.size, hidden=c.hidden, atoms=c.atoms, top=c.top, seed=seed).to(self.device)
        embedding = torch.from_numpy(self.random.standard_normal(c.embedding).astype(np.float32))
        return Mode(
            embedding.to(self.device), critic, torch.optim.Adam(critic.twins.parameters(), lr=c.critic_learning_rate)
        )

    # ---- acting --------------------------------------------------------------------------------------------------
    def _explore(self) -> dict[str, float]:
        self.exploring.alone = self.iteration < self.config.warm_up
        self.exploring.embeddings = torch.stack([mode.embedding for mode in (self.explorer, *self.modes)])
        rollout, metrics = self.collector.collect(self.exploring, None)
        for one in self.trajectories.take(rollout):
            self.buffer.add(one.observation, one.action, one.reward, success=one.success, terminated=one.terminated)
        return metrics

    # ---- learning ------------------------------------------------------------------------------------------------
    def step(self) -> dict[str, float]:
        """Do one iteration.  Raises NaNError when a loss is not finite."""
        metrics = self._explore()
        if self.actor.multimodal and (self.iteration + 1) % self.config.regroup_every == 0:
            self._regroup()
        if len(self.buffer.filled()) > 1:
            for _ in range(self.config.updates):
                metrics |= self._update()
        self.iteration += 1
        return metrics | {"ddiffpg/modes": float(len(self.modes))}

    def gather_first(self) -> float:
        """Explore until there is something to learn from: what a plan times is an iteration with its updates."""
        self.iteration = max(self.iteration, self.config.warm_up)
        for _ in range(-(-2 * self.env.max_episode_steps // self.config.steps)):
            if len(self.buffer.filled()) > 1:
                break
            self._explore()
        return 1.0

    def _regroup(self) -> None:
        count = assign_modes(self.buffer, self.random, share=self.config.merge_share)
        groups = [set(self.buffer.born[self.buffer.mode == group].tolist()) for group in range(count)]
        embeddings = self.random.standard_normal((count, self.config.embedding)).astype(np.float32)
        self.modes = inherit(self.modes, groups, self.explorer, embeddings, self.config.critic_learning_rate)

    def _groups(self) -> list[tuple[Mode, Any, str]]:
        """Return (mode, slots, name of its targets): exploration over all steps, then every mode over its own."""
        filled = self.buffer.filled()
        out = [(self.explorer, filled, "explore_target")]
        for index, mode in enumerate(self.modes):
            slots = np.flatnonzero(self.buffer.mode == index)
            if len(slots):
                out.append((mode, slots, "mode_target"))
        return out

    def _update(self) -> dict[str, float]:
        facts, lessons = dict[str, float](), list[Lesson]()
        for index, (mode, slots, name) in enumerate(self._groups()):
            exploring = self.actor.multimodal and index == 0
            rich = 0.0 if exploring else self.config.winners
            drawn, places = self.buffer.sample(slots, self.config.batch, self.random, winners=rich)
            batch = to_device(drawn, self.device)
            raw = batch["observation"]
            if index == 0:
                facts["ddiffpg/novelty_loss"] = self._update_novelty(raw)
            condition = mode.embedding.expand(len(raw), -1)
            facts["ddiffpg/critic_loss"] = self._update_critic(mode, batch, condition, intrinsic_only=exploring)
            improved = self.actor.improve(mode.critic, raw, batch[name])
            self.buffer.write(name, places, improved)
            shown = self._conditions(condition, index)
            lessons.append(Lesson(critic=mode.critic, observation=raw, condition=shown, target=improved))
        loss = self.actor.loss(lessons, self.generator)
        return facts | {"ddiffpg/actor_loss": self._descend(loss, self.actor_optimiser, "actor")}

    def _conditions(self, condition: Tensor, group: int) -> Tensor:
        """Blank half of a mode's embeddings, so that the actor without one stays multimodal; exploration keeps its."""
        if group == 0:
            return condition
        keep = rand((len(condition), 1), self.generator, condition.device) < 0.5
        return condition * keep

    def _update_novelty(self, raw: Tensor) -> float:
        self.novelty.norm.update(raw)
        self.actor.update_normaliser(raw)
        return self._descend(self.novelty.loss(raw), self.novelty_optimiser, "novelty")

    def _update_critic(self, mode: Mode, batch: Batch, condition: Tensor, *, intrinsic_only: bool) -> float:
        config = self.config
        bonus = self.novelty.bonus(batch["observation"], batch["next_observation"], config.novelty)
        reward = config.novelty_weight * bonus
        if not intrinsic_only:
            reward = reward + batch["reward"]
        after = self.actor.act(batch["next_observation"], condition, self.generator)
        noise = config.target_noise * randn(after.shape, self.generator, after.device)
        after = (after + noise.clamp(-0.2, 0.2)).clamp(-1, 1)
        normed = batch | {k: self.novelty.norm(batch[k]) for k in ("observation", "next_observation")}
        loss = mode.critic.loss(normed, reward, after, config.discount)
        value = self._descend(loss, mode.optimiser, "critic")
        mode.critic.follow(config.slow_share)
        return value

    def _descend(self, loss: Tensor, optimiser: torch.optim.Adam, name: str) -> float:
        value = float(loss.detach())
        if not np.isfinite(value):
            raise NaNError(f"DDiffPG iteration {self.iteration}: the {name}'s loss is not finite")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return value

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return {
            "policy": dict(self.actor.policy.state_dict()),
            "novelty": dict(self.novelty.state_dict()),
            "optimisers": [adam_state(o) for o in (self.actor_optimiser, self.novelty_optimiser)],
            "modes": [mode.state_dict() for mode in (self.explorer, *self.modes)],
            "buffer": self.buffer.state_dict(),
            "collector": self.collector.state_dict(),
            "trajectories": self.trajectories.state_dict(),
            "exploring": {name: value.clone() for name, value in self.exploring.under_way().items()},
            "generator": self.generator.get_state(),
            "random": self.random.bit_generator.state,
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.actor.policy.load_state_dict(state["policy"])
        self.novelty.load_state_dict(state["novelty"])
        for optimiser, saved in zip((self.actor_optimiser, self.novelty_optimiser), state["optimisers"], strict=True):
            load_adam_state(optimiser, saved)
        modes = [self._new_mode(0) for _ in state["modes"]]
        for mode, saved in zip(modes, state["modes"], strict=True):
            mode.load_state_dict(saved)
        self.explorer, self.modes = modes[0], modes[1:]
        self.buffer.load_state_dict(state["buffer"])
        self.collector.load_state_dict(state["collector"])
        self.trajectories.load_state_dict(state["trajectories"])
        self.exploring.go_on(state["exploring"])
        self.generator.set_state(state["generator"])
        self.random.bit_generator.state = state["random"]
        self.iteration = int(state["iteration"])
