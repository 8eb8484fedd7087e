"""Small folders as OpenVLA, OpenVLA-OFT and Prismatic write them, with random weights that are the same everywhere.

Towers of 32 and 48 channels with 3 blocks on pictures of 28 x 28 (2 x 2 patches), a Llama of width 32 with 2 layers
and 512 words.  Every tensor is random, those too that are never read.  Weights are rounded to bfloat16, as published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY, PADDING, WIDTH, LAYERS = 512, 64, 32, 2
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
TEXT = {
    "model_type": "llama",
    "vocab_size": VOCABULARY + PADDING,
    "pad_token_id": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "torch_dtype": "bfloat16",
    **HEADS,
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ACTION, PROPRIO, BLOCKS = 7, 8, 3
SPACE = 300
"""Id of the lone space, which is 29871 in Llama-2's tokenizer."""


def statistics(seed: int = 11) -> dict[str, Any]:
    """Return the statistics of a data set, with a gripper that is not normalised."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for part, size in (("action", ACTION), ("proprio", PROPRIO)):
        low, width = rng.normal(size=size) - 1, rng.uniform(0.5, 2.0, size=size)
        found[part] = {
            "q01": low.tolist(),
            "q99": (low + width).tolist(),
            "min": (low - 0.25).tolist(),
            "max": (low + width + 0.5).tolist(),
            "mean": (low + 0.3 * width).tolist(),
            "std": width.tolist(),
        }
    found["action"]["mask"] = [True] * (ACTION - 1) + [False]
    return found


def _tower(width: int, mlp: int, registers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 4, width), "patch_embed.proj.weight": (width, 3, 14, 14)}
    shapes["patch_embed.proj.bias"] = (width,)
    if registers:
        shapes |= {"cls_token": (1, 1, width), "reg_token": (1, registers, width)}
    else:  # SigLIP's pooling head, which nothing reads
        pooled = {"q": (width, width), "kv": (2 * width, width), "proj": (width, width)}
        pooled |= {"mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp)}
        for name, shape in pooled.items():
            shapes |= {f"attn_pool.{name}.weight": shape, f"attn_pool.{name}.bias": shape[:1]}
        shapes |= {
            "attn_pool.latent": (1, 1, width),
            "attn_pool.norm.weight": (width,),
            "attn_pool.norm.bias": (width,),
        }
    linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (mlp, width)}
    linears["mlp.fc2"] = (width, mlp)
    for index in range(BLOCKS):
        block = f"blocks.{index}."
        for name, shape in linears.items():
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}{name}.weight": (width,), f"{block}{name}.bias": (width,)}
        if registers:
            shapes |= {f"{block}{name}.scale_factor": (width,) for name in ("ls1", "ls2")}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def shapes_of(*, fused: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a folder's tensors."""
    first = _tower(32, 64, 4) if fused else _tower(48, 96, 0)
    found = {f"vision_backbone.featurizer.{name}": shape for name, shape in first.items()}
    if fused:
        found |= {f"vision_backbone.fused_featurizer.{name}": shape for name, shape in _tower(48, 96, 0).items()}
    seen, inner = (80, 320) if fused else (48, WIDTH)
    layers = [("fc1", (inner, seen)), ("fc2", (WIDTH, inner)), ("fc3", (WIDTH, WIDTH))][: 3 if fused else 2]
    for name, shape in layers:
        found |= {f"projector.{name}.weight": shape, f"projector.{name}.bias": shape[:1]}
    llama = "language_model.model."
    found |= {f"{llama}embed_tokens.weight": (VOCABULARY + PADDING, WIDTH), f"{llama}norm.weight": (WIDTH,)}
    found["language_model.lm_head.weight"] = (VOCABULARY + PADDING, WIDTH)
    for index in range(LAYERS):
        layer = f"{llama}layers.{index}."
        found |= {f"{layer}self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        found |= {f"{layer}mlp.{name}_proj.weight": (64, WIDTH) for name in ("gate", "up")}
        found |= {f"{layer}mlp.down_proj.weight": (WIDTH, 64)}
        found |= {f"{layer}{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
    return found


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 5) -> dict[str, Tensor]:
    """Return random tensors in bfloat16: norms about 1, weights so that nothing dies out on the way."""
    found = {}
    rng = np.random.default_rng(seed)
    for name in sorted(shapes):
        shape = shapes[name]
        plain = rng.normal(size=shape)
        if name.endswith(".weight") and len(shape) == 1:  # a norm
            plain = 1 + 0.3 * plain
        elif len(shape) == 1:
            plain = 0.5 * plain
        elif "embed_tokens" not in name and "lm_head" not in name:
            plain = 1.2 * plain / np.sqrt(np.prod(shape[1:]))
        else:
            plain = plain * (1.0 if "embed_tokens" in name else 0.5)
        if "lm_head" in name:  # the words that say numbers are likelier than all others, as after training
            plain[VOCABULARY - 256 : VOCABULARY] *= 4
        found[name] = torch.from_numpy(plain).to(torch.bfloat16)
    return found


def config_of(*, fused: bool = True) -> dict[str, Any]:
    """Return a folder's config.json."""
    return {
        "model_type": "openvla",
        "vision_backbone_id": "dinosiglip-vit-so-224px" if fused else "siglip-vit-so400m",
        "llm_backbone_id": "llama2-7b-pure" if fused else "vicuna-v15-7b",
        "arch_specifier": "no-align+fused-gelu-mlp" if fused else "no-align+gelu-mlp",
        "use_fused_vision_backbone": True if fused else None,
        "image_resize_strategy": "resize-naive" if fused else "letterbox",
        "text_config": TEXT,
        "pad_to_multiple_of": PADDING,
        "n_action_bins": 256,
        "norm_stats": {"bridge_orig": statistics()},
    }


def processor_of(*, fused: bool = True, strategy: str | None = None) -> dict[str, Any]:
    """Return a folder's preprocessor_config.json."""
    moments = (IMAGENET, HALF) if fused else (HALF,)
    return {
        "image_resize_strategy": strategy or ("resize-naive" if fused else "letterbox"),
        "use_fused_vision_backbone": fused,
        "input_sizes": [[3, 28, 28]] * len(moments),
        "interpolations": ["bicubic"] * len(moments),
        "means": [list(mean) for mean, _ in moments],
        "stds": [list(std) for _, std in moments],
    }


def save_llama_tokenizer(folder: Path) -> None:
    """Write a tokenizer.json of the right number of words: pieces of the question, letters, and the lone space."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = [chr(code) for code in range(33, 127) if chr(code) not in words]
    vocabulary = {word: index for index, word in enumerate(words)}
    free = (index for index in range(len(words), VOCABULARY) if index != SPACE)
    vocabulary |= {letter: next(free) for letter in letters}
    vocabulary |= {f"word{index}": index for index in free}
    vocabulary["▁"] = SPACE
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Replace("▁", " ")
    inner.add_special_tokens(["<PAD>"])
    inner.save(str(folder / "tokenizer.json"))


def save_openvla(folder: Path, *, fused: bool = True, shards: int = 2, **changes: Any) -> Path:
    """Write OpenVLA's folder; `changes` are fields of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(shapes_of(fused=fused))
    write_shards(folder, tensors, shards)
    (folder / "config.json").write_text(json.dumps(config_of(fused=fused) | changes))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor_of(fused=fused)))
    save_llama_tokenizer(folder)
    return folder


