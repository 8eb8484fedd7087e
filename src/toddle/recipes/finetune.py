"""`toddle finetune`: a VLA that was fine-tuned on demonstrations is improved by RL, from pictures and sentences.

The run's folder holds, besides what every run has: `episodes.jsonl` and `videos/` of before and after on the same
seeds, `summary.json`, and `policy/`, the improved VLA of the same kind.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from toddle.algorithms.process_reward import ProcessRewardSettings
from toddle.core.config import config, to_dict
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.memory import peak_memory, weights_that_fit
from toddle.core.numbers import Count, PictureSize, Seed, Share, Size
from toddle.core.plan import Plan
from toddle.core.rendering import RenderSettings
from toddle.core.team import team
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of
from toddle.envs.mixture import MixtureEnv
from toddle.envs.noise import NoiseConfig
from toddle.experience.actor import body_in
from toddle.experience.curriculum import TaskCurriculumConfig
from toddle.methods._actors import label_of
from toddle.methods._base import Method, Preset, Run, Start, load_method
from toddle.models.sharded import check_shared_out
from toddle.policies.store import kind_of, load_policy, meta_of, policy_card, save_policy
from toddle.recipes import _reward, _safety
from toddle.recipes._before_after import BeforeAndAfter, evaluation_worlds, measure, shown
from toddle.recipes._finetune_envs import make_seen, pictures, real_of
from toddle.recipes._imitation import ImitationSettings
from toddle.recipes._iteration_memory import iteration_memory
from toddle.recipes._method_settings import preset_lines, settings_class, with_preset
from toddle.recipes._recorded import check_as_recorded, recorded_success
from toddle.recipes._shared import (
    check_sharded,
    check_shared,
    iteration_seconds,
    led_by_another,
    process_lines,
    unit_of,
)
from toddle.recipes._stopping import check_stop, enough
from toddle.recipes._summary import write_summary
from toddle.runs.beside import beside, check_sources
from toddle.runs.engine import check_engine, worlds_of
from toddle.runs.halves import check_overlap, overlapped
from toddle.runs.learners import leading, led
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder
from toddle.runs.workers import Crew, acts, check_addresses, crew

__all__ = ["CHOOSING", "Config", "build", "config_class", "configure", "plan", "run"]

CHOOSING = ("method", "preset", "env", "policy")
"""What decides which settings there are and where they begin."""
OWN = ("success", "dense", "simplified", "own", "reference")


@config
class Config(_reward.Rewarded):
    """Improve a vision-language-action model by RL in simulation, from pictures and sentences, and keep it.

    Example: toddle finetune --policy runs/sft --env metaworld/push-v3 --method ppo --out runs/rl
    `--method` names the method (`toddle methods` lists them); its settings follow.  Before and after, the policy
    is evaluated on the same seeds.
    """

    may_change: ClassVar[tuple[str, ...]] = (
        *("device", "evaluation_worlds", "learners", "sharding", "workers", "acting", "overlap"),
        *("placement", "listen"),
    )

    policy: Path = Path("runs/sft")
    """Folder of the VLA to improve (of `toddle sft`, or of an earlier `toddle finetune`)."""
    out: Path = Path("runs/finetune")
    """The run's folder; the improved VLA is in its `policy/`."""
    env: tuple[str, ...] = ("metaworld/push-v3",)
    """Environments; several count with equal weight."""
    method: str = "ppo"
    """The method: `toddle methods` lists those of finetune."""
    preset: str | None = None
    """Name of the settings to begin from; None takes the method's own."""
    worlds: Size = 16
    """Worlds of each environment; where tasks are drawn, of all together."""
    tasks: TaskCurriculumConfig = TaskCurriculumConfig()
    """How several environments share the experience."""
    threads: Size = 1
    """Threads that step the physics, where the environment has any."""
    learners: Count = 1
    """Processes that learn, each with its share of the worlds (docs/scaling.md)."""
    sharding: Literal["none", "full"] = "none"
    """full: every learner keeps a part of each weight of the policy, its gradient and moments, and not all of them
    (FSDP2); a copy with all weights acts."""
    workers: Count = 1
    """Processes that only act, each with its share of the worlds and a copy of the policy, beside the one that learns;
    1: that one acts too (docs/scaling.md)."""
    acting: Literal["workers", "engine"] = "workers"
    """Who decides where there are workers: each for its own worlds, or the process that learns for all of them in one
    batch, so that workers only step and draw them and hold no policy (docs/scaling.md)."""
    placement: Literal["here", "ray"] = "here"
    """Where workers run: in processes of this machine, or wherever Ray places them (docs/scaling.md)."""
    listen: str | None = None
    """HOST:PORT of this machine where workers of other machines join (--join); none is started here."""
    join: str | None = None
    """HOST:PORT of a learner that listens: be one of its workers; whatever else is set is the learner's business."""
    overlap: bool = False
    """Step the physics of half the worlds while the networks decide for the other half (docs/scaling.md)."""
    steps: Count = 100_000
    """Control steps to learn from at most, all environments together."""
    reward: str = "success"
    """1 at success, which ends the episode; or the environment's dense or simplified reward, where it has one: then
    success does not end an episode in which it learns, for what is still to be earned would make it better to go on
    without.  In a learned model: success, own (the environment's, as the model says it) or reference
    (docs/world_models.md).  Or a sum of terms, success+0.5*pbrs+rnd (docs/rewards.md)."""
    process_reward: ProcessRewardSettings = ProcessRewardSettings()
    """A reward on the way to success, said by a model (docs/process_reward.md)."""
    imitation: ImitationSettings = ImitationSettings()
    """Imitation of the policy's own successes, beside RL."""
    noise: NoiseConfig = NoiseConfig()
    """Noise on actions and on what is seen, in training and in the evaluation before and after."""
    stop_at: Share | None = None
    """Stop early once this share of the last 50 episodes that ended while exploring has succeeded."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode has failed; None: as the environment's family says for fine-tuning."""
    cameras: tuple[str, ...] = ()
    """Cameras in place of the policy's own, in their order."""
    image_size: PictureSize = 96
    """Side of the pictures, where the policy's folder does not say what it was trained with."""
    render: RenderSettings = RenderSettings()
    """How pictures are drawn; what is not given is as the policy was taught, or fast where that is not known."""
    evaluation: BeforeAndAfter = BeforeAndAfter()
    """How the policy is evaluated before and after."""
    evaluation_worlds: Size = 10
    """Worlds in which it is measured, at most the episodes; fewer take less memory, and --resume may choose anew."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    checkpoint_every: Count = 10
    """Iterations between two checkpoints."""
    seed: Seed = 0
    """Seed of everything but the evaluation, whose seeds are fixed."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        beside: Any = {"a process reward": self.process_reward.model, "a sum of rewards": self.reward not in OWN}
        alone: Any = beside | {"drawn tasks": self.tasks.draws}
        check_shared(self, "finetune", workers=self.workers, **alone)
        check_overlap(self, several_workers=self.workers > 1, **beside)
        check_addresses(self)
        check_engine(self)
        check_sharded(self)
        if not self.env:
            raise problem("env", "at least one environment", "none")
        _reward.check_reward(self.reward, OWN)
        check_stop(self.stop_at, len(self.env))
        if self.tasks.draws and len(self.env) < 2:
            raise problem("tasks.kind", "several environments, for a curriculum over tasks", self.tasks.kind)


