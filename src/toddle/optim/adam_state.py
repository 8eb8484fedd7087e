"""The state of torch's own optimisers (Adam, AdamW, Muon) in checkpoints: one owner of how it is saved and loaded."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["adam_state", "load_adam_state"]


def adam_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the moments and counts of steps by the parameter's number, as a checkpoint's tree (keys are strings).

    Learning rates and other settings are the config's and are not saved.
    """
    return {str(key): dict(value) for key, value in optimiser.state_dict()["state"].items()}


def load_adam_state(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore what `adam_state` returned; settings stay as the optimiser was made with."""
    inner = {int(key): {name: item.clone() for name, item in value.items()} for key, value in state.items()}
    optimiser.load_state_dict({"state": inner, "param_groups": optimiser.state_dict()["param_groups"]})