def write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """Write tensors as `shards` files with their index, or as one."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names, index = sorted(tensors), {}
    for part in range(shards):
        file = f"model-{part + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: tensors[name] for name in names[part::shards]}, folder / file)
        index |= dict.fromkeys(names[part::shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def save_native(folder: Path, *, fused: bool = True, file: str = "latest-checkpoint.pt") -> Path:
    """Write Prismatic's own folder with the tensors of `save_openvla`, without a tokenizer."""
    parts: dict[str, dict[str, Tensor]] = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    for name, value in random_tensors(shapes_of(fused=fused)).items():
        first, _, rest = name.partition(".")
        if first == "vision_backbone":
            tower, _, rest = rest.partition(".")
            old = {"featurizer": "dino_featurizer", "fused_featurizer": "siglip_featurizer"}[tower] if fused else tower
            parts[first][f"{old}.{rest.replace('scale_factor', 'gamma')}"] = value
        elif first == "projector":
            layer, _, rest = rest.partition(".")
            parts[first][f"projector.{2 * int(layer[2]) - 2}.{rest}"] = value
        else:
            parts["llm_backbone"][f"llm.{rest}"] = value
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"model": parts}, folder / "checkpoints" / file)
    base = "prism-dinosiglip-224px+7b" if fused else "siglip-224px+7b"
    (folder / "config.json").write_text(json.dumps({"vla": {"base_vlm": base}}))
    (folder / "dataset_statistics.json").write_text(json.dumps({"bridge_orig": statistics()}))
    return folder


