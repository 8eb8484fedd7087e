"""Gradient checkpointing: the same gradients from less that is kept; what does not use it keeps all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.test_pi0 import batch as pi0_batch
from tests.policies.test_pi0 import make as make_pi0
from tests.policies.tiny_vla import ToyDemonstrations, tiny_token_vla, tiny_vla
from tests.tiny_vlm import save_pi0

from toddle.core.errors import InputError
from toddle.core.seeding import torch_generator
from toddle.models.compiled import check_compilable, compiling
from toddle.models.recompute import recomputing


def gradients(policy: Any, batch: Any, on: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradients of a loss by name, and how many numbers were kept for the backward pass."""
    kept = 0

    def keep(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += x.numel()
        return x

    policy.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), recomputing(on):
        loss, _ = policy.loss(batch, torch_generator(0, "loss"))
    loss.backward()
    return {name: value.grad for name, value in policy.named_parameters() if value.grad is not None}, kept


def flow(tmp_path: Path) -> tuple[Any, Any]:
    return tiny_vla(), ToyDemonstrations().batch(range(4))


def tokens(tmp_path: Path) -> tuple[Any, Any]:
    return tiny_token_vla(), ToyDemonstrations().batch(range(4))


def pi0(tmp_path: Path) -> tuple[Any, Any]:
    save_pi0(tmp_path)
    return make_pi0(tmp_path, train="lora"), pi0_batch()


@pytest.mark.parametrize("make", [flow, tokens, pytest.param(pi0, marks=pytest.mark.slow)])
def test_gradients_are_equal_from_less(make: Callable[[Path], tuple[Any, Any]], tmp_path: Path) -> None:
    policy, batch = make(tmp_path)
    policy.train()
    with torch.no_grad():
        for value in policy.parameters():  # parts that begin at zero would hide a difference
            if value.requires_grad:
                value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    want, all_kept = gradients(policy, batch, False)
    found, kept = gradients(policy, batch, True)
    assert set(found) == set(want) and any(float(value.abs().max()) > 1e-4 for value in want.values())
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)
    assert kept < 0.7 * all_kept, (kept, all_kept)


@pytest.mark.slow
def test_compiled_blocks_have_the_same_gradients() -> None:
    """Eager, compiled, and compiled and computed again: a cross and a self block, each for its own."""
    policy, data = tiny_vla(), ToyDemonstrations()
    policy.train()
    with torch.no_grad():
        for value in policy.parameters():
            if value.requires_grad:
                value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    for size in (4, 6):  # another size is compiled anew, for all sizes
        batch = data.batch(range(size))
        want, _ = gradients(policy, batch, False)
        before = metrics().get("ok", 0)
        for again in (False, True):
            with compiling(True):
                found, _ = gradients(policy, batch, again)
            for name, value in want.items():
                torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
        assert metrics().get("ok", 0) - before >= 2


def metrics() -> Any:
    """What torch.compile has counted of functions that it compiled."""
    return torch._dynamo.utils.counters["frames"]


def test_what_has_no_such_blocks_is_not_compiled() -> None:
    with pytest.raises(InputError, match="expected nothing with a policy without"):
        check_compilable(tiny_token_vla(), "sft.compile")
    check_compilable(tiny_vla(), "sft.compile")
