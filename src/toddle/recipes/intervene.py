"""`toddle intervene`: a policy acts, a person takes over where it goes wrong; every episode is recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_text_atomic
from toddle.core.numbers import Count, PictureSize, Seed, Size, Whole
from toddle.core.plan import Plan
from toddle.core.protocols import Acting
from toddle.core.reading import parse_json
from toddle.core.rendering import FAST, RenderSettings
from toddle.core.types import EpisodeResult
from toddle.data.layout import DatasetSpec
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.windows import INTERVENTION
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of, make_env, worlds_bytes
from toddle.experience.actor import body_in
from toddle.experience.demonstrations import Demonstration, demonstrate, row_features
from toddle.experience.intervene import Operator, ScriptedConfig, ScriptedPerson, Team, hand_of
from toddle.experience.taught import Taught, picture_options
from toddle.policies.store import load_policy, meta_of
from toddle.recipes._recording import picture_size
from toddle.recipes._safety import WatchedSettings, told_of
from toddle.recipes._summary import write_summary
from toddle.reporting.episode_log import LINE, EpisodeLog, result_of
from toddle.reporting.intervention_page import InterventionServer, PagePerson, ViewConfig
from toddle.runs.loop import ProgressLine
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

RESULT = "result"
"""Fact of an episode: its EpisodeResult, as JSON."""


@config
class Config(WatchedSettings):
    """Watch a policy on a page in the browser and take over where it goes wrong: keyboard or gamepad.

    Every episode is recorded into a LeRobot dataset (v3.0) with a column that says which steps were the person's;
    `toddle sft` then learns from these alone.  `--resume` goes on.  docs/interventions.md leads through it.
    Example: toddle intervene --policy runs/sft/policy --env metaworld/reach-v3 --out runs/hil
    """

    may_change: ClassVar[tuple[str, ...]] = ("episodes", "view", "batch")

    policy: Path
    """Folder of the policy that acts."""
    env: str = "metaworld/reach-v3"
    """Environment."""
    out: Path = Path("runs/intervene")
    """Folder of the run: the dataset, episodes.jsonl and summary.json, as `toddle evaluate` writes them."""
    episodes: Count = 20
    """Episodes to record."""
    human: Literal["browser", "scripted"] = "browser"
    """Who watches: a person at the page, or the environment's scripted expert (`--person`)."""
    view: ViewConfig = field(default_factory=ViewConfig)
    """The page."""
    person: ScriptedConfig = field(default_factory=ScriptedConfig)
    """When the scripted person takes over."""
    seed: Seed = 3_000_000
    """Seed of the first episode, counting up.  Evaluation takes seeds from 0, demonstrations from 1,000,000."""
    batch: Size = 1
    """Episodes played at once, with a scripted person."""
    deterministic: bool = True
    """Take the policy's most likely action instead of a draw."""
    randomise: Path | None = None
    """YAML table of what differs from episode to episode (docs/randomisation.md)."""
    image_size: PictureSize = 96
    """Side of the recorded pictures, where the policy's folder does not say what it was taught with."""
    image_stride: Count = 4
    """Control steps between recorded pictures; the policy's executed steps must be a multiple."""
    images: Literal["video", "image"] = "video"
    """Store pictures as H.264 video, or exactly, as PNG in the rows (ten times larger)."""
    render: RenderSettings = RenderSettings()
    """How pictures are drawn; what is not given is as the policy was taught, or fast."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode has failed; by default the environment's own limit."""
    after_success: Whole = 8
    """Control steps recorded after success."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.human == "browser" and self.batch != 1:
            raise problem("batch", "1 for a person, who watches one world", self.batch)
        unused = ("person", self.person, ScriptedConfig()), ("view", self.view, ViewConfig())
        for name, given, default in unused[self.human == "scripted" :][:1]:
            if given != default:
                raise problem(name, f"its defaults with --human {self.human}", "settings of it")


def plan(config: Config) -> Plan:
    """Load the policy, make the environment, and say what will be done."""
    policy = load_policy(config.policy, acting=True)
    env = _make(config, policy, 1)
    _team(config, policy, env, None)
    who = "a person on a page on 127.0.0.1" if config.human == "browser" else "the scripted expert"
    steps = [
        f"let {config.policy} act in {config.env} for {config.episodes} episodes, while {who} looks on",
        f"write them to {config.out} as a dataset with a column '{INTERVENTION}'",
    ]
    seconds = None if config.human == "browser" else 0.02 * env.max_episode_steps * config.episodes
    env.close()
    return Plan(steps=steps, memory_bytes=10**9 + worlds_bytes(config.env, config.batch), seconds=seconds)


def _make(config: Config, policy: Acting, worlds: int) -> BatchedEnv:
    """Build worlds in which the policy sees what it was taught with, drawn fast.  Raises InputError."""
    family, meta = family_of(config.env), meta_of(config.policy)
    options, _ = picture_options(config.env, policy.cameras, meta, image_size=config.image_size, render=config.render)
    if family.takes("render", config.env):
        options.setdefault("render", config.render.over(FAST))
    if config.max_episode_steps is not None:
        family.check("max_episode_steps", config.env, config.max_episode_steps)
        options["max_episode_steps"] = config.max_episode_steps
    return make_env(config.env, worlds, seed=config.seed, **told_of(config), **options)


def _team(config: Config, policy: Acting, env: BatchedEnv, server: InterventionServer | None) -> Team:
    """Return who acts.  Raises InputError where the policy or a person cannot act here, or pictures do not fit."""
    if policy.cameras and policy.horizon % config.image_stride:
        want = f"a divisor of the {policy.horizon} steps that the policy executes"
        raise problem("image_stride", want, config.image_stride)
    person: Operator
    if config.human == "scripted":
        person = ScriptedPerson(config.person)
        env.expert_action()
    else:
        hand_of(env)
        env.render_worlds([0], 32, 32, config.view.camera)
        person = PagePerson(server, config.view) if server is not None else ScriptedPerson(config.person)
    return Team(policy, person, deterministic=config.deterministic, body=body_in(policy, env))


def _spec(config: Config, env: BatchedEnv) -> DatasetSpec:
    taught = Taught.of(meta_of(config.policy)).render or FAST
    drawn = env.cameras and family_of(config.env).takes("render", config.env)
    return DatasetSpec(
        fps=round(1.0 / env.dt, 3),
        features=row_features(env) | Team.features,
        robot_type=env.body,
        images=config.images,
        cameras=dict.fromkeys(env.cameras, picture_size(env)),
        image_stride=config.image_stride,
        render=config.render.over(taught) if drawn else None,
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Record until all episodes are there."""
    policy = load_policy(config.policy, acting=True)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        env = _make(config, policy, min(config.batch, config.episodes))
        server = InterventionServer(config.view) if config.human == "browser" else None
        try:
            team = _team(config, policy, env, server)
            with DatasetWriter(config.out, _spec(config, env), resume=True) as writer:
                results = _results(config, writer)
                log = EpisodeLog(folder.path / "episodes.jsonl")
                with ProgressLine("intervene", config.episodes, done=len(results)) as bar:
                    _tell(server, config, results)
                    if server is not None:
                        print(f"open {server.url} (Ctrl-C ends; whole episodes are kept)", flush=True)
                    for demonstration, result in _episodes(config, env, team, [one.seed for one in results]):
                        facts: dict[str, str | int | float | bool] = {
                            "env": config.env,
                            "seed": result.seed,
                            "success": bool(result.success),
                        }
                        facts[RESULT] = json.dumps(dataclasses.asdict(result))
                        writer.add_episode(demonstration.columns, demonstration.images, demonstration.task, facts)
                        results.append(result)
                        _log(log, config, results)
                        bar.advance(len(results))
                        _tell(server, config, results)
            _log(log, config, results)
            if server is not None:
                server.ended.wait(2.0)  # the page hears that it was the last
        finally:
            if server is not None:
                server.close()
            env.close()
        write_summary(folder.path, {("team", config.env, "plain"): results})
        write_text_atomic(config.out / "README.md", _card(config, writer, results))
        folder.finish(len(results))