def oft_tensors(horizon_width: int = ACTION * WIDTH) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of OpenVLA-OFT's L1 head and of its projector, by file."""
    head: dict[str, tuple[int, ...]] = {"layer_norm1.weight": (horizon_width,), "layer_norm1.bias": (horizon_width,)}
    head |= {"fc1.weight": (WIDTH, horizon_width), "fc1.bias": (WIDTH,), "fc2.weight": (ACTION, WIDTH)}
    head |= {"fc2.bias": (ACTION,), "layer_norm2.weight": (WIDTH,), "layer_norm2.bias": (WIDTH,)}
    for index in range(2):
        block = f"mlp_resnet_blocks.{index}.ffn."
        head |= {f"{block}0.weight": (WIDTH,), f"{block}0.bias": (WIDTH,)}
        head |= {f"{block}1.weight": (WIDTH, WIDTH), f"{block}1.bias": (WIDTH,)}
    proprio = {"fc1.weight": (WIDTH, PROPRIO), "fc1.bias": (WIDTH,), "fc2.weight": (WIDTH, WIDTH), "fc2.bias": (WIDTH,)}
    return {
        "action_head": {f"model.{name}": value for name, value in random_tensors(head, 6).items()},
        "proprio_projector": random_tensors(proprio, 7),
    }


def diffusion_tensors() -> dict[str, dict[str, Tensor]]:
    """Return the tensors of OpenVLA-OFT's diffusion head and of its projectors, by file."""
    files = oft_tensors()
    head = {name.replace("model.", "noise_predictor.mlp_resnet."): t for name, t in files["action_head"].items()}
    noisy = {"fc1.weight": (WIDTH, 1), "fc1.bias": (WIDTH,), "fc2.weight": (WIDTH, WIDTH), "fc2.bias": (WIDTH,)}
    projector = random_tensors(noisy, 12)
    projector["fc1.weight"] *= 0.02  # else 50 steps of a random head amplify rounding
    return files | {"action_head": head, "noisy_action_projector": projector}


def film_tensors(rank: int = 32) -> dict[str, Tensor]:
    """Return the tensors of FiLM's vision file: the towers under LoRA, wrapped."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes_of().items():
        if not name.startswith("vision_backbone."):
            continue
        parts = name.split(".")
        if parts[2] == "blocks":
            parts.insert(4, "block")
        inner = ".".join(parts)
        if len(shape) == 2:
            stem = inner.removesuffix(".weight")
            found |= {f"{stem}.base_layer.weight": shape, f"{stem}.lora_A.default.weight": (rank, shape[1])}
            found[f"{stem}.lora_B.default.weight"] = (shape[0], rank)
        elif inner.endswith(".bias") and len(shapes_of()[name.replace(".bias", ".weight")]) == 2:
            found[inner.replace(".bias", ".base_layer.bias")] = shape
        else:
            found[inner] = shape
    for tower, width in (("featurizer", 32), ("fused_featurizer", 48)):
        for index in range(BLOCKS):
            for part in ("scale", "shift"):
                stem = f"vision_backbone.{tower}.blocks.{index}.{part}"
                found |= {f"{stem}.weight": (width, WIDTH), f"{stem}.bias": (width,)}
    return random_tensors(found, 8)


def save_oft(
    folder: Path, *, proprio: bool = True, film: bool = False, diffusion: bool = False, step: str = "150000"
) -> Path:
    """Write OpenVLA-OFT's folder."""
    save_openvla(folder)
    files = diffusion_tensors() if diffusion else oft_tensors()
    if not proprio:
        del files["proprio_projector"]
    if film:
        files["vision_backbone"] = film_tensors()
    for part, tensors in files.items():
        named = {f"module.{name}": value for name, value in tensors.items()}
        torch.save(named, folder / f"{part}--{step}_checkpoint.pt")
    return folder


def pictures(count: int, cameras: int, size: tuple[int, int] = (40, 40), seed: int = 9) -> Tensor:
    """Return smooth random pictures (count, cameras, 3, height, width) uint8."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, size=(count * cameras, 3, 5, 5)))
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
    return fine.round().to(torch.uint8).unflatten(0, (count, cameras))
