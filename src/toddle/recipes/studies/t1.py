"""Study `t1`: whose demonstrations make the better VLA, a human's or those of diffusion RL?

Small-scale analogues of S1's table I and figures 5 to 7, and of its table II; the outcomes were fixed before any run
(`_t1_outcomes.py`).  For every seed and task a Gaussian and a diffusion policy of states imitate the same
demonstrations of the human stand-in and learn on by PPO in equal steps (`toddle factory` does the latter).  Both play,
with noise and without; what succeeds, and as many episodes of the stand-in, are drawn and taught to the same VLA, a
suite of tasks at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toddle.core.config import merged
from toddle.core.reading import read_json
from toddle.recipes._factory_lines import DIFFUSION, played
from toddle.recipes.studies import _t1_outcomes as outcomes
from toddle.recipes.studies import _t1_page as page
from toddle.recipes.studies._cells import cells_of
from toddle.reporting.episode_log import read_episodes
from toddle.reporting.study import Row, Study
from toddle.runs.steps import Step, toddle_step

__all__ = ["STUDY"]

SOURCES: dict[str, tuple[str, bool] | None] = {
    "human": None,
    "gaussian drawn": ("gaussian", False),
    "gaussian mean": ("gaussian", True),
    "diffusion": ("diffusion", True),
    "diffusion drawn": ("diffusion", False),
}
"""Whose episodes: the stand-in's, or a policy's and whether it plays without noise (diffusion: eta 0)."""
MIXED = "mixed"
"""Half the human's episodes and half of diffusion's."""
LEARNERS: dict[str, dict[str, Any]] = {
    "gaussian": {"method": "ppo", "policy": "mlp", "collect": {"length": 64}, "ppo": {"schedule": "cosine"}},
    "diffusion": {"method": "dppo", **DIFFUSION},
}
"""Equal steps an iteration: 64 decisions of one action, 16 of four."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "ddpm 50": {"denoising": {"steps": 50, "ddim_steps": 0}},
    "fixed rate": {"ppo": {"schedule": "constant"}},
    "few worlds": {"worlds": 2, "collect": {"length": 8 * DIFFUSION["collect"]["length"]}},
}
"""Diffusion RL with one thing changed; few worlds make as many steps an iteration."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int
    suites: Mapping[str, tuple[str, ...]]
    """Tasks that share a VLA."""
    held_out: tuple[str, ...]
    """Suites whose tasks the VLA that has learned all the others has never seen."""
    ablated: tuple[str, ...]
    """Suites in which parts of diffusion RL are changed."""
    demonstrations: int = 10
    """Of each task, that both policies imitate."""
    imitation: int = 3000
    steps: int = 40_000
    """Control steps of RL, at most."""
    episodes: int = 50
    """Successes of each task and source."""
    sft_steps: int = 400
    evaluated: int = 50
    """Of each task, VLA or policy, and seed."""
    backbone: str = "embedded"
    width: int = 96
    """Of the VLA's action expert."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further settings of every run of RL."""


SUITES: dict[str, tuple[str, ...]] = {
    "open": ("metaworld/drawer-open-v3", "metaworld/window-open-v3"),
    "slide": ("metaworld/plate-slide-v3", "metaworld/faucet-close-v3"),
    "push": ("metaworld/push-v3", "metaworld/dial-turn-v3"),
}
MORE: dict[str, tuple[str, ...]] = {
    "press": ("metaworld/button-press-v3", "metaworld/coffee-button-v3"),
    "lift": ("metaworld/lever-pull-v3", "metaworld/hand-insert-v3"),
}
SCALES = {
    "small": Scale(seeds=5, suites=SUITES, held_out=("push",), ablated=("slide",)),
    "medium": Scale(
        seeds=5, suites=SUITES | MORE, held_out=("push",), ablated=("open", "slide"), steps=200_000, sft_steps=2000
    ),
    "lab": Scale(
        seeds=10,
        suites=SUITES | MORE,
        held_out=("push", "lift"),
        ablated=tuple(SUITES),
        steps=1_000_000,
        sft_steps=10_000,
        evaluated=200,
        width=256,
    ),
}


