"""Policies on disk: a folder with `policy.safetensors` (weights, normalisation) and `policy.json` (kind, config, meta).

An action expert alone (what `toddle transfer` makes and `toddle sft --init` takes) is a folder with
`expert.safetensors` (keys expert.* and adapter.*) and `expert.json`: see `save_expert`, `load_expert`.
Never pickle.  The JSON is written last and carries the weights' SHA-256, so a folder is whole or is refused.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toddle.core.config import from_dict, to_dict
from toddle.core.device import CPU
from toddle.core.errors import InputError, nearest, problem
from toddle.core.files import write_json_atomic
from toddle.core.protocols import Acting
from toddle.core.reading import Kinds
from toddle.core.tensors import load_tensors, read_card, save_tensors
from toddle.models.expert import ExpertConfig
from toddle.policies.foreign import refusal
from toddle.policies.prefix_vla import PrefixVLA
from toddle.policies.seeing import HoldingPolicy

__all__ = [
    "StoredExpert",
    "classes_of",
    "load_expert",
    "load_policy",
    "meta_of",
    "policy_card",
    "read_policy",
    "save_expert",
    "save_policy",
]

KINDS: dict[str, tuple[str, str, str]] = {
    "gaussian": ("toddle.policies.gaussian", "GaussianPolicy", "GaussianConfig"),
    "squashed_gaussian": (
        "toddle.policies.squashed_gaussian",
        "SquashedGaussianPolicy",
        "SquashedGaussianConfig",
    ),
    "recovering": ("toddle.policies.recovering", "RecoveringPolicy", "RecoveringConfig"),
    "conditioned": ("toddle.policies.conditioned", "ConditionedPolicy", "ConditionedConfig"),
    "consistency": ("toddle.policies.consistency", "ConsistencyPolicy", "ConsistencyConfig"),
    "decision_transformer": (
        "toddle.policies.decision_transformer",
        "DecisionTransformer",
        "DecisionTransformerConfig",
    ),
    "causal": ("toddle.policies.causal", "CausalPolicy", "CausalConfig"),
    "denoising": ("toddle.policies.denoising", "DenoisingPolicy", "DenoisingConfig"),
    "fpo": ("toddle.policies.fpo", "FPOPolicy", "FPOConfig"),
    "tokens": ("toddle.policies.tokens", "TokenPolicy", "TokenConfig"),
    "token_vla": ("toddle.policies.token_vla", "TokenVLA", "TokenVLAConfig"),
    "fast_vla": ("toddle.policies.fast_vla", "FastVLA", "FastVLAConfig"),
    "language_vla": ("toddle.policies.language_vla", "LanguageVLA", "LanguageVLAConfig"),
    "fast_language_vla": ("toddle.policies.fast_language_vla", "FastLanguageVLA", "FastLanguageVLAConfig"),
    "diffusion_vla": ("toddle.policies.diffusion_vla", "DiffusionVLA", "DiffusionVLAConfig"),
    "flow_vla": ("toddle.policies.vla", "FlowVLA", "FlowVLAConfig"),
    "pi0": ("toddle.policies.pi0", "Pi0Policy", "Pi0Config"),
    "pi05": ("toddle.policies.pi05", "Pi05Policy", "Pi05Config"),
    "smolvla": ("toddle.policies.smolvla", "SmolVLAPolicy", "SmolVLAConfig"),
    "steered": ("toddle.policies.steered", "SteeredPolicy", "SteeredConfig"),
}
"""kind -> (module, policy class, config class); a new policy is one line here.  Imported when it is loaded."""
AROUND = ("steered",)
"""Kinds around another policy, `base`, whose own folder stands in theirs under that name."""

WEIGHTS, CARD, BASE = "policy.safetensors", "policy.json", "base"
EXPERT_WEIGHTS, EXPERT_CARD = "expert.safetensors", "expert.json"


class StoredExpert(NamedTuple):
    """An action expert with its adapter, as `ActionExpert(config)` and `make_adapter(d_g, vlm_width)` load them."""

    config: ExpertConfig
    expert: dict[str, Tensor]  # for ActionExpert.load_state_dict
    adapter: dict[str, Tensor]  # for the adapter's load_state_dict: LayerNorm(vlm_width), Linear(vlm_width, d_g)
    vlm_width: int
    meta: dict[str, Any]


def save_policy(folder: Path | str, policy: Acting, meta: dict[str, Any] | None = None) -> None:
    """Write a policy (its `kind` a row of `KINDS`, whose class has `from_config`) and `meta` (JSON values) to `folder`.

    A policy with parts that are stored elsewhere (a frozen backbone) leaves them out of its `state_dict`.
    """
    if policy.kind not in KINDS:
        raise problem("policy kind", "a kind of policies.store", policy.kind, nearest(policy.kind, KINDS))
    folder = Path(folder)
    if policy.kind in AROUND:
        around: Any = policy
        save_policy(folder / BASE, around.base, around.base_meta)
    digest = save_tensors(folder / WEIGHTS, policy.state_dict())
    card = {"kind": policy.kind, "config": to_dict(policy.config), "meta": meta or {}, "sha256": digest}
    write_json_atomic(folder / CARD, card)


def save_expert(folder: Path, stored: StoredExpert) -> None:
    """Write an action expert with its adapter to `folder`."""
    folder = Path(folder)
    state = {f"expert.{key}": value for key, value in stored.expert.items()}
    state |= {f"adapter.{key}": value for key, value in stored.adapter.items()}
    digest = save_tensors(folder / EXPERT_WEIGHTS, state)
    card = {"config": to_dict(stored.config), "vlm_width": stored.vlm_width, "meta": stored.meta, "sha256": digest}
    write_json_atomic(folder / EXPERT_CARD, card)


def load_expert(folder: Path) -> StoredExpert:
    """Read what `save_expert` wrote.  Raises InputError when the folder is incomplete or damaged."""
    path = Path(folder) / EXPERT_CARD
    card = read_card(path, {"config": dict, "vlm_width": int, "sha256": str})
    state = load_tensors(Path(folder) / EXPERT_WEIGHTS, card["sha256"])
    parts = {
        prefix: {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(f"{prefix}.")}
        for prefix in ("expert", "adapter")
    }
    config = from_dict(ExpertConfig, card["config"], where=str(path))
    return StoredExpert(config, parts["expert"], parts["adapter"], int(card["vlm_width"]), card.get("meta", {}))


def read_policy(folder: Path | str) -> tuple[str, Any, dict[str, Any], dict[str, Tensor]]:
    """Return (kind, config, meta, state) of a policy folder (or of a run's, in its `policy/`) without building it.

    Raises InputError when it is incomplete or damaged; a known layout of other people's weights is named.
    """
    path = _card_in(folder)
    digest = str(_own_card(path, {"sha256": str})["sha256"])
    return *policy_card(folder), load_tensors(path.parent / WEIGHTS, digest)


def policy_card(folder: Path | str) -> tuple[str, Any, dict[str, Any]]:
    """Return (kind, config, meta) of a policy folder (or of a run's, in its `policy/`); its weights are not read.

    Raises InputError where there is no policy or its card is damaged.
    """
    path = _card_in(folder)
    card = _own_card(path, {"kind": str, "config": dict})
    if card["kind"] not in KINDS:
        raise problem(f"{path}: kind", "a known kind of policy", card["kind"], nearest(str(card["kind"]), KINDS))
    config = from_dict(classes_of(card["kind"])[1], card["config"], where=str(path))
    return card["kind"], config, card.get("meta", {})


def classes_of(kind: str) -> tuple[Any, Any]:
    """Return the class of a kind of policies and of its config."""
    module, policy, config = KINDS[kind]
    found = importlib.import_module(module)
    return getattr(found, policy), getattr(found, config)


def kind_of(folder: Path) -> str | None:
    """Return the kind of the policy in a folder (or in its `policy/`); None where there is none."""
    path = _card_in(folder)
    return str(read_card(path, {"kind": str})["kind"]) if path.exists() else None


def meta_of(folder: Path | str) -> dict[str, Any]:
    """Return what was noted with a policy when it was saved; its weights are not read.

    Raises InputError where there is no policy or its card is damaged.
    """
    found: dict[str, Any] = _own_card(_card_in(folder), {"kind": str}).get("meta", {})
    return found


def _own_card(path: Path, keys: Kinds) -> dict[str, Any]:
    """Read a policy's card.  Raises InputError; a known layout of other people's weights is named."""
    if not path.exists() and (line := refusal(path.parent)) is not None:
        raise line
    return read_card(path, keys)


def _card_in(folder: Path | str) -> Path:
    """Return the path of the card of a policy's folder, or of a run's, in its `policy/`."""
    inside = Path(folder) / "policy" / CARD
    return inside if inside.exists() and not (Path(folder) / CARD).exists() else Path(folder) / CARD


def load_policy(folder: Path | str, device: torch.device = CPU, *, acting: bool = False) -> Any:
    """Build the policy of a folder on `device`, in evaluation mode, wherever it was trained.

    acting: it acts and never learns, so LoRA on a backbone is folded into the backbone's weights, which is faster.

    Raises InputError when the folder is incomplete or damaged.
    """
    kind, config, _, state = read_policy(folder)
    inside: tuple[Any, ...] = ()
    if kind in AROUND:
        own = _card_in(folder).parent / BASE
        inside = load_policy(own, device, acting=acting), meta_of(own)
    policy = classes_of(kind)[0].from_config(config, *inside)
    assert isinstance(policy, nn.Module)
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{folder}: the weights do not fit the config: {detail}") from None
    policy = policy.to(device).eval()
    if acting and isinstance(policy, HoldingPolicy | PrefixVLA):
        policy.merge_lora()
    return policy
