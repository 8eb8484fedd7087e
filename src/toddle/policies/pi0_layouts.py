"""pi0 as LeRobot (v0.4 on, and to v0.3.3) and openpi's PyTorch port write it: names, sizes and statistics.

Upstream drops what does not fit and goes on with random weights; here every tensor is placed or refused by name.
Read in huggingface/lerobot (policies/pi0/modeling_pi0.py, processor/normalize_processor.py) and in
Physical-Intelligence/openpi.  transformers has the same network: only names differ, the words' table is stored under
lm_head where it is tied, and the heads are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.core.reading import inside, read_json
from toddle.policies.foreign import layout_of

__all__ = [
    "BUFFERS",
    "OTHERS",
    "gemma",
    "is_other_pi0",
    "layers_of",
    "new_name",
    "paligemma",
    "read_config",
    "read_settings",
    "read_statistics",
    "read_weights",
    "sizes_of",
]

OTHERS = ("lerobot_pi0", "lerobot_pi0_old", "openpi_pi0")
"""Layouts that are read here."""
VISION_HEADS = 16
"""Of SigLIP so400m, as pi0 has it: no file of the folder says it."""
OLD_NAMES = (
    ("paligemma.language_model.model.", "paligemma.model.language_model."),
    ("paligemma.language_model.lm_head.", "paligemma.lm_head."),
    ("paligemma.vision_tower.", "paligemma.model.vision_tower."),
    ("paligemma.multi_modal_projector.", "paligemma.model.multi_modal_projector."),
)
"""What LeRobot called the parts of PaliGemma to v0.3.3, after paligemma_with_expert, and what it calls them now."""
NAMES = (
    ("paligemma_with_expert.paligemma.model.", "model.vlm."),
    ("paligemma_with_expert.gemma_expert.model.", "model.dit."),
    ("action_in_proj.", "embed_action_time.action_in_proj."),
    ("state_proj.", "embed_action_time.state_proj."),
    ("action_time_mlp_in.", "embed_action_time.action_time_mlp_in."),
    ("action_time_mlp_out.", "embed_action_time.action_time_mlp_out."),
    ("action_out_proj.", "action_out_proj."),
)
"""Their names and transformers'."""
HEAD, WORDS = "paligemma_with_expert.paligemma.lm_head.weight", "model.vlm.language_model.embed_tokens.weight"
DEAD = ("paligemma_with_expert.gemma_expert.lm_head.weight", "paligemma_with_expert.gemma_expert.model.embed_tokens.")
"""What is in some files and is never read."""
Names = Callable[[str], str | None]
"""What a tensor of a file is called here; None: it is never read."""
BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Where statistics are among the weights (to v0.3.3)."""


def is_other_pi0(source: str | Path) -> bool:
    """Return whether a source is a folder of a layout in `OTHERS`.  Raises InputError where it is of no known one."""
    return Path(source).expanduser().is_dir() and layout_of(Path(source).expanduser()) in OTHERS


def new_name(name: str) -> str | None:
    """Return transformers' name of a tensor, None for one that is not read.  Raises InputError for an unknown one."""
    plain = name.replace("._orig_mod.", ".").removeprefix("model.")
    for old, new in OLD_NAMES:
        plain = plain.replace(f"paligemma_with_expert.{old}", f"paligemma_with_expert.{new}")
    if plain.startswith((*DEAD, *BUFFERS)):
        return None
    if plain == HEAD:
        return WORDS
    for old, new in NAMES:
        if plain.startswith(old):
            return new + plain.removeprefix(old)
    raise problem(f"pi0: tensor {name}", "a name that LeRobot's or openpi's pi0 has", "another")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the arguments of transformers' PI0Config for a folder; sizes are read off the weights.

    Raises InputError for settings that change what the network computes and are not read here.
    """
    found, sizes = read_config(folder), sizes_of(folder, new_name)
    return {
        "vlm_config": paligemma(sizes, "model.vlm."),
        "dit_config": gemma(sizes, "model.dit.") | {"pad_token_id": 0},
        "chunk_size": found.get("chunk_size", found.get("action_horizon", 50)),
        "max_state_dim": sizes["embed_action_time.state_proj.weight"][1],
        "max_action_dim": sizes["action_out_proj.weight"][0],
        "min_period": found.get("min_period", 4e-3),
        "max_period": found.get("max_period", 4.0),
    }


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json.  Raises InputError for settings that change actions and are not read here."""
    path = Path(folder) / "config.json"
    found = read_json(path, finite=False)
    for field, why in (
        ("adapt_to_pi_aloha", "joints are not turned here"),
        ("use_relative_actions", "not added here"),
        ("use_delta_joint_actions_aloha", "not added here"),
    ):
        if found.get(field):
            raise problem(f"{path}: {field}", f"false ({why})", True)
    return dict(found)


