"""Weights that several learners share out among them: torch's FSDP2 (`fully_shard`), each keeps a part of every weight.

A block's weights are put together when it is called, and taken apart again after it; gradients are summed into the
part of each.  The moments of an optimiser over such weights are parts too.  `whole` and `put` are the way to one tree
with all of it, as checkpoints have it, and back: both are called by all learners together.
Source: Zhao et al. 2023 (arXiv 2304.11277); parts a parameter as in torch's FSDP2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.protocols import FineTunable
from toddle.core.team import Team
from toddle.core.tensors import is_part
from toddle.models.lora import held_apart
from toddle.models.trunk import Block

__all__ = ["check_shared_out", "clip", "own_part", "put", "put_moments", "shard", "whole"]

# torch's FSDP and DTensor take long to import, and most runs share nothing out: so they are where they are needed.


def check_shared_out(policy: FineTunable) -> None:
    """Raise InputError where a VLA's weights cannot be shared out: it holds a whole model, in more than one type."""
    if policy.features is None and not held_apart(policy):
        what = "none where the backbone's own weights learn or are read with the expert"
        raise problem("sharding", what, f"full with kind '{policy.kind}'")


def shard(module: Any, device: torch.device, methods: Iterable[str], *, bf16: bool = False) -> None:
    """Share out the weights of `module` over all learners, in place; `methods` are its ways in, besides `forward`.

    Its blocks are put together one by one, the rest when one of `methods` is called.  bf16: weights are put together in
    bfloat16 (those of norms in float32), gradients are summed in float32.  The gradient of a part is the mean over
    learners.  LoRA on a backbone outside of `module` stays whole in each: its layers use the matrices as they are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    exact = precision = MixedPrecisionPolicy(cast_forward_inputs=False)
    if bf16:
        precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    assert isinstance(module, nn.Module)
    lora = set(held_apart(module).values())
    for part in module.modules():
        if bf16 and isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            fully_shard(part, mesh=mesh, mp_policy=exact)
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh, mp_policy=precision)
    fully_shard(module, mesh=mesh, mp_policy=precision, ignored_params=lora)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nobody writes into it
    for name in methods:
        register_fsdp_forward_method(module, name)


def clip(weights: Iterable[Tensor], limit: float, team: Team) -> float:
    """Scale the gradients, of which some are in parts, to a norm of at most `limit`; return the norm before.

    All learners call it together.
    """
    weights = list(weights)
    found = [weight.grad for weight in weights if weight.grad is not None]
    square = [torch.zeros((), dtype=torch.float64, device=weights[0].device) for _ in range(2)]
    for gradient in found:
        square[is_part(gradient)] += own_part(gradient).double().square().sum()
    norm = math.sqrt(float(square[0] + team.add(square[1])))
    if norm > limit:
        for gradient in found:
            own_part(gradient).mul_(limit / (norm + 1e-6))
    return norm


def whole(tree: Any) -> Any:
    """Return a tree of dicts with all of every shared tensor in place of its part."""
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    return tree.full_tensor() if is_part(tree) else tree


def put(tree: Any, full: Any) -> Any:
    """Return `full` with the parts of this learner where `tree` has parts."""
    if isinstance(tree, dict):
        return {key: put(tree[key], value) if key in tree else value for key, value in full.items()}
    if not is_part(tree):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(tree.device), tree.device_mesh, tree.placements, src_data_rank=None)


def put_moments(optimiser: torch.optim.Optimizer, full: dict[str, Any]) -> dict[str, Any]:
    """Do what `put` does for an optimiser's state, of whole moments by the number of their weight."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]

    def own(weight: Tensor, item: Any) -> Any:
        return put(weight, item) if isinstance(item, Tensor) and item.shape == weight.shape else item

    return {key: {name: own(weights[int(key)], item) for name, item in value.items()} for key, value in full.items()}


def own_part(x: Tensor) -> Tensor:
    """Return what of a shared tensor is here; of any other, all of it."""
    part: Any = x
    return part.to_local() if is_part(x) else x
