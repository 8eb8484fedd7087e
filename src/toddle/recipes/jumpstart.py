"""`toddle jumpstart`: a state-based agent learns by PPO, and at first asks a teacher for directions.

The run's folder holds, besides what every run has: `episodes.jsonl` and `videos/` of what the agent came to,
`summary.json`, `teacher.json` (how often the teacher solves the task by itself) and `policy/`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from toddle.core.config import config, to_dict
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.memory import weights_that_fit
from toddle.core.numbers import Count, Seed, Size, Whole
from toddle.core.plan import Plan
from toddle.core.reading import read_json
from toddle.core.rendering import RenderSettings
from toddle.core.types import EpisodeResult
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of, make_env
from toddle.experience.evaluate import VideoRequest, evaluate
from toddle.experience.taught import picture_options
from toddle.experience.teacher import (
    ExpertTeacher,
    Flaw,
    FlawedTeacher,
    PolicyTeacher,
    Teacher,
    chosen,
    parts_of,
    solved,
)
from toddle.methods._actors import label_of
from toddle.methods._base import Method, Preset, Run, Start, load_method
from toddle.policies.store import load_policy, meta_of, save_policy
from toddle.recipes import _reward
from toddle.recipes._method_settings import preset_lines, settings_class, with_preset
from toddle.recipes._shared import iteration_seconds
from toddle.recipes._summary import write_summary
from toddle.reporting.episode_log import EpisodeLog
from toddle.runs.loop import ProgressLine, run_loop
from toddle.runs.run import RunFolder

__all__ = ["CHOOSING", "EXPERT", "Config", "build", "config_class", "configure", "plan", "run"]

Teaching = tuple[Any, Flaw]
"""The teacher's policy (None: the expert) and what is wrong with it."""
CHOOSING = ("method", "preset", "env", "teacher")
"""What decides which settings there are and where they begin."""
WAY = 64
"""Episodes of an evaluation on the way."""
EXPERT = "expert"
"""The word for an environment's scripted expert, in place of a folder."""


@config
class After:
    """What is measured of the teacher before, and of the agent after learning."""

    teacher: Whole = 64
    """Episodes that the teacher plays by itself."""
    episodes: Count = 64
    """Episodes of the agent, on seeds from 0."""
    every: Whole = 10
    """Iterations after which the agent is evaluated on the way, without its noise, on 64 seeds from 0; 0: never."""
    videos: Whole = 1
    """Episodes filmed."""


@config
class Config(_reward.Rewarded):
    """Train a state-based agent by PPO that asks a teacher for directions a few times, and soon not at all.

    Example: toddle jumpstart --teacher runs/sft --env tabletop/pick-cube --method vlajs --out runs/js
    `--method` is vlajs, ppo (nobody is asked), sparse-rpd, vlajs-rpd, rpd, jsrl or mixing; its settings follow.
    """

    may_change: ClassVar[tuple[str, ...]] = ("device",)

    teacher: str = EXPERT
    """Folder of a policy of any kind; or expert, the environment's own script."""
    flaw: Flaw = Flaw()
    """What is wrong with the teacher's answers."""
    out: Path = Path("runs/jumpstart")
    """The run's folder; the agent is in its `policy/`."""
    env: tuple[str, ...] = ("tabletop/push-cube",)
    """The environment, one whose actions are motions of a tool."""
    method: str = "vlajs"
    """The method: vlajs, ppo, sparse-rpd, vlajs-rpd, rpd, jsrl, mixing."""
    preset: str | None = None
    """Name of the settings to begin from; None takes the method's own."""
    worlds: Size = 64
    """Worlds that are stepped together."""
    threads: Size = 1
    """Threads that step the physics."""
    steps: Count = 1_000_000
    """Control steps to learn from."""
    reward: str = "dense"
    """What pays: dense, stages on the way; simplified, the nearness of the goal alone; sparse, success alone.  Or a sum
    of terms, sparse+0.5*pbrs+rnd (docs/rewards.md)."""
    horizon_scale: Count = 1
    """The time limit is so many times as long."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode is cut; by default the environment's own limit."""
    evaluation: After = After()
    """What is measured before and after."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    checkpoint_every: Count = 20
    """Iterations between two checkpoints."""
    seed: Seed = 0
    """Seed of everything but the evaluation, whose seeds are fixed."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        _reward.check_reward(self.reward, ("dense", "simplified", "sparse"))
        if len(self.env) != 1:
            raise problem("env", "one environment", ", ".join(self.env) or "none")


