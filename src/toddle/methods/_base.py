"""What a method is: settings that build themselves, and presets of them, each with its source.

A method is a file of this folder with `METHOD = Method(...)`; it is found by being there.  Its settings are a frozen
dataclass whose fields become options of `toddle pretrain`, and whose `build` makes everything that learns.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from toddle import methods
from toddle.algorithms.parts import RewardTerm
from toddle.algorithms.ppo import PPOConfig
from toddle.algorithms.ppo_memory import IterationMemory
from toddle.algorithms.safety import CostConstraint, LagrangianSettings
from toddle.core.config import from_dict, merged, to_dict
from toddle.core.device import CPU, resolve_device
from toddle.core.errors import nearest, problem
from toddle.core.protocols import Acting, Critic, Learner
from toddle.envs.base import BatchedEnv
from toddle.experience.curriculum import TaskCurriculumConfig
from toddle.experience.teacher import Teacher

__all__ = [
    "PREFIX",
    "Counting",
    "Method",
    "Preset",
    "Run",
    "Safety",
    "Settings",
    "Start",
    "build",
    "known_methods",
    "load_method",
]


@dataclass(frozen=True, kw_only=True)
class Safety:
    """A limit on what an episode costs, and how it is held."""

    limit: float
    settings: LagrangianSettings

    def part(self, critic: Critic, ppo: PPOConfig, seed: int) -> CostConstraint:
        """Return PPO's part, with this critic of costs."""
        return CostConstraint(critic, self.settings, self.limit, lam=ppo.lam, warm_up=ppo.critic_warm_up, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a method is built with."""

    envs: Sequence[BatchedEnv]
    steps: int
    """Control steps to learn from, all environments together."""
    seed: int = 0
    device: torch.device = CPU
    init: Any = None
    """The stored policy to go on from, or None."""
    origin: Path | None = None
    """The folder that `init` was read from, where it was."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What the folder of `init` says of it."""
    folder: Path | None = None
    """The run's folder, in which what comes before RL (imitation) is kept; None: nothing is trained yet (a plan)."""
    checkpoint_every: int = 20
    """Iterations between two checkpoints."""
    tasks: TaskCurriculumConfig | None = None
    """How tasks are drawn that share the worlds of an environment (`envs.mixture`)."""
    teacher: Teacher | None = None
    """Who is asked for directions, by the methods of `toddle jumpstart`."""
    safety: Safety | None = None
    """A limit on what episodes cost, for methods with a value of every decision; None: none."""
    sharded: bool = False
    """Whether each of several learners keeps a part of the policy's weights."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """Parts of PPO that a method adds to another's (`rewards`, `auxiliaries`)."""


class Counting(Protocol):
    """What gathers experience, and counts it."""

    @property
    def total_steps(self) -> int:
        """Control steps so far."""

    @property
    def bytes(self) -> int:
        """Memory of what it keeps."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a method has built."""

    learner: Learner
    policy: Acting
    """What is kept."""
    iterations: int
    sources: Sequence[Counting]
    longest: int = 0
    """Control steps after which an episode is cut; 0: not said."""
    show: tuple[str, ...] = ("goal/success", "episode/return")
    """Metrics that are printed on the way."""
    acting: Acting | None = None
    """What acts while it learns, where that is not the policy itself."""
    whole: Callable[[Mapping[str, Any]], Any] = lambda weights: None
    """Puts weights into what acts and is kept, where that is a copy of what learns, a part of it in each learner."""
    merged: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within it the policy acts with LoRA merged, where it has LoRA."""
    safe: bool = False
    """Whether it holds the limit on costs that it was started with."""
    notes: tuple[str, ...] = ()
    """What a plan says besides."""
    rewards: Sequence[RewardTerm] = ()
    """The terms that the learner adds to rewards; none where a method knows no such thing."""
    forecast: Callable[[], IterationMemory] | None = None
    """Says what an iteration takes in memory, where that is known; it gathers rollouts once."""
    rehearse: Callable[[], float] = lambda: 1.0
    """Called before a plan times a step of the learner, where the first ones of a run are not like the others, or are
    long; returns how many of the steps that follow take as long as one of a run."""


class Settings(Protocol):
    """A method's settings: a frozen `@config` dataclass."""

    def build(self, start: Start) -> Run:
        """Build the learner.  Raises InputError where settings and environments do not fit."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings that are known to work somewhere, and where they come from."""

    name: str
    source: str
    settings: Settings
    families: tuple[str, ...] = ()
    """Environment families it is for; none: any."""
    started: bool | None = None
    """Whether it is for a policy that has learned already (from demonstrations, or stored); None: both."""

    common: Mapping[str, Any] = field(default_factory=dict)
    """What it says of the command's own settings (plain): what is imitated beside RL, say."""
    kinds: tuple[str, ...] = ()
    """Kinds of stored policies it is for; none: any."""

    def fits(self, families: set[str], started: bool, kind: str | None = None) -> bool:
        """Whether it is for a run like this; `kind`: of the stored policy it goes on from, where that is known."""
        if self.kinds and kind is not None and kind not in self.kinds:
            return False
        return self.started in (None, started) and (not self.families or families <= set(self.families))


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to learn that a user can name."""

    name: str
    what: str
    paper: str
    policies: str
    """The kinds of policies it trains, in words."""
    presets: tuple[Preset, ...]
    """The first that fits a run is its default."""
    deviations: tuple[str, ...] = field(default=())
    """Where it leaves its source."""
    shared: bool = False
    """Whether several learners can share it (docs/scaling.md)."""

    @property
    def settings(self) -> type[Any]:
        """The class of its settings."""
        return type(self.presets[0].settings)

    def preset(self, envs: Sequence[str], *, started: bool, name: str | None = None, kind: str | None = None) -> Preset:
        """Return the preset of that name, or the first that fits.  Raises InputError for an unknown name."""
        if name is not None:
            found = {preset.name: preset for preset in self.presets}
            if name not in found:
                raise problem("preset", f"a preset of {self.name}", name, nearest(name, found))
            return found[name]
        families = {env.partition("/")[0] for env in envs}
        for preset in self.presets:
            if preset.fits(families, started, kind):
                return preset
        kinds = dict.fromkeys(each for preset in self.presets for each in preset.kinds)
        if kind is not None and kinds and kind not in kinds:
            raise problem("policy", f"one of kind {' or '.join(kinds)}, for this method", kind)
        given = "a policy that has learned already" if started else f"{', '.join(sorted(families))} from scratch"
        raise problem("method", f"one with a preset for {given}", self.name, "name one with --preset")


PREFIX = {"pretrain": "", "finetune": "vla-", "jumpstart": "jump-"}
"""How the files begin of the methods of each command; the command's `--method` leaves it out."""


@functools.cache
def known_methods(command: str = "pretrain") -> tuple[str, ...]:
    """Return the names of a command's methods: the files of this folder but those that begin with _."""
    files = [module.name for module in pkgutil.iter_modules(methods.__path__) if not module.name.startswith("_")]
    own, others = PREFIX[command], [prefix for prefix in PREFIX.values() if prefix and prefix != PREFIX[command]]
    names = [name.replace("_", "-") for name in files]
    names = [name for name in names if name.startswith(own) and not name.startswith(tuple(others))]
    return tuple(name.removeprefix(own) for name in names)


def load_method(name: str, command: str = "pretrain") -> Method:
    """Return a command's method by name.  Raises InputError for an unknown one, with the nearest."""
    if name not in known_methods(command):
        raise problem("method", "a known method", name, nearest(name, known_methods(command)))
    file = PREFIX[command] + name
    method: Method = importlib.import_module(f"{methods.__name__}.{file.replace('-', '_')}").METHOD
    return method


def build(
    method: str | Method,
    envs: BatchedEnv | Sequence[BatchedEnv],
    *,
    steps: int,
    seed: int = 0,
    device: str = "cpu",
    init: Acting | None = None,
    folder: Path | None = None,
    preset: str | None = None,
    **settings: Any,
) -> Run:
    """Build everything that learns in these environments; `run.learner.step()` makes one of `run.iterations`.

    method: a name that `toddle methods` lists (vla-ppo, say), or one of your own.  steps: control steps to learn from,
    all worlds together.
    init: a policy to go on from; it is trained in place where its bodies are the environments'.  folder: where a warm
    start is kept.  preset and settings: as those of `toddle pretrain`; nested ones may be dicts of what differs, or
    whole.
    Raises InputError for a setting that is unknown or has a wrong value, and where it does not fit the environments.
    """
    found, teacher = method, None
    if isinstance(found, str):
        command = next((name for name, prefix in PREFIX.items() if prefix and found.startswith(prefix)), "pretrain")
        found = load_method(found.removeprefix(PREFIX[command]), command)
        teacher = settings.pop("teacher", None) if command == "jumpstart" else None
    given = {name: to_dict(value) for name, value in settings.items()}
    warm = given.get("warm_start") is not None
    if warm and folder is None:
        raise problem("folder", "a folder in which the warm start is kept", None)
    if steps < 1:
        raise problem("steps", "at least 1", steps)
    worlds = [envs] if isinstance(envs, BatchedEnv) else list(envs)
    names = [env.name for env in worlds]
    kind = None if init is None else init.kind
    chosen = found.preset(names, started=warm or init is not None, name=preset, kind=kind)
    made: Settings = from_dict(found.settings, merged(to_dict(chosen.settings), given), where=found.name)
    return made.build(
        Start(
            envs=worlds,
            steps=steps,
            seed=seed,
            device=resolve_device(device),
            init=init,
            folder=folder,
            teacher=teacher,
        )
    )
