"""The sampler of tables is the expert's own, decision after decision; what it does not know is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.table_sampler import TableSampler, captured
from toddle.models.trunk import TrunkConfig

BODY = BodySpec(name="arm", proprio=5, action=3, dt=0.05)
OTHER = BodySpec(name="leg", proprio=4, action=2, dt=0.02)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "history": {"window": 3},
    "bodies": {"window": 2, "bodies": (BODY, OTHER)},
    "endpoint": {"head": "endpoint", "trunk": {"modulation": "groot"}},
    "noise": {"head": "noise", "times": (0.1, 0.4, 0.8), "contract": True, "trunk": {"modulation": "none"}},
    "literal": {"slot_mask": "bidirectional", "trunk": {"modulation": "dit_literal"}},
    "grown": {"window": 2, "trunk": {"cross_every": 0, "inserted": (1, 2), "fresh": (0, 3)}},
}


def expert(trunk: dict[str, Any] | None = None, **changes: Any) -> ActionExpert:
    sizes: dict[str, Any] = {"width": 32, "depth": 4, "heads": 2, "context_width": 12, "modulation": "residual"}
    settings: dict[str, Any] = {"horizon": 4, "executed": 4, "window": 1, "head": "velocity", "bank_hidden": 16}
    torch.manual_seed(0)
    made = ActionExpert(
        ExpertConfig(trunk=TrunkConfig(**(sizes | (trunk or {}))), **({"bodies": (BODY,)} | settings | changes))
    )
    with torch.no_grad():
        for parameter in made.parameters():  # zero-initialised parts would hide mistakes
            if not parameter.any():
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    return made.eval()


def decisions(batch: int, count: int = 1, body: int = 0) -> list[tuple[Any, Tensor, Tensor, Tensor]]:
    """Observations, contexts, masks and noises in time order; worlds but the last begin anew at the fourth."""
    make, found = torch.Generator().manual_seed(1), []
    for index in range(count):
        proprio, before, context, noise = (
            torch.randn(batch, *size, generator=make) for size in ((5,), (12,), (7, 12), (4, 3))
        )
        first = torch.full((batch,), index in (0, 3))
        first[-1] &= index == 0
        seen = {"proprio": proprio, "previous_action": before, "first": first, "body": torch.full((batch,), body)}
        mask = torch.ones(batch, 7, dtype=torch.bool)
        mask[0, 5:] = index != 1
        found.append((seen, context, mask, noise))
    return found


def both(made: ActionExpert, sampler: TableSampler, rows: Any, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Return (found, wanted) chunks of the decisions."""
    batch = len(rows[0][3])
    own, ring, pairs = sampler.start(batch), made.initial_cache(batch), []
    for seen, context, mask, noise in rows:
        ring = made.prefix(seen, context, mask, ring)
        pairs.append((sampler(seen, context, mask, own, noise), made.sample(ring, noise, steps)))
    return pairs


QUICK = ("history", "bodies", "noise", "grown")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_it_is_the_plain_sampler(kind: str) -> None:
    made, steps = expert(**KINDS[kind]), 3
    rows = decisions(3, 6, body=len(made.config.bodies) - 1)
    pairs = both(made, TableSampler(made, steps), rows, steps)
    for found, want in pairs:
        torch.testing.assert_close(found, want, atol=2e-6, rtol=0.0)
    assert (pairs[0][1] - pairs[5][1]).abs().max() > 1e-2  # so the comparison can fail
    for found, want in both(made, TableSampler(made, steps, torch.bfloat16), rows, steps):
        assert found.dtype == torch.float32 and (found - want).abs().max() < 0.1


def test_steps_and_what_was_seen_before_count() -> None:
    made, rows = expert(window=3), decisions(2, 3)
    at_three = both(made, TableSampler(made, 3), rows, 3)
    assert (both(made, TableSampler(made, 4), rows, 3)[2][0] - at_three[2][1]).abs().max() > 1e-4
    alone = both(made, TableSampler(made, 3), rows[2:], 3)[0][0]
    assert (alone - at_three[2][1]).abs().max() > 1e-4


def test_other_experts_mixed_bodies_and_graphs_on_the_cpu_are_refused() -> None:
    with pytest.raises(InputError, match="compile: expected none with an expert that is no flow"):
        TableSampler(expert(head="direct", trunk={"modulation": "none"}), 3)
    made, ((seen, context, mask, noise),) = expert(bodies=(BODY, OTHER)), decisions(2)
    seen["body"] = torch.tensor([0, 1])
    sampler = TableSampler(made, 3)
    with pytest.raises(InputError, match="compile: expected one body in all worlds"):
        sampler(seen, context, mask, sampler.start(2), noise)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="compile: expected none, tables or inductor without a CUDA device"):
            captured(lambda: torch.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "history"])
def test_compiled_it_is_the_plain_sampler(kind: str) -> None:
    made = expert(**KINDS[kind])
    for found, want in both(made, TableSampler(made, 3).compiled(), decisions(3, 6), 3):
        torch.testing.assert_close(found, want, atol=5e-6, rtol=0.0)


@pytest.mark.slow
def test_the_benchmark_makes_its_page_on_a_cpu(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--out", tmp_path / "page.md"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root / "src")}, capture_output=True)
    page = (tmp_path / "page.md").read_text()
    assert "| 32 x 2, 2 worlds | tables, bfloat16 |" in page and "| 32 x 2 | 2 |" in page


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_it_is_the_plain_sampler(kind: str) -> None:
    made = expert(**KINDS[kind]).cuda()
    rows: Any = decisions(3, 6, body=len(made.config.bodies) - 1)
    rows = [({key: x.cuda() for key, x in seen.items()}, *(x.cuda() for x in rest)) for seen, *rest in rows]
    for found, want in both(made, TableSampler(made, 3).graphed(), rows, 3):
        torch.testing.assert_close(found, want, atol=1e-4, rtol=0.0)