def config_class(method: str) -> type[Config]:
    """Return the settings of `toddle jumpstart --method <method>`: the common ones and the method's own."""
    return settings_class(Config, "jumpstart", method)


def _chosen(given: dict[str, Any]) -> tuple[str, Method, Preset]:
    name, env = str(given.get("method", Config.method)), given.get("env", Config.env)
    method = load_method(name, "jumpstart")
    return name, method, method.preset([env] if isinstance(env, str) else env, started=False, name=given.get("preset"))


def configure(given: dict[str, Any] | None = None, /, **more: Any) -> Any:
    """Return full settings: the preset's of the method that `given` names, and in its fields what is given.

    Raises InputError for what is unknown or has a wrong value.
    """
    given = {name: to_dict(value) for name, value in {**(given or {}), **more}.items()}
    name, _, preset = _chosen(given)
    return with_preset(Config, "jumpstart", name, preset, given)


# ---- teacher and worlds ----------------------------------------------------------------------------------------------
def _make_env(config: Config, worlds: int, seed: int, policy: Any, *, ends: bool = False) -> BatchedEnv:
    """Build the worlds: states for the agent, beside pictures for a teacher that sees; `ends`: at success."""
    (name,) = config.env
    options: dict[str, Any] = {}
    for option, value, usual in (
        ("reward", _reward.own_word(config.reward, Config.reward, sparse="sparse"), Config.reward),
        ("horizon_scale", config.horizon_scale, Config.horizon_scale),
        ("max_episode_steps", config.max_episode_steps, Config.max_episode_steps),
    ):
        if value != usual:
            family_of(name).check(option, name, value)
            options[option] = value
    if policy is not None and policy.cameras:
        meta = meta_of(config.teacher)
        shown, told = picture_options(name, policy.cameras, meta, image_size=96, render=RenderSettings())
        options |= shown | {"observation": "state"}
        for line in told:
            print(f"teacher: {line}", file=sys.stderr)
    if ends:
        options["terminate_on_success"] = True
    env = make_env(name, worlds, seed=seed, threads=config.threads, **options)
    env.rendering = False
    parts_of(env)
    return env


def _stored(config: Config) -> Any:
    """Return the teacher's policy; None for the expert."""
    if config.teacher == EXPERT:
        return None
    return load_policy(Path(config.teacher), resolve_device(config.device), acting=True)


def _teacher(flaw: Flaw, policy: Any, env: BatchedEnv, seed: int) -> Teacher:
    teacher: Teacher = ExpertTeacher(env) if policy is None else PolicyTeacher(policy, env, seed=seed)
    return teacher if flaw == Flaw() else FlawedTeacher(teacher, flaw, env, seed=seed)


def _flaw(config: Config, policy: Any) -> Flaw:
    """Return the flaw, its error chosen where a success is asked for (the same whenever it is chosen)."""
    if config.flaw.success is None:
        return config.flaw
    env = _make_env(config, 64, 0, policy, ends=True)
    found = chosen(config.flaw, lambda env: _teacher(Flaw(), policy, env, 0), env)
    env.close()
    print(f"teacher: an error of {found.error:g} for a success of {config.flaw.success:.0%}", file=sys.stderr)
    return found


def build(config: Any) -> tuple[Run, Teaching | None]:
    """Return everything that learns, and the teacher's policy and flaw where one is asked.

    Raises InputError where teacher, environment and settings do not fit.
    """
    asked = config.method != "ppo"
    policy = _stored(config) if asked else None
    flaw = _flaw(config, policy) if asked else Flaw()
    env = _make_env(config, config.worlds, config.seed, policy)
    device = resolve_device(config.device)
    terms = _reward.reward_terms(config.reward, [env], config.seed)
    start = Start(
        envs=[env],
        steps=config.steps,
        seed=config.seed,
        device=device,
        teacher=_teacher(flaw, policy, env, config.seed) if asked else None,
        parts={"rewards": terms} if terms else {},
    )
    with weights_that_fit(4.0 if device.type == "cpu" else 1.0):
        made = _reward.check_taken(config.build(start), config.reward)
    return made, (policy, flaw) if asked else None


