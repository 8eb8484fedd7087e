"""`toddle factory`: demonstrations made by diffusion RL, task by task, as one LeRobot dataset (S1, ALGORITHMS 33).

A task is a list of steps that are commands of their own: demonstrations -> warm start and RL (`toddle pretrain --method
dppo`) -> plays of the policy (`toddle record`); at the end pictures are drawn of the plays that succeeded.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

from toddle.core.config import config, from_dict, merged, to_dict
from toddle.core.errors import EnvironmentFault, InputError, NaNError, problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, PictureSize, Seed, Share, Size
from toddle.core.plan import Plan
from toddle.core.reading import read_json, read_yaml
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.subset import write_subset
from toddle.envs.make import family_of, make_env
from toddle.experience.actor import body_in
from toddle.experience.demonstrations import PolicyActor, demonstrate
from toddle.experience.human import HumanConfig
from toddle.methods._imitation import ImitationConfig
from toddle.policies.store import load_policy
from toddle.recipes import pretrain, record
from toddle.recipes._costs import costed
from toddle.reporting.factory import write_factory_page
from toddle.runs.metrics import read_metrics
from toddle.runs.run import RunFolder
from toddle.runs.steps import Step, run_steps
from toddle.runs.steps_board import StepBar

__all__ = ["DIFFUSION", "Config", "make_task", "plan", "played", "run"]

STATE_OF = {"metaworld": "metaworld-state", "libero": "libero-state"}
"""Families whose tasks are learned in another family, from state, and played there."""
BLIND = ("touch", "goal")
"""Families in which a policy without pictures does not see what its task is about, or that have no demonstrator."""
EXPLORING = 0.1
"""Least standard deviation of a denoising step while learning: it stands in for the density that DDIM without noise
lacks (ALGORITHMS 33)."""
DDIM_STEPS, SCHEDULE_STEPS = 5, 20
DIFFUSION: dict[str, Any] = {
    "denoising": {
        "network": "mlp",
        "horizon": 4,
        "steps": SCHEDULE_STEPS,
        "ddim_steps": DDIM_STEPS,
        "tuned_steps": 0,
        "std": EXPLORING,
    },
    "collect": {"length": 16},
    "ppo": {"schedule": "cosine", "learning_rate": 1e-4},  # at 3e-4 rare successes were lost: docs/LOG.md
}
"""How diffusion RL learns here: settings of `toddle pretrain --method dppo`."""
FIRST_SEED, FIRST_EPISODES = 3_000_000, 32
"""Episodes in which the warm start is measured before RL."""


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
    """Environments, all of one body; Meta-World's and LIBERO-Object's are learned from state (`metaworld-state`,
    `libero-state`) and drawn afterwards."""
    demonstrations: Path | None = None
    """LeRobot dataset from which every task begins, as `toddle record --env metaworld-state/<task>` makes it; by
    default the human stand-in is recorded."""
    human: HumanConfig = HumanConfig()
    """Habits of the human stand-in."""
    human_episodes: Count = 10
    """Its demonstrations of each task."""
    imitation: ImitationConfig = ImitationConfig()
    """The warm start."""
    network: Literal["mlp", "unet"] = "mlp"
    """What denoises: a multilayer perceptron, or the 1-D U-Net."""
    horizon: Size = 4
    """Actions of a chunk."""
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
    """Cameras of the dataset, drawn only of what succeeded; `--cameras` alone: no pictures, and the state is kept."""
    image_size: PictureSize = 96
    """Side of the pictures in pixels."""
    image_stride: Count = 4
    """Control steps between pictures."""
    processes: Size = 1
    """Tasks that are made at the same time, each in a process of its own; what they say is in <out>/steps."""
    seed: Seed = 0
    """Seed of everything; plays begin at 1,000,000 above it."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise problem("tasks", "at least one environment", "none")
        if len(set(self.tasks)) < len(self.tasks):
            raise problem("tasks", "different environments", " ".join(self.tasks))
        blind = [task for task in self.tasks if task.partition("/")[0] in BLIND]
        if blind:
            remedy = "from pictures: toddle sft --kind diffusion"
            raise problem("tasks", "environments whose observation holds objects and goal", blind[0], remedy)


