"""`toddle factory`: demonstrations made by diffusion RL, task by task, as one LeRobot dataset (S1, ALGORITHMS 33).

A task is a list of steps that are commands of their own (`_factory_lines`): demonstrations -> warm start and RL ->
plays of the policy.  Policies of states play without pictures, which are drawn at the end of the plays that succeeded.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

from toddle.algorithms.sft import SFTConfig
from toddle.core.config import config, from_dict, to_dict
from toddle.core.errors import EnvironmentFault, InputError, NaNError, problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, NonNegative, PictureSize, Seed, Share, Size
from toddle.core.plan import Plan
from toddle.core.reading import read_json, read_yaml
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.make import worlds_bytes
from toddle.experience.human import HumanConfig
from toddle.methods._imitation import ImitationConfig
from toddle.models.resnet import ResNetConfig
from toddle.recipes import record
from toddle.recipes._costs import costed
from toddle.recipes._factory_dataset import write_dataset
from toddle.recipes._factory_lines import PLAYS_FROM, line_of
from toddle.recipes._recording import make_recorded
from toddle.reporting.factory import write_factory_page
from toddle.runs.metrics import read_metrics
from toddle.runs.run import RunFolder
from toddle.runs.steps import Step, run_steps
from toddle.runs.steps_board import StepBar

__all__ = ["Config", "make_task", "plan", "run"]

STARTED = SFTConfig(steps=1200, batch=64, learning_rate=1e-3)
"""How the warm start from pictures learns (docs/factory.md)."""


@config
class Config:
    """Make demonstrations by diffusion RL: warm start, RL, and successes of the policy as one LeRobot dataset (v3.0).

    Goes on after any kill with --resume.  A task that fails is on the page, with its reason, and not in the dataset.
    Example: toddle factory --tasks metaworld/drawer-open-v3 metaworld/window-open-v3 --episodes 50 --out runs/factory
    """

    may_change: ClassVar[tuple[str, ...]] = ("processes",)

    out: Path = Path("runs/factory")
    """Folder of the page, of each task's steps, and of the dataset (<out>/dataset)."""
    tasks: tuple[str, ...] = ("metaworld/drawer-open-v3",)
    """Environments, all of one body; from state Meta-World's and LIBERO-Object's are learned in another family
    (`metaworld-state`, `libero-state`) and drawn afterwards."""
    demonstrations: Path | None = None
    """LeRobot dataset from which every task begins, as `toddle record --env metaworld-state/<task>` makes it (from
    pictures: `--env metaworld/<task>`); by default the human stand-in is recorded."""
    human: HumanConfig = HumanConfig()
    """Habits of the human stand-in."""
    human_episodes: Count = 10
    """Its demonstrations of each task."""
    observe: Literal["state", "pictures"] = "state"
    """What the policies of the tasks see: the simulator's state, or pictures, arm and sentence."""
    imitation: ImitationConfig = ImitationConfig()
    """The warm start from state."""
    sft: SFTConfig = STARTED
    """The warm start from pictures."""
    eyes: Literal["backbone", "resnet"] = "backbone"
    """What sees, from pictures: the frozen backbone, or a ResNet that learns with the policy (for a GPU)."""
    resnet: ResNetConfig = ResNetConfig()
    """The ResNet."""
    regularise: NonNegative = 0.0
    """From pictures: weight of the imitation of own successes and of the demonstrations beside RL."""
    network: Literal["mlp", "unet"] | None = None
    """What denoises: a multilayer perceptron (by default from state), or a 1-D U-Net (by default from pictures)."""
    horizon: Size | None = None
    """Actions of a chunk; by default 4 from state and 8 from pictures."""
    worlds: Size = 16
    """Worlds that are played at once."""
    steps: Count = 40_000
    """Control steps of RL for a task, at most."""
    target: Share = 0.95
    """Success while exploring at which a task's RL ends."""
    episodes: Count = 50
    """Successes to record of each task."""
    attempts: Count = 4
    """A task has failed when so many times `episodes` were played without enough successes."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras of the dataset, from state drawn only of what succeeded; `--cameras` alone: no pictures, and the state is
    kept.  From pictures: also those that the policies see."""
    image_size: PictureSize = 96
    """Side of the pictures in pixels."""
    image_stride: Count = 4
    """Control steps between pictures."""
    processes: Size = 1
    """Tasks that are made at the same time, each in a process of its own, and then shares of the pictures; what they
    say is in <out>/steps and <out>/drawn/steps."""
    seed: Seed = 0
    """Seed of everything; plays begin at 1,000,000 above it."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise problem("tasks", "at least one environment", "none")
        others: dict[str, tuple[Any, Any]] = {"imitation": (self.imitation, ImitationConfig())}
        if self.observe == "state":
            others = {"sft": (self.sft, STARTED), "eyes": (self.eyes, "backbone")}
            others |= {"resnet": (self.resnet, ResNetConfig()), "regularise": (self.regularise, 0.0)}
        for name, (given, own) in others.items():
            if given != own:
                raise problem(name, f"its defaults with observe {self.observe}", given)


def plan(config: Config) -> Plan:
    """Check tasks and demonstrations, and say what each task goes through."""
    steps = []
    for task in config.tasks:
        line = line_of(config, task)
        line.check()
        if config.demonstrations is None:
            record.plan(line.shown())
        pictured = record.Config(out=line.plays, env=(task,), cameras=config.cameras, image_size=config.image_size)
        make_recorded(pictured, task).close()
        if config.demonstrations is not None:
            dataset, own = line.given()
            begin = f"take {len(own)} demonstrations of {dataset.path}"
        else:
            begin = f"record {config.human_episodes} demonstrations of the human stand-in"
        steps.append(f"{task}: {begin}; {line.what()}; record {config.episodes} successes")
    drawn = f"pictures of {' '.join(config.cameras)}" if config.cameras else "no pictures"
    steps.append(f"write {config.out / 'dataset'}, {drawn}, and {config.out / 'index.html'}")
    # measured on one core: 40,000 control steps of Meta-World with a perceptron and 3,000 updates take about 4 minutes
    seconds = len(config.tasks) * (0.01 * config.imitation.steps + config.steps * 0.005 + 0.3 * config.episodes)
    worlds = max(worlds_bytes(line_of(config, task).env, config.worlds) for task in config.tasks)
    beside = min(config.processes, len(config.tasks))
    return Plan(steps=steps, memory_bytes=beside * (2**30 + worlds), seconds=seconds / beside)


def run(config: Config, *, resume: bool = False) -> None:
    """Make the tasks one after another, then the dataset and the page."""
    plan(config)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        if config.processes > 1:
            _make_beside(config)  # then there is a result of each, and only that is read
        results, page = [], config.out / "index.html"
        for task in config.tasks:
            results.append(_make(config, task))
            write_factory_page(page, results, config.out, observe=config.observe)
            write_json_atomic(config.out / "factory.json", results)
        good = [result["task"] for result in results if result["status"] == "done"]
        if good:
            cost = costed(
                config.out, "dataset", lambda: write_dataset(config, [line_of(config, task) for task in good])
            )
            write_factory_page(page, results, config.out, observe=config.observe, drawing=cost)
        folder.finish(len(good))
    for result in results:
        print(f"{result['task']}: {result['status']}{': ' + result['why'] if result.get('why') else ''}")
    print(f"page: {page}" + (f"; dataset: {config.out / 'dataset'}" if good else ""))
    if not good:
        raise InputError("factory: no task came to its successes; the page says why")


def _make_beside(config: Config) -> None:
    """Make the tasks that have no result yet, several at a time, each in a process of its own."""
    steps = []
    for task in config.tasks:
        folder, alone = line_of(config, task).folder, dataclasses.replace(config, processes=1)
        name = folder.name
        if not (folder / "result.json").exists():
            (config.out / "steps" / f"{name}.json").unlink(missing_ok=True)  # its folder was deleted, to try it again
            code = "import sys; from toddle.recipes.factory import make_task; make_task(sys.argv[1])"
            settings = {"factory": to_dict(alone), "task": task}
            steps.append(Step(name=name, arguments=("{python}", "-c", code, "{settings}"), settings=settings))
    with StepBar("factory") as bar:
        run_steps(steps, config.out, processes=config.processes, progress=bar)


def make_task(path: str) -> None:
    """Make the task that a file of `_make_beside` names."""
    settings = read_yaml(Path(path))
    _make(from_dict(Config, settings["factory"], where="factory"), settings["task"])


def _make(config: Config, task: str) -> dict[str, Any]:
    """Bring a task to its successes; return what came of it.  What was done before a kill is not done again."""
    line = line_of(config, task)
    folder = line.folder
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    print(f"factory: {task}", flush=True)
    result: dict[str, Any] = {"task": task, "status": "done", "why": ""}
    try:
        for name, call in line.steps():
            costed(folder, name, call)
            if name == "measured":
                result |= line.measured
    except (record.TooFewError, NaNError, EnvironmentFault) as error:
        result |= {"status": "failed", "why": str(error)}
    result |= _facts(config, folder)
    write_json_atomic(folder / "result.json", result)
    return result


def _facts(config: Config, folder: Path) -> dict[str, Any]:
    """Return what a task's steps say of themselves."""
    found: dict[str, Any] = {"costs": read_json(folder / "costs.json")}
    if lines := read_metrics(folder / "rl"):
        found["steps"] = int(lines[-1]["rollout/total_steps"])
    if (folder / "plays" / "meta" / "info.json").exists():
        info = read_json(folder / "plays" / "meta" / "info.json")
        found["recorded"] = int(info["total_episodes"])
        played = -(-config.attempts * config.episodes // config.worlds) * config.worlds  # every attempt, in whole waves
        if found["recorded"] == config.episodes:
            seeds = [int(episode.facts["seed"]) for episode in LeRobotDataset(folder / "plays").episodes]
            played = max(seeds) - (config.seed + PLAYS_FROM) + 1
        found |= {"played": played, "success_at_last": found["recorded"] / played}
    return found