# ---- runs ------------------------------------------------------------------------------------------------------------
def file_of(name: str) -> str:
    """Return a name as it stands in the folders of its runs."""
    return name.replace(" ", "_").replace("/", "_")


def folder_of(source: str) -> str:
    """Return the folder of a source's episodes of a task, beside the policy that plays them."""
    return "human" if SOURCES[source] is None else f"plays_{file_of(source)}"


def learners(scale: Scale, suite: str) -> dict[str, dict[str, Any]]:
    """Return what learns by RL on the tasks of a suite, by name."""
    changed = {name: merged(LEARNERS["diffusion"], changes) for name, changes in ABLATIONS.items()}
    return LEARNERS | (changed if suite in scale.ablated else {})


def _recorded(at: str, env: str, seed: int, episodes: int, **more: Any) -> Step:
    """Record so many successes, without pictures."""
    settings = {"env": [env], "episodes": episodes, "seed": seed, "batch": 10, "attempts": 20, "cameras": []}
    after = more.pop("after", [])
    return toddle_step(at, "record", settings | {"after_success": 0} | more, after=after, seconds=5 + 0.25 * episodes)


def _task(scale: Scale, seed: int, suite: str, task: str) -> list[Step]:
    """Demonstrations, what learns from them, what that plays, and how well it does."""
    at, env = f"seed{seed}/{suite}/{file_of(task)}", played(task)
    first = 2_000_000 + 10_000 * seed
    found = [  # the demonstrations are the first of the human's episodes: an episode follows from its wave of seeds
        _recorded(f"{at}/demonstrations", env, first, scale.demonstrations, policy="human"),
        _recorded(f"{at}/human", env, first, scale.episodes, policy="human"),
    ]
    shared: dict[str, Any] = {
        "env": [env],
        "warm_start": f"{{folder}}/{at}/demonstrations",
        "imitation": {"steps": scale.imitation},
        "worlds": 16,
        "steps": scale.steps,
        "stop_at": 0.95,
        "seed": seed,
    }
    names = learners(scale, suite)
    seconds = 0.01 * scale.imitation + 0.001 * scale.steps
    found += [
        toddle_step(
            f"{at}/{file_of(name)}",
            "pretrain",
            merged(merged(shared, changes), scale.more),
            after=[f"{at}/demonstrations"],
            seconds=seconds * (3 if name == "ddpm 50" else 1),
        )
        for name, changes in names.items()
    ]
    found += [
        _recorded(
            f"{at}/{folder_of(source)}",
            env,
            1_000_000 + 10_000 * seed,
            scale.episodes,
            policy=f"{{folder}}/{at}/{who[0]}/policy",
            deterministic=who[1],
            after=[f"{at}/{who[0]}"],
        )
        for source, who in SOURCES.items()
        if who is not None
    ]
    found += [  # before pictures are drawn of them: nothing else differs
        toddle_step(
            f"{at}/quality/{file_of(source)}",
            "quality",
            {"dataset": [f"{{folder}}/{at}/{folder_of(source)}"], "frames": 0},
            after=[f"{at}/{folder_of(source)}"],
            seconds=6,
        )
        for source in SOURCES
    ]
    return [*found, *_judged(scale, at, env, list(names), latency=suite in scale.ablated)]


