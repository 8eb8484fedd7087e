"""`toddle explore`: episodes of a policy that explores, those of them that still teach, as a LeRobot dataset v3.0.

Writes beside the dataset <out>/explored.json: of every start how many tries succeeded and how many were kept.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from rich.progress import Progress

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic, write_text_atomic
from toddle.core.numbers import Count, NonNegative, PictureSize, Seed, Share, Size, Whole
from toddle.core.plan import Plan
from toddle.core.reading import read_json
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.envs.make import family_of, worlds_bytes
from toddle.experience.actor import body_in
from toddle.experience.demonstrations import check_success
from toddle.experience.exploring import Explored, explore
from toddle.experience.taught import Taught
from toddle.maths.exploration import When
from toddle.models.bottleneck import BottleneckConfig, fit_bottleneck
from toddle.policies.exploring import NoisyActions, NoisyCondition, Provoking
from toddle.policies.exploring_latent import OnManifold
from toddle.policies.store import load_policy, meta_of
from toddle.recipes import _explore_asid as _asid
from toddle.recipes import record
from toddle.recipes._explore_asid import ExcitationConfig
from toddle.recipes._recording import check_pictures, check_seen, make_recorded, spec_of
from toddle.recipes._steering import rows_of
from toddle.runs.critics import load_critics
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

SIZES = {"noise": 0.05, "sime": 0.1, "soe": 2.0}
"""Deviation of the disturbance where nothing is said."""
PLAYED = ("sime", "soe", "resample", "noise")
OF = {
    "asid": ("asid",),
    "policy": PLAYED,
    "tries": PLAYED,
    "keep": PLAYED,
    "soe": ("soe",),
    "size": ("noise", "sime", "soe", "asid"),
    "when": ("sime",),
    "critic": ("resample",),
    "candidates": ("resample",),
    "length": ("resample",),
    "within": ("resample",),
    "control": ("resample", "soe", "asid"),
}
"""Which methods a setting has an effect with."""


@config
class SoeConfig:
    """What a bottleneck beside the policy learns from, and how long its noise is held."""

    dataset: tuple[Path, ...] = ()
    """Datasets whose actions the bottleneck learns, such as the policy's demonstrations."""
    hold: Count = 5
    """Decisions for which the latent noise stays the same."""
    bottleneck: BottleneckConfig = BottleneckConfig()
    """Its sizes, and how it is trained."""


@config
class Config:
    """Explore around what a policy does, and keep what still teaches as a LeRobot dataset (v3.0).

    Example: toddle explore --method sime --policy runs/imitation --env tabletop/push-cube --out runs/explored
    Each start is tried several times; successes are kept from starts at which some tries fail.
    """

    may_change: ClassVar[tuple[str, ...]] = ("episodes", "starts")

    method: Literal["sime", "soe", "resample", "asid", "noise"]
    """sime: noise on what the policy sees; soe: noise in a bottleneck learned from data; resample: led astray by a
    critic, and what follows is kept; asid: motions from which unknown masses and frictions can be told; noise: plain
    noise on its actions, the control."""
    policy: Path | None = None
    """Folder of the policy; asid has none."""
    env: str
    """Environment, such as tabletop/push-cube."""
    out: Path = Path("runs/explore")
    """Folder of the dataset."""
    episodes: Count = 20
    """Episodes to keep."""
    starts: Count = 200
    """Give up after this many starts."""
    tries: Count = 5
    """Episodes from each start."""
    keep: Literal["informative", "successes", "all"] | None = None
    """informative: successes from starts at which less than the share `below` of the tries succeeded; successes: all of
    these; all: failures too.  None: informative, and with resample successes."""
    below: Share = 0.9
    """A start at which this share of the tries or more succeeds teaches nothing any more."""
    size: NonNegative | None = None
    """noise, asid: deviation of the actions' noise (None: 0.05 and 0.3).  sime: of the noise on what the policy sees,
    relative to how much that varies (None: 0.1).  soe: of the latent noise, in the encoder's deviations (None: 2)."""
    when: When = "early"
    """sime: where on the way from noise to the chunk the noise is loudest (a policy that denoises or flows)."""
    critic: Path | None = None
    """resample: run of `toddle offline` whose critics know what is bad; it needs failures in its data."""
    candidates: Size = 8
    """resample: draws of the policy of which the worst is taken."""
    length: Count = 5
    """resample: decisions in a row that are led astray."""
    within: Count = 20
    """resample: these begin at one of the first so many decisions."""
    control: Literal["none", "shuffled"] = "none"
    """resample: shuffled takes any of the draws, at the same decisions; soe: as far, in a drawn direction; asid:
    motions that nobody chose."""
    soe: SoeConfig = SoeConfig()
    """soe: what the bottleneck learns from, and how."""
    asid: ExcitationConfig = ExcitationConfig()
    """asid: what is unknown, and how motions are searched that tell it."""
    deterministic: bool = True
    """Disturb the policy's most likely action instead of a draw (a flow is drawn always)."""
    seed: Seed = 2_000_000
    """Seed of the first start, counting up.  Keep evaluation on other seeds (its default begins at 0)."""
    batch: Size = 4
    """Starts that are tried at once; worlds are `batch` times `tries`."""
    cameras: tuple[str, ...] | None = None
    """Cameras to record; None: those that the policy reads."""
    image_size: PictureSize | None = None
    """Side of the pictures in pixels, even; None: as the policy was taught, or 96."""
    image_stride: Count = 4
    """Control steps between pictures."""
    max_episode_steps: Count | None = None
    """Control steps after which an episode has failed; by default the environment's own limit."""
    randomise: Path | None = None
    """YAML table of what differs from episode to episode (docs/randomisation.md)."""
    after_success: Whole = 8
    """Control steps recorded after success."""

    def __post_init__(self) -> None:
        usual = {item.name: item.default for item in fields(Config)}
        for name, value in (asdict(self) | {"asid": self.asid, "soe": self.soe}).items():
            methods = OF.get(name, (self.method,))
            if self.method not in methods and value != usual[name]:
                raise problem(name, f"nothing without --method {' or '.join(methods)}", value)
        if self.method != "asid" and self.policy is None:
            raise problem("policy", f"the folder of a policy for --method {self.method}", "none")
        if self.method == "resample" and self.critic is None:
            raise problem("critic", "a run of toddle offline for --method resample", "none")
        if self.method == "soe" and not self.soe.dataset:
            raise problem("soe.dataset", "datasets for --method soe, such as the policy's demonstrations", "none")
        if self.method == "asid":
            _asid.check(self)


