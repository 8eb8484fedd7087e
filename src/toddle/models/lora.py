"""LoRA on a backbone (Hu et al. 2021, arXiv 2106.09685), by peft, which is imported in this file only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from toddle.core.errors import InputError, problem
from toddle.models.recompute import recompute_layers

__all__ = ["TARGETS", "add_lora", "held_apart", "lora_parameters", "merge_in_place", "merged_copy"]

M = TypeVar("M", bound=nn.Module)
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "o_proj")
"""Attention projections, as the models of transformers name them."""
MLP = ("gate_proj", "up_proj", "down_proj")
"""The layers of a Llama's or Gemma's MLP."""


def add_lora(
    module: nn.Module, *, rank: int, alpha: float, mlp: bool = False, layers: Sequence[str] = (), seed: int = 0
) -> list[str]:
    """Put LoRA matrices of `rank` beside the attention projections of `module`, in place; the rest stays frozen.

    mlp: beside the layers of the MLPs too.  layers: beside these, by their full names, and no others.

    The first matrix follows from `seed`; the second starts at zero, so the function is unchanged.  Returns
    the names of the new parameters.
    Raises InputError when peft is missing, `rank` is below 1 or no projection is found.
    """
    if rank < 1:
        raise problem("backbone.lora_rank", "at least 1", rank)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("backbone.lora_rank: package 'peft' is missing; install toddle[vla]") from None
    if not layers and not any(name.rsplit(".", 1)[-1] in TARGETS for name, _ in module.named_modules()):
        raise problem("backbone.lora_rank", "0: this backbone has no attention projections LoRA knows", rank)
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=[*(layers or TARGETS), *(MLP if mlp else ())])
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator, which each learner has of its own
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, module)
    recompute_layers(module)
    return lora_parameters(module)


def lora_parameters(module: nn.Module) -> list[str]:
    """Return the names of all LoRA parameters in `module`."""
    return [name for name, _ in module.named_parameters() if ".lora_" in name]


def held_apart(module: Any) -> dict[str, nn.Parameter]:
    """Return the LoRA matrices that `module` learns and whose backbone is not one of its modules, by name."""
    return {name: value for name, value in module.named_parameters() if ".lora." in f".{name}"}


def merge_in_place(module: nn.Module) -> Callable[[], None]:
    """Fold LoRA into the weights of `module` as it is now; return what puts them back as they were.

    They are kept, so nothing is lost to rounding, and a copy that shares them (a critic's) does not see it.
    """
    layers: list[Any] = [layer for layer in module.modules() if "lora_A" in dict(layer.named_children())]
    plain = [layer.get_base_layer().weight for layer in layers]
    with torch.no_grad():
        for layer, weight in zip(layers, plain, strict=True):
            whole = (weight + layer.get_delta_weight("default")).to(weight.dtype)
            layer.get_base_layer().weight = nn.Parameter(whole, requires_grad=False)
            layer.enable_adapters(False)

    def put_back() -> None:
        for layer, weight in zip(layers, plain, strict=True):
            layer.get_base_layer().weight = weight
            layer.enable_adapters(True)

    return put_back


@torch.no_grad()
def merged_copy(module: M) -> M:
    """Return a copy in evaluation mode whose projections have LoRA folded in as it is now, W + alpha / rank B A.

    All other weights are shared with `module`, whose own stay as they are: nothing is ever taken out again, so nothing
    is lost to rounding.  The copy does not follow when LoRA learns on, and has no gradients of it.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    for layer in module.modules():
        if "lora_A" in dict(layer.named_children()):
            held: Any = layer
            base = held.get_base_layer()
            plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
            whole = (base.weight + held.get_delta_weight("default")).to(base.weight.dtype)  # LoRA may be the finer
            plain.weight = nn.Parameter(whole, requires_grad=False)
            plain.bias = base.bias
            memo[id(layer)] = plain
    return copy.deepcopy(module, memo).eval()
