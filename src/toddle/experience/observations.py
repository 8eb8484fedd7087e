"""From what an environment returns to what a policy sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toddle.core.device import CPU, to_device
from toddle.core.types import Observation

__all__ = ["to_observation"]


def to_observation(
    obs: Any,
    *,
    first: NDArray[Any],
    previous_action: NDArray[Any],
    body: int = 0,
    instruction: list[str] | None = None,
    device: torch.device | None = None,
) -> Observation:
    """Return the Observation (B, ...) of batched observations: an array (B, O) is proprioception, a dict has keys.

    `first` (B,) bool marks the first observation of an episode; `previous_action` (B, H_exec * A) is the chunk
    executed before, set to 0 where `first`; `body` is the index of the body in the policy's banks;
    `device` is where the policy computes (None: the CPU).
    """
    values = obs if isinstance(obs, dict) else {"proprio": obs}
    tensors: dict[str, Any] = {}
    for key, value in values.items():
        tensor = torch.from_numpy(np.asarray(value))
        tensors[key] = tensor.float() if tensor.dtype == torch.float64 else tensor
    first = np.array(first, dtype=bool)
    tensors["first"] = torch.from_numpy(first)
    tensors["body"] = torch.full((len(first),), body, dtype=torch.int64)
    previous = np.array(previous_action, dtype=np.float32)
    if first.any():
        previous[first] = 0.0
    tensors["previous_action"] = torch.from_numpy(previous)
    if instruction is not None:
        tensors["instruction"] = list(instruction)
    return tensors if device is None or device == CPU else to_device(tensors, device)  # type: ignore[return-value]
