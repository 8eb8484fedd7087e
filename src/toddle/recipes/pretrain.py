"""`toddle pretrain`: a policy learns by RL, by any method of `methods/`, on one environment or several; it is kept.

The run's folder holds, besides what every run has, `policy/`: what `toddle transfer`, `record` and `evaluate` take.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from toddle.algorithms.rewards.compose import OWN
from toddle.core.config import config, to_dict
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.memory import weights_that_fit
from toddle.core.numbers import Count, NonNegative, Seed, Share, Size, Whole
from toddle.core.plan import Plan
from toddle.core.team import team
from toddle.envs.base import BatchedEnv
from toddle.envs.estimates import EstimateConfig
from toddle.envs.make import family_of, make_env
from toddle.envs.noise import NoiseConfig
from toddle.envs.pools import PhysicsConfig
from toddle.methods._base import Method, Preset, Run, Start, load_method
from toddle.policies.store import load_policy, save_policy
from toddle.recipes import _reward
from toddle.recipes._method_settings import preset_lines, settings_class, with_preset
from toddle.recipes._safety import check_limited, limit_lines, safety_of, told_of
from toddle.recipes._shared import (
    check_sharded,
    check_shared,
    iteration_seconds,
    led_by_another,
    process_lines,
    unit_of,
)
from toddle.recipes._stopping import check_stop, enough
from toddle.runs.beside import beside, check_sources
from toddle.runs.engine import check_engine, worlds_of
from toddle.runs.halves import check_overlap, overlapped
from toddle.runs.learners import leading, led
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder
from toddle.runs.workers import Crew, acts, check_addresses, crew

__all__ = ["CHOOSING", "Config", "build", "config_class", "configure", "plan", "run"]

CHOOSING = ("method", "preset", "env", "warm_start", "init")
"""What decides which settings there are and where they begin."""
OPTIONS = (
    "control",
    "token_latency",
    "distractors",
    "max_episode_steps",
    "terminate_on_success",
    "reward",
    "horizon_scale",
    "terrain",
    "estimates",
    "physics",
)
"""Settings that are options of the environment."""


@config
class Config(_reward.Rewarded):
    """Train a policy by RL, and keep it: an action expert on the generic physics reward, or any task.

    `--method` names the method (`toddle methods` lists them); its settings follow, each with the value of its preset
    for these environments.  Whatever is given wins.
    """

    may_change: ClassVar[tuple[str, ...]] = (
        *("device", "learners", "sharding", "workers", "acting", "overlap", "placement", "listen"),
    )

    out: Path = Path("runs/pretrain")
    """The run's folder."""
    method: str = "ppo"
    """The method: `toddle methods` lists them."""
    preset: str | None = None
    """Name of the settings to begin from; None takes the method's own for these environments."""
    init: Path | None = None
    """Folder of a stored policy to go on from."""
    env: tuple[str, ...] = ("goal/sawyer",)
    """Environments; several (of different bodies, say) count with equal weight."""
    worlds: Size = 64
    """Worlds of each environment."""
    threads: Size = 1
    """Threads that step the physics."""
    physics: PhysicsConfig = PhysicsConfig()
    """What steps the physics of goal/, walk/ and gymnasium's MuJoCo tasks, and where."""
    learners: Count = 1
    """Processes that learn, each with its share of the worlds (docs/scaling.md)."""
    sharding: Literal["none", "full"] = "none"
    """full: every learner keeps a part of each weight of the policy, its gradient and moments, and not all of them
    (FSDP2); a copy with all weights acts."""
    workers: Count = 1
    """Processes that only act, each with its share of the worlds, beside the one that learns; 1: that one acts too
    (docs/scaling.md)."""
    acting: Literal["workers", "engine"] = "workers"
    """Who decides where there are workers: each for its own worlds, or the process that learns for all of them in one
    batch, so that workers only step them (docs/scaling.md)."""
    placement: Literal["here", "ray"] = "here"
    """Where workers run: in processes of this machine, or wherever Ray places them (docs/scaling.md)."""
    listen: str | None = None
    """HOST:PORT of this machine where workers of other machines join (--join); none is started here."""
    join: str | None = None
    """HOST:PORT of a learner that listens: be one of its workers; whatever else is set is the learner's business."""
    overlap: bool = False
    """Step the physics of half the worlds while the networks decide for the other half (docs/scaling.md)."""
    steps: Count = 2_000_000
    """Control steps to learn from, all environments together."""
    control: Literal["own", "shuffled", "none"] = "own"
    """Whose goal a world is shown in goal-tracking environments; shuffled and none are negative controls."""
    token_latency: Count = 1
    """Goal tokens are refreshed every 1 to so many control steps, like a slow vision model's."""
    distractors: Whole = 0
    """Tokens of other worlds' goals shown beside a world's own, at most, so that attention learns to choose."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode is cut; by default the environment's own limit."""
    terminate_on_success: bool = False
    """End an episode at its first success, where the environment takes it (metaworld-state does so by itself)."""
    reward: str = "own"
    """What is paid: own, dense, simplified, sparse, success or reference, where the environment has several
    (docs/tabletop.md); own: what it pays by itself.  Or a sum of terms, sparse+0.5*pbrs+rnd (docs/rewards.md)."""
    horizon_scale: Count = 1
    """The task's time limit is multiplied by this, where the environment takes it (S4's first protocol: 10)."""
    terrain: NonNegative = 0.0
    """How rough the ground of walk/ is: height of its bumps in the body's own length; 0: a plane (docs/walking.md)."""
    estimates: EstimateConfig = EstimateConfig()
    """What a policy of states is told of poses in place of the simulator's knowledge."""
    noise: NoiseConfig = NoiseConfig()
    """Noise on actions and on what is seen."""
    stop_at: Share | None = None
    """Stop early once this share of the last 50 episodes that ended while exploring has succeeded."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    checkpoint_every: Count = 20
    """Iterations between two checkpoints."""
    seed: Seed = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if not self.env:
            raise problem("env", "at least one environment", "none")
        _reward.check_reward(self.reward, OWN)
        check_shared(self, "pretrain", workers=self.workers, **{"a sum of rewards": self.reward not in OWN})
        warp = self.physics.engine == "warp"
        check_overlap(
            self, several_workers=self.workers > 1, a_sum_of_rewards=self.reward not in OWN, physics_by_warp=warp
        )
        check_addresses(self)
        check_engine(self)
        check_sharded(self, **{f"method {self.method}": self.method != "ppo"})
        check_stop(self.stop_at, len(self.env))


def config_class(method: str) -> type[Config]:
    """Return the settings of `toddle pretrain --method <method>`: the common ones and the method's own."""
    return settings_class(Config, "pretrain", method)


