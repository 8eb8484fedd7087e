"""SmolVLA (arXiv 2506.01844) as LeRobot writes it: SmolVLM2's first layers, and an expert that reads them in two ways.

    prefix: pictures * sqrt(d) | words * sqrt(d) | state; pictures and words see each other, the state sees all
    expert: even layers attend to the prefix and to the chunk's earlier actions (self), odd ones to the prefix alone,
            through key and value projections of their own over the VLM's rotated keys and values (cross)
Actions are causal among themselves, unlike pi0's; rotary angles have base 10,000 whatever SmolLM2 was trained with.
No file of the folder holds the VLM's config: sizes are read off the weights, and what they do not say (heads of 64
channels, SmolVLM2's epsilons) is fixed here.  Deviations from LeRobot: pictures are shrunk with antialiasing, the
normalised state is clipped at 10 deviations, special tokens around pictures are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import SmolVLMConfig, SmolVLMModel

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.models.attention import Table, rotate
from toddle.models.backbones.hub import fit_square
from toddle.models.prefix_expert import (
    Attention,
    GatedMLP,
    Keys,
    attend,
    embed_time,
    keys_of,
    leave,
    read_layer,
    read_prefix,
    rotary,
    suffix_view,
)
from toddle.models.recompute import recomputed
from toddle.policies.pi0 import load_source
from toddle.policies.pi0_layouts import BUFFERS, layers_of, read_config, read_statistics, read_weights, sizes_of
from toddle.policies.prefix_vla import PrefixConfig, PrefixVLA, Seen, Sizes, check_sizes, pad

__all__ = ["SmolVLAConfig", "SmolVLAPolicy"]

HEAD_DIM = 64
"""Of all of SmolVLM2's text models, and of the towers of its two smaller ones."""
TOWER_HEADS = {1152: 16}
"""Heads of towers whose heads have not 64 channels, by width."""
NAMES = (
    ("vlm_with_expert.vlm.model.", "vlm."),
    ("vlm_with_expert.lm_expert.", "expert."),
    *((f"{name}.", f"{name}.") for name in ("state_proj", "action_in_proj", "action_out_proj")),
    *((f"{name}.", f"{name}.") for name in ("action_time_mlp_in", "action_time_mlp_out")),
)
"""How LeRobot's names begin after `model.`, and ours."""
DEAD = ("vlm_with_expert.vlm.lm_head.", *BUFFERS)
"""What is in some files and is never read."""


@config
class SmolVLAConfig(PrefixConfig):
    """A SmolVLA for one body."""


class ExpertLayer(nn.Module):
    """A Llama layer of the expert; `reads`: the width of the VLM's keys that it projects, None where it is its own."""

    def __init__(self, width: int, hidden: int, heads: int, key_heads: int, reads: int | None, eps: float) -> None:
        super().__init__()
        self.cross = reads is not None
        self.self_attn = Attention(width, heads, key_heads, HEAD_DIM, reads)
        self.mlp = GatedMLP(width, hidden)
        self.input_layernorm = nn.RMSNorm(width, eps)
        self.post_attention_layernorm = nn.RMSNorm(width, eps)


class SmolVLANetwork(nn.Module):
    """The networks, with the names of the files but for what `NAMES` says."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Build with fresh weights from `read_settings`."""
        super().__init__()
        self.settings = settings
        self.vlm = SmolVLMModel(SmolVLMConfig(**settings["vlm"]))
        text = self.vlm.config.text_config
        width, d = settings["expert_width"], text.hidden_size
        keys = text.num_key_value_heads
        self.expert: Any = nn.Module()
        self.expert.layers = nn.ModuleList(
            ExpertLayer(
                width,
                settings["expert_hidden"],
                text.num_attention_heads,
                keys,
                keys * HEAD_DIM if cross else None,
                text.rms_norm_eps,
            )
            for cross in settings["cross"]
        )
        self.expert.norm = nn.RMSNorm(width, text.rms_norm_eps)
        self.state_proj = nn.Linear(settings["state"], d)
        self.action_in_proj = nn.Linear(settings["action"], width)
        self.action_out_proj = nn.Linear(width, settings["action"])
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)


