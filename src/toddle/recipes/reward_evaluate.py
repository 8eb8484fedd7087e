"""`toddle reward evaluate`: what a process reward model is worth on episodes it has not been trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from toddle.algorithms.reward_evaluation import beside_failures, judge, judge_progress, pooled, verdicts
from toddle.algorithms.reward_training import ProgressSamples
from toddle.core.config import config, from_dict
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.plan import Plan
from toddle.core.reading import check_keys
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import LabelConfig, LabelledEpisode, identity
from toddle.policies.process_reward import RewardModel, load_reward_model
from toddle.recipes._features import cached_features
from toddle.recipes.reward import check_datasets, labelled, timed
from toddle.reporting.process_reward import write_evaluation_page, write_progress_page
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]


@config
class Config:
    """Measure a process reward model: precision, recall, order in time, and the controls that must fail.

    Episodes it was trained on are left out.  Writes <out>/evaluation.json and the page index.html.
    Example: toddle reward evaluate --model runs/reward --out runs/reward_evaluation
    """

    may_change: ClassVar[tuple[str, ...]] = ("device",)

    model: Path
    """Folder of `toddle reward train`."""
    dataset: tuple[Path, ...] = ()
    """LeRobot datasets; none: those it was trained on, of which the held-out episodes count."""
    out: Path = Path("runs/reward_evaluation")
    """Folder of results."""
    cache: Path = Path(".cache/features")
    """Where features of the frozen backbone are kept."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if self.dataset:
            check_datasets(self.dataset)


Chosen = list[tuple[LeRobotDataset, list[LabelledEpisode], list[LabelledEpisode]]]
"""Dataset, successes that were not trained on, failures."""


def _models(config: Config) -> tuple[dict[str, RewardModel], dict[str, Any]]:
    """Return the model and its controls, and the facts of the training."""
    model, meta = load_reward_model(config.model)
    where = f"{config.model}: meta"
    check_keys(meta, where, {"datasets": list, "label": dict})
    for part in meta["datasets"]:
        check_keys(part, where, {"path": str, "identity": str, "trained_on": list})
    models = {"model": model}
    models |= {path.name: load_reward_model(path)[0] for path in sorted(config.model.glob("control_*"))}
    return models, meta


def _chosen(config: Config, model: RewardModel, meta: dict[str, Any]) -> Chosen:
    """Open the datasets and leave out what was trained on."""
    folders = config.dataset or tuple(Path(part["path"]) for part in meta["datasets"])
    settings = from_dict(LabelConfig, meta["label"], where=f"{config.model}: label")
    trained = {part["identity"]: set(part["trained_on"]) for part in meta["datasets"]}
    labels = None if config.dataset or not meta.get("labels") else Path(meta["labels"])
    found: Chosen = []
    opened = labelled(folders, settings, labels) if model.config.says == "key-frame" else timed(folders)
    for dataset, episodes in opened:
        dataset.picture_size(*model.config.cameras)
        seen = trained.get(identity(dataset), set())
        good = [one for one in episodes if one.success and one.number not in seen]
        found.append((dataset, good, [one for one in episodes if not one.success]))
    if not any(good for _, good, _ in found):
        raise problem("dataset", "successes that the model was not trained on", "none", "record other seeds")
    return found


def plan(config: Config) -> Plan:
    """Check model and datasets, and say what will be measured."""
    resolve_device(config.device)
    models, meta = _models(config)
    chosen = _chosen(config, models["model"], meta)
    pictures = sum(dataset.num_pictures for dataset, _, _ in chosen)
    asked = [f"{part[0].path}: ask about {len(part[1])} successes and {len(part[2])} failures" for part in chosen]
    steps = [
        f"encode {pictures} pictures where the cache under {config.cache} has not got them",
        *asked,
        f"judge the model and {len(models) - 1} controls",
        f"write {config.out / 'evaluation.json'} and {config.out / 'index.html'}",
    ]
    return Plan(steps=steps, memory_bytes=10**9, seconds=0.01 * pictures + 5.0)


