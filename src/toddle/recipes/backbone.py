"""`toddle backbone`: render Meta-World scenes, train the embedded backbone on them, write its weights and data card."""

from __future__ import annotations

import time
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from toddle.algorithms.backbone_pretraining import (
    BackbonePretraining,
    BackboneTrainingConfig,
    pose_errors,
    retrieval,
)
from toddle.core.config import config
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import nearest, problem
from toddle.core.files import write_json_atomic, write_text_atomic
from toddle.core.memory import check_memory, weights_that_fit
from toddle.core.numbers import Count, PictureSize, Seed, Share
from toddle.core.plan import Plan
from toddle.core.seeding import numpy_generator
from toddle.data.scenes import POSES, Scenes, load_scenes, save_scenes, scenes_file
from toddle.envs.metaworld import MetaWorldEnv
from toddle.envs.metaworld_sentences import SENTENCES
from toddle.models.backbones.embedded import EmbeddedBackbone, EmbeddedConfig, save_embedded, train_tokenizer
from toddle.runs.loop import ProgressLine, run_loop
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]


@config
class RenderConfig:
    """What is rendered."""

    tasks: tuple[str, ...] = tuple(SENTENCES)
    """Meta-World tasks; all 50 by default."""
    episodes: Count = 240
    """Episodes of a task; each has its own object and goal positions."""
    frames: Count = 3
    """Frames taken from an episode, at random moments."""
    steps: Count = 90
    """Control steps in which the frames of an episode lie."""
    camera: str = "close"
    """Meta-World camera."""
    size: PictureSize = 96
    """Side of the pictures in pixels."""
    seed: Seed = 0
    """Seed of the episodes and of the disturbance of the experts."""


def render_task(task: str, settings: RenderConfig) -> dict[str, Any]:
    """Render one task: the scripted expert under noise of random strength, or wholly random motion (3 in 10 episodes).

    Returns images (N, 3, S, S) uint8, poses (N, 3, 3) float32 metres (hand, object, goal), episode (N,) int64.
    """
    env = MetaWorldEnv(task, 1, max_episode_steps=10**6)
    numbers = numpy_generator(settings.seed, "backbone scenes", task)
    images, poses, episodes = [], [], []
    for episode in range(settings.episodes):
        env.reset(seed=[settings.seed * 1_000_003 + episode])
        moments = set(numbers.choice(settings.steps, settings.frames, replace=False).tolist())
        expert, noise = ((1.0, 0.1), (1.0, 0.6), (0.0, 1.0))[int(numbers.choice(3, p=[0.35, 0.35, 0.3]))]
        drift, hold = np.zeros(4), 0
        for step in range(max(moments) + 1):
            if step in moments:
                images.append(env.render_worlds([0], settings.size, settings.size, settings.camera)[0])
                found = env.object_poses()
                poses.append(np.stack([found[name][0] for name in POSES]))
                episodes.append(episode)
            if hold == 0:
                drift, hold = noise * numbers.normal(size=4), int(numbers.integers(5, 25))
            hold -= 1
            action = expert * env.expert_action()[0] + drift + 0.1 * numbers.normal(size=4)
            env.step(np.clip(action, -1.0, 1.0)[None])
    env.close()
    pictures = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return {"images": pictures, "poses": np.stack(poses), "episode": np.asarray(episodes, np.int64)}


