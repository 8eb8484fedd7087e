"""Actions as tokens: uniform bins over [-1, 1], and OpenVLA's 256 edges with the quantiles that its actions are in."""

from __future__ import annotations

import torch
from torch import Tensor

from toddle.core.errors import problem

__all__ = ["bin_centres", "from_quantiles", "openvla_actions", "openvla_tokens", "to_quantiles", "to_tokens"]

OPENVLA_EDGES = 256
"""Edges from -1 to 1, both included; between them lie 255 bins."""


def bin_centres(bins: int) -> Tensor:
    """Return the centres (bins,) of equal bins over [-1, 1]: -1 + (2 i + 1) / bins."""
    return (2.0 * torch.arange(bins, dtype=torch.float64) + 1.0).div(bins).sub(1.0).float()


def to_tokens(action: Tensor, bins: int) -> Tensor:
    """Return the bins (...) int64 that actions (...) lie in; what is outside [-1, 1] goes to the first or last.

    `bin_centres(bins)[tokens]` is the inverse, up to half a bin's width.
    """
    return ((action.double() + 1.0) * (bins / 2.0)).floor().long().clamp(0, bins - 1)


def openvla_tokens(action: Tensor, vocabulary: int) -> Tensor:
    """Return OpenVLA's tokens (...) int64 of normalised actions (...): vocabulary - 1 for -1, vocabulary - 256 for 1.

    vocabulary: the tokenizer's words without the padding of the table (OpenVLA: 32,064 - 64 = 32,000).
    What is outside [-1, 1] is clipped.  Source: openvla/openvla, prismatic/vla/action_tokenizer.py.
    """
    edges = torch.arange(OPENVLA_EDGES, dtype=torch.float64, device=action.device) * (2.0 / (OPENVLA_EDGES - 1)) - 1.0
    edges[-1] = 1.0  # so are numpy's made, to the last bit
    return vocabulary - torch.bucketize(action.double().clamp(-1.0, 1.0), edges, right=True)


def openvla_actions(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return the normalised actions (...) of OpenVLA's tokens: the centres of 255 bins of width 2 / 255.

    The token of 1.0 alone lies past the last bin and is counted to it.
    Raises InputError for tokens that are no actions (upstream takes them as -1 or 1).
    """
    index = vocabulary - tokens - 1
    if bool(((index < 0) | (index >= OPENVLA_EDGES)).any()):
        low, high = vocabulary - OPENVLA_EDGES, vocabulary - 1
        raise problem("action tokens", f"{low} to {high}", f"{int(tokens.min())} to {int(tokens.max())}")
    return bin_centres(OPENVLA_EDGES - 1).to(tokens.device)[index.clamp(max=OPENVLA_EDGES - 2)]


def to_quantiles(action: Tensor, low: Tensor, high: Tensor, mask: Tensor) -> Tensor:
    """Return actions (..., A) normalised as OpenVLA's: low and high (A,), their 1 % and 99 %, become -1 and 1.

    Clipped to [-1, 1]; a dimension that never moved (high = low) is 0.  Where mask (A,) is False (the gripper) nothing
    is changed.
    """
    moved = high > low
    scaled = 2.0 * (action - low) / torch.where(moved, high - low, torch.ones_like(high)) - 1.0
    return torch.where(mask, torch.where(moved, scaled.clamp(-1.0, 1.0), torch.zeros_like(action)), action)


def from_quantiles(normalized: Tensor, low: Tensor, high: Tensor, mask: Tensor) -> Tensor:
    """Return actions (..., A) of normalised ones: the inverse of `to_quantiles` between low and high."""
    return torch.where(mask, 0.5 * (normalized + 1.0) * (high - low) + low, normalized)
