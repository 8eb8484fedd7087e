"""Pretraining of the embedded backbone: which sentence belongs to the picture, and where are hand, object and goal.

Sources: the contrastive loss is CLIP's (Radford et al. 2021, arXiv 2103.00020); keypoints by spatial softmax are Finn
et al. 2016 (arXiv 1509.06113).
Deviations: 1 frames of one task are all positives of its sentence (a batch holds several); 2 the picture's embedding
is taken before the words are mixed in, else the answer would leak; 3 poses are regressed linearly from the first
registers after fusion, so that a policy's linear adapter finds metres there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.device import device_of, to_device
from toddle.core.errors import NaNError
from toddle.core.numbers import Count, NonNegative, Positive, Share, Size
from toddle.core.seeding import numpy_generator
from toddle.data.scenes import POSES, Scenes
from toddle.models.backbones.embedded import EmbeddedBackbone
from toddle.optim.adam_state import adam_state, load_adam_state
from toddle.optim.schedules import cosine_factor

__all__ = ["BackbonePretraining", "BackboneTrainingConfig", "pose_errors", "retrieval"]


@config
class BackboneTrainingConfig:
    """How the embedded backbone is trained."""

    steps: Count = 3000
    """Gradient steps."""
    batch: Size = 64
    """Frames in a step."""
    learning_rate: Positive = 1e-3
    """Peak learning rate; linear warm-up, then cosine to 0."""
    warm_up: Share = 0.05
    """Share of the steps in which the rate rises."""
    weight_decay: NonNegative = 0.02
    """AdamW's weight decay."""
    contrastive: NonNegative = 0.1
    """Weight of the contrastive loss beside the pose loss."""
    bf16: bool = False
    """Train in bfloat16 (autocast); poses and losses stay float32.  Only where the processor has it: without, a step
    takes 11 times as long (measured)."""