def config_class(method: str) -> type[Config]:
    """Return the settings of `toddle finetune --method <method>`: the common ones and the method's own."""
    return settings_class(Config, "finetune", method)


def _chosen(given: dict[str, Any]) -> tuple[str, Method, Preset]:
    name, env = str(given.get("method", Config.method)), given.get("env", Config.env)
    method = load_method(name, "finetune")
    kind = kind_of(Path(given.get("policy", Config.policy)))
    envs = [env] if isinstance(env, str) else env
    return name, method, method.preset(envs, started=True, name=given.get("preset"), kind=kind)


def configure(given: dict[str, Any] | None = None, /, **more: Any) -> Any:
    """Return full settings: the preset's of the method that `given` names, and in its fields what is given.

    Raises InputError for what is unknown or has a wrong value.
    """
    given = {name: to_dict(value) for name, value in {**(given or {}), **more}.items()}
    name, _, preset = _chosen(given)
    return with_preset(Config, "finetune", name, preset, given)


# ---- what learns and where -------------------------------------------------------------------------------------------
def _environments(config: Any, sees: Any, meta: dict[str, Any]) -> list[BatchedEnv]:
    """Return the environments with this process's worlds; `sees` has the policy's cameras (itself, or its config)."""
    own = team().share(config.worlds, unit_of(config))
    return [
        make_seen(config, name, len(own), config.seed + 1000 * index + own.start, sees, meta, learning=True)
        for index, name in enumerate(config.env)
    ]


