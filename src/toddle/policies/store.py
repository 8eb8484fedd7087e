"""Policies on disk: a folder with `policy.safetensors` (weights, normalisation) and `policy.json` (kind, config, meta).

Never pickle.  The JSON is written last and carries the weights' SHA-256, so a folder is whole or is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from toddle.core.config import from_dict, to_dict
from toddle.core.errors import InputError, nearest, problem
from toddle.core.files import write_atomic, write_json_atomic

__all__ = ["load_policy", "load_tensors", "read_policy", "save_policy", "save_tensors"]

KINDS: dict[str, tuple[str, str, str]] = {
    "gaussian": ("toddle.policies.gaussian", "GaussianPolicy", "GaussianConfig"),
    "causal": ("toddle.policies.causal", "CausalPolicy", "CausalConfig"),
    "denoising": ("toddle.policies.denoising", "DenoisingPolicy", "DenoisingConfig"),
    "vla": ("toddle.policies.vla", "FlowVLA", "FlowVLAConfig"),
    "pi0": ("toddle.policies.pi0", "Pi0Policy", "Pi0Config"),
}
"""kind -> (module, policy class, config class); a new policy is one line here.  Imported when it is loaded."""

WEIGHTS, CARD = "policy.safetensors", "policy.json"


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
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise problem("policy folder", f"a file {path.name}", "none", f"looked in {path.parent}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not readable as safetensors: {error}") from None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_policy(folder: Path, policy: Any, meta: dict[str, Any] | None = None) -> None:
    """Write a policy (an nn.Module with `kind`, `config`, `from_config`) and `meta` (JSON values) to `folder`.

    A policy with parts that are stored elsewhere (a frozen backbone) leaves them out of its `state_dict`.
    """
    if policy.kind not in KINDS:
        raise problem("policy kind", "a kind of policies.store", policy.kind, nearest(policy.kind, KINDS))
    folder = Path(folder)
    digest = save_tensors(folder / WEIGHTS, policy.state_dict())
    card = {"kind": policy.kind, "config": to_dict(policy.config), "meta": meta or {}, "sha256": digest}
    write_json_atomic(folder / CARD, card)


def read_policy(folder: Path) -> tuple[str, Any, dict[str, Any], dict[str, Tensor]]:
    """Return (kind, config, meta, state) of a policy folder without building the policy."""
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise problem("policy folder", f"a folder with {CARD}", str(folder)) from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    missing = {"kind", "config", "sha256"} - set(card if isinstance(card, dict) else ())
    if missing:
        raise problem(str(path), "the keys kind, config, sha256", f"no {', '.join(sorted(missing))}")
    if card["kind"] not in KINDS:
        raise problem(f"{path}: kind", "a known kind of policy", card["kind"], nearest(str(card["kind"]), KINDS))
    module, _, config_class = KINDS[card["kind"]]
    config = from_dict(getattr(importlib.import_module(module), config_class), card["config"], where=str(path))
    return card["kind"], config, card.get("meta", {}), load_tensors(Path(folder) / WEIGHTS, card["sha256"])


def load_policy(folder: Path) -> Any:
    """Build the policy of a folder, in evaluation mode.  Raises InputError when the folder is incomplete or damaged."""
    kind, config, _, state = read_policy(folder)
    module, name, _ = KINDS[kind]
    policy = getattr(importlib.import_module(module), name).from_config(config)
    assert isinstance(policy, nn.Module)
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{folder}: the weights do not fit the config: {detail}") from None
    return policy.eval()
