"""`toddle pretrain`: PPO on the generic physics reward, one body or several, or on any task; the policy is kept.

The run's folder holds, besides what every run has, `policy/`: what `toddle transfer`, `record` and `evaluate` take.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from gymnasium import spaces
from torch import nn

from toddle.algorithms.cloning import Cloning, CloningConfig
from toddle.algorithms.ddiffpg import DDiffPG, DDiffPGConfig
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.config import config
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.plan import Plan
from toddle.core.protocols import Learner
from toddle.core.types import BodySpec
from toddle.envs.base import BatchedEnv
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig, Collector
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.denoising import DenoisingPolicy
from toddle.policies.fpo import FPOPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, save_policy
from toddle.recipes.imitation import ImitationConfig, warm_start
from toddle.recipes.methods import (
    GOALS,
    DenoisingSettings,
    Method,
    Setting,
    build_policy,
    resolved_collect,
    resolved_ppo,
    setting_of,
)
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder

COLLECT = CollectConfig(length=16, discount=0.95)
TUNED = PPOConfig(**GOALS)
CAUSAL_METHODS = ("ppo", "clone")
"""Methods whose policy is `policy` (causal or mlp), not a denoising one."""

__all__ = ["CausalSettings", "Config", "MlpSettings", "build", "plan", "run"]

ExpertPolicy = CausalPolicy | GaussianPolicy | DenoisingPolicy | FPOPolicy


@config
class CausalSettings:
    """The causal transformer, which becomes the action expert of a VLA."""

    trunk: TrunkConfig = TrunkConfig(width=96, depth=2, heads=4, context_width=64)
    """The transformer."""
    horizon: int = 8
    """H, action slots of a decision."""
    executed: int = 8
    """Actions of a decision that are executed before the next one."""
    window: int = 1
    """T, decisions the history reaches back."""
    bank_hidden: int = 128
    """Hidden units of the banks of each body."""
    goal_dropout: float = 0.1
    """Share of episodes with the goal hidden; trains the NULL token."""
    log_std: float = -0.7
    """Logarithm of the standard deviation at the start."""
    noise_correlation: float = 0.9
    """Correlation of the noise between the steps of a chunk; independent noise averages out and explores little."""


@config
class MlpSettings:
    """The multilayer perceptron."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    horizon: int = 1
    """Actions of a decision; all are executed."""
    log_std: float = -0.5
    """Logarithm of the standard deviation at the start."""


