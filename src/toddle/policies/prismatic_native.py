"""Prismatic's own folders (OpenVLA before its conversion) as if they were the Hugging Face ones: config and tensors.

    config.json   {"vla": {"base_vlm": name}} or, of a plain Prismatic, {"model": {its ids}}
    checkpoints/latest-checkpoint.pt, or the only .pt there: {"model": {"vision_backbone", "projector", "llm_backbone"}}
The .pt file is read by torch's reader of tensors alone, which runs no code.  Sizes are read off the weights.
Source: openvla/openvla, vla-scripts/extern/convert_openvla_weights_to_hf.py, prismatic/conf/models.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.core.reading import read_json

__all__ = ["is_native", "native_config", "native_processor", "native_tensors", "unpickled"]

BASES = {
    "prism-dinosiglip-224px+7b": ("dinosiglip-vit-so-224px", "llama2-7b-pure", "resize-naive"),
    "siglip-224px+7b": ("siglip-vit-so400m", "vicuna-v15-7b", "letterbox"),
}
"""Models that OpenVLA was made of: vision backbone, language model, and how pictures are brought to size."""
LLAMA = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2}
"""What the configurations of Llama-2 and Vicuna 1.5 say that no tensor does."""
HEAD = 128
"""Numbers of an attention head of Llama-2; a narrower (test) model has one head."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PROJECTOR = {"projector.0.": "projector.fc1.", "projector.2.": "projector.fc2.", "projector.4.": "projector.fc3."}
TOWERS = {"dino_featurizer.": "featurizer.", "siglip_featurizer.": "fused_featurizer.", "featurizer.": "featurizer."}


def is_native(folder: Path) -> bool:
    """Return whether a folder's config.json is Prismatic's own."""
    found = read_json(folder / "config.json", finite=False)
    return "vla" in found or "model" in found


def unpickled(path: Path) -> Any:
    """Return what is in a .pt file of tensors.  Raises InputError where it holds anything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file can fail in any way
        raise InputError(f"{path}: not readable as tensors: {' '.join(str(error).split())[:160]}") from None


def native_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor by the name that it has in a Hugging Face folder.  Raises InputError for unknown parts."""
    paths = sorted((folder / "checkpoints").glob("*.pt"))
    paths = [path for path in paths if path.name == "latest-checkpoint.pt"] or paths
    if len(paths) != 1:
        raise problem(f"{folder}/checkpoints", "latest-checkpoint.pt, or one .pt file", f"{len(paths)} files")
    found = unpickled(paths[0])
    model = found.get("model") if isinstance(found, dict) else None
    parts = {"vision_backbone", "projector", "llm_backbone"}
    if not isinstance(model, dict) or not parts <= {name for name, part in model.items() if part} <= parts:
        got = ", ".join(map(str, model or ())) if isinstance(model, dict) else "another file"
        raise problem(f"{paths[0]}: model", ", ".join(sorted(parts)), got or "nothing")
    for part, tensors in model.items():
        for name, value in tensors.items():
            yield _new_name(part, name), value


def _new_name(part: str, name: str) -> str:
    if part == "llm_backbone":
        return name.replace("llm.", "language_model.", 1)
    names = PROJECTOR if part == "projector" else TOWERS
    for old, new in names.items():
        if name.startswith(old):
            new = new if part == "projector" else f"vision_backbone.{new}"
            return (new + name.removeprefix(old)).replace(".gamma", ".scale_factor")
    raise problem(f"Prismatic: tensor {part}: {name}", "a name that Prismatic has", "another")


def native_config(folder: Path) -> dict[str, Any]:
    """Return what config.json of a Hugging Face folder would say.  Raises InputError for a base that is not known."""
    vision, language, _ = _base(folder)
    shapes = {name: tuple(value.shape) for name, value in native_tensors(folder)}
    llama = "language_model.model."
    words, inner = (f"{llama}{name}.weight" for name in ("embed_tokens", "layers.0.mlp.up_proj"))
    for name in (words, inner):
        if name not in shapes:
            raise problem(f"{folder}", f"a tensor {name}", "none")
    width = shapes[words][1]
    heads = max(1, width // HEAD)
    layers = {
        name.removeprefix(f"{llama}layers.").split(".")[0] for name in shapes if name.startswith(f"{llama}layers.")
    }
    text = {"vocab_size": shapes[words][0], "hidden_size": width, "intermediate_size": shapes[inner][0]}
    text |= {"num_hidden_layers": len(layers), "num_attention_heads": heads, "num_key_value_heads": heads}
    return {"vision_backbone_id": vision, "llm_backbone_id": language, "text_config": text | LLAMA}


def native_processor(folder: Path, sides: list[int]) -> dict[str, Any]:
    """Return what preprocessor_config.json of a Hugging Face folder would say; `sides` of the towers' pictures."""
    vision, _, strategy = _base(folder)
    moments = (IMAGENET, HALF)[-len(sides) :] if "siglip" in vision else (IMAGENET,)
    return {
        "image_resize_strategy": strategy,
        "input_sizes": [[3, side, side] for side in sides],
        "interpolations": ["bicubic"] * len(sides),
        "means": [mean for mean, _ in moments],
        "stds": [std for _, std in moments],
    }


def _base(folder: Path) -> tuple[str, str, str]:
    found = read_json(folder / "config.json", finite=False)
    if isinstance(vlm := found.get("model"), dict):
        named = (vlm.get(name) for name in ("vision_backbone_id", "llm_backbone_id", "image_resize_strategy"))
        vision, language, strategy = map(str, named)
        return vision, language, strategy
    base = str(found.get("vla", {}).get("base_vlm"))
    if base not in BASES:
        raise problem(f"{folder / 'config.json'}: base_vlm", ", ".join(BASES), base)
    return BASES[base]