def played(task: str) -> str:
    """Return the environment that a task is learned and played in."""
    family, _, member = task.partition("/")
    return f"{STATE_OF.get(family, family)}/{member}"


def _folder(config: Config, task: str) -> Path:
    return config.out / "tasks" / task.replace("/", "_")


def _rl(config: Config, task: str, demonstrations: Path) -> Any:
    """Return the settings of `toddle pretrain` for a task."""
    return pretrain.configure(
        method="dppo",
        env=[played(task)],
        out=str(_folder(config, task) / "rl"),
        warm_start=str(demonstrations),
        worlds=config.worlds,
        steps=config.steps,
        stop_at=config.target,
        seed=config.seed,
        imitation=config.imitation,
        **merged(DIFFUSION, {"denoising": {"network": config.network, "horizon": config.horizon}}),
    )


def _demonstrations(config: Config, task: str) -> record.Config:
    """Return the settings that record the human stand-in."""
    return record.Config(
        out=_folder(config, task) / "demonstrations",
        env=(played(task),),
        policy="human",
        human=config.human,
        episodes=config.human_episodes,
        attempts=20,
        batch=min(config.worlds, config.human_episodes),
        seed=config.seed + 2_000_000,
        cameras=(),
    )


def _plays_from(config: Config) -> int:
    return config.seed + 1_000_000


def _plays(config: Config, task: str) -> record.Config:
    """Return the settings that record the policy's successes, without pictures."""
    return record.Config(
        out=_folder(config, task) / "plays",
        env=(played(task),),
        policy=str(_folder(config, task) / "rl" / "policy"),
        episodes=config.episodes,
        attempts=config.attempts,
        batch=config.worlds,
        seed=_plays_from(config),
        after_success=0,
        cameras=(),
    )


def _chosen(config: Config, task: str) -> tuple[LeRobotDataset, list[int]]:
    """Return the given demonstrations and the places of a task's own: all, where the dataset names no environments."""
    assert config.demonstrations is not None
    dataset = LeRobotDataset(config.demonstrations)
    named = [str(episode.facts.get("env", "")) for episode in dataset.episodes]
    own = [place for place, env in enumerate(named) if env == played(task)]
    if not own and len(config.tasks) == 1 and not any(named):
        own = list(range(len(named)))
    if not own:
        known = ", ".join(sorted(set(filter(None, named)))) or "no environments"
        remedy = f"record them: toddle record --policy human --cameras --env {played(task)}"
        raise problem(f"demonstrations: {dataset.path}", f"episodes of {played(task)}", known, remedy)
    return dataset, own


def plan(config: Config) -> Plan:
    """Check tasks and demonstrations, and say what each task goes through."""
    steps = []
    for task in config.tasks:
        family_of(task), family_of(played(task))
        if config.demonstrations is not None:
            dataset, own = _chosen(config, task)
            begin = f"take {len(own)} demonstrations of {dataset.path}"
        else:
            begin = f"record {config.human_episodes} demonstrations of the human stand-in"
        steps.append(
            f"{task}: {begin}; imitate them for {config.imitation.steps} updates; dppo with {DDIM_STEPS} DDIM steps in "
            f"{played(task)} for at most {config.steps:,} control steps, until {config.target:.0%} succeed; record "
            f"{config.episodes} successes"
        )
    drawn = f"pictures of {' '.join(config.cameras)}" if config.cameras else "no pictures"
    steps.append(f"write {config.out / 'dataset'}, {drawn}, and {config.out / 'index.html'}")
    # measured on one core: 40,000 control steps of Meta-World with a perceptron and 3,000 updates take about 4 minutes
    seconds = len(config.tasks) * (0.01 * config.imitation.steps + config.steps * 0.005 + 0.3 * config.episodes)
    worlds = config.worlds * max(family_of(played(task)).world_bytes for task in config.tasks)
    beside = min(config.processes, len(config.tasks))
    return Plan(steps=steps, memory_bytes=beside * (2**30 + worlds), seconds=seconds / beside)


