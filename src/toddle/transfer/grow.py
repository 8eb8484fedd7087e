"""Growth that keeps the function to float rounding: new blocks with gate 0, channels copied an integer number of times.

Depth: a fresh block passes a learned gate that starts at 0: an exact no-op whose gate has a gradient (literal
adaLN-Zero, here where it belongs: on NEW blocks).  Width: x' = r copies of x.  Layer norms see the same statistics;
W' = R_out W S with rows of S random convex weights over the copies, which breaks their symmetry after one step; heads
are copied, so head_dim and the softmax scale stay.  A larger MLP ratio adds hidden units with zero outgoing weights.
Chen et al. "Net2Net" (arXiv 1511.05641) for the copies.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.models.expert import ActionExpert
from toddle.transfer.convert import Conversion

__all__ = ["enlarge", "grow_depth", "grow_mlp", "grow_width"]

Kind = Literal["cross", "self"]
RULES: tuple[tuple[str, int, bool], ...] = (
    # pattern of the tensor's name, parts its rows are copied in (0: not copied), whether its columns grow
    (r"trunk\.(blocks\.\d+\.)?(norm1|norm2|norm|insert_norm)\.(weight|bias)$", 1, False),
    (r"\.attention\.qkv\.weight$", 3, True),
    (r"\.attention\.qkv\.bias$", 3, False),
    (r"\.(cross|insert)\.kv\.(weight|bias)$", 2, False),
    (r"\.(attention|cross|insert)\.(out|q)\.weight$", 1, True),
    (r"\.(attention|cross|insert)\.(out|q)\.bias$", 1, False),
    (r"\.mlp_(in|out)\.weight$", 1, True),
    (r"\.mlp_(in|out)\.bias$", 1, False),
    (r"trunk\.time\.lift\.(weight|bias)$", 1, False),
    (r"trunk\.time\.out\.weight$", 1, True),
    (r"trunk\.time\.out\.bias$", 1, False),
    (r"tokens\.(observation_in|past_in|action_in)\.mlps\..+\.2\.(weight|bias)$", 1, False),
    (r"^out\.mlps\..+\.0\.weight$", 0, True),
)
LAST_AXIS = (r"\.gates$", r"^tokens\.slot$", r"^tokens\.moments\.(mean|std)$")


def _copy_rows(value: Tensor, factor: int, parts: int) -> Tensor:
    """Repeat each of `parts` equal groups of rows `factor` times."""
    return torch.cat([part.repeat(factor, *[1] * (value.ndim - 1)) for part in value.chunk(parts)])


def _spread_columns(value: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """Share each column among its copies by random convex weights, other ones for every row."""
    share = torch.rand(len(value), factor, value.shape[1], generator=generator, dtype=torch.float64) + 0.1
    share = share / share.sum(1, keepdim=True)
    return (value.double()[:, None] * share).flatten(1).to(value.dtype)


@torch.no_grad()
def grow_width(expert: ActionExpert, factor: int, seed: int = 0) -> ActionExpert:
    """Return an expert whose trunk is `factor` times as wide and computes the same (to float rounding).

    Raises InputError unless the factor is a whole number of at least 1 and there is no side-car.
    """
    if factor < 1 or expert.sidecar is not None:
        raise problem("grow_width", "a whole factor of at least 1, on an expert without side-car", factor)
    trunk = expert.config.trunk
    config = dataclasses.replace(
        expert.config, trunk=dataclasses.replace(trunk, width=trunk.width * factor, heads=trunk.heads * factor)
    )
    generator, state = torch.Generator().manual_seed(seed), {}
    modulation = 2 if trunk.modulation == "groot" else 6
    name_of = r"\.modulation\.linear\."
    rules = (*RULES, (name_of + "weight$", modulation, True), (name_of + "bias$", modulation, False))
    for name, value in expert.state_dict().items():
        rule = next((rule for rule in rules if re.search(rule[0], name)), None)
        if any(re.search(pattern, name) for pattern in LAST_AXIS):
            value = value.repeat(*[1] * (value.ndim - 1), factor)
        elif rule is not None:
            value = _spread_columns(value, factor, generator) if rule[2] else value
            value = _copy_rows(value, factor, rule[1]) if rule[1] else value
        state[name] = value.clone()
    grown = ActionExpert(config)
    grown.load_state_dict(state)
    return grown


@torch.no_grad()
def grow_depth(expert: ActionExpert, factor: int, seed: int = 0) -> tuple[ActionExpert, list[str]]:
    """Return an expert with factor - 1 fresh blocks after every block, and the names of the new tensors.

    A fresh block is of the other kind than the one before it, so that both kinds alternate where they did.
    """
    if factor < 1:
        raise problem("grow_depth", "a whole factor of at least 1", factor)
    trunk = expert.config.trunk
    kinds: list[Kind] = []
    fresh = []
    for kind in trunk.kinds:
        for copy in range(factor):
            if copy:
                fresh.append(len(kinds))
            mixed = "cross" in trunk.kinds and copy % 2
            kinds.append(("self" if kind == "cross" else "cross") if mixed else kind)
    config = dataclasses.replace(
        expert.config,
        trunk=dataclasses.replace(
            trunk,
            depth=len(kinds),
            blocks=tuple(kinds),
            inserted=tuple(i * factor for i in trunk.inserted),
            fresh=tuple(sorted({*fresh, *(i * factor for i in trunk.fresh)})),
        ),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = ActionExpert(config)
    moved = {_deeper(name, factor): value for name, value in expert.state_dict().items()}
    target = grown.state_dict()
    for name, value in moved.items():
        target[name].copy_(value)
    return grown, [name for name in target if name not in moved]


@torch.no_grad()
def grow_mlp(expert: ActionExpert, ratio: float, seed: int = 0) -> tuple[ActionExpert, list[str]]:
    """Return an expert whose blocks have `ratio` x width hidden units; the extra ones start with no outgoing weight.

    Second result: the tensors that hold new entries.  Raises InputError where the ratio would shrink.
    """
    trunk = expert.config.trunk
    if ratio < trunk.mlp_ratio:
        raise problem("grow_mlp", f"a ratio of at least {trunk.mlp_ratio}", ratio)
    config = dataclasses.replace(expert.config, trunk=dataclasses.replace(trunk, mlp_ratio=ratio))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = ActionExpert(config)
    target, changed = grown.state_dict(), []
    for name, value in expert.state_dict().items():
        if target[name].shape == value.shape:
            target[name].copy_(value)
            continue
        changed.append(name)
        if name.endswith("mlp_out.weight"):
            target[name].zero_()
            target[name][:, : value.shape[1]] = value
        else:
            target[name][: len(value)] = value
    return grown, changed


def enlarge(
    made: Conversion, *, depth: int = 1, width: int = 1, mlp_ratio: float | None = None, seed: int = 0
) -> Conversion:
    """Return the conversion grown by these factors (depth, then MLP ratio, then width), its record brought along."""
    expert, status, origin = made.expert, dict(made.status), dict(made.origin)
    if depth > 1:
        expert, fresh = grow_depth(expert, depth, seed)
        status = {_deeper(name, depth): value for name, value in status.items()}
        origin = {_deeper(name, depth): value for name, value in origin.items()}
        for name in fresh:
            status[name] = "new: gate 0" if name.endswith(".gates") else "new: behind a gate of 0"
    if mlp_ratio is not None and mlp_ratio != expert.config.trunk.mlp_ratio:
        expert, widened = grow_mlp(expert, mlp_ratio, seed + 1)
        for name in widened:
            status[name] += ", with new hidden units of outgoing weight 0"
    if width > 1:
        shapes = {name: value.shape for name, value in expert.state_dict().items()}
        expert = grow_width(expert, width, seed + 2)
        for name, value in expert.state_dict().items():
            if value.shape != shapes[name]:
                status[name] += f", copied x{width}"
    return dataclasses.replace(
        made, expert=expert.eval(), status=status, origin=origin, width_factor=made.width_factor * width
    )


def _deeper(name: str, factor: int) -> str:
    return re.sub(r"^trunk\.blocks\.(\d+)", lambda m: f"trunk.blocks.{int(m[1]) * factor}", name)
