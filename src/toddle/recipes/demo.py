"""`toddle demo`: the main job end to end, each stage resumable and skipped when it is done, then the report.

    pretrain ─┬─► transfer ───┬─► ground ──► sft_converted ──► evaluate_converted ─┐
              └─► approaches ─┘                                                    ├──► report.html
    demos ───────────────────────────────────► sft_random ─────► evaluate_random ──┘

approaches: the RL policy brings the hand to the object in the tasks' scenes; ground: the VLA learns from these first.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from toddle.algorithms.sft import SFTConfig
from toddle.core.config import config, to_dict
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.numbers import Count, Seed, Size, Whole
from toddle.core.plan import Plan
from toddle.recipes._step_checks import check_toddle_steps
from toddle.reporting.report import write_report
from toddle.runs.run import RunFolder, check_run
from toddle.runs.steps import Step, is_done, on_device, run_steps, seconds_of, toddle_step
from toddle.runs.steps_board import StepBar, makespan
from toddle.transfer.convert import ConvertConfig

__all__ = ["Config", "plan", "run", "stages"]

TITLE = "An action expert that learned to move by RL, converted into a VLA"
LEAD = (
    "A causal transformer learns goal tracking by PPO on the benchmark's arm and is converted into the flow-matching "
    "action expert of a vision-language-action model.{grounded} The same model with a randomly initialised expert, "
    "without RL, gets the same demonstrations, number of updates and evaluation seeds."
)
GROUNDED = (
    " The RL policy brings the hand to the objects of the tasks' scenes, and the model learns from these pictures "
    "before it sees a demonstration."
)
CANDIDATES = ("converted", "random")


@config
class Config:
    """The main job, end to end: pretrain by RL, convert, record, fine-tune twice, evaluate on the same seeds, report.

    Called again it goes on where it was.
    """

    may_change: ClassVar[tuple[str, ...]] = ("processes", "device")

    out: Path = Path("runs/demo")
    """Folder of all stages; the page is report.html in it."""
    body: str = "goal/sawyer"
    """Environment of the pretraining."""
    tasks: tuple[str, ...] = ("metaworld/push-v3", "metaworld/drawer-open-v3", "metaworld/button-press-topdown-v3")
    """Tasks that are demonstrated and evaluated."""
    backbone: str = "embedded"
    """The vision-language model: 'embedded', a local folder, or a hub id."""
    pretrain_steps: Count = 800_000
    """Control steps of the RL pretraining."""
    worlds: Size = 64
    """Worlds of the pretraining."""
    demonstrations: Count = 15
    """Demonstrations of each task."""
    convert: ConvertConfig = ConvertConfig(fresh_adapter=True, fresh_decoder=True)
    """How the pretrained policy becomes the action expert (its seed is `seed`); RL's trunk in fresh surroundings."""
    refit_proprio: bool = True
    """Normalise the converted expert's proprioception by what it is fine-tuned on, not by RL's experience."""
    approaches: Whole = 0
    """Approaches the RL policy records in each task's scene, from which the converted expert learns first; 0: none
    (the same updates on demonstrations were worth no less: docs/LOG.md)."""
    ground_steps: Count = 200
    """Updates on them, if there are any; the random expert makes as many more on the demonstrations."""
    sft: SFTConfig = SFTConfig(steps=600, learning_rate=1e-3)
    """How each of the two is fine-tuned on the demonstrations."""
    episodes: Count = 25
    """Evaluation episodes of each candidate on each task, undisturbed and again pushed."""
    max_episode_steps: Count = 200
    """Control steps after which an evaluation episode has failed."""
    videos: Whole = 1
    """Episodes filmed of each candidate on each task, undisturbed and pushed."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    processes: Size = 2
    """Stages at the same time."""
    seed: Seed = 0
    """Seed of everything but the evaluation, whose seeds are fixed."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if not self.tasks:
            raise problem("tasks", "at least one task", "none")
        if self.approaches and (bad := [task for task in self.tasks if not task.startswith("metaworld/")]):
            raise problem(
                "tasks",
                "metaworld/ tasks, in whose scenes approaches are recorded",
                ", ".join(bad),
                "or set approaches to 0",
            )


