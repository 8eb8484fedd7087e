"""Write what OpenVLA's and OpenVLA-OFT's own classes answer on the folders of tests/prismatic_folders.py.

    <python with timm 1.0.20, transformers 4.40.1, diffusers 0.31, numpy < 2> scripts/record_openvla_answers.py \\
        --openvla <checkout of openvla/openvla> --oft <checkout of moojink/openvla-oft>

in an environment of its own, with the repository's root on PYTHONPATH.  Writes openvla_answer.safetensors in
tests/policies/data, where what TensorFlow answered (see the README there) is kept.  What is wired in upstream and
replaced here: timm's two towers, the id of the lone space, the check of timm's version, and for OFT transformers'
causal mask by one of zeros, which is what its fork of transformers does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.prismatic_folders import PROPRIO, SPACE, WIDTH, pictures, save_oft, save_openvla
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

DATA = Path(__file__).parent.parent / "tests/policies/data/openvla_answer.safetensors"
SENTENCES = ("open the drawer.", "push")
PURE = "In: What action should the robot take to {}?\nOut:"
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What action should the robot take to {}? ASSISTANT:"
)
TOWERS: dict[str, dict[str, Any]] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": {
        "embed_dim": 32,
        "reg_tokens": 4,
        "no_embed_class": True,
        "init_values": 1e-5,
    },
    "vit_so400m_patch14_siglip_224": {"embed_dim": 48, "class_token": False, "global_pool": "map"},
}
HF = "prismatic/extern/hf/"
MODULES = [f"{HF}{part}_prismatic.py" for part in ("configuration", "modeling", "processing")]
OFT_MODULES = [*MODULES[:2], "prismatic/vla/constants.py", "prismatic/training/train_utils.py"]
OFT_MODULES += [f"prismatic/models/{part}.py" for part in ("action_heads", "projectors", "film_vit_wrapper")]


def taken(checkout: Path, root: Path, package: str, modules: list[str]) -> None:
    """Copy modules of a checkout into a package of their own, with what is wired in replaced."""
    for module in modules:
        text = (
            (checkout / module).read_text().replace("29871", str(SPACE)).replace("from prismatic.", f"from {package}.")
        )
        text = text.replace('timm.__version__ not in {"0.9.10", "0.9.11", "0.9.12", "0.9.16"}', "False")
        text = text.replace("isinstance(result, tuple)", "isinstance(result, (tuple, list))")  # timm 1 gives lists
        path = root / package / module.removeprefix("prismatic/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return {name: value.float() for name, value in found.items()}


def part_of(folder: Path, name: str) -> dict[str, Tensor]:
    found = torch.load(next(folder.glob(f"{name}--*")), weights_only=True)
    return {key.removeprefix("module."): value.float() for key, value in found.items()}


def model_of(folder: Path, config_class: Any, model_class: Any) -> Any:
    given = json.loads((folder / "config.json").read_text())
    del given["model_type"], given["text_config"]["model_type"]
    config = config_class(**given)
    config.image_sizes = [28, 28]
    model = model_class(config).eval()
    model.load_state_dict(tensors_of(folder), strict=True)
    return model


def inputs_of(folder: Path, prompt: str, row: int, cameras: int) -> dict[str, Tensor]:
    """Ids, mask and pixels of one observation, by upstream's processor."""
    from openvla.extern.hf.processing_prismatic import PrismaticImageProcessor

    processor = PrismaticImageProcessor(**json.loads((folder / "preprocessor_config.json").read_text()))
    images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pictures(2, 2, (40, 56))[row, :cameras]]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [1, *tokenizer.encode(prompt.format(SENTENCES[row]), add_special_tokens=False).ids, SPACE]
    pixels = torch.cat([processor.apply_transform(image) for image in images])[None]
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long(), "pixel_values": pixels}


def openvla_answers(folder: Path, prompt: str) -> dict[str, Tensor]:
    from openvla.extern.hf.configuration_prismatic import OpenVLAConfig
    from openvla.extern.hf.modeling_prismatic import OpenVLAForActionPrediction

    model, actions, logits = model_of(folder, OpenVLAConfig, OpenVLAForActionPrediction), [], []
    for row in range(2):
        given = inputs_of(folder, prompt, row, 1)
        actions.append(torch.from_numpy(model.predict_action(**given, do_sample=False)).float())
        logits.append(model(**given).logits[0, -1, 256:512].flip(0))
    return {"action": torch.stack(actions), "logits": torch.stack(logits)}