def _judged(scale: Scale, at: str, env: str, names: Sequence[str], *, latency: bool) -> list[Step]:
    """How well a task's policies do, before and after RL, and how long they take."""
    judged = {f"{name} imitated": f"{name}/warm_start" for name in LEARNERS}
    judged |= {name: f"{file_of(name)}/policy" for name in names}
    settings: dict[str, Any] = {
        "policy": [f"{file_of(name)}={{folder}}/{at}/{folder}" for name, folder in judged.items()],
        "env": [env],
        "episodes": scale.evaluated,
        "num_envs": 10,
        "videos": 0,
    }
    after = [f"{at}/{file_of(name)}" for name in names]
    seconds = 5 + 0.1 * scale.evaluated * len(judged)
    found = [toddle_step(f"{at}/policies", "evaluate", settings, after=after, seconds=seconds)]
    if latency:
        pair = [entry for entry in settings["policy"] if entry.split("=")[0] in ("diffusion", "ddpm_50")]
        alone = settings | {"policy": pair, "episodes": 3, "num_envs": 1, "seed": 50_000}
        found.append(toddle_step(f"{at}/latency", "evaluate", alone, after=after, seconds=15))
    return found


def _suite(scale: Scale, seed: int, suite: str) -> list[Step]:
    """Each source's episodes with pictures, and the VLAs that learn from them."""
    at, tasks = f"seed{seed}/{suite}", scale.suites[suite]
    found = []
    for source in SOURCES:
        plays = [f"{at}/{file_of(task)}/{folder_of(source)}" for task in tasks]
        folders = [f"{{folder}}/{each}" for each in plays]
        own = file_of(source)
        drawn = {"env": list(tasks), "replay": folders, "episodes": scale.episodes, "batch": 10}
        seconds = 5 + 0.5 * scale.episodes * len(tasks)
        found.append(toddle_step(f"{at}/data/{own}", "record", drawn, after=plays, seconds=seconds))
    return found + _taught(scale, seed, at, [suite], tasks)


def _taught(scale: Scale, seed: int, at: str, suites: Sequence[str], tasks: Sequence[str]) -> list[Step]:
    """A VLA for every source, of its episodes of some suites, and its evaluation on tasks."""
    found = []
    for source in (*SOURCES, MIXED):
        vla = _vla(scale, seed, f"{at}/vla/{file_of(source)}", source, suites)
        settings = {
            "policy": [f"{file_of(source)}={{folder}}/{vla.name}/policy"],
            "env": list(tasks),
            "episodes": scale.evaluated,
            "num_envs": 10,
            "videos": 0,
            "max_episode_steps": 200,
        }
        seconds = 5 + 0.5 * scale.evaluated * len(tasks)
        name = f"{at}/evaluate/{file_of(source)}"
        found += [vla, toddle_step(name, "evaluate", settings, after=[vla.name], seconds=seconds)]
    return found