@config
class Config:
    """Train the embedded vision-language backbone on rendered Meta-World scenes.

    Renders frames of the tasks (kept in <out>/scenes), trains (contrastive picture-sentence loss and regression of
    hand, object and goal positions), measures on held-out episodes, and writes weights, tokenizer and a data card.
    """

    may_change: ClassVar[tuple[str, ...]] = ("device",)

    out: Path = Path("runs/backbone")
    """Folder of the run."""
    weights: Path | None = None
    """Where weights and card go; by default <out>/embedded.  toddle ships src/toddle/models/assets/embedded."""
    render: RenderConfig = field(default_factory=RenderConfig)
    """What is rendered."""
    sizes: EmbeddedConfig = field(default_factory=EmbeddedConfig)
    """Sizes of the encoder."""
    training: BackboneTrainingConfig = field(default_factory=BackboneTrainingConfig)
    """How it is trained."""
    held_out: Share = 0.08
    """Share of each task's episodes that is kept for measuring."""
    seed: Seed = 0
    """Seed of weights and sampling."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    checkpoint_every: Count = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        """Check the names of tasks."""
        check_device_name(self.device)
        for task in self.render.tasks:
            if task not in SENTENCES:
                raise problem("render.tasks", "Meta-World tasks", task, nearest(task, SENTENCES))


def plan(config: Config) -> Plan:
    """Say what will be done; times are those of one core of a shared machine."""
    resolve_device(config.device)
    missing = [task for task in config.render.tasks if not scenes_file(config.out / "scenes", task).exists()]
    frames, size = _check_frames(config)
    weights = sum(value.numel() for value in _backbone(config).parameters())
    pixels = config.sizes.image_size**2
    return Plan(
        steps=[
            f"render {frames} frames of {len(config.render.tasks)} tasks ({len(missing)} tasks still to do)",
            f"train {config.training.steps} steps of {config.training.batch} frames",
            f"write weights and card to {config.weights or config.out / 'embedded'}",
        ],
        memory_bytes=size + 16 * weights + 10**9,
        seconds=0.17 * len(missing) * config.render.episodes
        + 1.9e-6 * pixels * config.training.steps * config.training.batch,  # at the default sizes
    )


def _check_frames(config: Config) -> tuple[int, int]:
    """Return how many frames there will be, and their bytes: all, and a copy without the held-out.

    Raises InputError where they do not fit.
    """
    frames = len(config.render.tasks) * config.render.episodes * config.render.frames
    size = 2 * 3 * frames * config.render.size**2
    check_memory(size, f"{frames:,} frames", "take fewer render.episodes or render.frames, or a smaller render.size")
    return frames, size


def run(config: Config, *, resume: bool = False) -> None:
    """Render, train, measure, write."""
    device = resolve_device(config.device)
    _check_frames(config)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        backbone = _backbone(config).to(device)
        chosen = {task: SENTENCES[task] for task in config.render.tasks}
        missing = [task for task in chosen if not scenes_file(config.out / "scenes", task).exists()]
        with ProgressLine("render", len(missing)) as bar:
            for done, task in enumerate(missing, start=1):
                save_scenes(config.out / "scenes", task, render_task(task, config.render))
                bar.advance(done)
        scenes = load_scenes(config.out / "scenes", chosen)
        held = scenes.episode >= config.render.episodes * (1 - config.held_out)
        learner = BackbonePretraining(backbone, scenes.where(~held), config.training, seed=config.seed)
        began = time.process_time()
        run_loop(
            learner,
            folder,
            config.training.steps,
            checkpoint_every=config.checkpoint_every,
            label="backbone",
            show=("backbone/pose_loss", "backbone/batch_retrieval"),
        )
        minutes = (time.process_time() - began) / 60
        target = config.weights or config.out / "embedded"
        save_embedded(target, backbone)
        card = measure(learner, scenes.where(held), list(chosen)) | {"cpu_minutes_of_training": round(minutes, 1)}
        write_json_atomic(config.out / "measured.json", card)
        write_text_atomic(target / "CARD.md", card_text(config, len(scenes), int(held.sum()), card))
        print(f"weights and card: {target}; median error {card['median_cm']} cm, retrieval {card['retrieval']:.3f}")


def _backbone(config: Config) -> EmbeddedBackbone:
    """Build it with fresh weights.  Raises InputError where they do not fit into memory."""
    sentences = [sentence for texts in SENTENCES.values() for sentence in texts]
    with torch.random.fork_rng(devices=[]), weights_that_fit():
        torch.manual_seed(config.seed)  # transformers initialises from the global generator
        return EmbeddedBackbone(config.sizes, train_tokenizer(sentences, config.sizes))


def measure(learner: BackbonePretraining, held: Scenes, tasks: list[str]) -> dict[str, Any]:
    """Measure position errors in centimetres and retrieval accuracy on frames that were not trained on."""
    errors = 100 * pose_errors(learner, held).astype(np.float64)
    by_task = {task: np.nanmedian(errors[held.task == i], 0).round(1).tolist() for i, task in enumerate(tasks)}
    return {
        "median_cm": dict(zip(POSES, np.nanmedian(errors, 0).round(2).tolist())),
        "mean_cm": dict(zip(POSES, np.nanmean(errors, 0).round(2).tolist())),
        "retrieval": retrieval(learner, held),
        "median_cm_by_task": by_task,
    }


def card_text(config: Config, frames: int, held: int, card: dict[str, Any]) -> str:
    """Write the data card."""
    rows = "\n".join(f"| {task} | {' | '.join(map(str, cm))} |" for task, cm in card["median_cm_by_task"].items())
    render, tasks = config.render, len(config.render.tasks)
    median, mean = (", ".join(f"{name} {cm:.2f}" for name, cm in card[key].items()) for key in ("median_cm", "mean_cm"))
    return f"""# The embedded backbone: data card

What: a small vision-language encoder (SigLIP's classes of transformers behind a convolutional stem), fp16.
Licence: MIT, as toddle; trained from scratch, no other model's weights or outputs went in.
Made by: `toddle backbone` (seed {config.seed}); `sizes.json` its sizes, `tokenizer.json` BPE trained on the sentences.
Data: {frames} frames of {tasks} Meta-World tasks rendered by MuJoCo, camera `{render.camera}`,
{render.size} x {render.size} pixels, {render.episodes} episodes a task: the package's scripted experts under noise,
and random motion; sentences written for toddle.  Labels: true positions of hand, object and goal.
No person, no real picture.
Training: {config.training.steps} steps of {config.training.batch} frames,
{card["cpu_minutes_of_training"]} CPU minutes (of the last sitting).
Meant for: Meta-World scenes seen by that camera, on machines without a network.  It has seen the tasks of Meta-World
with their true positions, so results with it say nothing about vision in the open world; use a real VLM for that.
Weak: goals that float in the air (reach, pick-place, pick-out-of-hole, peg-insert), as one camera hardly sees depth,
and goals that are not drawn.

Held-out episodes ({held} frames), distance between true and predicted position, centimetres:
median {median}; mean {mean};
picture-to-sentence retrieval among {tasks} tasks {card["retrieval"]:.3f}.

| task (median cm) | hand | object | goal |
|---|---|---|---|
{rows}
"""
