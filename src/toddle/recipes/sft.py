"""`toddle sft`: fine-tune a VLA on demonstrations; features are cached, so the backbone sees each picture once."""

from __future__ import annotations

from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.algorithms.sft_memory import forecast
from toddle.core.config import config
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.memory import check_memory, resident, weights_that_fit
from toddle.core.numbers import Count, Share, Whole
from toddle.core.plan import Plan
from toddle.core.protocols import FineTunable
from toddle.core.team import team
from toddle.data.augment import PictureAugmentation
from toddle.data.demonstrations import Demonstrations
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.statistics import Mode, Normalization, feature_statistics
from toddle.data.windows import INTERVENTION, WindowDataset
from toddle.experience.taught import Taught, drawings
from toddle.models.sharded import check_shared_out
from toddle.policies.bounds import ROUNDING
from toddle.policies.store import save_policy
from toddle.recipes._features import cached_features
from toddle.recipes._sft_data import action_range, check_fits, check_sentences, first_episodes, open_datasets
from toddle.recipes._sft_parts import check_sharding, examples
from toddle.recipes._sft_start import FreshExpert, FreshTokens, StartConfig, VLMStart, start_policy
from toddle.recipes._weighing import WeighConfig, shared_out
from toddle.runs.learners import check_learners, follow, follows, leading, led
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder

__all__ = ["Config", "FreshExpert", "FreshTokens", "VLMStart", "plan", "run"]


FIRST = 25 * 2**20
"""Bytes that torch loads at its first step."""
TRIED = 5 * 10**8
"""Weights up to which --dry-run makes two small steps to see what a step takes in memory."""
KEPT = 24
"""Bytes kept of each weight: itself, its gradient, Adam's two moments, its average and where it began."""


