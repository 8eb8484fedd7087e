"""OpenVLA and Prismatic as their folders write them, and the files that OpenVLA-OFT puts beside.

Upstream drops what does not fit and goes on with random weights; here every tensor is placed or refused by name.
Sizes are read off the weights and the config.  What the folder's Python files say is never run; OFT's .pt files are
read by torch's reader of tensors alone, which runs no code either.
Source: openvla/openvla, prismatic/extern/hf; moojink/openvla-oft, experiments/robot/openvla_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from toddle.core.errors import InputError, nearest, problem
from toddle.core.reading import inside, read_json
from toddle.models.oft_heads import ActionHead, NoiseHead, NoisyActionProjector, ProprioProjector
from toddle.models.vit import TowerSizes
from toddle.models.vlms.parts import llama_config, read_tokenizer
from toddle.models.vlms.pictures import STRATEGIES, PictureSettings, TowerPicture
from toddle.models.vlms.prismatic import Prismatic, PrismaticSizes
from toddle.policies.prismatic_native import is_native, native_config, native_processor, native_tensors, unpickled

__all__ = ["OFTParts", "load_prismatic", "read_parts", "read_statistics", "statistics_of"]

TOWERS = {
    "dinosiglip-vit-so-224px": (5, 0),
    "dinosiglip-vit-so-384px": (5, 0),
    "siglip-vit-so400m": (0,),
    "siglip-vit-so400m-384px": (0,),
}
"""Vision backbones that are read, and how many tokens each tower has before its patches."""
TOWER_HEADS = 16
"""Attention heads of DINOv2 ViT-L and of SigLIP so400m: no file of the folder says it."""
TOWER_BLOCKS = {1024: 24, 1152: 27}
"""Blocks of DINOv2 ViT-L and of SigLIP so400m in their files, by their width."""
PROPRIO = "proprio_projector."
PREFIXES = {"featurizer": "towers.0.", "fused_featurizer": "towers.1."}
LLAMAS = {"llama2": "pure", "vicuna": "vicuna"}
"""How ids of language models begin that are read, and how each is asked."""
NEW_SCALES = (1e-5, 1.0)
"""What layer scales are before any training: where all are, they were lost before the folder was written."""


class OFTParts(NamedTuple):
    """The parts of OpenVLA-OFT in a folder, None for each that it has not got."""

    head: ActionHead | NoiseHead | None = None
    proprio: ProprioProjector | None = None
    noisy: NoisyActionProjector | None = None  # beside a NoiseHead
    towers: dict[str, Tensor] | None = None  # of FiLM: tensors of the towers by HF's names, LoRA merged


# ---- tensors on disk -------------------------------------------------------------------------------------------------
def _files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files.  Raises InputError where one of the index is missing."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    names = sorted({str(name) for name in read_json(index, {"weight_map": dict})["weight_map"].values()})
    return [inside(folder, name, f"{index}: weight_map") for name in names]


def _tensors(folder: Path, *, shapes: bool = False, only: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every tensor of the folder whose name begins with `only`, or its shape.

    Raises InputError for what cannot be read.
    """
    if is_native(folder):
        for name, value in native_tensors(folder):
            if name.startswith(only):
                yield name, tuple(value.shape) if shapes else value
        return
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in (name for name in file.keys() if name.startswith(only)):  # noqa: SIM118
                    yield name, tuple(file.get_slice(name).get_shape()) if shapes else file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            line = " ".join(str(error).split())[:160]
            raise InputError(f"{path}: not readable as safetensors: {line}") from None


def _pickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pt file of OFT's.  Raises InputError where it holds anything else."""
    found = unpickled(path)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise problem(str(path), "tensors by name", "something else")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


class _Sizes(dict[str, tuple[int, ...]]):
    def __missing__(self, name: str) -> tuple[int, ...]:
        raise problem("OpenVLA", f"a tensor {name}", "none")


