"""`toddle worldmodel train`: train a model of an environment on recordings, and a control on shuffled actions."""

from __future__ import annotations

import sys
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from toddle.algorithms.world_model_training import WorldModelTraining, WorldModelTrainingConfig
from toddle.core.config import config, to_dict
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.memory import weights_that_fit
from toddle.core.numbers import Count, Discount, NonNegative, Seed, Share
from toddle.core.plan import Plan
from toddle.core.rendering import RenderSettings
from toddle.core.tensors import save_tensors
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.recordings import Recordings, read_recordings
from toddle.envs.imagined import BANK, COMPONENTS
from toddle.envs.make import make_env
from toddle.experience.taught import picture_options
from toddle.models.components import TokenComponents
from toddle.models.world_model import WorldModel, WorldModelConfig, save_world_model
from toddle.policies.store import load_policy, meta_of
from toddle.recipes._features import check_pictures, tokens_seen
from toddle.recipes.worldmodel import opened, recorded_in
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]


@config
class ImagineConfig:
    """How episodes go in the model, where it is an environment."""

    middle: Share = 0.5
    """Share of the episodes that begin in the middle of a recorded one: what is left of it is short, and so is the way
    on which errors add up."""
    doubt_stops: bool = True
    """Cut an episode, as a time limit does, where the members disagree more than the level that training has set."""
    penalty: NonNegative = 0.0
    """What a step's reward loses for each deviation of the recorded states by which the members disagree (MOPO)."""


@config
class Config:
    """Train a model of an environment on recorded episodes: an ensemble, with heads for reward, success and end.

    Writes <out>/model, which is the environment imagined/<out>, and <out>/control, the same trained on shuffled
    actions: imagined/<out>/control, in which nothing should be learned.
    Example: toddle worldmodel train --dataset data/push --out runs/world_model
    """

    may_change: ClassVar[tuple[str, ...]] = ("device",)

    dataset: tuple[Path, ...]
    """LeRobot datasets of one environment, or folders of `toddle worldmodel record`."""
    features: Path | None = None
    """Folder of a VLA whose frozen backbone's tokens of every picture are part of the state, so that VLAs on the same
    backbone can act in the model; the datasets have a picture of every control step (--image-stride 1)."""
    components: Count = 64
    """Principal components of the tokens that the model foresees (with `features`), of the episodes that are not held
    out; the VLA is shown the tokens that they make up."""
    cache: Path = Path("runs/cache")
    """Where features are kept."""
    out: Path = Path("runs/world_model")
    """Folder of the run."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """Sizes of the model."""
    train: WorldModelTrainingConfig = field(default_factory=WorldModelTrainingConfig)
    """How it is trained."""
    imagine: ImagineConfig = field(default_factory=ImagineConfig)
    """How episodes go in it."""
    held_out: Discount = 0.1
    """Share of the episodes that is held out: levels are set and errors measured on them (at least one)."""
    control: bool = True
    """Train the control too."""
    seed: Seed = 0
    """Seed of the split, of fresh weights and of what is drawn."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    checkpoint_every: Count = 500
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if not self.dataset:
            raise problem("dataset", "at least one folder", "none")


def _read(config: Config, vla: Any) -> tuple[list[LeRobotDataset], Recordings, dict[str, Any]]:
    """Return datasets, what is in them, and what has to be known of their environment; vla: whose `features`."""
    datasets = opened(config.dataset)
    name = recorded_in(datasets)
    data = read_recordings(datasets, held_out=config.held_out, seed=config.seed)
    if vla is not None:
        for dataset in datasets:
            check_pictures(vla, dataset)
    env = make_env(name, 1, **_pictures(config, name, vla))
    try:
        spec, got = env.body_spec, (data.state.shape[1], data.action.shape[1])
        if (spec.proprio, spec.action) != got:
            raise problem("dataset", f"{spec.proprio} numbers of state and {spec.action} of action in {name}", got)
        said = sorted({sentence for dataset in datasets for sentence in dataset.tasks})
        facts = {
            "name": name,
            "body": env.body,
            "dt": env.dt,
            "max_episode_steps": max(int(data.lengths.max()), env.max_episode_steps),
            "instruction": said[0] if env.instruction is not None else None,
            "named": [[key, list(at.at), at.scale, list(at.offset)] for key, at in env.named.items()],
        }
    finally:
        env.close()
    return datasets, data, facts


def _vla(config: Config) -> Any:
    return None if config.features is None else load_policy(config.features)


def _pictures(config: Config, name: str, vla: Any) -> dict[str, Any]:
    """Return the options with which an environment shows a VLA its pictures: bodies may be described by less there."""
    if vla is None or config.features is None:
        return {}
    return picture_options(name, vla.cameras, meta_of(config.features), image_size=96, render=RenderSettings())[0]


