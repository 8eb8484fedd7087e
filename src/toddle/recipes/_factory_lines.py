"""The two ways in which `toddle factory` brings a task to its plays: from state, or from pictures.

Each is a list of steps that are commands of their own; `config` is that of `toddle factory`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from toddle.core.config import merged
from toddle.core.errors import problem
from toddle.core.reading import read_json
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.subset import write_subset
from toddle.envs.make import family_of, make_env
from toddle.experience.actor import body_in
from toddle.experience.demonstrations import PolicyActor, demonstrate
from toddle.policies.store import load_policy
from toddle.recipes import finetune, pretrain, record, sft
from toddle.recipes._sft_start import FreshDiffusion

__all__ = ["DDIM_STEPS", "DIFFUSION", "PLAYS_FROM", "Line", "line_of", "played"]

STATE_OF = {"metaworld": "metaworld-state", "libero": "libero-state"}
"""Families whose tasks are learned in another family, from state, and played there."""
BLIND = ("touch", "goal")
"""Families in which a policy without pictures does not see what its task is about, or that have no demonstrator."""
EXPLORING = 0.1
"""Least standard deviation of a denoising step while learning: it stands in for the density that DDIM without noise
lacks (ALGORITHMS 33)."""
DDIM_STEPS, SCHEDULE_STEPS = 5, 20
DIFFUSION: dict[str, Any] = {
    "denoising": {
        "network": "mlp",
        "horizon": 4,
        "steps": SCHEDULE_STEPS,
        "ddim_steps": DDIM_STEPS,
        "tuned_steps": 0,
        "std": EXPLORING,
    },
    "collect": {"length": 16},
    "ppo": {"schedule": "cosine", "learning_rate": 1e-4},  # at 3e-4 rare successes were lost: docs/LOG.md
}
"""How diffusion RL learns from state: settings of `toddle pretrain --method dppo`."""
PLAYS_FROM, FIRST_SEED, FIRST_EPISODES = 1_000_000, 3_000_000, 32
"""Seeds of the plays and of the episodes in which both policies are measured, and how many these are."""
Steps = list[tuple[str, Callable[[], Any]]]
"""Names and calls, each of which goes on where it was killed."""


def played(task: str) -> str:
    """Return the environment that a task is learned and played in from state."""
    family, _, member = task.partition("/")
    return f"{STATE_OF.get(family, family)}/{member}"


@dataclass(frozen=True)
class Line(ABC):
    """A task's way; `folder` holds a folder of each step."""

    config: Any
    task: str
    cameras: ClassVar[bool] = False
    """Whether pictures are recorded on the way."""
    before: ClassVar[str] = "rl/warm_start"
    """Folder of the policy before RL."""

    @property
    def env(self) -> str:
        """The environment that the task is learned and played in."""
        return self.task

    @property
    def folder(self) -> Path:
        """Where the steps are."""
        out: Path = self.config.out
        return out / "tasks" / self.task.replace("/", "_")

    @property
    def demonstrations(self) -> Path:
        """Where the demonstrations are that it begins with."""
        return self.folder / "demonstrations"

    @property
    def plays(self) -> Path:
        """Where the successes of its policy are."""
        return self.folder / "plays"

    @property
    def imitation(self) -> Path:
        """The policy before RL."""
        return self.folder / self.before

    @property
    def learned(self) -> Path:
        """The policy after RL."""
        return self.folder / "rl" / "policy"

    @cached_property
    def measured(self) -> dict[str, Any]:
        """Success before and after RL on the same episodes, without exploration noise, and which of the two plays.

        RL can make a good imitation worse (docs/factory.md): then the imitation plays.
        """
        first, after, count = self._successes()
        found = {"success_at_first": first, "success_after_rl": after, "measured_episodes": count}
        return found | {"played_by": "the policy after RL" if after >= first else "the imitation"}

    @abstractmethod
    def check(self) -> None:
        """Raise InputError for a task that cannot be made in this way."""

    @abstractmethod
    def what(self) -> str:
        """Say what follows the demonstrations, for a plan."""

    def steps(self) -> Steps:
        """Return the steps."""
        measured = [("measured", lambda: self.measured), ("plays", self._play)]
        return [("demonstrations", self._begin), *self._learning(), *measured]

    @abstractmethod
    def _learning(self) -> Steps:
        """Return the steps from the demonstrations to the policy after RL."""

    @abstractmethod
    def _successes(self) -> tuple[float, float, int]:
        """Return success of the imitation and after RL, and of how many episodes."""

    def given(self) -> tuple[LeRobotDataset, list[int]]:
        """Return the given demonstrations and the places of the task's own: all, where no environments are named.

        Raises InputError where there are none.
        """
        assert self.config.demonstrations is not None
        dataset = LeRobotDataset(self.config.demonstrations)
        named = [str(episode.facts.get("env", "")) for episode in dataset.episodes]
        own = [place for place, env in enumerate(named) if env == self.env]
        if not own and len(self.config.tasks) == 1 and not any(named):
            own = list(range(len(named)))
        if not own:
            known = ", ".join(sorted(set(filter(None, named)))) or "no environments"
            cameras = " ".join(("--cameras", *(self.config.cameras if self.cameras else ())))
            remedy = f"record them: toddle record --policy human {cameras} --env {self.env}"
            raise problem(f"demonstrations: {dataset.path}", f"episodes of {self.env}", known, remedy)
        return dataset, own

    def _begin(self) -> None:
        """Bring the demonstrations into the folder."""
        if self.config.demonstrations is None:
            record.run(self.shown(), resume=True)
        elif not (self.demonstrations / "meta" / "info.json").exists():
            write_subset(self.demonstrations, [self.given()])

    def shown(self) -> record.Config:
        """Return how the human stand-in's demonstrations are recorded."""
        config = self.config
        return record.Config(
            out=self.demonstrations,
            env=(self.env,),
            policy="human",
            human=config.human,
            episodes=config.human_episodes,
            attempts=20,
            batch=min(config.worlds, config.human_episodes),
            seed=config.seed + 2_000_000,
            **self._drawn(),
        )

    def _play(self) -> None:
        """Record the successes of the better policy, within the time that it had while learning."""
        config = self.config
        own = record.Config(
            out=self.plays,
            env=(self.env,),
            policy=str(self.imitation if self.measured["played_by"] == "the imitation" else self.learned),
            episodes=config.episodes,
            attempts=config.attempts,
            batch=config.worlds,
            seed=config.seed + PLAYS_FROM,
            after_success=0,
            max_episode_steps=family_of(self.env).finetuning.get("max_episode_steps"),
            **self._drawn(),
        )
        record.run(own, resume=True)

    def _drawn(self) -> dict[str, Any]:
        """Return what `toddle record` is told of pictures."""
        config = self.config
        drawn = {"cameras": config.cameras, "image_size": config.image_size, "image_stride": config.image_stride}
        return drawn if self.cameras else {"cameras": ()}


