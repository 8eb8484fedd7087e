"""Tiny checkpoints of real architectures, saved locally: what a test can load without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GemmaConfig,
    Idefics3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PI0Config,
    PI0ForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SmolVLMForConditionalGeneration,
)

from toddle.policies.pi0 import pixels_of

SENTENCES = ["open the green drawer", "press the red button", "close the window"]
SPECIAL = ["<pad>", "<s>", "<image>", "<fake_token_around_image>", "<global-img>"]


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE(unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def _vision(heads: int = 2) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        image_size=32,
        patch_size=8,
        vision_use_head=False,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=heads,
    )


def _gemma(vocabulary: int, width: int = 24) -> dict[str, Any]:
    return {
        "model_type": "gemma",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "pad_token_id": 0,
    }


def save_smolvlm(folder: Path, family: type[Any] = SmolVLMForConditionalGeneration) -> Path:
    """SmolVLM or Idefics3: 4 x 4 patches shuffled by 2 make 4 tokens a picture; language width 24."""
    tokenizer = save_tokenizer(folder)
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
    }
    vision = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = family.config_class(
        vision_config=vision, text_config=text, image_token_id=2, scale_factor=2, pad_token_id=0
    )
    torch.manual_seed(0)
    family(config).save_pretrained(folder)
    return folder


def save_idefics3(folder: Path) -> Path:
    """Idefics3 at the sizes of `save_smolvlm`."""
    return save_smolvlm(folder, Idefics3ForConditionalGeneration)


def save_paligemma(folder: Path) -> Path:
    """PaliGemma: 16 tokens a picture; language width 24."""
    tokenizer = save_tokenizer(folder)
    text = GemmaConfig(**{key: value for key, value in _gemma(len(tokenizer)).items() if key != "model_type"})
    config = PaliGemmaConfig(
        vision_config=_vision(), text_config=text, image_token_id=2, projection_dim=24, pad_token_id=0
    )
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_pi0(
    folder: Path, *, chunk_size: int = 6, max_state_dim: int = 10, max_action_dim: int = 7, vision_heads: int = 2
) -> Path:
    """pi0; a context token has 32 numbers."""
    tokenizer = save_tokenizer(folder)
    vlm = PaliGemmaConfig(
        vision_config=_vision(vision_heads),
        image_token_id=2,
        projection_dim=24,
        pad_token_id=0,
        text_config=GemmaConfig(**{key: value for key, value in _gemma(len(tokenizer)).items() if key != "model_type"}),
    )
    expert = GemmaConfig(**{key: value for key, value in _gemma(len(tokenizer), 16).items() if key != "model_type"})
    config = PI0Config(
        vlm_config=vlm,
        dit_config=expert,
        chunk_size=chunk_size,
        max_state_dim=max_state_dim,
        max_action_dim=max_action_dim,
    )
    torch.manual_seed(0)
    PI0ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def pi0_inputs(policy: Any, proprio: torch.Tensor, images: torch.Tensor, sentences: list[str]) -> dict[str, Any]:
    """What transformers' own pi0 takes of states (N, O) that need no normalising, pictures and sentences."""
    ids, real = policy._words(sentences)
    tokens = images.shape[1] * (policy.sizes.picture // 8) ** 2
    places = torch.full((len(images), tokens), policy.model.config.vlm_config.image_token_id)
    return {
        "state": torch.nn.functional.pad(proprio, (0, policy.sizes.state - proprio.shape[-1])),
        "pixel_values": pixels_of(images, policy.sizes.picture).unflatten(0, images.shape[:2]),
        "pixel_attention_mask": torch.ones(images.shape[:2], dtype=torch.bool),
        "input_ids": torch.cat([places, ids], 1),
        "attention_mask": torch.cat([torch.ones_like(places), real.long()], 1),
    }
