"""The graft: a trunk of another width beside the pretrained one, for sizes that do not divide (docs/conversion.md).

Its cross blocks read the RL trunk's slots, and its only way into the output is a projection that starts at 0.  So the
RL function is kept exactly, any ratio of widths works, and exactly one factor in series is 0: the projection back
(`merge`), not W_O of the large trunk's cross-attention; with both 0 nothing would ever train.
"""

from __future__ import annotations

import dataclasses

import torch

from toddle.core.errors import problem
from toddle.models.expert import ActionExpert
from toddle.models.trunk import TrunkConfig

__all__ = ["graft"]


@torch.no_grad()
def graft(expert: ActionExpert, width: int, depth: int, heads: int, seed: int = 0) -> tuple[ActionExpert, list[str]]:
    """Return an expert with a side-car trunk of these sizes, which computes the same; and the names of what is new.

    Raises InputError when there is a side-car already.
    """
    if expert.sidecar is not None:
        raise problem("sidecar", "an expert without one", "one")
    beside = TrunkConfig(width=width, depth=depth, heads=heads, context_width=expert.config.trunk.width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grafted = ActionExpert(dataclasses.replace(expert.config, sidecar=beside))
    own = expert.state_dict()
    grafted.load_state_dict(own, strict=False)
    return grafted, [name for name in grafted.state_dict() if name not in own]
