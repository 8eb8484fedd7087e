"""Small folders in the layouts in which others publish their weights: config.json, names of tensors, files beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OPENVLA = ("vision_backbone.featurizer.cls_token", "projector.fc1.weight", "language_model.lm_head.weight")
LEROBOT_PI0 = ("model.paligemma_with_expert.paligemma.lm_head.weight", "model.state_proj.weight")
OLD_PI0 = (
    "model.paligemma_with_expert.paligemma.language_model.model.norm.weight",
    "model.state_proj.weight",
    "normalize_inputs.buffer_observation_state.mean",
)
PI05 = ("model.paligemma_with_expert.paligemma.lm_head.weight", "model.time_mlp_in.weight")
SMOLVLA = ("model.vlm_with_expert.lm_expert.norm.weight", "model.state_proj.weight")
OPENPI = {"action_dim": 32, "action_horizon": 10, "paligemma_variant": "gemma_2b", "precision": "bfloat16"}

Folder = tuple[dict[str, Any], Sequence[str], Sequence[str]]
FOLDERS: dict[str, Folder] = {
    "openvla": ({"model_type": "openvla", "norm_stats": {}}, OPENVLA, ("dataset_statistics.json",)),
    "openvla_oft": (
        {"model_type": "openvla"},
        OPENVLA,
        ("action_head--150000_checkpoint.pt", "proprio_projector--150000_checkpoint.pt"),
    ),
    "prismatic": ({"vla": {"base_vlm": "prism-dinosiglip-224px+7b"}}, (), ("checkpoints/step-000100.pt",)),
    "lerobot_pi0": ({"type": "pi0"}, LEROBOT_PI0, ("policy_preprocessor.json",)),
    "lerobot_pi0_old": ({"type": "pi0"}, OLD_PI0, ()),
    "lerobot_pi05": ({"type": "pi05"}, PI05, ("policy_preprocessor.json",)),
    "lerobot_pi0_fast": ({"type": "pi0_fast"}, ("model.paligemma.lm_head.weight",), ()),
    "lerobot_smolvla": ({"type": "smolvla"}, SMOLVLA, ("policy_preprocessor.json",)),
    "pi0": ({"model_type": "pi0"}, (), ()),
    "openpi_pi0": (OPENPI, [name.removeprefix("model.") for name in LEROBOT_PI0], ("assets/droid/norm_stats.json",)),
    "openpi_pi05": (OPENPI, [name.removeprefix("model.") for name in PI05], ("assets/droid/norm_stats.json",)),
}
"""Layout -> (config.json, names of tensors, other files, which are never opened)."""


def write_folder(folder: Path, config: dict[str, Any], names: Sequence[str], files: Sequence[str] = ()) -> Path:
    """Write a folder whose tensors have these names and one number each, and whose other files hold no such thing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if names:
        save_file({name: torch.zeros(1) for name in names}, folder / "model.safetensors")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not to be opened")
    return folder