# ---- sizes -----------------------------------------------------------------------------------------------------------
def _sizes(folder: Path, found: dict[str, Any], film: bool) -> PrismaticSizes:
    path, shapes = folder / "config.json", _Sizes(_tensors(folder, shapes=True))
    vision, language = str(found.get("vision_backbone_id")), str(found.get("llm_backbone_id"))
    if vision not in TOWERS:
        raise problem(f"{path}: vision_backbone_id", ", ".join(TOWERS), vision)
    fused = found.get("use_fused_vision_backbone")
    if (len(TOWERS[vision]) > 1) != (vision.startswith("dino") and "siglip" in vision if fused is None else fused):
        raise problem(f"{path}: use_fused_vision_backbone", f"what {vision} is", fused)
    family = next((name for name in LLAMAS if language.startswith(name)), None)
    if family is None:
        raise problem(f"{path}: llm_backbone_id", f"an id that begins with {', '.join(LLAMAS)}", language)
    if found.get("n_action_bins", 256) != 256:
        raise problem(f"{path}: n_action_bins", "256", found["n_action_bins"])
    llama = llama_config(dict(found.get("text_config") or {}))
    vocabulary = int(llama.vocab_size) - int(found.get("pad_to_multiple_of", 64))
    parts = list(PREFIXES)[: len(TOWERS[vision])]
    towers = tuple(
        _tower(shapes, f"vision_backbone.{part}.", before, int(llama.hidden_size) if film else 0)
        for part, before in zip(parts, TOWERS[vision], strict=True)
    )
    pictures, strategy = _pictures(folder, towers)
    return PrismaticSizes(towers, pictures, strategy, llama, vocabulary, "pure" if family == "llama2" else "vicuna")


def _tower(shapes: _Sizes, prefix: str, before: int, film: int) -> TowerSizes:
    """Return the sizes of a tower that should have `before` tokens before its patches."""
    width, _, patch, _ = shapes[f"{prefix}patch_embed.proj.weight"]
    registers = shapes[f"{prefix}reg_token"][1] if f"{prefix}reg_token" in shapes else 0
    if registers != max(before - 1, 0):
        want = f"{before - 1} registers, as DINOv2 has" if before else "no registers, as SigLIP has"
        raise problem(f"tower {prefix[:-1]}", want, registers, "are the towers swapped?")
    blocks = len({name.split(".")[3] for name in shapes if name.startswith(f"{prefix}blocks.")})
    known = TOWER_BLOCKS.get(width, blocks)
    if blocks != known or blocks < 2 or f"{prefix}norm.weight" not in shapes:
        raise problem(f"tower {prefix[:-1]}", f"all its {max(known, 2)} blocks and the norm after them", blocks)
    side = round(shapes[f"{prefix}pos_embed"][1] ** 0.5)
    mlp = shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0]
    if width % TOWER_HEADS:
        raise problem(f"tower {prefix[:-1]}", f"a width of {TOWER_HEADS} heads", width)
    return TowerSizes(width, blocks - 1, TOWER_HEADS, mlp, patch, side, registers, before > 0, film)


def _pictures(folder: Path, towers: tuple[TowerSizes, ...]) -> tuple[tuple[TowerPicture, ...], Any]:
    """Return how each tower wants its pictures, of preprocessor_config.json, and how they are brought to size."""
    path = folder / "preprocessor_config.json"
    kinds = {"image_resize_strategy": str, "input_sizes": list, "interpolations": list, "means": list, "stds": list}
    if is_native(folder):
        found = native_processor(folder, [tower.side * tower.patch for tower in towers])
    else:
        found = read_json(path, kinds)
    if found["image_resize_strategy"] not in STRATEGIES:
        raise problem(f"{path}: image_resize_strategy", ", ".join(STRATEGIES), found["image_resize_strategy"])
    made = []
    for name in list(kinds)[1:]:
        if len(found[name]) != len(towers):
            raise problem(f"{path}: {name}", f"one for each of {len(towers)} towers", len(found[name]))
    for index, tower in enumerate(towers):
        size, kernel, *moments = (found[name][index] for name in list(kinds)[1:])
        if list(size) != [3, tower.side * tower.patch, tower.side * tower.patch]:
            raise problem(f"{path}: input_sizes", f"{tower.side * tower.patch}, as tower {index} has", str(size))
        if kernel not in ("bicubic", "bilinear"):
            raise problem(f"{path}: interpolations", "bicubic, bilinear", str(kernel))
        mean, std = (tuple(float(value) for value in values) for values in moments)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise problem(f"{path}: means, stds", "three numbers each, stds above 0", str(moments))
        made.append(TowerPicture(int(size[1]), kernel, mean, std))
    return tuple(made), found["image_resize_strategy"]