def _chosen(given: dict[str, Any]) -> tuple[Method, Preset]:
    """Return the method and the preset that plain settings ask for."""
    method = load_method(str(given.get("method", Config.method)))
    env = given.get("env", Config.env)
    started = any(given.get(name) is not None for name in ("warm_start", "init"))
    return method, method.preset([env] if isinstance(env, str) else env, started=started, name=given.get("preset"))


def configure(given: dict[str, Any] | None = None, /, **more: Any) -> Any:
    """Return full settings: the preset's of the method that `given` names, and in its fields what is given.

    Nested settings may be given in part, as plain dicts, or whole, as config objects.
    Raises InputError for what is unknown or has a wrong value.
    """
    given = {name: to_dict(value) for name, value in {**(given or {}), **more}.items()}
    method, preset = _chosen(given)
    return with_preset(Config, "pretrain", method.name, preset, given)


def _environments(config: Any) -> list[BatchedEnv]:
    given = {name: getattr(config, name) for name in OPTIONS}
    given["reward"] = _reward.own_word(config.reward, Config.reward)
    asked = {name: value for name, value in given.items() if value != getattr(Config, name)}
    envs, own = [], team().share(config.worlds, unit_of(config))
    for index, name in enumerate(config.env):
        for option, value in asked.items():
            family_of(name).check(option, name, value)
        seed = config.seed + 1000 * index + own.start
        options = asked | {"noise": config.noise} | told_of(config)
        envs.append(make_env(name, len(own), seed=seed, threads=config.threads, **options))
    return envs


