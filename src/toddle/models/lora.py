"""LoRA on a backbone (Hu et al. 2021, arXiv 2106.09685), by peft, which is imported in this file only."""

from __future__ import annotations

from torch import nn

from toddle.core.errors import InputError, problem

__all__ = ["TARGETS", "add_lora", "lora_parameters"]

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "o_proj")
"""Attention projections, as the models of transformers name them."""


def add_lora(module: nn.Module, *, rank: int, alpha: float) -> list[str]:
    """Put LoRA matrices of `rank` beside the attention projections of `module`, in place; the rest stays frozen.

    The second matrix starts at zero, so the function is unchanged.  Returns the names of the new parameters.
    Raises InputError when peft is missing, `rank` is below 1 or no projection is found.
    """
    if rank < 1:
        raise problem("backbone.lora_rank", "at least 1", rank)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("backbone.lora_rank: package 'peft' is missing; install toddle[vla]") from None
    if not any(name.rsplit(".", 1)[-1] in TARGETS for name, _ in module.named_modules()):
        raise problem("backbone.lora_rank", "0: this backbone has no attention projections LoRA knows", rank)
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TARGETS))
    inject_adapter_in_model(settings, module)
    return lora_parameters(module)


def lora_parameters(module: nn.Module) -> list[str]:
    """Return the names of all LoRA parameters in `module`."""
    return [name for name, _ in module.named_parameters() if ".lora_" in name]
