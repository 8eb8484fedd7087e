"""Values of the single numbers of an action, said one after the other (Q-Transformer, arXiv 2309.10150)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["spare_push", "token_targets"]


def token_targets(value: Tensor, after: Tensor, returns: Tensor) -> Tensor:
    """Return what Q of each said token (B, L) is to be.

    value: (B, L, bins), slow values of the tokens that may come at each place, given those said before it; after: (B,)
    r + gamma (1 - d) max of the first place's values in the next state; returns: (B,) what was reached, a lower bound.
    Between places nothing is paid and no time passes: the target is the greatest value at the next place (eq. 1).
    """
    target = torch.cat([value[:, 1:].amax(-1), after[:, None]], 1)
    return torch.maximum(target, returns[:, None])


def spare_push(value: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean square (B, L) of the values (B, L, bins), counted from the least, of tokens that were not said
    (eq. 2); tokens: (B, L) int64."""
    said = torch.zeros_like(value).scatter_(-1, tokens[..., None], 1.0)
    return ((1.0 - said) * value.square()).sum(-1) / (value.shape[-1] - 1)