class Lora(nn.Module):
    """peft's layer, under its names."""

    def __init__(self, base: nn.Linear, rank: int = 32) -> None:
        super().__init__()
        self.base_layer, self.scale = base, min(rank, 16) / rank
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scale * self.lora_B["default"](self.lora_A["default"](x))


def under_lora(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Lora(child))
        else:
            under_lora(child)


def oft_answers(folder: Path, kind: str) -> dict[str, Tensor]:
    """Actions of kind l1, words, film or diffusion; all but words with proprioception."""
    from oft.extern.hf.configuration_prismatic import OpenVLAConfig
    from oft.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
    from oft.models.action_heads import DiffusionActionHead, L1RegressionActionHead
    from oft.models.film_vit_wrapper import FiLMedPrismaticVisionBackbone
    from oft.models.projectors import NoisyActionProjector, ProprioProjector

    modeling_llama.LlamaModel._update_causal_mask = lambda self, mask, x, *_, **__: torch.zeros(
        len(x), 1, x.shape[1], x.shape[1]
    )
    model = model_of(folder, OpenVLAConfig, OpenVLAForActionPrediction)
    model.vision_backbone.set_num_images_in_input(2)
    if kind == "film":
        under_lora(model.vision_backbone)
        model.vision_backbone = FiLMedPrismaticVisionBackbone(model.vision_backbone, llm_dim=WIDTH).eval()
        model.vision_backbone.load_state_dict(part_of(folder, "vision_backbone"))
    parts: dict[str, Any] = {}
    if kind != "words":
        head_class = DiffusionActionHead if kind == "diffusion" else L1RegressionActionHead
        parts = {"action_head": head_class(WIDTH, WIDTH, 7), "proprio_projector": ProprioProjector(WIDTH, PROPRIO)}
    if kind == "diffusion":
        parts["noisy_action_projector"] = NoisyActionProjector(WIDTH)
        parts["action_head"].noise_scheduler.set_timesteps(50)
    for name, module in parts.items():
        module.load_state_dict(part_of(folder, name))
    bounds = model.norm_stats["bridge_orig"]["proprio"]
    low, high = np.array(bounds["q01"]), np.array(bounds["q99"])
    actions, noise = [], []
    for row in range(2):
        state = torch.linspace(-2, 1, 2 * PROPRIO).view(2, PROPRIO)[row].numpy()
        state = np.clip(2 * (state - low) / (high - low + 1e-8) - 1, -1, 1)
        torch.manual_seed(row)
        noise.append(torch.randn(8, 7))
        torch.manual_seed(row)
        given = parts | ({} if kind == "words" else {"proprio": state})
        found, _ = model.predict_action(**inputs_of(folder, PURE, row, 2), **given, use_film=kind == "film")
        actions.append(torch.from_numpy(np.asarray(found)).float())
    return {"action": torch.stack(actions)} | ({"noise": torch.stack(noise)} if kind == "diffusion" else {})


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--openvla", type=Path, required=True)
    parser.add_argument("--oft", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args()
    timm.create_model = lambda name, **_: VisionTransformer(
        img_size=28, patch_size=14, num_classes=0, depth=3, num_heads=16, mlp_ratio=2, **TOWERS[name]
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        taken(options.openvla, root, "openvla", MODULES)
        taken(options.oft, root, "oft", OFT_MODULES)
        sys.path.insert(0, name)
        found = {key: value for key, value in load_file(DATA).items() if key.startswith("tensorflow.")}
        answers = {
            "openvla": openvla_answers(save_openvla(root / "two"), PURE),
            "openvla_one": openvla_answers(save_openvla(root / "one", fused=False, shards=1), VICUNA),
            "oft": oft_answers(save_oft(root / "l1"), "l1"),
            "oft_tokens": oft_answers(root / "l1", "words"),
            "oft_film": oft_answers(save_oft(root / "film", film=True), "film"),
            "oft_diffusion": oft_answers(save_oft(root / "diffusion", diffusion=True), "diffusion"),
        }
    found |= {f"{kind}.{key}": value for kind, answer in answers.items() for key, value in answer.items()}
    save_file({key: value.contiguous() for key, value in found.items()}, options.out)
    print({key: tuple(value.shape) for key, value in found.items()})


if __name__ == "__main__":
    main()