def _vla(scale: Scale, seed: int, at: str, source: str, suites: Sequence[str]) -> Step:
    """Teach a VLA a source's episodes of some suites."""
    sources = ("human", "diffusion") if source == MIXED else (source,)
    data = [f"seed{seed}/{suite}/data/{file_of(each)}" for each, suite in itertools.product(sources, suites)]
    settings: dict[str, Any] = {
        "dataset": [f"{{folder}}/{each}" for each in data],
        "cache": "{folder}/features",
        "backbone": {"name": scale.backbone},
        "expert": {"trunk": {"width": scale.width, "depth": 2, "heads": 4, "context_width": 64}},
        "sft": {"steps": scale.sft_steps * len(suites), "learning_rate": 1e-3},
        "seed": seed,
    }
    if source == MIXED:
        settings["episodes"] = max(1, scale.episodes // 2)
    seconds = 20 + 0.1 * settings["sft"]["steps"] + 0.3 * scale.episodes * sum(len(scale.suites[s]) for s in suites)
    return toddle_step(at, "sft", settings, after=data, seconds=seconds)


def steps(scale: Scale) -> list[Step]:
    """By seed: the tasks of every suite, its VLAs, and VLAs of all suites but the held-out ones, evaluated on these."""
    found = []
    for seed in range(scale.seeds):
        for suite, tasks in scale.suites.items():
            found += [step for task in tasks for step in _task(scale, seed, suite, task)]
            found += _suite(scale, seed, suite)
        if scale.held_out:
            seen = [suite for suite in scale.suites if suite not in scale.held_out]
            unseen = [task for suite in scale.held_out for task in scale.suites[suite]]
            found += _taught(scale, seed, f"seed{seed}/unseen", seen, unseen)
    return found


# ---- rows ------------------------------------------------------------------------------------------------------------
def collect(scale: Scale, folder: Path) -> list[Row]:
    """Rows: success of policies and VLAs, what the episodes of each source are like, latency, and what failed."""
    rows: list[Row] = []
    for seed in range(scale.seeds):
        for suite, tasks in scale.suites.items():
            at = folder / f"seed{seed}" / suite
            shared = {"seed": seed, "suite": suite}
            for task in tasks:
                rows += _successes("policy", at / file_of(task) / "policies", shared)
                rows += _latency(at / file_of(task) / "latency", shared)
                for source in SOURCES:
                    cell = {**shared, "task": task.split("/", 1)[1], "source": source}
                    rows += _quality(at / file_of(task) / "quality" / file_of(source) / "quality.json", cell)
                    mark = folder / "steps" / f"seed{seed}" / suite / file_of(task) / folder_of(source)
                    if mark.with_suffix(".seconds").exists() and not mark.with_suffix(".json").exists():
                        rows.append({"kind": "data", **cell, "episodes": 0})  # failed
            rows += _successes("vla", at / "evaluate", shared)
        rows += _successes("unseen", folder / f"seed{seed}" / "unseen" / "evaluate", {"seed": seed, "suite": "unseen"})
    return rows


NAMES = {file_of(name): name for name in (*SOURCES, MIXED, *LEARNERS, *ABLATIONS, *(f"{n} imitated" for n in LEARNERS))}


def _successes(kind: str, folder: Path, shared: dict[str, Any]) -> list[Row]:
    return [
        {
            "kind": kind,
            **shared,
            "task": env.split("/", 1)[1],
            "source": NAMES[name],
            "episodes": len(scores),
            "successes": sum(scores),
        }
        for done in sorted(folder.glob("**/finished.json"))
        for (name, env, _), scores in cells_of(done.with_name("episodes.jsonl")).items()
    ]


def _latency(folder: Path, shared: dict[str, Any]) -> list[Row]:
    """Milliseconds of a decision in one world; the least of the episodes, which no other process disturbed."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in read_episodes(folder / "episodes.jsonl") if (folder / "finished.json").exists() else []:
        found.setdefault((line["candidate"], line["env"]), []).append(1000 * line["seconds_per_decision"])
    return [
        {"kind": "latency", **shared, "task": env.split("/", 1)[1], "source": NAMES[name], "ms": round(min(values), 4)}
        for (name, env), values in found.items()
    ]


def _quality(path: Path, cell: dict[str, Any]) -> list[Row]:
    """What a source's episodes of a task are like on average; all are of one rate."""
    if not path.exists():
        return []
    (dataset,) = read_json(path)["datasets"]
    (variance,) = dataset["action_variance"].values()
    means = {name: value for name, value in dataset["metrics"].items() if name in page.MEASURES}
    return [{"kind": "data", **cell, "episodes": dataset["episodes"], "variance": variance, **means}]


STUDY = Study(
    name="t1",
    title="T1: whose demonstrations make the better VLA?",
    question=(
        "Fifty successes a task, of a human stand-in, of a Gaussian policy and of a diffusion policy, both of which "
        "imitated ten of the stand-in's and learned on by PPO in equal steps. The same small VLA learns from each. "
        "Which makes the better VLA, and how do their episodes differ?"
    ),
    scales=SCALES,
    steps=steps,
    collect=collect,
    labels=("kind", "seed", "suite", "task", "source"),
    outcomes=outcomes.OUTCOMES,
    figures=page.figures,
    tables=page.tables,
    notes=outcomes.NOTES,
)
