"""Embodiment banks: one small MLP per body, chosen by the body's id (GR00T's CategorySpecificMLP with exact sizes).

Each body's MLP has its own input and output sizes, so nothing is padded inside; batches of mixed bodies arrive padded
to the widest one, and outputs leave padded with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.models.mlp import make_mlp

__all__ = ["Bank", "bodies_of", "body_rows", "carry_over"]


def bodies_of(body: Tensor | None, count: int) -> int | Tensor:
    """Return the one body id all rows have (the fast path), or the ids.  Raises InputError on an id out of range."""
    if body is None:
        if count > 1:
            raise problem("observation.body", f"body ids, as the policy has {count} bodies", "none")
        return 0
    if count == 1:
        return 0
    low, high = int(body.min()), int(body.max())
    if low < 0 or high >= count:
        raise problem("observation.body", f"ids from 0 to {count - 1}", high if high >= count else low)
    return low if low == high else body


def body_rows(body: int | Tensor) -> list[tuple[int, Tensor | None]]:
    """Return (id, mask of its rows), or a single (id, None) on the fast path."""
    if isinstance(body, int):
        return [(body, None)]
    return [(int(one), body == one) for one in body.unique()]


@torch.no_grad()
def carry_over(
    source: nn.Module, bodies: Sequence[str], target: nn.Module, wanted: Sequence[str], by_row: Sequence[str]
) -> None:
    """Copy what two networks share that differ in their bodies alone: `source` has `bodies`, `target` has `wanted`.

    Banks go by their bodies' names; tensors named in `by_row` have a row a body, padded to the widest one.  What a new
    body needs stays as it is.
    """
    known = source.state_dict()
    for name, value in target.state_dict().items():
        if name in by_row:
            for row, body in enumerate(wanted):
                if body in bodies:
                    old = known[name][bodies.index(body)]
                    real = tuple(slice(min(sizes)) for sizes in zip(old.shape, value[row].shape, strict=True))
                    value[row][real] = old[real]
        elif name in known:
            value.copy_(known[name])


class Bank(nn.Module):
    """MLPs in -> hidden -> out, one per body, named by the body."""

    def __init__(self, names: Sequence[str], inputs: Sequence[int], hidden: int, outputs: Sequence[int]) -> None:
        super().__init__()
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.mlps = nn.ModuleDict(
            {name: make_mlp([i, hidden, o]) for name, i, o in zip(names, inputs, outputs, strict=True)}
        )
        self._order = [self.mlps[name] for name in names]

    def last_layers(self) -> list[nn.Linear]:
        """Return the last layer of every body's MLP."""
        return [layer for mlp in self._order for layer in list(mlp.children())[-1:] if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor, body: int | Tensor) -> Tensor:
        """Map x (..., in) to (..., widest out).  `body` is one id, or ids shaped like x's leading dimensions."""
        widest = max(self.outputs)
        if isinstance(body, int):
            y = self._order[body](x[..., : self.inputs[body]])
            missing = widest - y.shape[-1]
            return nn.functional.pad(y, (0, missing)) if missing else y
        while body.dim() < x.dim() - 1:
            body = body.unsqueeze(-1)
        body = body.expand(x.shape[:-1])
        out: Tensor | None = None
        for index, rows in body_rows(body):
            y = self._order[index](x[rows][..., : self.inputs[index]])
            if out is None:
                out = y.new_zeros(*x.shape[:-1], widest)
            out[..., : self.outputs[index]][rows] = y
        assert out is not None
        return out