def run(config: Config, *, resume: bool = False) -> None:
    """Ask the models about every step, and write what the answers are worth; it is always made anew."""
    device = resolve_device(config.device)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        models, meta = _models(config)
        chosen = _chosen(config, models["model"], meta)
        source, cameras = models["model"].features, models["model"].config.cameras
        caches = [cached_features(config.cache, source, cameras, dataset) for dataset, _, _ in chosen]
        good = ProgressSamples([(part[0], cache, part[1]) for part, cache in zip(chosen, caches, strict=True)])
        bad = None
        if any(part[2] for part in chosen):
            bad = ProgressSamples([(part[0], cache, part[2]) for part, cache in zip(chosen, caches, strict=True)])
        models = {name: model.to(device) for name, model in models.items()}
        write = _words if models["model"].config.says == "key-frame" else _progress
        found = write(config, models, good, bad)
        folder.finish(1)
    for line in found["verdicts"]:
        print(line)
    print(f"numbers: {config.out / 'evaluation.json'}; page: {config.out / 'index.html'}")


def _words(
    config: Config, models: dict[str, RewardModel], good: ProgressSamples, bad: ProgressSamples | None
) -> dict[str, Any]:
    """Judge models that say yes or no; write and return the numbers."""
    answers = {name: good.yes(model) for name, model in models.items()}
    judged = {name: judge(yes, good) for name, yes in answers.items()}
    found = _beside(judged)
    found["verdicts"] = verdicts(found["model"], found.get("controls"))
    found["tasks"] = _by_task(judge, answers["model"], good)
    if bad is not None:
        found["failures"] = _answers_in(bad.yes(models["model"]), bad)
        found["successes"] = _answers_in(answers["model"], good)
    write_json_atomic(config.out / "evaluation.json", found)
    shown = {name: yes for name, yes in answers.items() if name in ("model", "control_0")}
    write_evaluation_page(config.out / "index.html", found, good, shown)
    return found


def _progress(
    config: Config, models: dict[str, RewardModel], good: ProgressSamples, bad: ProgressSamples | None
) -> dict[str, Any]:
    """Judge models that say how far the task is; write and return the numbers."""
    said = {name: good.progress(model) for name, model in models.items()}
    found = _beside({name: judge_progress(progress, good) for name, progress in said.items()})
    found["verdicts"] = verdicts(found["model"], found.get("controls"), by="order", chance=0.0)
    found["tasks"] = _by_task(judge_progress, said["model"], good)
    failed = None if bad is None else bad.progress(models["model"])
    if bad is not None and failed is not None:
        found["beside_failures"] = beside_failures(said["model"], good, failed, bad)
        below = 100 * found["beside_failures"]["below"]
        found["verdicts"].append(f"a failure ends lower than a success in {below:.0f} % of the pairs")
    write_json_atomic(config.out / "evaluation.json", found)
    write_progress_page(config.out / "index.html", found, (said["model"], good), None if bad is None else (failed, bad))
    return found


def _beside(judged: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the model's numbers and, where there are controls, theirs together and each."""
    found: dict[str, Any] = {"model": judged.pop("model")}
    return found | ({"controls": pooled(list(judged.values())), "each_control": judged} if judged else {})


def _by_task(measure: Callable[..., dict[str, Any]], said: Any, samples: ProgressSamples) -> dict[str, Any]:
    """Return what the answers are worth in each task."""
    return {
        task: measure(said, samples, [number for number, one in enumerate(samples.episodes) if one.task == task])
        for task in dict.fromkeys(one.task for one in samples.episodes)
    }


def _answers_in(yes: Any, samples: ProgressSamples) -> dict[str, float]:
    """Return how often the model says yes, a step and an episode."""
    said = np.bincount(samples.episode, yes > 0.5, len(samples.episodes))
    return {
        "episodes": len(said),
        "yes_share": float((yes > 0.5).mean()),
        "yes_an_episode": float(said.mean()),
        "steps_an_episode": len(yes) / len(said),
    }
