"""`toddle evaluate`: policies on tasks, every candidate on the same seeds, undisturbed and pushed."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from toddle.core.config import config
from toddle.core.device import resolve_device
from toddle.core.errors import InputError, problem
from toddle.core.memory import check_memory
from toddle.core.numbers import Count, NonNegative, PictureSize, Seed, Size, Whole
from toddle.core.plan import Plan
from toddle.core.protocols import Acting
from toddle.core.rendering import LOOKS, RenderSettings, RenderVariation
from toddle.core.types import EpisodeResult
from toddle.envs.base import BatchedEnv
from toddle.envs.estimates import EstimateConfig
from toddle.envs.make import family_of, make_env, worlds_bytes
from toddle.envs.noise import NoiseConfig
from toddle.envs.pools import PhysicsConfig
from toddle.experience.actor import body_in
from toddle.experience.evaluate import PushConfig, VideoRequest, evaluate
from toddle.experience.taught import picture_options
from toddle.policies.hastened import hastened
from toddle.policies.store import load_policy, meta_of
from toddle.recipes._acting import ActingSettings
from toddle.recipes._safety import WatchedSettings, told_of
from toddle.recipes._steering import CANDIDATES, Steer, SteeringConfig, check_steering, steered
from toddle.recipes._summary import write_summary
from toddle.reporting.episode_log import EpisodeLog
from toddle.runs.loop import ProgressLine
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

FILMED = 4
"""Control steps for a frame of a film, at most."""


@config
class Config(ActingSettings, WatchedSettings):
    """Evaluate policies: success with 95 % intervals, return, length, time, smoothness; the same seeds for all.

    Example: toddle evaluate --policy converted=runs/sft_a/policy random=runs/sft_b/policy --env metaworld/reach-v3
    """

    may_change: ClassVar[tuple[str, ...]] = ("num_envs", "device")

    policy: tuple[str, ...]
    """Policy folders; `name=folder` gives the candidate a name for tables and plots."""
    env: tuple[str, ...]
    """Environments, such as metaworld/reach-v3, goal/sawyer, gymnasium/Ant-v5, libero/libero_object/0."""
    out: Path = Path("runs/evaluate")
    """Folder of the results: episodes.jsonl, summary.json, videos."""
    episodes: Count = 50
    """Episodes of each candidate in each environment and condition."""
    seed: Seed = 0
    """Seed of the first episode, counting up.  Demonstrations are recorded on seeds from 1,000,000."""
    num_envs: Size = 10
    """Worlds stepped at once; a policy decides for all of them in one call."""
    threads: Size = 1
    """Threads of the simulation, where it has any."""
    physics: PhysicsConfig = PhysicsConfig()
    """What steps the physics of goal/, walk/ and gymnasium's MuJoCo tasks, and where."""
    deterministic: bool = True
    """Take a policy's most likely action instead of a draw."""
    steer: Steer = "none"
    """What has its say in decisions: a critic (vgps, cem, guidance, hume, retry), a memory (strap, ra-dt) or a search
    in a world model (mcts); see docs/steering.md."""
    candidates: Size = CANDIDATES
    """Chunks that are compared."""
    steering: SteeringConfig = SteeringConfig()
    """The critic, the memory or the model, and how."""
    push: bool = False
    """Evaluate a second time with one push in every episode."""
    pushes: PushConfig = PushConfig()
    """How strong the push is and when it comes."""
    looks: tuple[Literal["background", "light", "texture", "camera", "distractors"], ...] = ()
    """Evaluate again with what is seen changed in every episode: a condition each (docs/evaluation.md)."""
    estimates: EstimateConfig = EstimateConfig()
    """What a policy of states is told of poses in place of the simulator's knowledge."""
    noise: NoiseConfig = NoiseConfig()
    """Noise on actions and on what is seen, in every condition."""
    randomise: Path | None = None
    """YAML table of what differs from episode to episode: masses, friction, gains, delays, looks
    (docs/randomisation.md)."""
    videos: Whole = 2
    """Episodes filmed of each candidate, environment and condition."""
    video_size: PictureSize = 256
    """Side of the videos in pixels."""
    cameras: tuple[str, ...] = ()
    """Cameras in place of the policy's own, in their order (another simulator has other names)."""
    image_size: PictureSize = 96
    """Side of the pictures a policy sees, where its folder does not say what it was trained with."""
    render: RenderSettings = RenderSettings()
    """How pictures are drawn; what is not given is as the policy was taught, or fast where that is not known."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode has failed; by default the environment's own limit."""
    to_the_end: bool = False
    """Go on after success, to the environment's own end: then success at any step and at the last one can differ."""
    control: Literal["own", "shuffled", "none"] = "own"
    """In goal tracking: show each world its own goal, another world's, or none (negative controls)."""

    terrain: NonNegative = 0.0
    """How rough the ground of walk/ is: height of its bumps in the body's own length; 0: a plane (docs/walking.md)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for label, given in (("policy", self.policy), ("env", self.env)):
            if not given:
                raise problem(label, "at least one", "none")
        WatchedSettings.__post_init__(self)
        check_steering(self.steer, self.candidates, self.steering)
        if self.video_size % 2:
            raise problem("video_size", "an even number", self.video_size)


class Candidate(NamedTuple):
    """A policy to evaluate."""

    name: str
    folder: Path


def _candidates(config: Config) -> list[Candidate]:
    """Read `name=folder` or `folder`; without a name the folder's own, and its parent's where that is 'policy'."""
    found: list[Candidate] = []
    for text in config.policy:
        name, equals, folder = text.rpartition("=")
        path = Path(folder)
        if not equals:
            name = path.parent.name if path.name == "policy" else path.name
        found.append(Candidate(name, path))
    names = [candidate.name for candidate in found]
    if len(set(names)) != len(names):
        raise problem("policy", "different names", ", ".join(names), "name them: --policy a=folder b=folder")
    return found


def _options(config: Config, name: str, policy: Acting, meta: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what the environment must be made with so that this policy sees what it was taught with, and what differs
    all the same."""
    family = family_of(name)
    options = dict(family.evaluation)
    pictures, told = picture_options(
        name, policy.cameras, meta, cameras=config.cameras, image_size=config.image_size, render=config.render
    )
    options |= pictures
    if config.max_episode_steps is not None:
        family.check("max_episode_steps", name, config.max_episode_steps)
        options["max_episode_steps"] = config.max_episode_steps
    if config.to_the_end:
        family.check("terminate_on_success", name, True, field="to_the_end")
        options["terminate_on_success"] = False
    given: dict[str, Any] = {} if config.control == Config.control else {"control": config.control}
    given |= {} if config.estimates == Config.estimates else {"estimates": config.estimates}
    given |= {"terrain": config.terrain} if config.terrain else {}
    given |= {} if config.physics == Config.physics else {"physics": config.physics}
    for option, value in given.items():
        family.check(option, name, value)
    options |= given
    return options, told


