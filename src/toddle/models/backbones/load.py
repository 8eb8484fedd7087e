"""Backbones by name: the embedded encoder (no network needed), or a model of a hub id or of a local folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from toddle.core.errors import InputError
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.lora import add_lora

__all__ = ["load_backbone"]


def load_backbone(settings: BackboneConfig) -> Backbone:
    """Load the backbone that `settings` names, frozen (or with fresh LoRA matrices where lora_rank > 0).

    Raises InputError when transformers is missing, when the name is neither a folder nor a model that can be
    fetched, or when its architecture is not supported.
    """
    for package in ("transformers", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"backbone: package '{package}' is missing; install toddle[vla]")
    folder = Path(settings.name).expanduser()
    if settings.name == "embedded" or (folder / "sizes.json").exists():  # shipped, or made by `toddle backbone`
        from toddle.models.backbones.embedded import ASSETS, load_embedded  # needs tokenizers

        backbone: Backbone = load_embedded(ASSETS if settings.name == "embedded" else folder)
    else:
        from toddle.models.backbones.hub import load_hub_backbone  # needs transformers

        backbone = load_hub_backbone(settings)
    backbone.settings = settings
    backbone.freeze()
    if settings.lora_rank:
        backbone.base_fingerprint = backbone.fingerprint()
        add_lora(backbone, rank=settings.lora_rank, alpha=settings.lora_alpha)
        backbone.trainable = True
    return backbone