def run(config: Config, *, resume: bool = False) -> None:
    """Make the tasks one after another, then the dataset and the page."""
    plan(config)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        if config.processes > 1:
            _make_beside(config)  # then there is a result of each, and only that is read
        results = []
        for task in config.tasks:
            results.append(_make(config, task))
            write_factory_page(config.out / "index.html", results, config.out)
            write_json_atomic(config.out / "factory.json", results)
        good = [result["task"] for result in results if result["status"] == "done"]
        if good:
            cost = costed(config.out, "dataset", lambda: _dataset(config, good))
            write_factory_page(config.out / "index.html", results, config.out, drawing=cost)
        folder.finish(len(good))
    for result in results:
        print(f"{result['task']}: {result['status']}{': ' + result['why'] if result.get('why') else ''}")
    print(f"page: {config.out / 'index.html'}" + (f"; dataset: {config.out / 'dataset'}" if good else ""))
    if not good:
        raise InputError("factory: no task came to its successes; the page says why")


def _make_beside(config: Config) -> None:
    """Make the tasks that have no result yet, several at a time, each in a process of its own."""
    steps = []
    for task in config.tasks:
        name, alone = _folder(config, task).name, dataclasses.replace(config, processes=1)
        if not (_folder(config, task) / "result.json").exists():
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
    folder = _folder(config, task)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    print(f"factory: {task}", flush=True)
    result: dict[str, Any] = {"task": task, "status": "done", "why": ""}
    demonstrations = folder / "demonstrations"
    try:
        costed(folder, "demonstrations", lambda: _begin(config, task))
        costed(folder, "rl", lambda: _learn(config, task, demonstrations))
        result["success_at_first"] = _imitated(config, task)
        costed(folder, "plays", lambda: record.run(_plays(config, task), resume=True))
    except (record.TooFewError, NaNError, EnvironmentFault) as error:
        result |= {"status": "failed", "why": str(error)}
    result |= _facts(config, folder)
    write_json_atomic(folder / "result.json", result)
    return result


def _begin(config: Config, task: str) -> None:
    """Bring a task's demonstrations into its folder."""
    folder = _folder(config, task) / "demonstrations"
    if config.demonstrations is None:
        record.run(_demonstrations(config, task), resume=True)
    elif not (folder / "meta" / "info.json").exists():
        write_subset(folder, [_chosen(config, task)])


def _learn(config: Config, task: str, demonstrations: Path) -> None:
    pretrain.run(_rl(config, task, demonstrations), resume=True)


def _dataset(config: Config, tasks: list[str]) -> None:
    """Write the dataset of all tasks: their plays once more with pictures, or, without, as they are."""
    plays = [_plays(config, task).out for task in tasks]
    if not config.cameras:
        if not (config.out / "dataset" / "meta" / "info.json").exists():
            datasets = [LeRobotDataset(folder) for folder in plays]
            write_subset(config.out / "dataset", [(each, range(len(each.episodes))) for each in datasets])
        return
    drawn = record.Config(
        out=config.out / "dataset",
        env=tuple(tasks),
        replay=tuple(plays),
        episodes=config.episodes,
        batch=min(config.worlds, config.episodes),
        cameras=config.cameras,
        image_size=config.image_size,
        image_stride=config.image_stride,
    )
    record.run(drawn, resume=True)


def _imitated(config: Config, task: str) -> float:
    """Return the warm start's success before RL, over FIRST_EPISODES episodes as they are recorded."""
    env = make_env(played(task), config.worlds, seed=config.seed)
    policy = load_policy(_folder(config, task) / "rl" / "warm_start", acting=True)
    actor, won = PolicyActor(policy, body=body_in(policy, env)), list[bool]()
    for first in range(0, FIRST_EPISODES, config.worlds):
        seeds = [config.seed + FIRST_SEED + first + world for world in range(config.worlds)]
        won += [one.success for one in demonstrate(env, actor, seeds, after_success=0)]
    env.close()
    return sum(won) / len(won)


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
            played = max(seeds) - _plays_from(config) + 1
        found["success_at_last"] = found["recorded"] / played
    return found