def _results(config: Config, writer: DatasetWriter) -> list[EpisodeResult]:
    """Return what an earlier, interrupted run has recorded."""
    if not writer.num_episodes:
        return []
    said = {e.index: str(e.facts.get(RESULT, "")) for e in LeRobotDataset(config.out).episodes}
    where = f"{config.out}: {RESULT} of episode"
    return [result_of(parse_json(text, f"{where} {index}", LINE)) for index, text in said.items()]


def _log(log: EpisodeLog, config: Config, results: list[EpisodeResult]) -> None:
    """Write the lines that the episodes' file lacks."""
    labels = {"candidate": "team", "env": config.env, "condition": "plain"}
    known = log.done(labels)
    for result in results:
        if result.seed not in known:
            log.append(labels, result)


def _tell(server: InterventionServer | None, config: Config, results: list[EpisodeResult]) -> None:
    """Tell the page how far things are."""
    if server is None:
        return
    steps = sum(result.length for result in results)
    helped = sum(result.interventions or 0 for result in results)
    won = sum(bool(result.success) for result in results)
    said = f"{won} of {len(results)} succeeded; you acted in {100 * helped / steps:.0f} % of the steps" if steps else ""
    done = len(results) >= config.episodes
    server.told |= {"kept": len(results), "wanted": config.episodes, "said": said, "done": done}


