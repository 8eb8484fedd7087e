"""Critics beside a policy: what RL from data learned besides it, from which an online run goes on.

A run of `toddle offline` writes `critics/` beside its `policy/`, a state folder of `runs.checkpoint` (safetensors and
JSON, whole or not there): the tree `{"networks": {name: state}, "optimisers": {name: state}}`, in which `q` are the
critics of state and action and `slow` their slow copies, and facts in `meta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.models.q_ensemble import QEnsemble
from toddle.runs.checkpoint import load_state, save_state

__all__ = ["FOLDER", "StoredCritics", "load_critics", "save_critics"]

FOLDER = "critics"
"""Its name, beside `policy/`."""


class StoredCritics(NamedTuple):
    """Critics as they were saved.  They take the policy's observation (not normalised) and actions in [-1, 1]."""

    q: QEnsemble
    """E critics of state and action."""
    slow: QEnsemble
    """Their slow copies, without gradients."""
    others: dict[str, dict[str, Tensor]]
    """States of the method's other networks by name (`v` of iql, `temperature` of cql and cal-ql, ...)."""
    optimisers: dict[str, dict[str, Any]]
    """States of `optim.flat_adam.FlatAdam` by the network it steps, `policy` and `q` among them."""
    facts: dict[str, Any]
    """`method`, `updates`, `discount`, and how rewards were made: `reward`, `reward_scale`, `reward_shift`.  An online
    run has to pay as they say, or the critics mean something else."""


def save_critics(
    folder: Path,
    q: QEnsemble,
    slow: QEnsemble,
    *,
    others: Mapping[str, dict[str, Tensor]],
    optimisers: Mapping[str, dict[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Write them to `folder`, atomically; `facts` are JSON values.  See `StoredCritics`."""
    networks = {"q": dict(q.state_dict()), "slow": dict(slow.state_dict())} | dict(others)
    save_state(Path(folder), {"networks": networks, "optimisers": dict(optimisers)}, {"shape": q.shape, **facts})


def load_critics(folder: Path) -> StoredCritics:
    """Read the critics of a folder, or of a run's (`folder/critics`).

    Raises InputError where there are none (imitation has none), or they are damaged.
    """
    folder = Path(folder)
    inside = folder / FOLDER
    if not (inside if inside.is_dir() else folder / "state.json").exists():
        raise problem("critics", f"a folder with {FOLDER}/, as `toddle offline` writes it", str(folder))
    tree, facts = load_state(inside if inside.is_dir() else folder)
    try:
        shape, networks = facts.pop("shape"), tree["networks"]
        sizes = int(shape["observation"]), int(shape["action"])
        norm = bool(shape.get("layer_norm", False))
        options: dict[str, Any] = {"hidden": tuple(shape["hidden"]), "count": shape["count"], "layer_norm": norm}
        made = [QEnsemble(*sizes, seed=0, **options) for _ in range(2)]
        for name, ensemble in zip(("q", "slow"), made, strict=True):
            ensemble.load_state_dict(networks.pop(name))
        return StoredCritics(made[0], made[1].requires_grad_(False), networks, tree["optimisers"], facts)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: not critics: {' '.join(str(error).split())[:200]}") from None
