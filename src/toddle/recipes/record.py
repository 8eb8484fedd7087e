"""`toddle record`: demonstrations of scripted experts or of a policy, as a LeRobot dataset v3.0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from toddle.core.config import config
from toddle.core.device import resolve_device
from toddle.core.errors import InputError, problem
from toddle.core.files import write_text_atomic
from toddle.core.numbers import Count, NonNegative, PictureSize, Seed, Size, Whole
from toddle.core.plan import Plan
from toddle.core.rendering import RenderSettings, RenderVariation
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.envs.base import BatchedEnv
from toddle.envs.limits import LimitsConfig
from toddle.envs.make import family_of, worlds_bytes
from toddle.experience.actor import body_in
from toddle.experience.demonstrations import (
    Demonstration,
    Demonstrator,
    ExpertActor,
    PolicyActor,
    check_success,
    demonstrate,
)
from toddle.experience.human import HumanActor, HumanConfig
from toddle.experience.replay import ReplayActor, read_recorded, replayed
from toddle.policies.hastened import hastened
from toddle.policies.store import load_policy, read_policy
from toddle.recipes._acting import ActingSettings
from toddle.recipes._card import card_of, demonstrator_of, varied
from toddle.recipes._recording import (
    CAMERAS,
    SCRIPTED,
    cameras_of,
    check_fits,
    check_pictures,
    check_seen,
    drawn_of,
    make_recorded,
    spec_of,
)
from toddle.runs.run import RunFolder

__all__ = ["Config", "TooFewError", "plan", "run"]


class TooFewError(InputError):
    """Fewer episodes succeeded than were wanted."""


@config
class Config(ActingSettings):
    """Record demonstrations into a LeRobot dataset (v3.0), episode by episode; `--resume` goes on after a kill.

    Example: toddle record --out data/three --env metaworld/reach-v3 metaworld/drawer-open-v3 --episodes 20
    """

    may_change: ClassVar[tuple[str, ...]] = ("episodes", "attempts", "device")

    out: Path
    """Folder of the dataset."""
    env: tuple[str, ...] = ("metaworld/reach-v3",)
    """Environments, all of one body, recorded one after another."""
    policy: str = "expert"
    """"expert" for the environment's scripted expert, "human" for one that acts like a person (`--human`), or the
    folder of a policy."""
    episodes: Count = 20
    """Episodes to keep of each environment."""
    keep_failures: bool = False
    """Keep episodes without success too."""
    attempts: Count = 5
    """Give up on an environment after this many times `episodes`, where failures are not kept."""
    seed: Seed = 1_000_000
    """Seed of the first episode, counting up.  Keep evaluation on other seeds (its default begins at 0)."""
    batch: Size = 1
    """Episodes played at once (worlds): for policies, which decide for many at little more cost than for one."""
    noise: NonNegative = 0.0
    """Disturb the expert's executed actions by correlated Gaussian noise of this deviation; its own are recorded."""
    executed: bool = False
    """With `noise`: record the executed actions (learning from rewards needs what was done), not the expert's own."""
    human: HumanConfig = HumanConfig()
    """What is human about `--policy human`: routes, pauses, overshoot, tremor; the dataset's card says it."""
    replay: tuple[Path, ...] = ()
    """Datasets of `toddle record`: their successes of these environments (of whichever family: metaworld-state's in
    metaworld) are played again, from seeds and actions, and end with success; for pictures of what is kept alone."""
    deterministic: bool = True
    """For a policy: take its most likely action instead of a draw."""
    cameras: tuple[str, ...] = CAMERAS
    """Cameras to record; none with `--cameras` alone."""
    image_size: PictureSize = 96
    """Side of the pictures in pixels, even."""
    image_stride: Count = 4
    """Control steps between pictures; rows between hold the last one, as with a camera slower than the controller."""
    images: Literal["video", "image"] = "video"
    """Store pictures as H.264 video, or exactly, as PNG in the rows (ten times larger)."""
    paraphrases: bool = False
    """Draw the sentence of each episode among the task's paraphrases."""
    own_sentence: bool = False
    """Of touch/<task>: say what is done there ("move the hand to the lever") in place of the task's sentence."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode has failed; by default the environment's own limit (Meta-World: 300)."""
    render: RenderSettings = RenderSettings()
    """How pictures are drawn; what is not given is as the policy was taught, or fast: without shadows and the like."""
    variation: RenderVariation = RenderVariation()
    """How the drawing differs from episode to episode, so that a policy taught with it does not depend on it."""
    randomise: Path | None = None
    """YAML table of what differs from episode to episode: masses, friction, gains, delays, looks
    (docs/randomisation.md)."""
    limits: LimitsConfig = LimitsConfig()
    """Of speed, force and place, below the demonstrator: what is recorded is held to them."""
    after_success: Whole = 8
    """Control steps recorded after success, so that a policy learns to stay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy in SCRIPTED and self.compile != "none":
            raise problem("compile", f"none with --policy {self.policy}", self.compile)
        if not self.env:
            raise problem("env", "at least one environment", "none")
        if self.policy != "human" and self.human != HumanConfig():
            raise problem("human", "its defaults without --policy human", f"--policy {self.policy}")
        if self.executed and not self.noise:
            raise problem("executed", "nothing without noise: what is recorded is executed", "executed")
        if self.replay and (self.policy != "expert" or self.noise or self.keep_failures):
            raise problem("replay", "no policy, noise or kept failures beside it", "one of them")


def plan(config: Config) -> Plan:
    """Say what would be recorded; the time is that of one core, for episodes of about 80 control steps."""
    _check_policy(config)
    pictures = check_pictures(config)
    for name in config.env:
        if config.replay:
            read_recorded(config.replay, name)
        env = make_recorded(config, name)
        if config.policy not in SCRIPTED and name == config.env[0]:
            _actor(config, env)
        if config.policy in SCRIPTED and not config.replay:
            env.expert_action()  # says where there is no expert
        elif not config.keep_failures:
            check_success(env, "keep_failures", "True")
        env.close()
    steps = 80 * config.episodes * len(config.env)
    drawn = drawn_of(config)
    per_picture = 0.010 * len(config.cameras) * max(1.0, (config.image_size / 128) ** 2)
    per_picture *= config.variation.cost(drawn)
    rows = f"about {steps:,} rows, a picture of {len(config.cameras)} camera(s) every {config.image_stride}"
    return Plan(
        steps=[
            *(f"record {config.episodes} episodes of {name} by {demonstrator_of(config)}" for name in config.env),
            *(
                [f"draw pictures with {drawn}{varied(config.variation)}"]
                if any(cameras_of(config, name) for name in config.env)
                else []
            ),
            f"write {rows} to {config.out}",
        ],
        memory_bytes=600 * 2**20 + pictures + max(worlds_bytes(name, config.batch) for name in config.env),
        seconds=5.0 * len(config.env) + steps * (0.002 + per_picture / config.image_stride),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Record until every environment has its episodes."""
    for name in config.env:
        family_of(name)
    _check_policy(config)
    check_pictures(config)
    actor: Demonstrator | None = None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        RunFolder.open(config.out, config, resume=resume) as folder,
        Progress(*columns, TimeRemainingColumn()) as progress,
    ):
        bar = progress.add_task("recording", total=config.episodes * len(config.env))
        writer: DatasetWriter | None = None
        try:
            for name in config.env:
                env = make_recorded(config, name)
                if config.policy not in SCRIPTED and not config.keep_failures:
                    check_success(env, "keep_failures", "True")
                writer = writer or DatasetWriter(config.out, spec_of(config, env), resume=True)
                check_fits(writer.spec, env)
                actor = read_recorded(config.replay, name) if config.replay else actor or _actor(config, env)
                progress.update(bar, description=name)
                done = _recorded(config, writer, name)
                progress.advance(bar, len(done))
                for demonstration in _episodes(config, env, actor, done):
                    facts: dict[str, str | int | float | bool] = {
                        "env": name,
                        "seed": demonstration.seed,
                        "success": demonstration.success,
                    }
                    writer.add_episode(demonstration.columns, demonstration.images, demonstration.task, facts)
                    progress.advance(bar)
                env.close()
        finally:
            if writer is not None:
                writer.close()
        assert writer is not None
        write_text_atomic(config.out / "README.md", card_of(config, writer))
        folder.finish(writer.num_episodes)
        progress.console.print(f"{config.out}: {writer.num_episodes} episodes, {writer.num_frames} rows")