# ---- before and after ------------------------------------------------------------------------------------------------
def _measure_teacher(config: Config, teaching: Teaching, folder: Path) -> None:
    """Let the teacher play by itself, and note how often it solves the task (on seeds of its own)."""
    path, episodes = folder / "teacher.json", config.evaluation.teacher
    if not episodes:
        return
    if not path.exists():
        policy, flaw = teaching
        env = _make_env(config, min(64, episodes), 0, policy, ends=True)
        count = solved(_teacher(flaw, policy, env, 1), env, episodes, seed=10_000)
        env.close()
        facts = {"teacher": config.teacher, "error": flaw.error, "scale": flaw.scale}
        write_json_atomic(path, facts | {"solved": count, "episodes": episodes})
    found = read_json(path, {"solved": int, "episodes": int})
    print(f"teacher: solves {found['solved']} of {found['episodes']} by itself", file=sys.stderr)


def _measure(config: Config, policy: Any, folder: Path) -> dict[tuple[str, str, str], list[EpisodeResult]]:
    """Evaluate what was learned, without its noise; episodes that are on disk are not run again."""
    (name,), seeds = config.env, list(range(config.evaluation.episodes))
    log, labels = EpisodeLog(folder / "episodes.jsonl"), {"candidate": config.method, "env": name, "condition": "plain"}
    known = log.done(labels)
    env = _make_env(config, min(64, len(seeds)), 0, None, ends=True)
    film = VideoRequest(
        path=lambda seed: folder / "videos" / f"{config.method}-{label_of(name)}-{seed}.mp4",
        episodes=config.evaluation.videos,
    )
    with ProgressLine("evaluate", len(seeds)) as bar:

        def finished(result: EpisodeResult) -> None:
            log.append(labels, result)
            bar.advance(len(log))

        results = evaluate(
            policy, env, seeds=seeds, done=known, on_episode=finished, video=film if film.episodes else None
        )
    env.close()
    return {(config.method, name, "plain"): results}


def _on_the_way(config: Config, policy: Any) -> Callable[[int, dict[str, float]], dict[str, float] | None]:
    """Return what evaluates the agent every so many iterations: success without its noise, always on the same seeds."""
    every, seeds = config.evaluation.every, range(WAY)
    env = _make_env(config, WAY, 0, None, ends=True) if every else None

    def success(step: int, metrics: dict[str, float]) -> dict[str, float] | None:
        if env is None or step % every:
            return None
        return {"evaluation/success": sum(map(bool, (r.success for r in evaluate(policy, env, seeds=seeds)))) / WAY}

    return success


# ---- the command -----------------------------------------------------------------------------------------------------
def plan(config: Any) -> Plan:
    """Build everything, time one iteration, and return what the run will do."""
    made, _ = build(config)
    seconds = iteration_seconds(made.learner, config) * made.iterations
    parameters = sum(p.numel() for p in made.policy.parameters())
    _, method, preset = _chosen(to_dict(config))
    asked = config.method != "ppo"
    steps = [
        *preset_lines(config, preset),
        *([f"let the teacher ({config.teacher}) play {config.evaluation.teacher} episodes by itself"] if asked else []),
        f"step {config.worlds} worlds of {config.env[0]}, reward {config.reward}",
        *_reward.reward_lines(config.reward),
        f"train a {made.policy.kind} policy of {parameters:,} parameters, {method.what}: {made.iterations} iterations, "
        f"{config.steps:,} control steps",
        f"evaluate it for {config.evaluation.episodes} episodes",
        f"write the policy to {config.out / 'policy'}",
    ]
    kept = sum(source.bytes for source in made.sources)
    worlds = config.worlds * family_of(config.env[0]).world_bytes
    return Plan(steps=steps, memory_bytes=2 * kept + 16 * parameters + worlds + 500 * 2**20, seconds=seconds)


def run(config: Any, *, resume: bool = False) -> None:
    """Train, evaluate, and write `policy/`.  Raises InputError, NaNError and KeyboardInterrupt."""
    made, teaching = build(config)  # before the folder is made: what does not fit leaves nothing behind
    with RunFolder.open(config.out, config, resume=resume) as folder:
        if teaching is not None:
            _measure_teacher(config, teaching, folder.path)
        run_loop(
            made.learner,
            folder,
            made.iterations,
            checkpoint_every=config.checkpoint_every,
            label="jumpstart",
            show=made.show,
            on_iteration=_on_the_way(config, made.policy),
        )
        _reward.keep_episode(folder.path, made.rewards)
        steps = sum(source.total_steps for source in made.sources)
        save_policy(
            config.out / "policy", made.policy, {"envs": list(config.env), "steps": steps, "algorithm": config.method}
        )
        write_summary(config.out, _measure(config, made.policy, folder.path))
    print(f"policy: {config.out / 'policy'}", file=sys.stderr)
