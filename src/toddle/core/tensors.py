"""Tensors on disk beside a card of JSON: safetensors, written whole or not at all, refused where they have changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.core.files import write_atomic
from toddle.core.reading import Kinds, read_json

__all__ = ["is_part", "load_tensors", "read_card", "save_tensors"]


def is_part(value: Any) -> bool:
    """Whether a tensor (or a parameter's data) is this learner's part of one that several learners share out."""
    data = value.data if isinstance(value, Tensor) else value
    return type(data).__name__ == "DTensor"  # by name: torch's own takes long to import


def save_tensors(path: Path, state: dict[str, Tensor]) -> str:
    """Write tensors atomically and return the file's SHA-256."""
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    write_atomic(path, lambda temporary: safetensors.torch.save_file(plain, temporary))
    return _digest(path)


def load_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read tensors.  Raises InputError when the file is missing or is not what was written."""
    try:
        if _digest(path) != sha256:
            raise problem(str(path), "the file that was saved", "other bytes", "it is damaged: restore or retrain it")
        state = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise problem("policy folder", f"a file {path.name}", "none", f"looked in {path.parent}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not readable as safetensors: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise problem(
                f"{path}: {name}", "finite weights", "NaN or infinity", "the training that wrote it went wrong"
            )
    return state


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(path: Path, keys: Kinds) -> dict[str, Any]:
    """Read a folder's JSON.  Raises InputError when it is missing, damaged, or lacks one of `keys`."""
    if not path.exists():
        raise problem("folder", f"one with {path.name}", str(path.parent))
    return read_json(path, keys)