def _check_policy(config: Config) -> None:
    """Tell a wrong folder and a device that is not there before anything is made."""
    resolve_device(config.device)
    if config.policy not in SCRIPTED:
        read_policy(Path(config.policy))


def _actor(config: Config, env: BatchedEnv) -> Demonstrator:
    if config.policy == "expert":
        return ExpertActor(config.noise, executed=config.executed)
    if config.noise:
        raise problem("noise", "0 without --policy expert", config.noise)
    if config.policy == "human":
        return HumanActor(config.human)
    policy = load_policy(Path(config.policy), resolve_device(config.device), acting=True)
    hastened(policy, config.compile, bf16=config.bf16)
    check_seen(config, policy, env)
    return PolicyActor(policy, deterministic=config.deterministic, body=body_in(policy, env))


def _recorded(config: Config, writer: DatasetWriter, name: str) -> list[int]:
    """Return the seeds of this environment's episodes that an earlier, interrupted recording has kept."""
    episodes = LeRobotDataset(config.out).episodes if writer.num_episodes else []
    return [int(e.facts["seed"]) for e in episodes if e.facts.get("env") == name]


def _episodes(config: Config, env: BatchedEnv, actor: Demonstrator, done: list[int]) -> Iterator[Demonstration]:
    """Yield the episodes still missing.  An episode depends on its wave of seeds alone, so resuming changes nothing."""
    if isinstance(actor, ReplayActor):
        yield from replayed(env, actor, most=config.episodes, done=done, image_stride=config.image_stride)
        return
    kept, tried = len(done), 0
    for first in range(config.seed, config.seed + config.attempts * config.episodes, config.batch):
        if kept >= config.episodes:
            return
        tried += config.batch
        seeds = list(range(first, first + config.batch))
        if done and seeds[-1] <= max(done):
            continue
        found = demonstrate(env, actor, seeds, image_stride=config.image_stride, after_success=config.after_success)
        for demonstration in found:
            wanted = demonstration.success or config.keep_failures
            if wanted and demonstration.seed not in done and kept < config.episodes:
                kept += 1
                yield demonstration
    if kept < config.episodes:
        raise TooFewError(
            f"record: {env.name}: {kept} of {tried} episodes of '{config.policy}' succeeded, {config.episodes} wanted; "
            "what was recorded is kept: use more attempts, less noise, a better policy, or keep_failures"
        )