# ---- weights ---------------------------------------------------------------------------------------------------------
def load_prismatic(
    folder: Path, pictures: PictureSettings, *, dtype: torch.dtype, tokenizer: Path, film: dict[str, Tensor] | None
) -> Prismatic:
    """Load OpenVLA or Prismatic of a folder, frozen, in `dtype`.

    tokenizer: folder with tokenizer.json; film: the towers of OFT's vision file, which replace the folder's.
    Raises InputError, one line, for each tensor that is missing, unknown, of another size, or not finite.
    """
    found = native_config(folder) if is_native(folder) else read_json(folder / "config.json", finite=False)
    sizes = _sizes(folder, found, film is not None)
    model = Prismatic(sizes, read_tokenizer(tokenizer / "tokenizer.json"), pictures)
    state: dict[str, Tensor] = {}
    for name, value in (*_tensors(folder), *(film or {}).items()):
        if (new := _new_name(name, sizes)) is None:
            continue
        if not bool(torch.isfinite(value).all()):
            raise problem(f"{folder}: {name}", "finite weights", "NaN or infinity")
        if new == "head":
            if len(value) != sizes.llama.vocab_size:
                raise problem(f"{folder}: {name}", f"{sizes.llama.vocab_size} rows (text_config)", len(value))
            model.keep_rows(value.to(dtype))
            value = model.head
        state[new] = value.to(dtype)
    _check_scales(folder, state)
    unread = frozenset(name for name in model.state_dict() if name.startswith("decoder.rotary_emb."))
    _place(model, state, str(folder), unread)
    return model.freeze()


def _new_name(name: str, sizes: PrismaticSizes) -> str | None:
    """Return the model's name of a tensor, None for one that is never read.  Raises InputError for an unknown one."""
    if name == "language_model.lm_head.weight":
        return "head"
    if name.startswith("language_model.model."):
        return None if name.endswith("rotary_emb.inv_freq") else name.replace("language_model.model.", "decoder.")
    if name.startswith(PROPRIO):  # SimpleVLA-RL's, which `read_parts` reads
        return None
    if name.startswith("projector."):
        return name
    part, _, rest = name.removeprefix("vision_backbone.").partition(".")
    if name.startswith("vision_backbone.") and part in list(PREFIXES)[: len(sizes.towers)]:
        tower = sizes.towers[list(PREFIXES).index(part)]
        dead = (f"blocks.{tower.blocks}.", "norm.", *(() if tower.registers else ("attn_pool.",)))
        return None if rest.startswith(dead) else PREFIXES[part] + rest
    raise problem(f"OpenVLA: tensor {name}", "a name that OpenVLA's folders have", "another")


def _check_scales(folder: Path, state: dict[str, Tensor]) -> None:
    """Refuse layer scales that are all as before any training (gamma was renamed and lost on the way)."""
    scales = [value for name, value in state.items() if name.endswith(".scale_factor")]
    for start in NEW_SCALES:
        if scales and all(bool((value.float() - start).abs().max() < 1e-2 * start) for value in scales):
            raise problem(f"{folder}: scale_factor", "trained layer scales", f"{start:g} everywhere, as untrained")