@config
class Config(StartConfig):
    """Fine-tune a vision-language-action model on demonstrations.

    Example: toddle sft --dataset runs/demos --init runs/transfer --out runs/sft
    Writes the policy to <out>/policy: evaluate it with `toddle evaluate`.
    """

    may_change: ClassVar[tuple[str, ...]] = ("device", "learners", "sharding")

    dataset: tuple[Path, ...]
    """LeRobot datasets (v3.0), as `toddle record` writes them."""
    out: Path = Path("runs/sft")
    """Folder of the run."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """How it is trained."""
    augment: PictureAugmentation = PictureAugmentation()
    """Copies of the pictures, cropped and in other colours, that are learned from too."""
    beside: tuple[Path, ...] = ()
    """Datasets that are learned from beside, whatever `episodes` says: approaches that RL has recorded, say."""
    beside_share: Share = 0.3
    """Of a batch's decisions those that are drawn from `beside`, on average."""
    mix_renderings: bool = False
    """Train on data sets that were drawn differently; the policy is then shown pictures as the first was drawn."""
    episodes: Count | None = None
    """Of `dataset`, use only the first so many episodes of each task."""
    interventions: Literal["person", "all"] = "person"
    """Of datasets of `toddle intervene`: learn from what a person did alone (HG-DAgger), or from whole episodes."""
    reaction: Whole = 0
    """Control steps at the beginning of an intervention that are left out: a person needs them to find the way."""
    weigh: WeighConfig = WeighConfig()
    """Whether chunks that were followed by more are learned from more often."""
    normalization: Literal["auto", "identity", "mean_std", "quantile", "min_max"] = "auto"
    """How actions are normalised; auto: not at all (identity) where all are in [-1, 1], which keeps a converted
    expert's chunk as it is, else by quantile (degrees, millimetres)."""
    lossy_sentences: bool = False
    """Train although the backbone cuts a sentence, or does not know half of its tokens; else that is refused."""
    refit_proprio: bool = False
    """Normalise proprioception by the demonstrations where RL's own statistics came along (gives level C up)."""
    cache: Path = Path(".cache/features")
    """Where features of the frozen backbone are kept; runs with the same backbone and dataset share them."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    learners: Count = 1
    """Processes that learn, each from its share of every batch (docs/scaling.md)."""
    sharding: Literal["none", "full"] = "none"
    """full: every learner keeps a part of each weight, its gradient and moments, and not all of them (FSDP2)."""
    checkpoint_every: Count = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        super().__post_init__()
        check_device_name(self.device)
        check_learners(
            self.learners,
            self.sft.batch // self.sft.accumulate,
            "decisions computed at once (sft.batch / sft.accumulate)",
        )
        check_sharding(self.sharding == "full", self.learners, self.sft)
        if not self.dataset:
            raise problem("dataset", "at least one folder", "none")
        if not self.beside and self.beside_share != Config.beside_share:
            raise problem("beside_share", "nothing without datasets in beside", self.beside_share)
        if self.beside and not 0 < self.beside_share < 1:
            raise problem("beside_share", "above 0 and below 1", self.beside_share)


def plan(config: Config) -> Plan:
    """Check the datasets and the init folder, and say what will be done."""
    resolve_device(config.device)
    datasets = open_datasets((*config.dataset, *config.beside))
    policy = make_policy(config, datasets)
    check_fits(policy, datasets)
    tokens = check_sentences(policy, datasets, lossy=config.lossy_sentences)
    windows = _windows(config, policy.window_sizes, datasets)  # raises where rows lie between pictures
    sizes = [(value.numel(), value.requires_grad) for _, value in policy.named_parameters()]
    weights, frozen = (sum(size for size, learns in sizes if learns is wanted) for wanted in (True, False))
    beside = f" beside {frozen:,} that stay" if frozen else ""
    pictures = config.augment.copies * sum(dataset.num_pictures for dataset in datasets)
    copies = f" ({config.augment.variants} of {config.augment.copies} changed)" if config.augment.variants else ""
    low, high = action_range(datasets)
    count = sum(len(chosen) for chosen in _chosen(config, datasets))
    here, step = resident(), None  # what LoRA is on is loaded by now
    if weights + frozen <= TRIED:
        parts = config.learners, config.sharding == "full"
        step = forecast(policy, examples(policy, windows), config.sft, *parts)
    return Plan(
        steps=[
            f"read {count} episodes of {sum(len(d.tasks) for d in datasets)} sentences of at most {tokens} tokens",
            f"encode {pictures} pictures{copies} where the cache under {config.cache} has not got them",
            f"actions from {low:g} to {high:g}, normalised by {action_mode(config, datasets)}",
            f"train {weights:,} weights{beside} for {config.sft.steps} steps of {config.sft.batch} decisions",
            *_people(config, datasets),
            *config.weigh.lines(datasets),
            *([f"draw {100 * config.beside_share:g} % of the decisions from what is beside"] if config.beside else []),
            *drawings(datasets, mix=config.mix_renderings),
            *([step.line(config.sft.checkpointing)] if step else []),
            f"write the policy to {config.out / 'policy'}",
        ],
        memory_bytes=here + FIRST + step.peak if step else KEPT * weights + 4 * frozen + max(10**9, here),
        seconds=0.01 * pictures + config.sft.steps * (0.01 + 1.4e-9 * (weights + frozen / 3) * config.sft.batch),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Cache features, train, save the averaged weights."""
    if follows(config.learners):
        follow(lambda: make_learner(config)[0], config.learners)
        return
    with (
        RunFolder.open(config.out, config, resume=resume) as folder,
        leading(config.learners, "sft", folder.path) as learners,
    ):
        learner, policy, datasets = make_learner(config)
        shared = led(learner, learners)
        run_loop(
            shared,
            folder,
            config.sft.steps,
            checkpoint_every=config.checkpoint_every,
            label="sft",
            show=("sft/loss", "sft/endpoint_error"),
        )
        policy = _averaged(config, datasets, learner, shared)
        facts = {
            "init": config.init,
            "dataset": [str(path) for path in (*config.dataset, *config.beside)],
            "steps": config.sft.steps,
            "tasks": sorted({task for dataset in datasets for task in dataset.tasks}),
        }
        facts |= Taught.by(datasets, policy.cameras).to_meta()  # evaluation draws alike
        save_policy(config.out / "policy", policy, facts)
        print(f"policy: {config.out / 'policy'}")


def _averaged(config: Config, datasets: list[LeRobotDataset], learner: SFT, shared: Any) -> FineTunable:
    """Return the policy with the averaged weights; where they are shared out, one that has all of them."""
    if config.sharding == "none":
        learner.use_average()
        return learner.policy
    state = shared.state_dict()
    policy = make_policy(config, datasets)
    policy.load_state_dict({**state["policy"], **state["averaged"]})
    policy.begin_step(1.0)
    return policy.train(False)