def _besides(config: Config) -> dict[str, Any]:
    return {"noise": config.noise} | told_of(config)


def _cells(config: Config) -> list[tuple[str, Candidate, str]]:
    conditions = ["plain", *(["pushed"] if config.push else []), *config.looks]
    return [(env, each, condition) for each in _candidates(config) for env in config.env for condition in conditions]


def plan(config: Config) -> Plan:
    """Check policies and environments; the time is that of camera worlds, 5 ms a control step each and more where
    drawing is dear."""
    weights, told, cost = _check(config)
    cells = _cells(config)
    steps = [f"{config.episodes} episodes of {c.name} in {env}, {condition}" for env, c, condition in cells]
    a_step = 0.0043 + 0.0007 * cost
    seconds = len(cells) * config.episodes * (a_step * (config.max_episode_steps or 150) + 0.1)
    memory = 600 * 2**20 + 3 * weights + _check_films(config)
    memory += max(worlds_bytes(name, config.num_envs) for name in config.env)
    steps += [*told, f"write {config.out}/episodes.jsonl"]
    return Plan(steps=steps, memory_bytes=memory, seconds=seconds)


def _check(config: Config) -> tuple[int, list[str], float]:
    """Return the bytes of the largest policy, what differs from how policies were taught, and the dearest drawing."""
    resolve_device(config.device)
    for name in config.env:
        family = family_of(name)
        if family.modelled:
            remedy = "toddle worldmodel imagine sets success in a model beside the real one"
            raise problem("env", "an environment that is no learned model", name, remedy)
        if config.looks:
            family.check("variation", name, " ".join(config.looks), field="looks")
    _check_films(config)
    weights, told, cost = 0, list[str](), 1.0
    for candidate in _candidates(config):
        policy, meta = load_policy(candidate.folder), meta_of(candidate.folder)
        hastened(policy, config.compile, bf16=config.bf16)
        weights = max(weights, sum(value.numel() * value.element_size() for value in policy.state_dict().values()))
        for name in config.env:
            options, lines = _options(config, name, policy, meta)
            told += [f"{candidate.name}: {line}" for line in lines]
            cost = max(cost, options["render"].cost if "render" in options else 1.0)
            steered(policy, config.steer, config.candidates, config.steering)
            worlds = 1 if config.control == "own" else min(2, config.num_envs, config.episodes)
            env = make_env(name, worlds, seed=config.seed, **_besides(config), **options)
            _check_fit(config, policy, env)
            env.close()
    return weights, list(dict.fromkeys(told)), cost