def _with_tokens(
    config: Config, vla: Any, datasets: list[LeRobotDataset], data: Recordings, facts: dict[str, Any]
) -> tuple[Recordings, TokenComponents | None]:
    """Return recordings whose states end with the components of what a VLA sees, and these components."""
    if vla is None:
        return data, None
    parts, masks = zip(*(tokens_seen(config.cache, vla, dataset) for dataset in datasets), strict=True)
    if any((mask != masks[0]).any() for mask in masks):
        raise problem("dataset", "sentences of one length", "several")
    tokens, training = np.concatenate(parts), np.flatnonzero(~data.held[data.episode].numpy())
    found = TokenComponents.of(tokens, masks[0].tolist(), config.components, training, config.seed)
    share = found.told(tokens, training)
    facts["tokens"] = {"fingerprint": vla.features.fingerprint, "real": masks[0].tolist(), "width": tokens.shape[2]}
    facts["tokens"] |= {"components": len(found), "variance": share}
    blocks = np.array_split(tokens, 1 + len(tokens) // 2048)
    seen = torch.cat([found.numbers(torch.from_numpy(block)) for block in blocks])
    print(f"{len(found)} components hold {100 * share:.1f} % of the variance of the tokens", file=sys.stderr)
    return replace(data, state=torch.cat([data.state, seen], 1)), found


def _models(config: Config, data: Recordings) -> dict[str, WorldModel]:
    """Return the fresh models.  Raises InputError where they would see or foresee more than an episode."""
    longest = int(data.lengths.max())
    for name, steps in (("model.window", config.model.window), ("train.roll_out", config.train.roll_out)):
        if steps > longest:
            raise problem(name, f"at most the {longest} steps of the longest episode", steps)
    names = ["model", *(["control"] if config.control else [])]
    with weights_that_fit():
        return {name: WorldModel(config.model, data.state.shape[1], data.action.shape[1]) for name in names}


def _foreseen(config: Config, datasets: list[LeRobotDataset]) -> list[str]:
    """Say of a plan what pictures are read, and where features are kept."""
    count = sum(dataset.num_pictures for dataset in datasets)
    line = f"encode {count:,} pictures where the cache under {config.cache} has not got them"
    return [] if config.features is None else [f"{line}; keep {config.components} components of their tokens"]


def plan(config: Config) -> Plan:
    """Check the datasets and say what will be done."""
    resolve_device(config.device)
    datasets, data, facts = _read(config, _vla(config))
    if config.features is not None:  # as wide as it will be, without a look at the pictures
        data = replace(data, state=torch.cat([data.state, torch.zeros(len(data), config.components)], 1))
    models = _models(config, data)
    weights, good = sum(value.numel() for value in models["model"].parameters()), int(data.succeeded().sum())
    return Plan(
        steps=[
            f"read {len(data.start)} episodes of {facts['name']}, {good} with success, {len(data):,} steps, from "
            f"{len(datasets)} datasets; hold {int(data.held.sum())} episodes out",
            *_foreseen(config, datasets),
            f"train {weights:,} weights in {config.model.members} members for {config.train.steps} steps"
            + ("; a control likewise, on shuffled actions" if config.control else ""),
            f"write {config.out / 'model'}: the environment imagined/{config.out}",
        ],
        memory_bytes=16 * weights * len(models) + 3 * data.state.nbytes + 500 * 2**20,
        seconds=config.train.steps * len(models) * (0.01 + 4e-10 * weights * config.train.batch * config.model.window),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Train, set the levels of doubt and success on held-out episodes, save."""
    device = resolve_device(config.device)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        vla = _vla(config)
        datasets, data, facts = _read(config, vla)
        data, components = _with_tokens(config, vla, datasets, data, facts)
        del vla
        models = {name: model.to(device) for name, model in _models(config, data).items()}
        felt = None if components is None else data.state.shape[1] - len(components)
        learner = WorldModelTraining(models, data, config.train, seed=config.seed, felt=felt)
        run_loop(
            learner,
            folder,
            config.train.steps,
            checkpoint_every=config.checkpoint_every,
            label="worldmodel",
            show=("world_model/loss", "control/loss"),
        )
        levels = learner.set_levels()
        write_json_atomic(config.out / "levels.json", levels)
        imagine = {"middle": config.imagine.middle, "doubt": float(config.imagine.doubt_stops)}
        imagine |= {"penalty": config.imagine.penalty}
        for name, model in models.items():
            if components is not None:
                facts["tokens"]["sha256"] = save_tensors(config.out / name / COMPONENTS, components.tensors())
            digest = save_tensors(config.out / name / BANK, data.tensors())
            meta = {"env": facts, "imagine": imagine, "recordings": digest, "levels": levels[name]}
            save_world_model(
                config.out / name, model, meta | {"steps": config.train.steps, "train": to_dict(config.train)}
            )
    print(f"model: imagined/{config.out}; measure it: toddle worldmodel evaluate --model {config.out}")