def make_learner(config: Config) -> tuple[SFT, FineTunable, list[LeRobotDataset]]:
    """Build everything that learns.  Raises InputError where policy and datasets do not fit."""
    device = resolve_device(team().device(config.device))
    datasets = open_datasets((*config.dataset, *config.beside))
    policy = make_policy(config, datasets).to(device)
    check_fits(policy, datasets)
    check_sentences(policy, datasets, lossy=config.lossy_sentences)
    drawings(datasets, mix=config.mix_renderings)
    with team().first_alone():  # it makes the cache
        data = make_data(config, policy, datasets)
    body = policy.body_index(datasets[0].robot_type)
    actions = feature_statistics(data.actions)
    policy.fit_normalization(data.proprio(), actions, action_mode(config, datasets), body, refit=config.refit_proprio)
    weights = config.weigh.weights(data, datasets, config.seed)
    if config.beside:
        weights = shared_out(weights, data.source >= len(config.dataset), config.beside_share)
    made = SFT(policy, data, config.sft, seed=config.seed, weights=weights, sharded=config.sharding == "full")
    return made, policy, datasets


def action_mode(config: Config, datasets: list[LeRobotDataset]) -> Mode:
    """Return how actions are normalised."""
    if config.normalization != "auto":
        return config.normalization
    low, high = action_range(datasets)
    return "identity" if max(-low, high) <= 1.0 + ROUNDING else "quantile"


def make_policy(config: Config, datasets: list[LeRobotDataset]) -> FineTunable:
    """Load the policy of `init`, or build one with a fresh expert for the datasets' body.

    Raises InputError where its weights do not fit into memory with gradients, moments, average and start.
    """
    stored = config.init != "random"  # then much of it may stay as it is, which shows when it is built
    with weights_that_fit(1.0 if stored else KEPT / 4):
        policy = start_policy(config, datasets, partial(_chunks, config, datasets))
    if stored and not policy.cameras:
        raise problem("init", "a VLA, which sees pictures", f"kind '{policy.kind}'")
    if config.sharding == "full":
        check_shared_out(policy)
    if stored:
        learned = sum(value.numel() for _, value in policy.named_parameters() if value.requires_grad)
        what = f"what is kept beside {learned:,} weights that learn"
        check_memory((KEPT - 4) * learned, what, "let less of it learn (--vlm.train), or take a smaller one")
    return policy


def _chunks(config: Config, datasets: list[LeRobotDataset], horizon: int, executed: int) -> Tensor:
    """Return the demonstrated chunks (N, H, A), normalised as the policy will."""
    data = Demonstrations(_windows(config, (horizon, 1, executed), datasets))
    made = Normalization.of(feature_statistics(data.actions), action_mode(config, datasets))
    return (data.arrays["action"] - torch.from_numpy(made.offset)) / torch.from_numpy(made.scale)


def make_data(config: Config, policy: FineTunable, datasets: list[LeRobotDataset]) -> Demonstrations:
    """Cut the datasets into windows of the policy's sizes, with cached features where its backbone is frozen."""
    windows = _windows(config, policy.window_sizes, datasets)
    body = policy.body_index(datasets[0].robot_type)
    caches = None
    if policy.features is not None:
        what = policy.features, policy.cameras
        caches = [cached_features(config.cache, *what, dataset, config.augment) for dataset in datasets]
    return Demonstrations(windows, body=body, cameras=policy.cameras, caches=caches, augment=config.augment)


def _windows(config: Config, sizes: tuple[int, int, int], datasets: list[LeRobotDataset]) -> list[WindowDataset]:
    horizon, window, executed = sizes
    return [
        WindowDataset(
            dataset,
            horizon=horizon,
            history=window,
            stride=executed,
            episodes=chosen,
            person=config.interventions == "person",
            reaction=config.reaction,
        )
        for dataset, chosen in zip(datasets, _chosen(config, datasets))
    ]


def _people(config: Config, datasets: list[LeRobotDataset]) -> list[str]:
    """Return what a plan says of interventions."""
    rows = [dataset.column(INTERVENTION).astype(bool) for dataset in datasets if INTERVENTION in dataset.features]
    if not rows or config.interventions == "all":
        return []
    return [f"of episodes with interventions, learn from {sum(map(sum, rows)):,} rows of a person alone"]


def _chosen(config: Config, datasets: list[LeRobotDataset]) -> list[list[int]]:
    """Return the places of the episodes of each dataset: the first ones of each task, and all of those beside."""
    counts = [config.episodes] * len(config.dataset) + [None] * len(config.beside)
    return [first_episodes(dataset, count) for dataset, count in zip(datasets, counts)]
