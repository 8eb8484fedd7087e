"""Which published layout a folder of other people's weights is: told by its files, its config.json and its keys.

Nothing of the folder is run and no .pt file is opened: JSON is read by `core.reading`, of safetensors the names alone.
The order of the tests is that of `layout_of`; what none of them knows is refused by naming those that are known.
Layouts as read in openvla/openvla, moojink/openvla-oft, huggingface/lerobot and Physical-Intelligence/openpi.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from toddle.core.errors import InputError, problem
from toddle.core.reading import read_json

__all__ = ["EXPERT_KINDS", "LAYOUTS", "Layout", "expert_kind", "layout_of", "refusal", "weight_names"]


class Layout(NamedTuple):
    """A published layout: what it is called, how its weights' names begin, and whether toddle loads it."""

    name: str
    prefixes: tuple[str, ...] = ()  # each must begin the name of some tensor
    loads: bool = False  # as the start of `toddle sft --init`


LAYOUTS: dict[str, Layout] = {
    "openvla": Layout("OpenVLA / Prismatic (Hugging Face folder)", ("vision_backbone.", "language_model."), loads=True),
    "openvla_oft": Layout("OpenVLA-OFT", ("vision_backbone.", "language_model."), loads=True),
    "prismatic": Layout("Prismatic's own .pt files", loads=True),
    "lerobot_pi0": Layout("LeRobot pi0", ("model.paligemma_with_expert.", "model.state_proj."), loads=True),
    "lerobot_pi0_old": Layout("LeRobot pi0 as written to v0.3.3", ("model.paligemma_with_expert.",), loads=True),
    "lerobot_pi05": Layout("LeRobot pi0.5", ("model.paligemma_with_expert.", "model.time_mlp_in."), loads=True),
    "lerobot_pi0_fast": Layout("LeRobot pi0-FAST"),
    "lerobot_smolvla": Layout("LeRobot SmolVLA", ("model.vlm_with_expert.",), loads=True),
    "pi0": Layout("transformers' pi0", loads=True),
    "openpi_pi0": Layout("openpi's PyTorch port, pi0", ("paligemma_with_expert.", "state_proj."), loads=True),
    "openpi_pi05": Layout("openpi's PyTorch port, pi0.5", ("paligemma_with_expert.", "time_mlp_in."), loads=True),
}
"""Every layout that is recognised."""
OFT_PARTS = ("action_head", "proprio_projector", "noisy_action_projector", "vision_backbone")
"""Names of the .pt files that OpenVLA-OFT puts beside OpenVLA's."""
LEROBOT = {"pi0": "lerobot_pi0", "pi05": "lerobot_pi05", "pi0_fast": "lerobot_pi0_fast", "smolvla": "lerobot_smolvla"}
"""LeRobot's names of the policies that are VLAs."""
EXPERT_KINDS = {
    "pi0": "pi0",
    "lerobot_pi0": "pi0",
    "lerobot_pi0_old": "pi0",
    "openpi_pi0": "pi0",
    "lerobot_pi05": "pi05",
    "openpi_pi05": "pi05",
    "lerobot_smolvla": "smolvla",
}
"""Layouts of VLAs with an action expert, and the kind of policy (`policies.store`) that each becomes."""
OLD_PI0 = ("normalize_inputs.", "model.paligemma_with_expert.paligemma.language_model.model.")
"""How names begin that LeRobot's pi0 had to v0.3.3 alone."""


def layout_of(folder: Path) -> str | None:
    """Return the key in `LAYOUTS` of a folder; None where it has neither config.json nor adapter_config.json.

    Raises InputError, one line, for a layout that is not known, one whose weights are another's, and damaged files.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        if not (folder / "adapter_config.json").exists():
            return None
        alone, remedy = "a PEFT adapter alone (adapter_config.json)", "merge it into its model and give that"
        raise problem(str(folder), "a whole model", alone, remedy)
    found = read_json(folder / "config.json", finite=False)
    kind = _by_config(folder, found)
    if kind is None:
        said = ", ".join(f"{key} {found[key]!r}" for key in ("model_type", "type") if key in found)
        known = "; ".join(layout.name for layout in LAYOUTS.values())
        raise problem(str(folder), f"policy.json, as toddle writes it, or a layout of: {known}", said or "another")
    if prefixes := LAYOUTS[kind].prefixes:
        names = weight_names(folder)
        if kind == "lerobot_pi0" and any(name.startswith(OLD_PI0) for name in names):
            return "lerobot_pi0_old"
        for prefix in prefixes:
            if not any(name.replace("._orig_mod.", ".").startswith(prefix) for name in names):
                want = f"weights named {prefix}*, as {LAYOUTS[kind].name} has them"
                raise problem(str(folder), want, ", ".join(names[:2]) or "none")
    return kind


def expert_kind(folder: Path) -> str | None:
    """Return the kind of policy that a folder of others becomes whose VLA has an action expert; None for any other."""
    try:
        return EXPERT_KINDS.get(layout_of(Path(folder)) or "")
    except InputError:
        return None


def _by_config(folder: Path, found: dict[str, Any]) -> str | None:
    """Return the layout that config.json and the files beside it say, None for none."""
    if found.get("model_type") in ("openvla", "prismatic"):
        parts = any(path for part in OFT_PARTS for path in folder.glob(f"{part}--*_checkpoint.pt"))
        return "openvla_oft" if parts else "openvla"
    vla, vlm = found.get("vla"), found.get("model")
    if (isinstance(vla, dict) and "base_vlm" in vla) or (isinstance(vlm, dict) and "model_id" in vlm):
        return "prismatic" if any((folder / "checkpoints").glob("*.pt")) else None
    if "type" in found:
        return LEROBOT.get(str(found["type"]))
    if found.get("model_type") == "pi0":
        return "pi0"
    if {"action_dim", "action_horizon", "paligemma_variant", "precision"} <= found.keys():
        return "openpi_pi05" if any(name.startswith("time_mlp_in.") for name in weight_names(folder)) else "openpi_pi0"
    return None


def weight_names(folder: Path) -> list[str]:
    """Return the names of a folder's tensors, of one safetensors file or of the index of several.

    Raises InputError where there are none or the file is damaged.
    """
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        return sorted(read_json(index, {"weight_map": dict})["weight_map"])
    if not whole.is_file():
        raise problem(str(folder), "weights in model.safetensors (or several, with their index)", "none")
    try:
        with safe_open(whole, framework="numpy") as file:
            return sorted(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{whole}: not readable as safetensors: {' '.join(str(error).split())[:160]}") from None


def refusal(folder: Path) -> InputError | None:
    """Return what to say of a folder that is no policy of toddle's but of a known layout; None where it is of none.

    Raises InputError as `layout_of` does.
    """
    if (kind := layout_of(folder)) is None:
        return None
    layout, loads = LAYOUTS[kind], "; ".join(layout.name for layout in LAYOUTS.values() if layout.loads)
    can = f"toddle does not load this layout; of others it loads {loads}, by toddle sft --init"
    if layout.loads:
        can = "toddle sft --init takes it, and writes a policy that evaluate and finetune take"
    return problem(f"policy folder {folder}", "policy.json, as toddle writes it", f"the layout of {layout.name}", can)