def build(config: Any, workers: Crew | None = None, *, folder: Path | None = None) -> Run:
    """Return everything that learns.  Raises InputError where settings do not fit.

    workers: who steps the worlds, with `config.acting` engine.  folder: the run's, where what comes before RL is kept
    (None: it is checked, not done).
    """
    device = resolve_device(team().device(config.device))
    init = None if config.init is None else load_policy(config.init)
    envs = worlds_of(config, workers, lambda: _environments(config))
    terms = _reward.reward_terms(config.reward, envs, config.seed)
    start = Start(
        envs=envs,
        steps=config.steps,
        seed=config.seed,
        device=device,
        init=init,
        origin=config.init,
        folder=folder,
        checkpoint_every=config.checkpoint_every,
        parts={"rewards": terms} if terms else {},
        safety=safety_of(config),
        sharded=config.sharding == "full" and team().size > 1 and not acts(),
    )
    with weights_that_fit(
        4.0 if device.type == "cpu" else 1.0
    ):  # they are filled on the CPU, and trained on the device
        made = replace(config.build(start), longest=max(env.max_episode_steps for env in envs))
        made = check_limited(config, made)
        check_sources(config, made.sources)
        return overlapped(_reward.check_taken(made, config.reward), config, lambda: _environments(config))


def _gone_on(folder: Path, policy: Any) -> str:
    """Say which policy is gone on from, and which bodies are new to it."""
    known = {body.name for body in load_policy(folder).bodies}
    new = [body.name for body in policy.bodies if body.name not in known]
    return f"go on from {folder}" + (f", with fresh networks for {', '.join(new)}" if new else "")


def plan(config: Any) -> Plan:
    """Build everything, time one iteration, and return what the run will do."""
    made = build(config)
    times = made.rehearse()
    seconds = iteration_seconds(made.learner, config) * times * made.iterations
    parameters = sum(p.numel() for p in made.policy.parameters())
    _, preset = _chosen(to_dict(config))
    steps = [
        *preset_lines(config, preset),
        *([_gone_on(config.init, made.policy)] if config.init is not None else []),
        *([f"imitate {imitated} first"] if (imitated := to_dict(config).get("warm_start")) else []),
        *made.notes,
        *_reward.reward_lines(config.reward),
        *limit_lines(config),
        *process_lines(config),
        f"step {config.worlds} worlds each of {', '.join(config.env)}",
        f"train a {made.policy.kind} policy of {parameters:,} parameters by {config.method}: {made.iterations} "
        f"iterations, {config.steps:,} control steps",
        f"write the policy to {config.out / 'policy'}",
    ]
    kept = sum(source.bytes for source in made.sources)
    worlds = config.worlds * sum(family_of(name).world_bytes for name in config.env)
    # Rollout and its shuffled copy, weights with gradients and two moments, and Python with torch and the physics.
    return Plan(steps=steps, memory_bytes=2 * kept + 16 * parameters + worlds + 500 * 2**20, seconds=seconds)


def run(config: Any, *, resume: bool = False) -> None:
    """Train, and write `policy/` into the run's folder.  Raises InputError, NaNError and KeyboardInterrupt."""
    if led_by_another(config, "pretrain", build, lambda: _environments(config)):
        return
    with (
        RunFolder.open(config.out, config, resume=resume) as folder,
        leading(config.learners, "pretrain", folder.path) as learners,
        crew(config, "pretrain", folder.path) as workers,
    ):
        made = beside(config, build(config, workers, folder=folder.path), workers)
        show = made.show if len(config.env) == 1 else ()
        shared = led(made.learner, learners)
        run_loop(
            shared,
            folder,
            made.iterations,
            checkpoint_every=config.checkpoint_every,
            label="pretrain",
            show=show,
            enough=enough(folder.path, config.stop_at, config.worlds * made.longest),
        )
        if config.sharding == "full":
            made.whole(shared.state_dict()["policy"])
        steps = sum(source.total_steps for source in made.sources)
        meta = {"envs": list(config.env), "steps": steps, "algorithm": config.method, "control": config.control}
        meta |= _reward.keep_episode(folder.path, made.rewards)
        save_policy(config.out / "policy", made.policy, meta)
    print(f"policy: {config.out / 'policy'}", file=sys.stderr)