@config
class Config:
    """Pretrain an action expert by RL on the generic physics reward, or train any task by RL.

    `--method ppo` is paradigm 1; `clone` imitates a policy that ppo made (the supervised control); the others make
    diffusion and flow policies (docs/denoising.md).
    """

    may_change: ClassVar[tuple[str, ...]] = ("device",)

    out: Path = Path("runs/pretrain")
    """The run's folder."""
    env: tuple[str, ...] = ("goal/sawyer",)
    """Environments; several (of different bodies, say) count with equal weight."""
    worlds: int = 64
    """Worlds of each environment."""
    threads: int = 1
    """Threads that step the physics."""
    steps: int = 2_000_000
    """Control steps to learn from, all environments together."""
    method: Method = "ppo"
    """The algorithm; `ppo` and `collect` below take the method's own defaults where they stand at theirs."""
    policy: Literal["causal", "mlp"] = "causal"
    """Kind of policy of methods ppo and clone."""
    denoising: DenoisingSettings = DenoisingSettings()
    """The policy of the other methods."""
    ddiffpg: DDiffPGConfig = DDiffPGConfig()
    """Settings of method ddiffpg."""
    warm_start: Path | None = None
    """Dataset to imitate before RL (a diffusion or flow policy's); None starts from random weights."""
    imitation: ImitationConfig = ImitationConfig()
    """How it is imitated."""
    teacher: Path | None = None
    """Method clone: folder of the policy whose rollouts are imitated."""
    clone: CloningConfig = CloningConfig()
    """Settings of method clone."""
    causal: CausalSettings = CausalSettings()
    """Settings of the causal transformer."""
    mlp: MlpSettings = MlpSettings()
    """Settings of the multilayer perceptron."""
    critic_hidden: tuple[int, ...] = (256, 256)
    """Widths of the critic's hidden layers."""
    goal_width: int = 64
    """Width of the pooled goal in the critic and the multilayer perceptron."""
    control: Literal["own", "shuffled", "none"] = "own"
    """Whose goal a world is shown in goal-tracking environments; shuffled and none are negative controls."""
    token_latency: int = 1
    """Goal tokens are refreshed every 1 to so many control steps, like a slow vision model's."""
    distractors: int = 0
    """Tokens of other worlds' goals shown beside a world's own, at most, so that attention learns to choose."""
    collect: CollectConfig = COLLECT
    """How experience is gathered."""
    ppo: PPOConfig = TUNED
    """The algorithm."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    checkpoint_every: int = 20
    """Iterations between two checkpoints."""
    seed: int = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if not self.env:
            raise problem("env", "at least one environment", "none")
        for name in ("worlds", "threads", "steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise problem(name, "at least 1", getattr(self, name))
        if self.warm_start is not None and self.method in ("ppo", "clone", "ddiffpg"):
            raise problem("warm_start", "none with this method", str(self.warm_start), "take dppo or a flow method")
        if (self.method == "clone") != (self.teacher is not None):
            raise problem("teacher", "a policy folder with method clone, and with no other", str(self.teacher))
        for name, least in (("token_latency", 1), ("distractors", 0)):
            if getattr(self, name) < least:
                raise problem(name, f"at least {least}", getattr(self, name))
        parts = self.clone.minibatches if self.method == "clone" else self.ppo.minibatches
        if self.method in CAUSAL_METHODS and self.policy == "causal" and parts > self.worlds:
            name = "clone" if self.method == "clone" else "ppo"
            raise problem(f"{name}.minibatches", f"at most {self.worlds} (worlds): it needs whole worlds", parts)


def _environments(config: Config) -> list[BatchedEnv]:
    envs = []
    for index, name in enumerate(config.env):
        options: dict[str, Any] = {}
        if name.startswith("goal/"):
            options = {
                "control": config.control,
                "token_latency": config.token_latency,
                "distractors": config.distractors,
            }
        seed = config.seed + 1000 * index
        envs.append(make_env(name, config.worlds, seed=seed, threads=config.threads, **options))
    return envs


def _setting(config: Config) -> Setting:
    return setting_of(warm=config.warm_start is not None, goals=all(name.startswith("goal/") for name in config.env))


def _policy(config: Config, bodies: tuple[BodySpec, ...], goals: bool, imitated: bool) -> ExpertPolicy:
    if config.method not in CAUSAL_METHODS:
        if len(bodies) > 1:
            raise problem("env", f"one body with method {config.method}", ", ".join(body.name for body in bodies))
        made = build_policy(
            config.method,
            config.denoising,
            bodies[0],
            setting=_setting(config),
            goal_width=config.goal_width if goals else 0,
            seed=config.seed,
        )
        made.to(resolve_device(config.device))
        if imitated and config.warm_start is not None:
            warm_start(made, config.warm_start, config.imitation, config.out / "warm_start", config.seed)
        return made
    if config.policy == "mlp":
        mlp, width = config.mlp, config.goal_width if goals else 0
        return GaussianPolicy(
            GaussianConfig(
                bodies=bodies,
                horizon=mlp.horizon,
                hidden=mlp.hidden,
                log_std=mlp.log_std,
                goal_width=width,
                seed=config.seed,
            )
        )
    causal = config.causal
    expert = ExpertConfig(
        trunk=causal.trunk,
        bodies=bodies,
        horizon=causal.horizon,
        executed=causal.executed,
        window=causal.window,
        bank_hidden=causal.bank_hidden,
    )
    return CausalPolicy(
        CausalConfig(
            expert=expert,
            goal_dropout=causal.goal_dropout if goals else 0.0,
            log_std=causal.log_std,
            noise_correlation=causal.noise_correlation if causal.executed > 1 else 0.0,
            seed=config.seed,
        )
    )


def build(config: Config, *, imitated: bool = False) -> tuple[Learner, nn.Module, int]:
    """Return the learner, its policy and the number of iterations.  Raises InputError where settings do not fit.

    imitated: imitate `warm_start` first (and keep what that made in the run's folder).
    """
    device = resolve_device(config.device)
    envs = _environments(config)
    if config.method == "ddiffpg":
        return _build_ddiffpg(config, envs, device)
    ppo, collect = config.ppo, config.collect
    if config.method not in CAUSAL_METHODS:
        ppo = resolved_ppo(config.method, _setting(config), ppo, TUNED)
        collect = resolved_collect(config.method, _setting(config), collect, COLLECT)
    bodies: dict[str, BodySpec] = {}
    for env in envs:
        spec = bodies.setdefault(env.body, env.body_spec)
        if spec != env.body_spec:
            raise problem("env", f"one observation and action size for body {env.body}", env.name)
    spaces_ = [env.single_observation_space for env in envs]
    has = [{*space} if isinstance(space, spaces.Dict) else {"proprio"} for space in spaces_]
    goals, privileged = all("goal" in keys for keys in has), all("critic" in keys for keys in has)
    if any("goal" in keys for keys in has) and not goals:
        raise problem("env", "all with goals or none", ", ".join(config.env))
    policy = _policy(config, tuple(bodies.values()), goals, imitated).to(device)
    sizes = {env.body: env.body_spec.proprio for env in envs}
    if privileged:
        sizes = {env.body: int(space["critic"].shape[0]) for env, space in zip(envs, spaces_, strict=True)}  # type: ignore[index]
    critic = ValueNet(
        CriticConfig(
            inputs=tuple(sizes.values()),
            key="critic" if privileged else "proprio",
            hidden=config.critic_hidden,
            goal_width=config.goal_width if goals else 0,
            seed=config.seed,
        )
    ).to(device)
    labels = [name.replace("/", "-") for name in config.env]
    order = list(bodies)
    collectors = [
        Collector(env, collect, seed=config.seed + 1000 * index, body=order.index(env.body), label=labels[index])
        for index, env in enumerate(envs)
    ]
    decisions = config.steps / policy.horizon
    iterations = max(1, round(decisions / sum(collector.decisions for collector in collectors)))
    if config.teacher is not None:
        return _build_clone(config, policy, collectors, iterations, device), policy, iterations
    return PPO(policy, critic, collectors, ppo, iterations=iterations, seed=config.seed), policy, iterations


def _build_clone(
    config: Config, policy: ExpertPolicy, sources: list[Collector], iterations: int, device: torch.device
) -> Cloning:
    if len(sources) != 1:
        raise problem("env", "one environment with method clone", len(sources))
    teacher = load_policy(cast(Path, config.teacher)).to(device)
    if teacher.kind != policy.kind:
        raise problem("teacher", f"a policy of kind '{policy.kind}'", teacher.kind)
    return Cloning(policy, teacher, sources[0], config.clone, iterations=iterations, seed=config.seed)


def _build_ddiffpg(config: Config, envs: list[BatchedEnv], device: torch.device) -> tuple[Learner, nn.Module, int]:
    if len(envs) != 1:
        raise problem("env", "one environment with method ddiffpg", len(envs))
    learner = DDiffPG(envs[0], config.ddiffpg, seed=config.seed, device=device)
    return learner, learner.policy, max(1, round(config.steps / (config.ddiffpg.steps * config.worlds)))


def _collectors(learner: Learner) -> list[Collector]:
    sources = learner.sources if isinstance(learner, PPO | Cloning) else []
    return [source for source in sources if isinstance(source, Collector)]


def _taken(config: Config, learner: Learner) -> list[str]:
    """Name the settings that are the method's, because they stood at the general defaults."""
    if not isinstance(learner, PPO):
        return []
    pairs = [("ppo", learner.config, config.ppo), ("collect", _collectors(learner)[0].config, config.collect)]
    changed = [
        f"{group}.{entry.name} {getattr(used, entry.name)}"
        for group, used, given in pairs
        for entry in dataclasses.fields(given)  # type: ignore[arg-type]
        if getattr(used, entry.name) != getattr(given, entry.name)
    ]
    return [f"take from {config.method}: {', '.join(changed)}"] if changed else []


def plan(config: Config) -> Plan:
    """Build everything, time one iteration, and return what the run will do."""
    learner, policy, iterations = build(config)
    learner.step()  # the first also compiles and allocates
    began = time.perf_counter()
    learner.step()
    seconds = (time.perf_counter() - began) * iterations
    parameters = sum(p.numel() for p in policy.parameters())
    rollouts = [source.rollout for source in _collectors(learner)]
    numbers = sum(rollout.bytes for rollout in rollouts if rollout is not None)
    kind = f"{config.policy} policy" if config.method in CAUSAL_METHODS else f"{config.denoising.network} denoiser"
    what = f"{kind} of {parameters:,} parameters"
    if config.method == "ddiffpg":
        what = f"diffusion policy of {parameters:,} parameters"
    imitated = [f"imitate {config.warm_start} for {config.imitation.steps} updates"] if config.warm_start else []
    steps = [
        *imitated,
        *_taken(config, learner),
        f"step {config.worlds} worlds each of {', '.join(config.env)}",
        f"train a {what} by {config.method}: {iterations} iterations, {config.steps:,} control steps",
        f"write the policy to {config.out / 'policy'}",
    ]
    # Rollout and its shuffled copy, weights with gradients and two moments, and Python with torch and the physics.
    return Plan(steps=steps, memory_bytes=2 * numbers + 16 * parameters + 500 * 2**20, seconds=seconds)


def run(config: Config, *, resume: bool = False) -> None:
    """Train, and write `policy/` into the run's folder.  Raises InputError, NaNError and KeyboardInterrupt."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        learner, policy, iterations = build(config, imitated=True)
        single = len(config.env) == 1
        show = ("goal/success", "episode/return", "ddiffpg/success") if single else ()
        run_loop(learner, folder, iterations, checkpoint_every=config.checkpoint_every, label="pretrain", show=show)
        counting: list[DDiffPG | Collector] = [learner] if isinstance(learner, DDiffPG) else [*_collectors(learner)]
        steps = sum(part.total_steps for part in counting)
        meta = {"envs": list(config.env), "steps": steps, "algorithm": config.method, "control": config.control}
        save_policy(config.out / "policy", policy, meta)
    print(f"policy: {config.out / 'policy'}", file=sys.stderr)