class Heads(nn.Module):
    """What pretraining needs and the shipped backbone does not: pose head, projections, temperature."""

    def __init__(self, width: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.pose = nn.ModuleList(nn.Linear(width, 3) for _ in POSES)
        self.picture, self.sentence = nn.Linear(2 * width, 64), nn.Linear(width, 64)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.mean: Tensor
        self.std: Tensor

    def poses(self, registers: Tensor) -> Tensor:
        """Read normalised poses (B, 3, 3) from the first three registers (B, R, D)."""
        return torch.stack([head(registers[:, i].float()) for i, head in enumerate(self.pose)], 1)


class BackbonePretraining:
    """A `Learner`: one gradient step per `step`."""

    def __init__(
        self, backbone: EmbeddedBackbone, scenes: Scenes, settings: BackboneTrainingConfig, *, seed: int
    ) -> None:
        self.backbone, self.scenes, self.settings = backbone, scenes, settings
        backbone.trainable = True
        backbone.requires_grad_(True).train()
        self.device = device_of(backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = Heads(backbone.width, *_moments(scenes.poses)).to(self.device)
        self.parameters = [*backbone.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.numbers = numpy_generator(seed, "backbone pretraining")
        self.done, self.order = 0, np.empty(0, np.int64)

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        if len(self.order) < self.settings.batch:
            self.order = np.concatenate([self.order, self.numbers.permutation(len(self.scenes))])
        rows, self.order = np.sort(self.order[: self.settings.batch]), self.order[self.settings.batch :]
        task = np.asarray(self.scenes.task)[rows]
        said = {t: int(self.numbers.integers(len(self.scenes.sentences[t]))) for t in sorted({int(t) for t in task})}
        sentences = [self.scenes.sentences[int(t)][said[int(t)]] for t in task]
        images = torch.from_numpy(np.ascontiguousarray(self.scenes.images[rows]))
        arrays = (images, torch.from_numpy(self.scenes.poses[rows]), torch.from_numpy(task))
        images, poses, tasks = (to_device(array, self.device) for array in arrays)
        return images, poses, tasks, sentences

    def step(self) -> dict[str, float]:
        """Draw a batch and make one step.  Raises NaNError when the loss is not finite."""
        images, poses, task, sentences = self._batch()
        settings = self.settings
        ramp = max(1, round(settings.warm_up * settings.steps))
        rate = settings.learning_rate * cosine_factor(self.done, settings.steps, warm_up=ramp)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            registers, patches = self.backbone.see(images)
            words, mask = self.backbone.read(sentences)
            fused, _, _ = self.backbone.fuse(registers, patches, words, mask)
        pose_loss = _pose_loss(self.heads, fused, poses)
        contrast, accuracy = _contrastive(self.heads, registers, patches, words, mask, task)
        loss = pose_loss + settings.contrastive * contrast
        if not torch.isfinite(loss):
            raise NaNError(f"backbone pretraining: the loss is {loss.item()} at step {self.done}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.done += 1
        return {
            "backbone/pose_loss": pose_loss.item(),
            "backbone/contrastive_loss": contrast.item(),
            "backbone/batch_retrieval": accuracy,
            "backbone/grad_norm": float(norm),
            "backbone/learning_rate": rate,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser and the sampler's position."""
        return {
            "backbone": self.backbone.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": adam_state(self.optimiser),
            "done": self.done,
            "order": self.order,
            "numbers": self.numbers.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.backbone.load_state_dict(state["backbone"])
        self.heads.load_state_dict(state["heads"])
        load_adam_state(self.optimiser, state["optimiser"])
        self.done, self.order = int(state["done"]), np.asarray(state["order"], np.int64)
        self.numbers.bit_generator.state = state["numbers"]


def _moments(poses: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3, 3) of known poses (N, 3, 3), at least a centimetre; 0 and 1 where none is known."""
    count = (~np.isnan(poses)).sum(0)
    mean = np.nansum(poses, 0) / np.maximum(count, 1)
    std = np.sqrt(np.nansum((poses - mean) ** 2, 0) / np.maximum(count, 1))
    std = np.where(count > 0, np.maximum(std, 0.01), 1.0)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))


def _pose_loss(heads: Heads, registers: Tensor, poses: Tensor) -> Tensor:
    """Mean absolute error of normalised poses; a NaN in `poses` (B, 3, 3) is not counted."""
    target = (poses - heads.mean) / heads.std
    known = ~target.isnan()
    error = (heads.poses(registers) - target.nan_to_num()).abs()
    return (error * known).sum() / known.sum().clamp(min=1)


def _embeddings(heads: Heads, registers: Tensor, patches: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings (B, 64) of pictures and of sentences."""
    picture = torch.cat([registers.mean(1), patches.mean(1)], -1).float()
    weight = mask.float().unsqueeze(-1)
    sentence = (words.float() * weight).sum(1) / weight.sum(1)
    return F.normalize(heads.picture(picture), dim=-1), F.normalize(heads.sentence(sentence), dim=-1)


def _contrastive(
    heads: Heads, registers: Tensor, patches: Tensor, words: Tensor, mask: Tensor, task: Tensor
) -> tuple[Tensor, float]:
    """CLIP's loss over the batch; every pair of the same task is a positive."""
    pictures, sentences = _embeddings(heads, registers, patches, words, mask)
    logits = heads.log_scale.exp().clamp(max=100.0) * pictures @ sentences.T
    same = (task[:, None] == task[None, :]).float()
    target = same / same.sum(1, keepdim=True)
    loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    right = same.gather(1, logits.argmax(1, keepdim=True)).mean().item()
    return loss, right


@torch.no_grad()
def pose_errors(learner: BackbonePretraining, scenes: Scenes, batch: int = 128) -> np.ndarray[Any, Any]:
    """Return distances (N, 3) in metres between true and predicted hand, object and goal; NaN where unknown."""
    learner.backbone.eval()
    rows = []
    for start in range(0, len(scenes), batch):
        part = slice(start, start + batch)
        sentences = [scenes.sentences[int(t)][0] for t in scenes.task[part]]
        images = torch.from_numpy(np.ascontiguousarray(scenes.images[part]))
        registers, patches = learner.backbone.see(to_device(images, learner.device))
        words, mask = learner.backbone.read(sentences)
        fused, _, _ = learner.backbone.fuse(registers, patches, words, mask)
        found = learner.heads.poses(fused) * learner.heads.std + learner.heads.mean
        rows.append((found.cpu() - torch.from_numpy(scenes.poses[part])).norm(dim=-1).numpy())
    learner.backbone.train()
    return np.concatenate(rows)


@torch.no_grad()
def retrieval(learner: BackbonePretraining, scenes: Scenes, batch: int = 128) -> float:
    """Return the share of pictures whose nearest among all tasks' first sentences is their own."""
    learner.backbone.eval()
    words, mask = learner.backbone.read([texts[0] for texts in scenes.sentences])
    right = 0
    for start in range(0, len(scenes), batch):
        images = torch.from_numpy(np.ascontiguousarray(scenes.images[start : start + batch]))
        registers, patches = learner.backbone.see(to_device(images, learner.device))
        rows = torch.arange(len(images), device=learner.device) % len(words)
        pictures, _ = _embeddings(learner.heads, registers, patches, words[rows], mask[rows])
        _, sentences = _embeddings(learner.heads, registers[:1], patches[:1], words, mask)
        nearest = (pictures @ sentences.T).argmax(1).cpu().numpy()
        right += int((nearest == np.asarray(scenes.task[start : start + batch])).sum())
    learner.backbone.train()
    return right / len(scenes)