def _as_recorded(config: Config, cameras: tuple[str, ...]) -> record.Config:
    """Return the settings of `toddle record` under which these episodes would be recorded."""
    taught = Taught.of(meta_of(config.policy)).size if config.policy else None
    alone = config.policy is None
    return record.Config(
        out=config.out,
        env=(config.env,),
        policy=str(config.policy or "expert"),
        episodes=config.episodes,
        seed=config.seed,
        batch=config.episodes if alone else min(config.batch, config.starts) * config.tries,
        deterministic=config.deterministic,
        cameras=cameras,
        image_size=config.image_size or (taught or (96, 96))[0],
        image_stride=config.image_stride,
        max_episode_steps=config.max_episode_steps,
        randomise=config.randomise,
        after_success=config.after_success,
    )


def _prepared(config: Config) -> tuple[record.Config, Any, Any]:
    """Return the settings of the recording, its environment and the policy that explores in it."""
    assert config.policy is not None
    family_of(config.env)
    policy = load_policy(config.policy, acting=True)
    recorded = _as_recorded(config, policy.cameras if config.cameras is None else config.cameras)
    check_pictures(recorded)
    env = make_recorded(recorded, config.env)
    check_seen(recorded, policy, env)
    if _keep(config) != "all":
        check_success(env, "keep", "all")
    return recorded, env, _exploring(config, policy)


def _exploring(config: Config, base: Any) -> Any:
    """Return the policy that explores.  Raises InputError where it cannot with this policy."""
    size = SIZES.get(config.method, 0.0) if config.size is None else config.size
    if config.method == "noise":
        return NoisyActions(base, size)
    if config.method == "sime":
        return NoisyCondition(base, size, config.when)
    if config.method == "soe":
        rows = [rows_of(base, LeRobotDataset(path), Path("runs/cache"), False)[:2] for path in config.soe.dataset]
        state, chunk = (torch.cat(part) for part in zip(*rows, strict=True))
        bottleneck, told = fit_bottleneck(config.soe.bottleneck, state, chunk.flatten(1))
        print(f"soe: {'{error:.3f} of the variance is left, {nats:.1f} nats, {heard:.0f} numbers'.format(**told)}")
        return OnManifold(base, bottleneck, size, hold=config.soe.hold, control=config.control == "shuffled")
    assert config.critic is not None
    return Provoking(
        base,
        load_critics(config.critic).q.requires_grad_(False),
        candidates=config.candidates,
        length=config.length,
        within=config.within,
        control=config.control == "shuffled",
    )


