"""What a step of supervised fine-tuning takes in memory, before it is made (`toddle sft --dry-run`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from toddle.algorithms.sft import SFTConfig
from toddle.core.device import device_of
from toddle.core.live_memory import at_batch, bytes_of
from toddle.core.memory import size_text
from toddle.core.protocols import FineTunable
from toddle.core.seeding import torch_generator
from toddle.models.lora import held_apart
from toddle.models.recompute import recomputing

__all__ = ["StepMemory", "forecast"]


MUON = 4
"""Copies of the largest matrix that Muon makes while it orthogonalises it."""


class StepMemory(NamedTuple):
    """Bytes beside the weights of the policy."""

    gradients: int
    optimiser: int  # its moments
    kept: int  # the average of the weights
    trunk: int  # as it began
    batch: int
    step: int  # the most that the passes have alive at once, the gradients among it

    @property
    def peak(self) -> int:
        """The most that is there at once; after the passes the trunk's change is measured beside the gradients."""
        return sum((self.optimiser, self.kept, self.trunk, self.batch, max(self.step, self.gradients + self.trunk)))

    def line(self, checkpointing: bool) -> str:
        """Return it in words."""
        how = "with checkpointing" if checkpointing else "--sft.checkpointing takes less"
        return (
            f"memory of a step beside the weights: {size_text(self.peak)}; gradients {size_text(self.gradients)}, "
            f"optimiser {size_text(self.optimiser)}, averages and start {size_text(self.kept + self.trunk)}, the batch "
            f"{size_text(self.batch)}, activations with gradients at most {size_text(self.step)} ({how})"
        )


def forecast(
    policy: FineTunable,
    batch_of: Callable[[int], dict[str, Any]],
    config: SFTConfig,
    learners: int = 1,
    sharded: bool = False,
) -> StepMemory:
    """Return what a step of one of `learners` takes, from two small steps that are made here and leave nothing behind.

    sharded: each of them keeps a part of what there is of every weight; the weights themselves are not counted here.

    batch_of: a batch of so many samples, on the policy's device.
    """
    learned = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    apart = held_apart(policy)
    share = {name: learners if sharded and name not in apart else 1 for name in learned}
    sizes = {name: value.numel() * value.element_size() // share[name] for name, value in learned.items()}
    own = -(-config.batch // learners)
    batches = {rows: batch_of(rows) for rows in (1, 2, 4)}
    training = policy.training
    policy.train()

    def step(rows: int) -> None:
        generator = torch_generator(0, "forecast")
        for value in learned.values():
            value.grad = None
        for _ in range(min(2, config.accumulate)):
            bf16 = torch.autocast(device_of(policy).type, torch.bfloat16, enabled=config.bf16)
            with bf16, recomputing(config.checkpointing):
                loss, _ = policy.loss(batches[rows], generator)
            loss.backward()

    try:
        passes = at_batch(step, -(-own // config.accumulate))
        moved = {name: sizes[name] for name, value in learned.items() if value.grad is not None}
    finally:
        policy.train(training)
        for value in learned.values():
            value.grad = None
    muon = config.optimiser == "muon"
    matrices = [size for name, size in moved.items() if muon and learned[name].ndim == 2]
    return StepMemory(
        gradients=sum(moved.values()),
        optimiser=2 * sum(moved.values()) - sum(matrices) + MUON * max(matrices, default=0),
        kept=sum(sizes.values()),
        trunk=sum(sizes[name] for name in policy.trunk_parameters() if name in sizes),
        batch=bytes_of(batches[2]) * own // 2,
        step=passes,
    )
