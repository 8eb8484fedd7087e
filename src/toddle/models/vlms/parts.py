"""What vision-language models take of transformers: a Llama, a cache of keys, a tokenizer read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaModel, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from toddle.core.errors import InputError, problem

__all__ = ["llama_config", "make_llama", "new_cache", "read_tokenizer"]


def new_cache(decoder: Any) -> Any:
    """Return an empty cache of keys and values."""
    return DynamicCache(config=decoder.config)


def llama_config(fields: dict[str, Any]) -> Any:
    """Return transformers' configuration of a Llama; what is not given is as the class has it (Llama-2 7B).

    Raises InputError where the fields make none.
    """
    plain = {key: value for key, value in fields.items() if key not in ("torch_dtype", "dtype", "model_type")}
    try:
        made = LlamaConfig(**plain)
    except (TypeError, ValueError, KeyError) as error:
        raise problem("text_config", "a Llama's", " ".join(str(error).split())[:160]) from None
    if made.hidden_size % made.num_attention_heads:
        raise problem("text_config: hidden_size", f"a multiple of {made.num_attention_heads} heads", made.hidden_size)
    return made


def make_llama(settings: Any) -> Any:
    """Build a Llama without a head on no device: its weights are to be assigned."""
    with torch.device("meta"):
        llama = LlamaModel(settings)
    llama.rotary_emb = LlamaRotaryEmbedding(config=settings)  # its frequencies are in no file
    return llama


def read_tokenizer(path: Path) -> Any:
    """Read a tokenizer.json as it is.  Raises InputError, one line, where it cannot be."""
    if not path.is_file():
        raise problem("tokenizer", "a folder with tokenizer.json", str(path.parent))
    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(path), unk_token="<unk>")
    except Exception as error:  # tokenizers raises plain exceptions
        raise InputError(f"{path}: not readable as a tokenizer: {' '.join(str(error).split())[:160]}") from None
