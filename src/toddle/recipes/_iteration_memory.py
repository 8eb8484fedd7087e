"""What `toddle finetune --dry-run` says of an iteration's memory."""

from __future__ import annotations

from toddle.core.device import resolve_device
from toddle.core.memory import check_memory, resident
from toddle.methods._base import Run

__all__ = ["iteration_memory"]


def iteration_memory(made: Run, device: str) -> tuple[list[str], int]:
    """Return the line of a plan, and how many bytes of the machine's memory the run will have taken at its most; none
    and 0 where the method says nothing of it.

    Raises InputError where an iteration does not fit into the memory that is free on `device`.
    """
    if made.forecast is None:
        return [], 0
    here, memory = resident(), made.forecast()
    remedy = "take a larger ppo.accumulate, ppo.checkpointing, fewer worlds or shorter rollouts"
    beside = memory.peak - memory.optimiser  # weights and moments are there by now
    check_memory(beside - memory.rollouts, "an iteration beside its rollouts", remedy, device=resolve_device(device))
    return [memory.line()], here + beside if device == "cpu" else 0