def _episodes(
    config: Config, env: BatchedEnv, team: Team, done: list[int]
) -> Iterator[tuple[Demonstration, EpisodeResult]]:
    """Yield the episodes that are missing, with what they came to."""
    wanted = [seed for seed in range(config.seed, config.seed + config.episodes) if seed not in done]
    for first in range(0, len(wanted), env.num_envs):
        wave = wanted[first : first + env.num_envs]
        filled = [*wave, *[wave[-1]] * (env.num_envs - len(wave))]
        played = demonstrate(
            env, team, filled, image_stride=config.image_stride, after_success=config.after_success, witness=team
        )
        for world, _ in enumerate(wave):
            yield _judged(env, team, played[world], world)


def _judged(env: BatchedEnv, team: Team, one: Demonstration, world: int) -> tuple[Demonstration, EpisodeResult]:
    """Return an episode as the person judged it, and its result: a mark counts for more than the simulator's word."""
    columns, mark = dict(one.columns), team.marked[world]
    info: dict[str, Any] = {"dt": env.dt, "horizon": env.max_episode_steps, "mark": mark, "seen": one.success}
    success = one.success if not mark else mark == "success"
    if mark:
        columns["next.success"] = columns["next.success"] & success
        columns["next.success"][-1] = success
    acted = columns[INTERVENTION]
    info |= {"terminated": bool(columns["next.terminated"][-1]), "success_at_end": bool(columns["next.success"][-1])}
    info["takeovers"] = int((np.diff(acted.astype(np.int8), prepend=0) > 0).sum())
    result = EpisodeResult(
        seed=one.seed,
        success=success,
        episode_return=float(columns["next.reward"].sum()),
        length=one.length,
        seconds=one.length * env.dt,
        seconds_per_decision=float(np.mean(team.thought)) / env.num_envs if team.thought else 0.0,
        cost=float(columns["next.cost"].sum()) if "next.cost" in columns else None,
        interventions=int(acted.sum()),
        info=info,
    )
    return dataclasses.replace(one, success=success, columns=columns), result


def _card(config: Config, writer: DatasetWriter, results: list[EpisodeResult]) -> str:
    """Return the dataset's card."""
    who = "a person at a page" if config.human == "browser" else "the environment's scripted expert, no person"
    return (
        f"# {config.out.name}\n\n{writer.num_episodes} episodes, {writer.num_frames} rows, recorded by `toddle "
        f"intervene` in simulation.\n\n- environment: {config.env}\n- policy: {config.policy}\n- taken over by: {who}, "
        f"in the rows where `{INTERVENTION}` is true: {sum(r.interventions or 0 for r in results)}\n- failures: kept\n"
    )