def paligemma(sizes: dict[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """Return the settings of a PaliGemma whose tensors begin with `prefix`, of these sizes."""
    tower, words = f"{prefix}vision_tower.", f"{prefix}language_model."
    patches, width = sizes[f"{tower}embeddings.position_embedding.weight"]
    patch = sizes[f"{tower}embeddings.patch_embedding.weight"][-1]
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": sizes[f"{tower}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers_of(sizes, f"{tower}encoder.layers."),
        "num_attention_heads": VISION_HEADS,
        "patch_size": patch,
        "image_size": patch * round(patches**0.5),
        "vision_use_head": False,
    }
    text = gemma(sizes, words) | {"vocab_size": sizes[f"{words}embed_tokens.weight"][0], "pad_token_id": 0}
    return {
        "model_type": "paligemma",
        "vision_config": vision,
        "text_config": text,
        "projection_dim": text["hidden_size"],
        "image_token_id": text["vocab_size"],  # marks a place, is never looked up
        "pad_token_id": 0,
    }


def gemma(sizes: dict[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """Return the sizes of a Gemma, which has one head of keys in pi0."""
    head = sizes[f"{prefix}layers.0.self_attn.k_proj.weight"][0]
    inner, width = sizes[f"{prefix}layers.0.mlp.up_proj.weight"]
    return {
        "model_type": "gemma",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers_of(sizes, f"{prefix}layers."),
        "num_attention_heads": sizes[f"{prefix}layers.0.self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": 1,
        "head_dim": head,
    }


def layers_of(sizes: dict[str, tuple[int, ...]], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in sizes if name.startswith(prefix)})


class _Sizes(dict[str, tuple[int, ...]]):
    def __missing__(self, name: str) -> tuple[int, ...]:
        raise problem("pi0", f"a tensor for {name}", "none")


def _module_name(name: str) -> str:
    """Return transformers' name within the module, where PaliGemma's tower has one level less than in files."""
    return name.replace(".vision_tower.vision_model.", ".vision_tower.")


def sizes_of(folder: Path, names: Names) -> dict[str, tuple[int, ...]]:
    """Return the sizes of a folder's tensors, by the names they get here; asking for another raises InputError."""
    with _weights(folder) as file:
        named = ((names(name), tuple(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
        return _Sizes({_module_name(name): shape for name, shape in named if name is not None})


def read_weights(folder: Path, model: torch.nn.Module, names: Names = new_name, dead: tuple[str, ...] = ()) -> None:
    """Fill a model with the weights of a folder, in the model's own number type.

    names: what each tensor is called here.  dead: tensors of the model that nothing reads and no file has.
    Raises InputError, one line, for each tensor that is missing, unknown, of another size, or not finite.
    """
    state: dict[str, Tensor] = {}
    with _weights(folder) as file:
        for name in sorted(file.keys(), key=lambda name: not name.endswith("lm_head.weight")):  # the table itself wins
            if (new := names(name)) is not None:
                state[_module_name(new)] = file.get_tensor(name)
    own = model.state_dict()
    if any(".vision_tower.vision_model." in name for name in own):  # transformers before 5.20
        state = {name.replace(".vision_tower.", ".vision_tower.vision_model."): value for name, value in state.items()}
    state |= {name: own[name] for name in dead}
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise problem(f"{folder}: {name}", "finite weights", "NaN or infinity")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{folder}: the weights are not those of its layout: {detail}") from None


def _weights(folder: Path) -> Any:
    path = Path(folder) / "model.safetensors"
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors: {' '.join(str(error).split())[:160]}") from None


# ---- statistics ------------------------------------------------------------------------------------------------------
def read_statistics(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return offset and scale of "state" and "action", y = (x - offset) / scale, each where the folder has it.

    What upstream never set (infinity) or left out is left out: base models carry none.  openpi's are never read: no
    file says which of them a policy was trained with, nor whether its actions are relative to the state.
    Raises InputError for pictures that are normalised, relative actions, and modes that are not known.
    """
    folder = Path(folder)
    if str(layout_of(folder)).startswith("openpi"):
        return {}
    found = read_json(folder / "config.json", finite=False)
    modes = dict(found.get("normalization_mapping") or {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"})
    made: dict[str, tuple[Tensor, Tensor]] = {}
    for name, kind, feature, file, step_name, old in (
        ("state", "STATE", "observation.state", "policy_preprocessor.json", "normalizer_processor", BUFFERS[0]),
        ("action", "ACTION", "action", "policy_postprocessor.json", "unnormalizer_processor", BUFFERS[2]),
    ):
        eps, mode = 1e-8, modes
        if (folder / file).exists():
            stats, step = _of_processor(folder, file, step_name)
            eps, mode = float(step.get("eps", eps)), modes | dict(step.get("norm_map") or {})
            prefix = f"{feature}."
        else:
            with _weights(folder) as weights:
                stats = {key: weights.get_tensor(key) for key in weights.keys() if key.startswith(BUFFERS)}  # noqa: SIM118
            prefix = f"{old}buffer_{feature.replace('.', '_')}."
        if mode.get("VISUAL", "IDENTITY") != "IDENTITY":
            raise problem(f"{folder}: normalisation of pictures", "IDENTITY, as pi0 has it", str(mode["VISUAL"]))
        values = {key.removeprefix(prefix): value.float() for key, value in stats.items() if key.startswith(prefix)}
        pair = _offset_and_scale(str(mode.get(kind, "MEAN_STD")), values, eps if name == "state" else 0.0, folder)
        if pair is not None and all(bool(torch.isfinite(value).all()) for value in pair):
            made[name] = pair
    return made


def _of_processor(folder: Path, name: str, step_name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the settings of a step of a processor's JSON; nothing where it has no such step."""
    steps = read_json(folder / name, {"steps": list}, finite=False)["steps"]
    stats, settings = dict[str, Tensor](), dict[str, Any]()
    for step in steps:
        kind, own = str(step.get("registry_name", "")), dict(step.get("config") or {})
        if ("relative" in kind or "absolute" in kind) and own.get("enabled", True):
            raise problem(f"{folder / name}: {kind}", "absolute actions", "actions relative to the state")
        if kind == step_name:
            settings = own
            if "state_file" in step:
                path = inside(folder, str(step["state_file"]), f"{folder / name}: state_file")
                try:
                    with safe_open(path, framework="pt") as file:
                        stats = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                except (SafetensorError, OSError) as error:
                    raise InputError(f"{path}: not readable: {' '.join(str(error).split())[:160]}") from None
    return stats, settings


def _offset_and_scale(mode: str, values: dict[str, Tensor], eps: float, folder: Path) -> tuple[Tensor, Tensor] | None:
    """Return offset and scale of a mode of LeRobot's; None where its statistics are not there."""
    pairs = {"MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99")}
    pairs["QUANTILE10"] = ("q10", "q90")
    if mode == "IDENTITY":
        size = next(iter(values.values()), None)
        return None if size is None else (torch.zeros_like(size), torch.ones_like(size))
    if mode not in pairs:
        raise problem(f"{folder}: normalisation", f"IDENTITY, {', '.join(pairs)}", mode)
    if not values.keys() >= set(pairs[mode]):
        return None
    low, high = (values[name] for name in pairs[mode])
    if mode == "MEAN_STD":
        return low, high + eps
    spread = torch.where(high == low, torch.full_like(high, 1e-8), high - low)
    return low + spread / 2, spread / 2