class FromState(Line):
    """The policy sees the simulator's state; pictures are drawn afterwards, of what is kept."""

    @property
    def env(self) -> str:
        """The environment that the task is learned and played in."""
        return played(self.task)

    def check(self) -> None:
        """Raise InputError for a task whose state does not say what it is about."""
        family_of(self.task), family_of(self.env)
        if self.task.partition("/")[0] in BLIND:
            wanted = "environments whose observation holds objects and goal"
            raise problem("tasks", wanted, self.task, "from pictures: --observe pictures")

    def what(self) -> str:
        """Say what follows the demonstrations, for a plan."""
        config = self.config
        return (
            f"imitate them for {config.imitation.steps} updates; dppo with {DDIM_STEPS} DDIM steps in "
            f"{self.env} for at most {config.steps:,} control steps, until {config.target:.0%} succeed"
        )

    def _learning(self) -> Steps:
        return [("rl", self._learn)]

    def _learn(self) -> None:
        """Imitate, then learn by RL."""
        config = self.config
        given = {"denoising": {"network": config.network or "mlp", "horizon": config.horizon or 4}}
        settings = pretrain.configure(
            method="dppo",
            env=[self.env],
            out=str(self.folder / "rl"),
            warm_start=str(self.demonstrations),
            worlds=config.worlds,
            steps=config.steps,
            stop_at=config.target,
            seed=config.seed,
            imitation=config.imitation,
            **merged(DIFFUSION, given),
        )
        pretrain.run(settings, resume=True)

    def _successes(self) -> tuple[float, float, int]:
        """Play both policies as they are recorded."""
        config = self.config
        env, shares = make_env(self.env, config.worlds, seed=config.seed), list[float]()
        waves = -(-FIRST_EPISODES // config.worlds)
        for folder in (self.imitation, self.learned):
            policy, won = load_policy(folder, acting=True), list[bool]()
            actor = PolicyActor(policy, body=body_in(policy, env))
            for first in range(0, waves * config.worlds, config.worlds):
                seeds = [config.seed + FIRST_SEED + first + world for world in range(config.worlds)]
                won += [one.success for one in demonstrate(env, actor, seeds, after_success=0)]
            shares.append(sum(won) / len(won))
        env.close()
        return shares[0], shares[1], waves * config.worlds


class FromPictures(Line):
    """The policy sees pictures (`policies/diffusion_vla.py`), which are recorded as it plays."""

    cameras: ClassVar[bool] = True
    before: ClassVar[str] = "imitation/policy"

    def check(self) -> None:
        """Raise InputError where there are no pictures, or those of given demonstrations are others."""
        config = self.config
        if not config.cameras:
            raise problem("cameras", "one at least, with observe pictures", "none")
        family_of(self.task).check("cameras", self.task, "pictures", field="observe")
        if config.demonstrations is not None:
            dataset, size = self.given()[0], (config.image_size, config.image_size)
            if (found := dataset.picture_size(*config.cameras)) != size:
                remedy = f"--image-size {found[0]}" if found[0] == found[1] else ""
                wanted, got = (f"{height} x {width}" for height, width in (size, found))
                raise problem(f"demonstrations: {dataset.path}: pictures", wanted, got, remedy)

    def what(self) -> str:
        """Say what follows the demonstrations, for a plan."""
        config = self.config
        eyes = "the frozen backbone" if config.eyes == "backbone" else "a ResNet that learns"
        return (
            f"imitate them from pictures, through {eyes}, for {config.sft.steps} updates; ppo on {DDIM_STEPS} DDIM "
            f"steps in {self.env} for at most {config.steps:,} control steps, until {config.target:.0%} succeed"
        )

    def _learning(self) -> Steps:
        return [("imitation", self._imitate), ("rl", self._learn)]

    def _imitate(self) -> None:
        """Fine-tune a fresh diffusion policy that sees."""
        config, horizon = self.config, self.config.horizon or 8
        settings = sft.Config(
            out=self.folder / "imitation",
            dataset=(self.demonstrations,),
            kind="diffusion",
            diffusion=FreshDiffusion(
                eyes=config.eyes,
                resnet=config.resnet,
                network=config.network or "unet",
                horizon=horizon,
                executed=horizon,
            ),
            sft=config.sft,
            cameras=config.cameras,
            cache=self._cache,
            seed=config.seed,
        )
        if not self.imitation.exists():
            sft.run(settings, resume=True)

    @property
    def _cache(self) -> Path:
        out: Path = self.config.out
        return out / "features"

    def _learn(self) -> None:
        """Learn by RL, between two evaluations."""
        config = self.config
        beside: dict[str, Any] = {"weight": config.regularise}
        if config.regularise:
            beside |= {"dataset": [str(self.demonstrations)], "cache": str(self._cache)}
        settings = finetune.configure(
            method="ppo",
            policy=str(self.imitation),
            env=[self.env],
            out=str(self.folder / "rl"),
            worlds=config.worlds,
            steps=config.steps,
            stop_at=config.target,
            seed=config.seed,
            imitation=beside,
            evaluation={"episodes": FIRST_EPISODES, "videos": 0},
        )
        finetune.run(settings, resume=True)

    def _successes(self) -> tuple[float, float, int]:
        """Read what the evaluation before and after RL found."""
        cells = read_json(self.folder / "rl" / "summary.json", {"cells": list})["cells"]
        found = {cell["candidate"]: float(cell["success"]["value"]) for cell in cells}
        return found["before"], found["after"], FIRST_EPISODES


def line_of(config: Any, task: str) -> Line:
    """Return a task's way."""
    return FromPictures(config, task) if config.observe == "pictures" else FromState(config, task)