def _unseen(config: Any) -> list[BatchedEnv]:
    """Return what `_environments` does, without reading the policy's weights."""
    _, sees, meta = policy_card(config.policy)
    return _environments(config, sees, meta)


def build(config: Any, workers: Crew | None = None) -> tuple[Run, dict[str, Any]]:
    """Return everything that learns, and what the policy's folder says of it.

    workers: who steps the worlds, with `config.acting` engine.
    Raises InputError where policy, environments and settings do not fit.
    """
    vla, meta = load_policy(config.policy), meta_of(config.policy)
    if not vla.cameras:
        raise problem("policy", "a VLA, which sees pictures", f"kind '{vla.kind}'", "toddle pretrain --init goes on")
    taken = load_method(config.method, "finetune").policies
    if vla.kind not in taken.split(", "):
        raise problem("policy", f"{taken}, with method {config.method}", f"kind '{vla.kind}'")
    if config.sharding == "full":
        check_shared_out(vla)
    gathered = to_dict(config)
    environments = partial(_environments, config, vla, meta)
    envs = worlds_of(config, workers, environments)
    for env in envs:
        body_in(vla, env)
    if config.tasks.draws:
        envs = [MixtureEnv(envs)]
    for line in dict.fromkeys(line for name in shown(config) for line in pictures(config, name, vla, meta)[1]):
        if team().index == 0 and not acts():
            print(line, file=sys.stderr)
    device = resolve_device(team().device(config.device))
    seen = gathered.get("collect", gathered.get("episodes", {})).get("keep") == "pictures"
    features = None if seen else vla.features
    if config.process_reward.model and features is None and vla.context_width and not seen:
        want = "rollouts that keep pictures (--collect.keep pictures, of whole episodes --episodes.keep pictures)"
        raise problem("process_reward.model", f"{want} with a {vla.kind}", "its keys and values")
    start = Start(
        envs=envs,
        steps=config.steps,
        seed=config.seed,
        device=device,
        init=vla.train(),
        meta=meta,
        tasks=config.tasks if config.tasks.draws else None,
        safety=_safety.safety_of(config),
        sharded=config.sharding == "full" and team().size > 1 and not acts(),
        parts={
            "rewards": _reward.reward_terms(config.reward, envs, config.seed, features)
            + config.process_reward.terms(features, vla.cameras, device),
            "auxiliaries": [] if acts() else config.imitation.parts(vla, config.seed),
        },
    )
    with weights_that_fit(4.0 if device.type == "cpu" else 1.0):
        made = _reward.check_taken(_safety.check_limited(config, config.build(start)), config.reward)
    check_sources(config, made.sources)
    made = overlapped(made, config, environments)
    return replace(made, longest=max(env.max_episode_steps for env in envs)), meta


