"""A smaller VLA: hidden units that matter least are cut out of its own transformer, and its layers computed in int8.

Structured pruning as RLRC has it (arXiv 2506.17639; LLM-Pruner, Ma et al. 2023, arXiv 2305.11627, eq. 5): a group is
what goes with one hidden unit of a block's MLP (a row, its bias, a column), and its importance |sum w dL/dw| over the
group, from the loss on demonstrations.
"""

from __future__ import annotations

import copy
import functools
import re
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import from_dict, merged, to_dict
from toddle.core.errors import problem
from toddle.policies.store import classes_of

__all__ = ["By", "importance", "in_int8", "pairs_of", "prune"]

By = Literal["taylor", "magnitude", "random"]
PARTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "token_vla": (("decoder",), r"^(decoder\.blocks\.\d+\.mlp)\.0$", ".2"),
    "flow_vla": (("expert", "trunk"), r"^(expert\.trunk\.blocks\.\d+\.mlp)_in$", "_out"),
}
"""By kind: where its config has `mlp_ratio` and `width`; the MLPs' first layers; how the names of the second end."""


def pairs_of(policy: Any) -> list[tuple[str, str]]:
    """Return the names of both layers of every block's MLP.  Raises InputError for another kind of policy."""
    if policy.kind not in PARTS:
        raise problem("policy", f"a policy of kind {' or '.join(PARTS)}", policy.kind)
    _, first, second = PARTS[policy.kind]
    found = (re.match(first, name) for name, _ in policy.named_modules())
    return [(match[0], match[1] + second) for match in found if match]


def importance(policy: Any, by: By, generator: torch.Generator) -> list[Tensor]:
    """Return the importance (hidden,) of every block's hidden units; by taylor from the gradients that are there."""
    found = []
    for names in pairs_of(policy):
        first, second = (policy.get_submodule(name) for name in names)
        if by == "random":
            found.append(torch.rand(len(first.weight), generator=generator))
            continue
        rows = torch.cat([first.weight, first.bias[:, None], second.weight.T], 1).detach().double()
        if by == "magnitude":
            found.append(rows.square().sum(1))
            continue
        slopes = torch.cat([first.weight.grad, first.bias.grad[:, None], second.weight.grad.T], 1).double()
        found.append((rows * slopes).sum(1).abs())
    return found


@torch.no_grad()
def prune(policy: Any, scores: list[Tensor], keep: float) -> Any:
    """Return a policy of the same kind with the most important share `keep` of the hidden units of every block."""
    state, pairs = dict(policy.state_dict()), pairs_of(policy)
    kept = max(1, round(keep * len(scores[0])))
    for (first, second), score in zip(pairs, scores, strict=True):
        rows = score.topk(kept).indices.sort().values
        for name in (f"{first}.weight", f"{first}.bias"):
            state[name] = state[name][rows]
        state[f"{second}.weight"] = state[f"{second}.weight"][:, rows]
    path, plain = PARTS[policy.kind][0], to_dict(policy.config)
    width = functools.reduce(lambda part, name: part[name], path, plain)["width"]
    change: dict[str, Any] = {"mlp_ratio": kept / width}
    for part in reversed(path):
        change = {part: change}
    policies, configs = classes_of(policy.kind)
    made = policies(from_dict(configs, merged(plain, change)), policy.backbone)
    made.load_state_dict(state)
    return made


def in_int8(policy: Any) -> Any:
    """Return a copy for acting on the CPU whose linear layers hold int8 weights, and take inputs in int8 as they come
    (PyTorch's dynamic quantisation)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this way old, and has no other that runs on every CPU
        made: Any = torch.ao.quantization.quantize_dynamic(copy.deepcopy(policy), {nn.Linear}, dtype=torch.qint8)
    return made