def _place(model: nn.Module, state: dict[str, Tensor], where: str, unread: frozenset[str] = frozenset()) -> None:
    """Give a module its tensors.  Raises InputError for one missing, left over, or of another size."""
    own = model.state_dict()
    if wrong := sorted(set(own) - set(state) - unread) or sorted(set(state) - set(own)):
        what = "missing" if wrong[0] in own else "unexpected"
        raise problem(where, "every weight of the model and no other", f"{what}: {', '.join(wrong[:3])}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise problem(f"{where}: {name}", f"size {tuple(own[name].shape)}", str(tuple(value.shape)))
    model.load_state_dict(state, assign=True, strict=not unread)


# ---- OpenVLA-OFT -----------------------------------------------------------------------------------------------------
def _part(folder: Path, name: str) -> dict[str, Tensor] | None:
    """Return the tensors of the one file of a part; None where there is none."""
    paths = sorted(folder.glob(f"{name}--*_checkpoint.pt"))
    if len(paths) > 1:
        raise problem(f"{folder}: {name}", "one file", ", ".join(path.name for path in paths), "remove the others")
    return _pickled(paths[0]) if paths else None


def read_parts(folder: Path) -> OFTParts:
    """Read what OpenVLA-OFT puts beside OpenVLA.  Raises InputError for what does not fit.

    The projector of proprioception is a file, or (SimpleVLA-RL) among the folder's own tensors.
    """
    names = ("action_head", "proprio_projector", "noisy_action_projector", "vision_backbone")
    head, proprio, noisy, vision = (_part(folder, name) for name in names)
    own = {name.removeprefix(PROPRIO): value for name, value in _tensors(folder, only=PROPRIO)}
    if own and proprio is not None:
        raise problem(f"{folder}: proprio_projector", "one", "a file, and tensors among the model's own")
    made_head = None if head is None else _head(folder, head)
    if isinstance(made_head, NoiseHead) != (noisy is not None):
        want = "noisy_action_projector beside OFT's diffusion head, and only there"
        raise problem(str(folder), want, "none" if noisy is None else "one")
    made_proprio, made_noisy = None, None
    if kept := proprio or own:
        width, size = _first(folder, "proprio_projector", kept)
        made_proprio = ProprioProjector(size, width)
        _place(made_proprio, _floats(kept), f"{folder}: proprio_projector")
    if noisy is not None:
        made_noisy = NoisyActionProjector(_first(folder, "noisy_action_projector", noisy)[0])
        _place(made_noisy, _floats(noisy), f"{folder}: noisy_action_projector")
    return OFTParts(made_head, made_proprio, made_noisy, None if vision is None else merged_towers(vision))


def _head(folder: Path, tensors: dict[str, Tensor]) -> ActionHead | NoiseHead:
    """Return the L1 head or the diffusion head with its weights, whichever the names are of."""
    where = f"{folder}: action_head"
    stems = ("model.", "noise_predictor.mlp_resnet.")
    stem = next((one for one in stems if {f"{one}fc1.weight", f"{one}fc2.weight"} <= tensors.keys()), None)
    if stem is None:
        want = "OFT's L1 head (model.fc1, model.fc2) or its diffusion head"
        raise problem(where, want, ", ".join(sorted(tensors)[:2]))
    sizes = len(tensors[f"{stem}fc2.weight"]), len(tensors[f"{stem}fc1.weight"])
    head = ActionHead(*sizes) if stem == stems[0] else NoiseHead(*sizes)
    _place(head, _floats(tensors), where)
    return head


def _first(folder: Path, name: str, tensors: dict[str, Tensor]) -> tuple[int, int]:
    """Return the sizes of a projector's first matrix."""
    if (first := tensors.get("fc1.weight")) is None or first.ndim != 2:
        raise problem(f"{folder}: {name}", "a matrix fc1.weight", ", ".join(sorted(tensors)[:2]))
    return first.shape[0], first.shape[1]


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() for name, value in tensors.items()}


def merged_towers(vision: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of FiLM's vision file by HF's names, W + (alpha / r) B A with alpha = min(r, 16)."""
    found: dict[str, Tensor] = {}
    for name, value in vision.items():
        plain = re.sub(r"(\.blocks\.\d+)\.block\.", r"\1.", name)
        if ".lora_" in name:
            continue
        if ".base_layer.weight" in name:
            a, b = (vision.get(name.replace("base_layer", f"lora_{part}.default")) for part in "AB")
            if a is None or b is None:
                raise problem("vision_backbone file", f"LoRA's matrices of {name}", "none")
            value = value.float() + min(len(a), 16) / len(a) * (b.float() @ a.float())
        found[plain.replace(".base_layer.", ".")] = value
    return found


# ---- statistics ------------------------------------------------------------------------------------------------------
def read_statistics(folder: Path) -> dict[str, Any]:
    """Return the statistics of each data set: dataset_statistics.json, where it exists, in place of the config's."""
    own = folder / "dataset_statistics.json"
    found = read_json(own) if own.exists() else read_json(folder / "config.json", finite=False).get("norm_stats")
    return found if isinstance(found, dict) else {}


def statistics_of(folder: Path, key: str, part: str, bounds: tuple[str, str]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return low, high (A,) and mask (A,) bool of "action" or "proprio" of a data set.

    key: its name, or empty for the only one; None where that says none of several.
    Raises InputError for a name that is not there and for statistics that are incomplete.
    """
    known = read_statistics(folder)
    if not key and len(known) != 1:
        return None
    name = key or next(iter(known))
    name = name if name in known else f"{name}_no_noops"
    if name not in known:
        raise problem("unnorm_key", f"a data set of {folder}: {', '.join(sorted(known)) or 'none'}", key)
    found = known[name].get(part) if isinstance(known[name], dict) else None
    where = f"{folder}: statistics of {name}: {part}"
    if not isinstance(found, dict) or not set(bounds) <= found.keys():
        raise problem(where, f"{' and '.join(bounds)}", "none", nearest(part, ("action", "proprio")))
    low, high = (torch.tensor(found[bound], dtype=torch.float64) for bound in bounds)
    mask = torch.tensor(found.get("mask", [True] * len(low)), dtype=torch.bool)
    if not low.shape == high.shape == mask.shape or low.ndim != 1 or not bool(torch.isfinite(low + high).all()):
        raise problem(where, "as many finite numbers of each", f"{list(low.shape)}, {list(high.shape)}")
    return low, high, mask