# ---- the command -----------------------------------------------------------------------------------------------------
def plan(config: Any) -> Plan:
    """Build everything, time one iteration, and return what the run will do."""
    if config.evaluation.recorded is not None:
        recorded_success(config.evaluation.recorded, config.policy, config.env)
    made, _ = build(config)
    memory, forecast = iteration_memory(made, config.device)
    times = made.rehearse()
    seconds = iteration_seconds(made.learner, config) * times * made.iterations
    sizes = [(p.numel(), p.requires_grad) for p in made.policy.parameters()]
    weights, frozen = (sum(size for size, learns in sizes if learns is wanted) for wanted in (True, False))
    kept = sum(source.bytes for source in made.sources)
    _, method, preset = _chosen(to_dict(config))
    reward, near = config.process_reward, float(to_dict(config).get("reference", {}).get("weight", 0.0))
    shared = f"that all share, tasks drawn {config.tasks.kind}" if config.tasks.draws else "of each"
    world = [family_of(name).world_bytes for name in config.env]
    least = 2 * kept + 16 * weights + 4 * frozen + 700 * 2**20 + config.worlds * sum(world)
    return Plan(
        steps=[
            *preset_lines(config, preset),
            f"evaluate {config.policy} as it is: {config.evaluation.episodes} episodes each of {', '.join(config.env)}",
            *(f"and of {one}, which {name} is a model of: what counts" for name, one in real_of(config.env).items()),
            *made.notes,
            *process_lines(config),
            f"step {config.worlds} worlds {shared}; train {weights:,} weights: {method.what}",
            *([f"add the process reward of {reward.model}, {reward.cap:g} a decision at most"] if reward.model else []),
            *([f"hold it near what it was: KL to the start, weight {near:g}"] if near else []),
            *(_reward.reward_lines(config.reward) + config.imitation.lines() + _safety.limit_lines(config)),
            f"{made.iterations} iterations, {config.steps:,} control steps; rollouts keep {kept / 2**20:.0f} MiB",
            *memory,
            f"evaluate again on the same seeds, write the policy to {config.out / 'policy'}",
        ],
        memory_bytes=max(least, forecast, peak_memory()) + 2 * evaluation_worlds(config) * max(world),
        seconds=seconds + 2 * len(config.env) * config.evaluation.episodes * 0.7,
    )


def run(config: Any, *, resume: bool = False) -> None:
    """Evaluate, train, evaluate again, and keep the policy.  Raises InputError, NaNError and KeyboardInterrupt."""
    if led_by_another(config, "finetune", lambda own, workers: build(own, workers)[0], lambda: _unseen(config)):
        return
    if config.evaluation.recorded is not None:
        recorded_success(config.evaluation.recorded, config.policy, config.env)
    with (
        RunFolder.open(config.out, config, resume=resume) as folder,
        leading(config.learners, "finetune", folder.path) as learners,
        crew(config, "finetune", folder.path) as workers,
    ):
        made, meta = build(config, workers)
        beside(config, made, workers)
        table = measure(config, "before", made, meta, folder.path)
        check_as_recorded(config.evaluation.recorded, config.policy, config.env, table)
        shared = led(made.learner, learners)
        run_loop(
            shared,
            folder,
            made.iterations,
            checkpoint_every=config.checkpoint_every,
            label="finetune",
            enough=enough(folder.path, config.stop_at, config.worlds * made.longest),
            show=made.show if len(made.sources) == 1 else tuple(f"episode/success/{label_of(n)}" for n in config.env),
        )
        if config.sharding == "full":
            made.whole(shared.state_dict()["policy"])
        facts = {"envs": list(config.env), "algorithm": config.method, "from": str(config.policy)}
        facts["steps"] = sum(source.total_steps for source in made.sources)
        save_policy(config.out / "policy", made.policy, meta | facts | _reward.keep_episode(folder.path, made.rewards))
        table |= measure(config, "after", made, meta, folder.path)
        write_summary(folder.path, table)
    print(f"policy: {config.out / 'policy'}", file=sys.stderr)
