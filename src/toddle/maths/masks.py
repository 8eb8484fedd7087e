"""Who sees whom: attention masks over [past action, observation] histories and action slots (docs/conversion.md).

Every decision t adds two history tokens, its past action a_t (the chunk executed before it) and its observation o_t.
With a window of W decisions the row of o_t sees the W latest observations and the W - 1 latest past actions (2W - 1
tokens, as HT), its own among them, and never anything before the episode's first decision.  Masks are additive:
0 where a key is seen, -inf where it is not; every row sees at least itself, so no softmax is empty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "additive",
    "annealed_bias",
    "decision_rows",
    "history_mask",
    "ring_ages",
    "slot_mask",
    "steps_since_first",
    "visible",
    "what_is_seen",
]


def additive(allowed: Tensor) -> Tensor:
    """Turn a boolean mask (True = seen) into an additive one: 0 or -inf, float32."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -math.inf)


def steps_since_first(first: Tensor) -> Tensor:
    """Return (B, S) int64: decisions since the episode began, itself included.  The first column counts as a first."""
    index = torch.arange(first.shape[1], device=first.device)
    starts = torch.where(first, index, torch.zeros_like(index)).cummax(1).values
    return index - starts + 1


def visible(age: Tensor, count: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return which (past actions, observations) of that age an observation row sees, both bool.

    age: decisions between row and key, broadcast against count: decisions since the episode began (1 = its first).
    The past action of the oldest decision in sight is hidden: it belongs to the decision before the window.
    """
    reach = count.clamp(max=window)
    return (age >= 0) & (age < reach - 1), (age >= 0) & (age < reach)


def decision_rows(count: Tensor, window: int) -> Tensor:
    """Return the rows of the observations (and slots) of a segment over its history: bool (B, S, 2S).

    count: (B, S) from `steps_since_first`; columns are [a_1, o_1, a_2, o_2, ...].
    """
    index = torch.arange(count.shape[1], device=count.device)
    age = index[:, None] - index[None, :]
    return torch.stack(visible(age, count[:, :, None], window), dim=-1).flatten(2)


def history_mask(count: Tensor, window: int) -> Tensor:
    """Return the banded causal mask among the history tokens of a segment: bool (B, 2S, 2S).

    The row of a past action sees the history before its decision and itself, the row of o_t also a_t and itself.
    """
    batch, length = count.shape
    rows = decision_rows(count, window)
    own = torch.eye(length, dtype=torch.bool, device=count.device)
    before = rows.unflatten(2, (length, 2)) & ~own[:, :, None]
    before[..., 0] |= own
    return torch.stack([before.flatten(2), rows], dim=2).view(batch, 2 * length, 2 * length)


def ring_ages(pointer: int, window: int, device: torch.device | None = None) -> Tensor:
    """Return the age (W,) of each place of a ring whose newest entry stands at `pointer`."""
    return (pointer - torch.arange(window, device=device)) % window


def slot_mask(slots: int, kind: str, future_bias: float = 0.0, device: torch.device | None = None) -> Tensor:
    """Return the additive mask (H, H) among the action slots of one decision.

    kind "causal": slot i sees slots 0..i.  "bidirectional": it sees all, the later ones with `future_bias` added to
    their logits; annealed from -40 to 0 the change from causal makes no jump.
    """
    later = torch.ones(slots, slots, dtype=torch.bool, device=device).triu(1)
    return torch.zeros(slots, slots, device=device).masked_fill_(later, -math.inf if kind == "causal" else future_bias)


def annealed_bias(progress: float, *, start: float = -40.0, portion: float = 0.1) -> float:
    """Return the bias of future slots at `progress` in [0, 1] of the training: linear from `start` to 0."""
    return start * max(0.0, 1.0 - progress / portion)


def what_is_seen(context: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return context (..., G', D) without the tokens that no row sees, and its mask (..., G'); None where all see all.

    mask (..., G) bool.  On a GPU it waits for what was computed before.
    """
    seen = mask.flatten(0, -2).any(0)
    if not bool(seen.all()):
        kept = seen.nonzero()[:, 0]
        context, mask = context.index_select(-2, kept), mask.index_select(-1, kept)
    return context, None if bool(mask.all()) else mask
