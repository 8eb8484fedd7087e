"""The same trunk as an unmodified DiT would hold it: layer norms without affine, their weights in modulation biases.

    LN_aff(x) = LN(x) w + b  =  LN(x) (1 + scale) + shift  with bias scale = w - 1, shift = b    (DiT, arXiv 2212.09748)
Exact up to rounding (tolerance 5e-6 in float32); only for trunks all of whose tokens are modulated, since unmodulated
tokens would lose their affine.
"""

from __future__ import annotations

import copy

import torch

from toddle.core.errors import problem
from toddle.models.trunk import Trunk

__all__ = ["stock_form"]


@torch.no_grad()
def stock_form(trunk: Trunk) -> Trunk:
    """Return a copy whose affine parameters of norm1 and norm2 are 1 and 0.  Needs modulation residual."""
    if trunk.config.modulation != "residual":
        raise problem("trunk.modulation", "'residual'", trunk.config.modulation)
    stock = copy.deepcopy(trunk)
    d = trunk.config.width
    for block in stock.layers():
        assert block.modulation is not None
        bias = block.modulation.linear.bias.view(6, d)  # shift1, scale1, gate1, shift2, scale2, gate2
        for offset, norm in ((0, block.norm1), (3, block.norm2)):
            bias[offset] += norm.bias
            bias[offset + 1] += norm.weight - 1
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    return stock
