"""Checks that a policy keeps what `core.protocols` promises: run it over every new one (docs/add_a_policy.md)."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toddle.core.errors import InputError
from toddle.core.protocols import Acting, FineTunable, Imitating, Scorable
from toddle.core.types import Decision, Observation, sentences_of
from toddle.data.statistics import feature_statistics
from toddle.policies.store import load_policy, save_policy

__all__ = ["check_policy"]


def check_policy(policy: Acting, observation: Observation, *, tolerance: float = 1e-4) -> None:
    """Raise AssertionError, saying which rule is broken, unless `policy` keeps the contract at `observation` (B, ...).

    Every protocol that the policy has the names of is checked: `Acting`, `Scorable`, `Imitating`, `FineTunable`.
    The observation is of one body, B >= 2, with all the keys that the policy reads; `first`, `previous_action` and
    `body` are added.  The policy is left in evaluation mode; what trains it is tried on a copy.
    tolerance: of log-densities and actions that must agree.
    """
    policy.train(False)
    _check_facts(policy)
    seen = _completed(policy, observation)
    _check_acting(policy, seen, tolerance)
    _check_memory(policy, seen, tolerance)
    _check_storage(policy, seen)
    if isinstance(policy, Scorable):
        _check_scoring(policy, seen, tolerance)
    if isinstance(policy, Imitating):
        _check_imitating(copy.deepcopy(policy), seen)
    if isinstance(policy, FineTunable):
        _check_fine_tuning(copy.deepcopy(policy), seen)


def _completed(policy: Acting, observation: Observation) -> Observation:
    batch, action = len(observation["proprio"]), max(body.action for body in policy.bodies)
    seen = Observation(**observation)
    seen.setdefault("body", torch.zeros(batch, dtype=torch.int64))
    seen.setdefault("first", torch.ones(batch, dtype=torch.bool))
    seen.setdefault("previous_action", torch.zeros(batch, policy.horizon * action))
    return seen


def _check_facts(policy: Acting) -> None:
    assert isinstance(policy, nn.Module), f"expected a torch module, got {type(policy).__name__}"
    assert isinstance(policy.kind, str) and policy.kind, "kind: expected a name"
    assert isinstance(policy.sequential, bool), f"sequential: expected True or False, got {policy.sequential!r}"
    assert isinstance(policy.horizon, int) and policy.horizon >= 1, f"horizon: at least 1, got {policy.horizon!r}"
    assert isinstance(policy.bodies, tuple) and policy.bodies, f"bodies: expected at least one, got {policy.bodies!r}"
    assert isinstance(policy.cameras, tuple), f"cameras: expected a tuple of names, got {policy.cameras!r}"


def _act(policy: Acting, seen: Observation, seed: int = 0, memory: Any = None, **options: bool) -> tuple[Decision, Any]:
    memory = policy.initial_memory(len(seen["proprio"])) if memory is None else memory
    return policy.act(seen, memory, generator=torch.Generator().manual_seed(seed), **options)


def _check_acting(policy: Acting, seen: Observation, tolerance: float) -> None:
    batch, width = len(seen["proprio"]), max(body.action for body in policy.bodies)
    decision, _ = _act(policy, seen)
    shape = tuple(decision.action.shape)
    assert shape[:2] == (batch, policy.horizon) and shape[2] <= width, (
        f"act: expected actions ({batch}, {policy.horizon}, <= {width}), got {shape}"
    )
    assert decision.action.dtype == torch.float32, f"act: expected float32 actions, got {decision.action.dtype}"
    assert len(decision.chain) == batch and decision.log_prob.shape[0] == batch and decision.log_prob.ndim == 2, (
        f"act: expected chain (B, ...) and log_prob (B, L), got {tuple(decision.chain.shape)}, "
        f"{tuple(decision.log_prob.shape)}"
    )
    for name, value in (("action", decision.action), ("chain", decision.chain), ("log_prob", decision.log_prob)):
        assert torch.isfinite(value.float()).all(), f"act: {name} is not finite"
    assert torch.equal(decision.action, _act(policy, seen)[0].action), "act: the same generator gave other actions"
    kept, _ = _act(policy, policy.encode(seen))
    assert _close(kept.action, decision.action, max(tolerance, 2e-2)), "encode: what it keeps is acted on differently"
    if not torch.equal(
        _act(policy, seen, 1, deterministic=True)[0].action, _act(policy, seen, 2, deterministic=True)[0].action
    ):
        return  # it begins at noise even so: rows cannot be compared
    whole, _ = _act(policy, seen, deterministic=True)
    alone, _ = _act(policy, _rows(seen, slice(1, 2)), deterministic=True)
    assert _close(alone.action[0], whole.action[1], tolerance), "act: a world decides differently when it is alone"


def _check_memory(policy: Acting, seen: Observation, tolerance: float) -> None:
    """Where `first` is set, what came before must not matter."""
    fresh, memory = _act(policy, seen, deterministic=True)
    later = Observation(**seen)
    later["proprio"] = seen["proprio"] + 1.0
    later["first"] = torch.zeros_like(seen["first"])
    _, memory = _act(policy, later, 0, memory, deterministic=True)
    again, _ = _act(policy, seen, 0, memory, deterministic=True)
    assert _close(again.action, fresh.action, tolerance), "act: an episode's first decision depends on the one before"


def _check_storage(policy: Acting, seen: Observation) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_policy(Path(folder), policy)
        loaded = load_policy(Path(folder))
    assert torch.equal(_act(loaded, seen)[0].action, _act(policy, seen)[0].action), "store: loaded, it acts otherwise"


def _check_scoring(policy: Scorable, seen: Observation, tolerance: float) -> None:
    length, memory = (3, policy.initial_memory(len(seen["proprio"]))) if policy.sequential else (1, None)
    generator = torch.Generator().manual_seed(5)
    steps, decisions = list[Observation](), list[Decision]()
    for t in range(length):
        now = Observation(**seen)
        now["proprio"] = seen["proprio"] + 0.1 * t
        now["first"] = torch.full_like(seen["first"], t == 0)
        if t:
            now["previous_action"] = decisions[-1].action.flatten(1).clamp(-1, 1)
        decision, memory = policy.act(now, memory, generator=generator)
        steps.append(now)
        decisions.append(decision)
    tensors = [key for key, value in steps[0].items() if isinstance(value, Tensor)]
    stacked: Any = {key: torch.stack([step[key] for step in steps]) for key in tensors}  # type: ignore[literal-required]
    if "task" in seen:  # the sentences are a table, the same at every decision
        stacked["instruction"] = seen["instruction"]
    chain = torch.stack([decision.chain for decision in decisions])
    old = torch.stack([decision.log_prob for decision in decisions])
    score = policy.score(stacked, chain)
    assert score.log_prob.shape == old.shape, f"score: expected {tuple(old.shape)}, got {tuple(score.log_prob.shape)}"
    worst = float((score.log_prob - old).detach().abs().max())
    assert worst <= tolerance * max(1.0, float(old.abs().max())), f"score: log_prob differs from act's by {worst:.2g}"
    lead = old.shape[:2]
    assert score.entropy.shape == lead, f"score: expected entropy {tuple(lead)}, got {tuple(score.entropy.shape)}"
    if score.mean is not None:
        assert score.mean.shape[:3] == (*lead, policy.horizon), f"score: mean has shape {tuple(score.mean.shape)}"
    _check_gradient(policy, score.log_prob.sum(), "score")
    policy.update_normaliser(stacked)
    assert torch.isfinite(policy.score(stacked, chain).log_prob).all(), "update_normaliser: densities not finite after"


def _check_gradient(policy: Acting, loss: Tensor, name: str) -> None:
    assert loss.requires_grad, f"{name}: no gradient reaches a parameter"
    parameters = [p for p in policy.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients), f"{name}: no gradient reaches a parameter"


def _check_imitating(policy: Imitating, seen: Observation) -> None:
    batch, size, width = len(seen["proprio"]), policy.chunk_size, policy.bodies[0].action
    assert size >= policy.horizon, f"chunk_size: at least the horizon {policy.horizon}, got {size}"
    chunk = torch.rand(batch, size, width, generator=torch.Generator().manual_seed(6)) * 2 - 1
    policy.fit_normaliser(seen)
    losses = [policy.imitation_loss(seen, chunk, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert losses[0].shape == (batch,), f"imitation_loss: expected ({batch},), got {tuple(losses[0].shape)}"
    assert torch.isfinite(losses[0]).all(), "imitation_loss: not finite"
    assert torch.equal(*losses), "imitation_loss: the same generator gave another loss"
    _check_gradient(policy, losses[0].mean(), "imitation_loss")
    policy.finish_imitation()
    assert torch.isfinite(_act(policy, seen)[0].action).all(), "finish_imitation: actions not finite after"


def _check_fine_tuning(policy: FineTunable, seen: Observation) -> None:
    size, history, executed = policy.window_sizes
    assert executed == policy.horizon <= size and history >= 1, f"window_sizes: do not fit, {policy.window_sizes}"
    body, batch = policy.bodies[0], len(seen["proprio"])
    assert policy.body_index(body.name) == 0, f"body_index: expected 0 for the first body, {body.name}"
    try:
        policy.body_index("a body of no policy")
        raise AssertionError("body_index: an unknown body is accepted")
    except InputError:
        pass
    actions = torch.rand(batch, size, body.action, generator=torch.Generator().manual_seed(8)) * 3 - 1
    statistics = feature_statistics(actions.flatten(0, 1).numpy())
    policy.fit_normalization(seen["proprio"], statistics, "min_max", 0, refit=True)
    tensors = {key: value for key, value in seen.items() if isinstance(value, Tensor) and key != "task"}
    steps: dict[str, Any] = {key: torch.stack([value] * history) for key, value in tensors.items()}
    steps["first"] = torch.arange(history)[:, None].expand(-1, batch) == 0
    if "instruction" in seen:
        steps["instruction"] = sentences_of(seen)
    mask = torch.ones(batch, size, dtype=torch.bool)
    given: dict[str, Any] = {"observation": steps, "action": actions, "mask": mask}
    policy.train()
    policy.begin_step(0.0)
    loss, metrics = policy.loss(given, torch.Generator().manual_seed(9))
    again, _ = policy.loss(given, torch.Generator().manual_seed(9))
    assert loss.ndim == 0 and bool(torch.isfinite(loss)), f"loss: expected a finite number, got {loss}"
    assert torch.equal(loss, again), "loss: the same generator gave another loss"
    assert all(isinstance(value, float) for value in metrics.values()), f"loss: expected numbers, got {metrics}"
    _check_gradient(policy, loss, "loss")
    few = given | {"mask": mask & (torch.arange(batch) > 0)[:, None]}
    all_, rest = (policy.surprise(each, torch.Generator().manual_seed(9)) for each in (given, few))
    assert all_.shape == (batch,) and bool(torch.isfinite(all_).all()), f"surprise: expected (B,), got {all_}"
    assert torch.allclose(all_[1:], rest[1:], rtol=1e-4), "surprise: a chunk's depends on the others"
    _check_gradient(policy, all_.sum(), "surprise")
    strange = policy.trunk_parameters().keys() - dict(policy.named_parameters()).keys()
    assert not strange, f"trunk_parameters: no parameters of its own: {sorted(strange)}"
    with torch.no_grad():
        tokens, others = (policy.trunk_tokens(given) for _ in range(2))
    if tokens is not None and others is not None:
        assert tokens.ndim == 2 and torch.equal(tokens, others), "trunk_tokens: expected (N, d), the same twice"
    if policy.features is not None and "images" in seen:
        features, mask = policy.features.encode(seen["images"], steps["instruction"])
        assert tuple(features.shape[1:]) == policy.features.shape and mask.shape == features.shape[:2], (
            f"features: expected {policy.features.shape}, got {tuple(features.shape[1:])}"
        )
    policy.begin_step(1.0)
    policy.train(False)
    assert torch.isfinite(_act(policy, seen)[0].action).all(), "begin_step: actions not finite after the last step"


def _rows(seen: Observation, rows: slice) -> Observation:
    """Return some worlds of an observation; beside `task` the sentences are a table and stay."""
    found: dict[str, Any] = dict(seen)
    for key, value in found.items():
        if isinstance(value, Tensor) or "task" not in seen:
            found[key] = value[rows]
    return Observation(**found)  # type: ignore[typeddict-item]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))