def _check_fit(config: Config, policy: Acting, env: BatchedEnv) -> None:
    """Raise InputError where the policy cannot act there, or where it cannot be pushed or filmed as asked."""
    body_in(policy, env)
    if policy.cameras and len(env.cameras) != len(policy.cameras):
        shown = " ".join(env.cameras) or "no pictures"
        raise problem("cameras", f"as many as the policy reads ({' '.join(policy.cameras)})", f"{shown} of {env.name}")
    if config.push:
        env.push(np.zeros(env.num_envs, bool), np.random.default_rng(0))
    if config.videos:
        env.reset(seed=config.seed)
        try:
            env.render_worlds([0], config.video_size, config.video_size)
        except InputError as error:
            raise InputError(f"{error}; --videos 0 films nothing") from error


def _check_films(config: Config) -> int:
    """Return the bytes of the films under way at once.  Raises InputError where they do not fit."""
    films = min(config.videos, config.num_envs, config.episodes)
    size = 3 * config.video_size**2 * films * ((config.max_episode_steps or 150) // FILMED + 1)
    check_memory(size, f"{films} films at once", "take fewer videos, or a smaller video_size or max_episode_steps")
    return size


def run(config: Config, *, resume: bool = False) -> None:
    """Evaluate every cell; episodes that are on disk already are not run again."""
    for line in _check(config)[1]:
        print(line, file=sys.stderr)
    cells, scene = _cells(config), _Scene(config)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        log = EpisodeLog(folder.path / "episodes.jsonl")
        total = len(cells) * config.episodes
        table: dict[tuple[str, str, str], list[EpisodeResult]] = {}
        with ProgressLine("evaluate", total, done=len(log)) as bar, contextlib.closing(scene):
            for env_name, candidate, condition in cells:
                results = _evaluate_cell(scene, env_name, candidate, condition, log, bar)
                table[candidate.name, env_name, condition] = results
        write_summary(folder.path, table)
        folder.finish(total)


def _labels(env: str, candidate: Candidate, condition: str) -> dict[str, str]:
    return {"candidate": candidate.name, "env": env, "condition": condition}


class _Scene:
    """The policy and the environment at hand, kept from one cell to the next while they are the same."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, resolve_device(config.device)
        self._held: tuple[Candidate, Acting, dict[str, Any]] | None = None
        self._env: BatchedEnv | None = None
        self._look: RenderVariation | None = None

    def get(self, candidate: Candidate, env_name: str, look: RenderVariation | None) -> tuple[Acting, BatchedEnv, int]:
        """Return policy, environment as it is to look, and the policy's bank for its body."""
        if self._held is None or self._held[0] != candidate:
            self.close()
            policy = load_policy(candidate.folder, self.device, acting=True)
            hastened(policy, self.config.compile, bf16=self.config.bf16)
            given = self.config.steer, self.config.candidates, self.config.steering
            policy = steered(policy, *given, self.device)
            self._held = candidate, policy, meta_of(candidate.folder)
        config, (_, policy, meta) = self.config, self._held
        if self._env is None or self._env.name != env_name or self._look != look:
            self.close()
            options = _options(config, env_name, policy, meta)[0] | ({"variation": look} if look else {})
            self._look = look
            self._env = make_env(
                env_name,
                min(config.num_envs, config.episodes),
                seed=config.seed,
                threads=config.threads,
                **_besides(config),
                **options,
            )
        return policy, self._env, body_in(policy, self._env)

    def close(self) -> None:
        """Free the environment."""
        if self._env is not None:
            self._env.close()
        self._env = None


def _evaluate_cell(
    scene: _Scene, env_name: str, candidate: Candidate, condition: str, log: EpisodeLog, bar: ProgressLine
) -> list[EpisodeResult]:
    config, labels = scene.config, _labels(env_name, candidate, condition)
    seeds = list(range(config.seed, config.seed + config.episodes))
    known = log.done(labels)
    if all(seed in known for seed in seeds):
        return [known[seed] for seed in seeds]
    policy, env, body = scene.get(candidate, env_name, LOOKS.get(condition))

    def finished(result: EpisodeResult) -> None:
        log.append(labels, result)
        bar.advance(len(log))

    stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{candidate.name}-{env_name}-{condition}")
    video = VideoRequest(
        path=lambda seed: config.out / "videos" / f"{stem}-{seed}.mp4",
        episodes=config.videos,
        width=config.video_size,
        height=config.video_size,
    )
    return evaluate(
        policy,
        env,
        seeds=seeds,
        deterministic=config.deterministic,
        body=body,
        done=known,
        on_episode=finished,
        push=config.pushes if condition == "pushed" else None,
        video=video if config.videos else None,
        noise_seed=config.seed,
    )