def plan(config: Config) -> Plan:
    """Check policy and environment, and say what will be played."""
    if config.method == "asid":
        return _asid.plan(config, _as_recorded(config, config.cameras or ()))
    recorded, env, policy = _prepared(config)
    body_in(policy, env)
    env.close()
    played = 2 * config.episodes
    return Plan(
        steps=[
            f"play {config.tries} episodes of {config.policy} from each start in {config.env}, exploring by "
            f"{config.method}",
            f"keep {config.episodes} episodes ({_keep(config)}), from {config.starts} starts at most",
            f"write them to {config.out}",
        ],
        memory_bytes=600 * 2**20 + check_pictures(recorded) + worlds_bytes(config.env, recorded.batch),
        seconds=10.0 + played * (0.4 + (2.0 if recorded.cameras else 0.0)),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Play, choose and write, until there are enough episodes or the starts are used up.

    A wave of starts depends on its seeds alone, so what an interrupted run has kept is what it would have kept.
    """
    if config.method == "asid":
        with RunFolder.open(config.out, config, resume=resume) as folder:
            _asid.excite(config, _as_recorded(config, config.cameras or ()), folder)
        return
    recorded, env, policy = _prepared(config)
    body, log = body_in(policy, env), config.out / "explored.json"
    batch = recorded.batch // config.tries
    with RunFolder.open(config.out, config, resume=resume) as folder, Progress() as progress:
        bar = progress.add_task("exploring", total=config.episodes)
        told: list[dict[str, int]] = read_json(log)["starts"] if resume and log.exists() else []
        writer = DatasetWriter(config.out, spec_of(recorded, env), resume=True)
        written = _written(config, writer)
        try:
            done = config.seed + len(told)
            for first in range(config.seed, config.seed + config.starts, batch):
                if writer.num_episodes >= config.episodes:
                    break
                starts = range(first, first + batch)
                if starts[-1] < done:
                    continue
                given = {"body": body, "image_stride": config.image_stride, "after_success": config.after_success}
                played = explore(env, policy, starts, config.tries, deterministic=config.deterministic, **given)
                for seed, tries in zip(starts, played, strict=True):
                    if seed >= done and writer.num_episodes < config.episodes:
                        _take(config, writer, tries, written, told)
                write_json_atomic(log, {"method": config.method, "tries": config.tries, "starts": told})
                progress.update(bar, completed=writer.num_episodes)
        finally:
            writer.close()
            env.close()
        if not writer.num_episodes:
            raise record.TooFewError(f"explore: nothing was kept of {len(told)} starts; {_advice(config, told)}")
        write_text_atomic(config.out / "README.md", _card(config, writer, told))
        folder.finish(writer.num_episodes)
        progress.console.print(f"{config.out}: {_told(config, writer, told)}")


def _take(
    config: Config,
    writer: DatasetWriter,
    tries: list[Explored],
    written: set[tuple[int, int]],
    told: list[dict[str, int]],
) -> None:
    """Write what is kept of the tries at a start, and note the start once all of it is there."""
    kept, seed = _kept(config, tries), tries[0].demonstration.seed
    for one in kept:
        if (seed, one.attempt) not in written:
            if writer.num_episodes >= config.episodes:
                return
            _write(config, writer, one)
    succeeded = sum(one.demonstration.success for one in tries)
    told.append({"seed": seed, "successes": succeeded, "kept": len(kept)})


def _written(config: Config, writer: DatasetWriter) -> set[tuple[int, int]]:
    """Return seed and try of the episodes that an interrupted run has kept."""
    episodes = LeRobotDataset(config.out).episodes if writer.num_episodes else []
    return {(int(one.facts["seed"]), int(one.facts["try"])) for one in episodes}


def _write(config: Config, writer: DatasetWriter, one: Explored) -> None:
    played = one.demonstration
    facts: dict[str, str | int | float | bool] = {
        "env": config.env,
        "seed": played.seed,
        "try": one.attempt,
        "success": played.success,
        "astray": one.astray,
    }
    writer.add_episode(played.columns, played.images, played.task, facts)


def _keep(config: Config) -> str:
    return config.keep or ("successes" if config.method == "resample" else "informative")


def _kept(config: Config, tries: list[Explored]) -> list[Explored]:
    """Return those of the tries at one start that are kept."""
    rule = _keep(config)
    if rule == "all":
        return tries
    good = [one for one in tries if one.demonstration.success]
    if rule == "informative" and len(good) >= config.below * len(tries):
        return []
    return [one for one in good if one.astray] if config.method == "resample" else good


def _advice(config: Config, told: list[dict[str, int]]) -> str:
    succeeded = sum(start["successes"] for start in told)
    if succeeded and _keep(config) == "informative":
        return "the policy succeeds from every start: disturb it more, or --keep successes"
    return "no try succeeded: disturb it less" if not succeeded else "see --keep"


def _told(config: Config, writer: DatasetWriter, told: list[dict[str, int]]) -> str:
    tries, good = len(told) * config.tries, sum(start["successes"] for start in told)
    return f"{writer.num_episodes} episodes kept of {tries} at {len(told)} starts, of which {good} succeeded"


def _card(config: Config, writer: DatasetWriter, told: list[dict[str, int]]) -> str:
    return (
        f"# {config.out.name}\n\nRecorded by `toddle explore --method {config.method}` in simulation: "
        f"{_told(config, writer, told)}.\n\n- environment: {config.env}\n- policy: {config.policy}\n"
        f"- kept: {_keep(config)}\n"
    )