def stages(config: Config) -> list[Step]:
    """Return the stages in order."""
    pretrain = toddle_step(
        "pretrain",
        "pretrain",
        {"env": [config.body], "steps": config.pretrain_steps, "worlds": config.worlds, "seed": config.seed},
        seconds=10 + config.pretrain_steps / 4000,
    )
    record = toddle_step(
        "demos",
        "record",
        {"env": list(config.tasks), "episodes": config.demonstrations},
        seconds=10 + 0.7 * config.demonstrations * len(config.tasks),
    )
    transfer = toddle_step(
        "transfer",
        "transfer",
        {
            "source": "{folder}/pretrain/policy",
            "convert": to_dict(config.convert) | {"seed": config.seed},
            "backbone": {"name": config.backbone},
        },
        after=["pretrain"],
        seconds=20,
    )
    grounding = _grounding(config) if config.approaches else []
    training = [_tuning(config, name) for name in CANDIDATES]
    evaluating = [
        toddle_step(
            f"evaluate_{name}",
            "evaluate",
            {
                "policy": [f"{name}={{folder}}/sft_{name}/policy"],
                "env": list(config.tasks),
                "episodes": config.episodes,
                "push": True,
                "videos": config.videos,
                "max_episode_steps": config.max_episode_steps,
                "num_envs": min(10, config.episodes),
            },
            after=[f"sft_{name}"],
            seconds=10 + 0.8 * config.episodes * len(config.tasks),
        )
        for name in CANDIDATES
    ]
    return on_device([pretrain, record, transfer, *grounding, *training, *evaluating], config.device)


def _sft(config: Config, dataset: str, steps: int) -> dict[str, Any]:
    """Settings that both candidates share."""
    return {
        "dataset": [f"{{folder}}/{dataset}"],
        "cache": "{folder}/features",
        "seed": config.seed,
        "sft": to_dict(config.sft) | {"steps": steps},
    }


def _grounding(config: Config) -> list[Step]:
    """Let the RL policy record approaches in the tasks' scenes, and the converted expert learn from them."""
    scenes = [task.replace("metaworld/", "touch/", 1) for task in config.tasks]
    record = {
        "env": scenes,
        "policy": "{folder}/pretrain/policy",
        "episodes": config.approaches,
        "keep_failures": True,
        "max_episode_steps": 80,
        "batch": min(5, config.approaches),
    }
    learn = _sft(config, "approaches", config.ground_steps) | {
        "init": "{folder}/transfer/policy",
        "refit_proprio": config.refit_proprio,
    }
    return [
        toddle_step("approaches", "record", record, after=["pretrain"], seconds=10 + 1.2 * config.approaches),
        toddle_step("ground", "sft", learn, after=["transfer", "approaches"], seconds=15 + config.ground_steps / 15),
    ]


def _tuning(config: Config, name: str) -> Step:
    """Fine-tune a candidate on the demonstrations; both make as many updates in all."""
    extra, source = (config.ground_steps, "ground") if config.approaches else (0, "transfer")
    if name == "converted":
        settings = _sft(config, "demos", config.sft.steps) | {
            "init": f"{{folder}}/{source}/policy",
            "refit_proprio": config.refit_proprio,
        }
    else:
        settings = _sft(config, "demos", config.sft.steps + extra) | {
            "init": "random",
            "like": "{folder}/transfer/policy",
        }
    after = ["transfer", "demos", *(["ground"] if config.approaches and name == "converted" else [])]
    return toddle_step(f"sft_{name}", "sft", settings, after=after, seconds=15 + (config.sft.steps + extra) / 15)


def plan(config: Config) -> Plan:
    """Show the stages and which are done."""
    resolve_device(config.device)
    check_run(config.out, config, resume=True)
    steps = stages(config)
    check_toddle_steps(steps, config.out)
    todo = [step for step in steps if not is_done(step, config.out)]
    lines = [f"{step.name}: " + (f"about {step.seconds:.0f} s" if step in todo else "done") for step in steps]
    seconds = makespan(steps, {step.name: step.seconds for step in todo}, config.processes)
    return Plan(steps=[*lines, f"write {config.out}/report.html"], memory_bytes=4 * 2**30, seconds=seconds)


def run(config: Config, *, resume: bool = False) -> None:
    """Run the stages that are not done and write the page; `resume` is always meant."""
    resolve_device(config.device)
    steps, began = stages(config), time.monotonic()
    check_toddle_steps(steps, config.out)
    with RunFolder.open(config.out, config, resume=True) as folder:
        with StepBar("demo") as bar:
            run_steps(steps, folder.path, processes=config.processes, progress=bar)
        lead = LEAD.format(grounded=GROUNDED if config.approaches else "")
        page = write_report([folder.path], folder.path / "report.html", title=TITLE, lead=lead, reference="random")
        folder.finish(len(steps))
    for step in steps:
        print(f"{step.name}: {seconds_of(step, config.out):.0f} s", file=sys.stderr)
    print(f"demo: {time.monotonic() - began:.0f} s in this call", file=sys.stderr)
    print(page)
