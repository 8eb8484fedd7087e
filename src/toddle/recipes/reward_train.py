"""`toddle reward train`: train the process reward model, and controls on shuffled labels, on demonstrations."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar

from toddle.algorithms.reward_training import ProgressSamples, RewardTraining, RewardTrainingConfig
from toddle.core.config import changes, config, to_dict
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.memory import weights_that_fit
from toddle.core.numbers import Count, Seed, Share, Whole
from toddle.core.plan import Plan
from toddle.core.seeding import numpy_generator
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import LabelConfig, LabelledEpisode, identity, split_episodes
from toddle.models.backbones.load import load_backbone
from toddle.policies.process_reward import RewardModel, RewardModelConfig, save_reward_model
from toddle.recipes._features import cached_features
from toddle.recipes.reward import check_datasets, labelled, summary, timed
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]


@config
class Config:
    """Train the process reward model on demonstrations that succeeded.

    A share of each task's episodes is held out, whole, for `toddle reward evaluate`.  Writes <out>/model, and
    <out>/control_0 and so on: the same trained on shuffled labels, which must fail.
    Example: toddle reward train --dataset data/demos --label.still 0.6 --out runs/reward
    """

    may_change: ClassVar[tuple[str, ...]] = ("device",)

    dataset: tuple[Path, ...]
    """LeRobot datasets (v3.0), as `toddle record` writes them."""
    out: Path = Path("runs/reward")
    """Folder of the run."""
    labels: Path | None = None
    """File of labels (labels.json of `toddle reward label`); None: they are made as `label` says."""
    label: LabelConfig = field(default_factory=LabelConfig)
    """How the labels of key frames are made."""
    model: RewardModelConfig = field(default_factory=RewardModelConfig)
    """The model; `--model.backbone` must be the policy's where rollouts keep its features."""
    train: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    """How it is trained."""
    held_out: Share = 0.25
    """Share of each task's successes that is held out (at least one, never all)."""
    controls: Whole = 4
    """Controls that are trained too, each on labels shuffled anew."""
    cache: Path = Path(".cache/features")
    """Where features of the frozen backbone are kept."""
    seed: Seed = 0
    """Seed of the split, of fresh weights and of the order of samples."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    checkpoint_every: Count = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        check_datasets(self.dataset)
        if self.model.says != "key-frame":
            if self.labels is not None:
                raise problem("labels", f"none with model.says {self.model.says}, which learns from time", self.labels)
            if given := changes(to_dict(LabelConfig()), to_dict(self.label)):
                raise problem("model.says", "key-frame", self.model.says, f"label.{given[0][0]} has no effect without")


Split = list[tuple[LeRobotDataset, list[LabelledEpisode], list[LabelledEpisode]]]
"""Dataset, episodes to train on, episodes held out."""


def _split(config: Config) -> Split:
    """Open, label, check and split the datasets."""
    found: Split = []
    opened = (
        labelled(config.dataset, config.label, config.labels)
        if config.model.says == "key-frame"
        else timed(config.dataset)
    )
    for dataset, episodes in opened:
        if not any(one.success for one in episodes):
            raise problem(f"dataset: {dataset.path}", "an episode that succeeded", f"{len(episodes)} without success")
        dataset.picture_size(*config.model.cameras)
        size = dataset.vector("observation.state").shape[1]
        if config.model.proprio not in (0, size):
            raise problem("model.proprio", f"0 or {size}, the numbers in {dataset.path}", config.model.proprio)
        generator = numpy_generator(config.seed, "held out", identity(dataset))
        found.append((dataset, *split_episodes(episodes, config.held_out, generator)))
    return found


def _models(config: Config) -> dict[str, RewardModel]:
    """Return the model and its controls, which share their backbone; each has first weights of its own."""
    backbone = load_backbone(config.model.backbone)
    names = ["model", *(f"control_{number}" for number in range(config.controls))]
    first = config.model.seed + config.seed
    with weights_that_fit():
        return {name: RewardModel(replace(config.model, seed=first + i), backbone) for i, name in enumerate(names)}


def plan(config: Config) -> Plan:
    """Check the datasets and the backbone, and say what will be done."""
    resolve_device(config.device)
    split, models = _split(config), _models(config)
    pictures = sum(dataset.num_pictures for dataset, _, _ in split)
    weights = sum(value.numel() for value in models["model"].parameters())
    many, held = sum(len(train) for _, train, _ in split), sum(len(out) for _, _, out in split)
    return Plan(
        steps=[
            *(f"read {summary(dataset, train + out)}" for dataset, train, out in split),
            f"encode {pictures} pictures where the cache under {config.cache} has not got them",
            f"train {weights:,} weights for {config.train.steps} steps of {config.train.batch} pictures on {many} "
            f"episodes; {held} are held out; {config.controls} controls likewise, on shuffled labels",
            f"write {config.out / 'model'}",
        ],
        memory_bytes=32 * weights * len(models) + 10**9,
        seconds=0.01 * pictures + 4e-4 * config.train.steps * config.train.batch * len(models),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Cache features, train, save."""
    device = resolve_device(config.device)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        split = _split(config)
        models = {name: model.to(device) for name, model in _models(config).items()}
        source, cameras = models["model"].features, config.model.cameras
        samples = ProgressSamples(
            [(dataset, cached_features(config.cache, source, cameras, dataset), train) for dataset, train, _ in split]
        )
        learner = RewardTraining(models, samples, config.train, seed=config.seed)
        run_loop(
            learner,
            folder,
            config.train.steps,
            checkpoint_every=config.checkpoint_every,
            label="reward",
            show=("reward_model/loss", "reward_model/accuracy"),
        )
        learner.calibrate()
        facts: dict[str, Any] = {
            "datasets": [_facts(*part) for part in split],
            "label": to_dict(config.label),
            "labels": None if config.labels is None else str(config.labels.resolve()),
            "steps": config.train.steps,
        }
        for name, model in models.items():
            save_reward_model(config.out / name, model, facts | {"labels_shuffled": name != "model"})
    print(f"reward model: {config.out / 'model'}; measure it: toddle reward evaluate --model {config.out}")


def _facts(dataset: LeRobotDataset, train: list[LabelledEpisode], held: list[LabelledEpisode]) -> dict[str, Any]:
    return {
        "path": str(dataset.path.resolve()),
        "identity": identity(dataset),
        "trained_on": [one.number for one in train],
        "held_out": [one.number for one in held],
    }
