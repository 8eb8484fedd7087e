"""Checkpoints: a tree of state on disk as safetensors plus JSON, whole or not there at all, never pickle.

A checkpoint is a folder: `state.json` (the tree, with references to arrays, and `meta`), `tensors.safetensors`,
`arrays.safetensors`, and `manifest.json` with the SHA-256 of each.  It is written under a temporary name beside its
place, flushed to disk and renamed, so that a kill or a full disk leaves the former checkpoint as it was.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from toddle.core.errors import InputError
from toddle.core.reading import read_json

__all__ = ["copy_tree", "load_state", "save_state", "states_equal"]

FORMAT = 1
MANIFEST, STATE, TENSORS, ARRAYS = "manifest.json", "state.json", "tensors.safetensors", "arrays.safetensors"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Tree = Any
"""Dicts, lists, tuples, tensors, numpy arrays and JSON values (integers of any size, NaN and infinity too)."""


def save_state(folder: Path, tree: Tree, meta: dict[str, Any] | None = None) -> None:
    """Write `tree` and `meta` (JSON values) to `folder`, atomically.

    Raises InputError when the disk is full (what `folder` held before is untouched), TypeError for a value that
    is not part of a state tree.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _fill(temporary, tree, meta or {})
        _put_in_place(temporary, folder)
    except (OSError, safetensors.SafetensorError) as error:
        if getattr(error, "errno", None) in NO_SPACE or any(f"os error {code})" in str(error) for code in NO_SPACE):
            raise InputError(
                f"{folder}: the disk is full, the checkpoint was not written and earlier ones are whole; "
                "free some space and run again with --resume"
            ) from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_state(folder: Path) -> tuple[Tree, dict[str, Any]]:
    """Read what `save_state` wrote: (tree, meta), tensors on the CPU.

    Raises InputError when a file is missing, cut short or changed (its SHA-256 is checked before it is parsed).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"checkpoint {folder}: there is no such folder")
    try:
        manifest = read_json(folder / MANIFEST, {"sha256": dict, "format": int})
        if manifest["sha256"].keys() != {STATE, TENSORS, ARRAYS}:
            raise InputError(f"checkpoint {folder}: {MANIFEST} is damaged: it must name its three files")
        for name, expected in manifest["sha256"].items():
            if not (folder / name).is_file():
                raise InputError(f"checkpoint {folder}: {name} is missing")
            if _sha256(folder / name) != expected:
                raise InputError(f"checkpoint {folder}: {name} is damaged (its SHA-256 differs from {MANIFEST})")
        if manifest["format"] != FORMAT:
            raise InputError(f"checkpoint {folder}: expected format {FORMAT}, got {manifest['format']!r}")
        state = read_json(folder / STATE, {"tree": object, "meta": dict})
        tensors = safetensors.torch.load_file(folder / TENSORS)
        arrays = safetensors.numpy.load_file(folder / ARRAYS)
        return _decode(state["tree"], tensors, arrays), state["meta"]
    except InputError as error:
        raise InputError(str(error) if "checkpoint" in str(error) else f"checkpoint {folder}: {error}") from None
    except (KeyError, TypeError, ValueError, OSError, safetensors.SafetensorError) as error:
        raise InputError(f"checkpoint {folder}: damaged: {' '.join(str(error).split())[:200]}") from None


def copy_tree(tree: Tree) -> Tree:
    """Return a deep copy of a state tree: live tensors and arrays may change afterwards."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, np.ndarray):
        return tree.copy()
    if isinstance(tree, dict):
        return {key: copy_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(copy_tree(value) for value in tree)
    return tree


def states_equal(first: Tree, second: Tree) -> bool:
    """Whether two state trees are bitwise equal (a NaN equals a NaN)."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return same and torch.equal(_bits(first), _bits(second))
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(states_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(states_equal(a, b) for a, b in zip(first, second))
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return type(first) is type(second) and bool(first == second)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _fill(folder: Path, tree: Tree, meta: dict[str, Any]) -> None:
    """Write all files of a checkpoint into an empty folder and flush them to disk."""
    tensors: dict[str, Tensor] = {}
    arrays: dict[str, np.ndarray] = {}
    state = {"tree": _encode(tree, "", tensors, arrays), "meta": meta}
    (folder / STATE).write_text(json.dumps(state, allow_nan=False))
    safetensors.torch.save_file(tensors, folder / TENSORS)
    safetensors.numpy.save_file(arrays, folder / ARRAYS)
    sums = {name: _sha256(folder / name) for name in (STATE, TENSORS, ARRAYS)}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "sha256": sums}, indent=1))
    for name in (STATE, TENSORS, ARRAYS, MANIFEST):
        os.chmod(folder / name, 0o644)
        _flush(folder / name)
    os.chmod(folder, 0o755)
    _flush(folder)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`; what stood there is deleted only after the new one is in place."""
    former = temporary.with_name(temporary.name + ".former")
    if folder.exists():
        os.rename(folder, former)
    os.rename(temporary, folder)
    _flush(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(value: Tree, path: str, tensors: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> Any:
    """Turn a tree into JSON; arrays go to the side under their path, everything JSON lacks becomes {"$kind": ...}."""
    if isinstance(value, Tensor):
        name = _new_name(path, tensors)
        tensors[name] = value.detach().cpu().contiguous().clone()  # a copy: safetensors refuses shared memory
        return {"$tensor": name}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"state{path}: an array of {value.dtype} cannot be saved")
        name = _new_name(path, arrays)
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
        return {"$array": name} if isinstance(value, np.ndarray) else {"$scalar": name}
    if isinstance(value, dict):
        items = {key: _encode(item, f"{path}/{key}", tensors, arrays) for key, item in value.items()}
        if all(isinstance(key, str) and not key.startswith("$") for key in items):
            return items
        if not all(isinstance(key, str | int) for key in items):
            raise TypeError(f"state{path}: keys must be strings or integers")
        return {"$items": [[key, item] for key, item in items.items()]}
    if isinstance(value, list | tuple):
        parts = [_encode(item, f"{path}/{index}", tensors, arrays) for index, item in enumerate(value)]
        return parts if isinstance(value, list) else {"$tuple": parts}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state{path}: a {type(value).__name__} cannot be saved")


def _new_name(path: str, taken: dict[str, Any]) -> str:
    """A name for the array at `path`; keys that hold a slash must not make two paths one."""
    name = path or "/"
    while name in taken:
        name += "'"
    return name


def _decode(value: Any, tensors: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> Tree:
    """The inverse of `_encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    match next(iter(value.items()), None):
        case ("$tensor", name):
            return tensors[name]
        case ("$array", name):
            return arrays[name]
        case ("$scalar", name):
            return arrays[name][()]
        case ("$items", items):
            return {key: _decode(item, tensors, arrays) for key, item in items}
        case ("$tuple", parts):
            return tuple(_decode(item, tensors, arrays) for item in parts)
        case ("$float", text):
            return float(text)
    return {key: _decode(item, tensors, arrays) for key, item in value.items()}