class SmolVLAPolicy(PrefixVLA):
    """SmolVLA for one body."""

    kind: ClassVar[str] = "smolvla"
    expert_names = ("model.expert.",)

    def __init__(self, config: SmolVLAConfig, model: SmolVLANetwork, tokenizer: Any) -> None:
        """Wrap a network.  Raises InputError when the checkpoint is too small for the body or the chunk."""
        super().__init__(config, _sizes(model.settings), tokenizer)
        self.model = model

    @property
    def vlm(self) -> nn.Module:
        """Its vision-language model."""
        return self.model.vlm

    @classmethod
    def from_config(cls, config: SmolVLAConfig) -> SmolVLAPolicy:
        """Build with the sizes and frozen weights of `config.source`; where all learn, with fresh ones.

        `load_policy` fills in what was learned.
        """
        return cls._fresh(config).ready() if config.train == "all" else cls.from_pretrained(config)

    @classmethod
    def _fresh(cls, config: SmolVLAConfig) -> SmolVLAPolicy:

        def load(source: str) -> SmolVLANetwork:
            settings = read_settings(Path(source).expanduser())
            check_sizes(config, cls.kind, _sizes(settings))
            with torch.random.fork_rng(devices=[]):
                return SmolVLANetwork(settings)

        return cls(config, *load_source(config, load, cls.kind, "SmolVLM2's tokenizer"))

    @classmethod
    def from_pretrained(cls, config: SmolVLAConfig) -> SmolVLAPolicy:
        """Load the weights of `config.source`, a folder of LeRobot's, and its statistics.

        Raises InputError when they cannot be had, or when a tensor is missing or left over.
        """
        policy, folder = cls._fresh(config), Path(config.source).expanduser()
        read_weights(folder, policy.model, new_name)
        policy._take_statistics(read_statistics(folder))
        return policy.ready()

    def embed(self, state: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Return the prefix's tokens (N, G, d) of normalised states, pictures and ids of words."""
        vlm, scale = self.model.vlm, self.model.vlm.config.text_config.hidden_size**0.5
        pixels = 2.0 * fit_square(images.flatten(0, 1).to(ids.device), self.sizes.picture, corner=True) - 1.0
        pictures = vlm.connector(vlm.vision_model(pixel_values=pixels).last_hidden_state)
        pictures = pictures.unflatten(0, images.shape[:2]).flatten(1, 2)
        words = vlm.text_model.embed_tokens(ids)
        return torch.cat([pictures * scale, words * scale, self._state(state)], 1)

    def _state(self, state: Tensor) -> Tensor:
        token: Tensor = self.model.state_proj(pad(state, self.sizes.state))
        return token[:, None]

    def _prefix(self, state: Tensor, images: Tensor, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Read pictures, words and the state, which the others do not see."""
        ids, real = self._words(sentences)
        tokens = self.embed(state, images, ids)
        before = tokens.shape[1] - real.shape[1] - 1
        mask = torch.cat([real.new_ones(len(real), before), real, real.new_ones(len(real), 1)], 1)
        seen = mask[:, None].repeat(1, mask.shape[1], 1)
        seen[:, :-1, -1] = False
        layers = self.model.vlm.text_model.layers
        return read_prefix(layers, tokens, mask.cumsum(1) - 1, seen[:, None], HEAD_DIM), mask

    def _velocity(self, seen: Seen, x: Tensor, t: Tensor) -> Tensor:
        """Run the expert over the chunks; in odd layers it reads the prefix alone, at places counted from 0."""
        model, settings = self.model, self.model.settings
        time = embed_time(t, settings["expert_width"], *settings["periods"])[:, :, None].expand(*x.shape[:3], -1)
        mixed = torch.cat([model.action_in_proj(x), time], -1)
        tokens = model.action_time_mlp_out(nn.functional.silu(model.action_time_mlp_in(mixed))).flatten(1, 2)
        mask, positions = suffix_view(seen.mask, 0, *x.shape[1:3], causal=True)
        own = rotary(positions, HEAD_DIM), rotary(positions - seen.mask.sum(1, keepdim=True), HEAD_DIM)
        keys = keys_of(seen.context, self.sizes.layers, HEAD_DIM)
        for layer, past in zip(model.expert.layers, keys, strict=True):
            if layer.cross:
                tokens = recomputed(_read_across, layer, tokens, past, seen.mask[:, None, None], own[1])
            else:
                tokens = recomputed(read_layer, layer, tokens, past, mask, own[0])
        velocity: Tensor = model.action_out_proj(model.expert.norm(tokens))
        return velocity.view(x.shape)

    def _ids(self, sentence: str, state: Tensor | None = None) -> list[int]:
        """Return the sentence and a line end, with what its tokenizer adds (SmolVLM2's adds nothing)."""
        words: list[int] = self.tokenizer(sentence.strip() + "\n")["input_ids"]
        return words


def _read_across(layer: Any, x: Tensor, past: Keys, mask: Tensor, table: Table) -> Tensor:
    """Run tokens x (N, n, d) through a cross layer, over the VLM's keys and values (N, heads, G, head_dim)."""
    attention = layer.self_attn
    q = attention.q_proj(layer.input_layernorm(x)).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
    k, v = (
        project(part.transpose(1, 2).flatten(2)).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
        for project, part in zip((attention.k_proj, attention.v_proj), past, strict=True)
    )
    return leave(layer, x, attend(attention, rotate(q, table), k, v, mask))


def new_name(name: str) -> str | None:
    """Return our name of a tensor, None for one that is not read.  Raises InputError for an unknown one."""
    plain = name.replace("._orig_mod.", ".").removeprefix("model.")
    if plain.startswith(DEAD):
        return None
    for old, new in NAMES:
        if plain.startswith(old):
            return new + plain.removeprefix(old)
    raise problem(f"smolvla: tensor {name}", "a name that LeRobot's SmolVLA has", "another")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what `SmolVLANetwork` is built from: sizes off the weights, the rest of config.json.

    Raises InputError for settings that change what the network computes and are not read here.
    """
    found, sizes = read_config(folder), sizes_of(folder, new_name)
    tower, words, expert = "vlm.vision_model.", "vlm.text_model.", "expert.layers."
    patches, width = sizes[f"{tower}embeddings.position_embedding.weight"]
    patch = sizes[f"{tower}embeddings.patch_embedding.weight"][-1]
    side, layers = patch * round(patches**0.5), layers_of(sizes, f"{words}layers.")
    for field, wanted, default in (
        ("attention_mode", "cross_attn", "cross_attn"),
        ("add_image_special_tokens", False, False),
        ("resize_imgs_with_padding", [side, side], [512, 512]),
    ):
        if found.get(field, default) != wanted:
            raise problem(f"{folder / 'config.json'}: {field}", str(wanted), str(found.get(field)))
    if layers_of(sizes, expert) != layers:
        raise problem(f"{folder}: expert", f"{layers} layers, as the VLM has", layers_of(sizes, expert))
    every = int(found.get("self_attn_every_n_layers", 2))
    vlm = {
        "scale_factor": round((sizes["vlm.connector.modality_projection.proj.weight"][1] / width) ** 0.5),
        "pad_token_id": 0,
        "image_token_id": 0,  # marks a place, is never looked up
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": sizes[f"{tower}encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": layers_of(sizes, f"{tower}encoder.layers."),
            "num_attention_heads": TOWER_HEADS.get(width, width // HEAD_DIM),
            "patch_size": patch,
            "image_size": side,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": sizes[f"{words}embed_tokens.weight"][0],
            "hidden_size": sizes[f"{words}norm.weight"][0],
            "intermediate_size": sizes[f"{words}layers.0.mlp.up_proj.weight"][0],
            "num_hidden_layers": layers,
            "num_attention_heads": sizes[f"{words}layers.0.self_attn.q_proj.weight"][0] // HEAD_DIM,
            "num_key_value_heads": sizes[f"{words}layers.0.self_attn.k_proj.weight"][0] // HEAD_DIM,
            "head_dim": HEAD_DIM,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
        },
    }
    return {
        "vlm": vlm,
        "expert_width": sizes["expert.norm.weight"][0],
        "expert_hidden": sizes[f"{expert}0.mlp.up_proj.weight"][0],
        "cross": [every <= 0 or index % every != 0 for index in range(layers)],
        "chunk": int(found.get("chunk_size", 50)),
        "state": sizes["state_proj.weight"][1],
        "action": sizes["action_out_proj.weight"][0],
        "periods": (float(found.get("min_period", 4e-3)), float(found.get("max_period", 4.0))),
    }


def _sizes(settings: dict[str, Any]) -> Sizes:
    text = settings["vlm"]["text_config"]
    return Sizes(
        chunk=settings["chunk"],
        state=settings["state"],
        action=settings["action"],
        picture=settings["vlm"]["vision_config"]["image_size"],
        layers=text["num_hidden_layers"],
        key_heads=text["num_key_value_heads"],
        head_dim=HEAD_DIM,
    )
