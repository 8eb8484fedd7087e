"""The sampler of tables is the expert's own, at every batch and step count; what it does not know is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.table_sampler import TableSampler, captured
from toddle.models.trunk import TrunkConfig

BODY = BodySpec(name="arm", proprio=5, action=3, dt=0.05)


def expert(**changes: Any) -> ActionExpert:
    trunk = TrunkConfig(width=32, depth=4, heads=2, context_width=12, modulation="residual")
    settings: dict[str, Any] = {"horizon": 4, "executed": 4, "window": 1, "head": "velocity", "bank_hidden": 16}
    torch.manual_seed(0)
    made = ActionExpert(ExpertConfig(trunk=trunk, bodies=(BODY,), **(settings | changes)))
    with torch.no_grad():
        for parameter in made.parameters():  # zero-initialised parts would hide mistakes
            if not parameter.any():
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    return made.eval()


def inputs(batch: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    proprio, before, context, noise = (
        torch.randn(batch, *size, generator=make) for size in ((5,), (12,), (7, 12), (4, 3))
    )
    return {"proprio": proprio, "previous_action": before}, context, noise


@pytest.mark.parametrize(("batch", "steps"), [(1, 10), (3, 2)])
def test_it_is_the_plain_sampler(batch: int, steps: int) -> None:
    made, (seen, context, noise) = expert(), inputs(batch)
    mask = torch.ones(batch, 7, dtype=torch.bool)
    want = made.sample(made.prefix(seen, context, mask, made.initial_cache(batch)), noise, steps)
    torch.testing.assert_close(TableSampler(made, steps)(seen, context, noise), want, atol=1e-6, rtol=0.0)
    other = TableSampler(made, steps + 1)(seen, context, noise)
    assert (other - want).abs().max() > 1e-4  # so the comparison can fail
    half = TableSampler(made, steps, torch.bfloat16)(seen, context, noise)
    assert half.dtype == torch.float32 and (half - want).abs().max() < 0.05


def test_other_experts_and_graphs_on_the_cpu_are_refused() -> None:
    with pytest.raises(InputError, match="expert: expected window 1"):
        TableSampler(expert(window=2), 3)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="graph: expected a CUDA device"):
            captured(lambda: torch.zeros(1))


@pytest.mark.slow
def test_the_benchmark_makes_its_page_on_a_cpu(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--out", tmp_path / "page.md"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root / "src")}, capture_output=True)
    page = (tmp_path / "page.md").read_text()
    assert "| 32 x 2, 2 worlds | tables, bfloat16 |" in page and "| 32 x 2 | 2 |" in page


@pytest.mark.gpu
def test_a_graph_of_it_is_the_plain_sampler() -> None:
    made, (seen, context, noise) = expert().cuda(), inputs(2)
    seen, context, noise = {key: value.cuda() for key, value in seen.items()}, context.cuda(), noise.cuda()
    mask = torch.ones(2, 7, dtype=torch.bool, device="cuda")
    with torch.no_grad():
        want = made.sample(made.prefix(seen, context, mask, made.initial_cache(2)), noise, 10)
    sampler = TableSampler(made, 10)
    replay, found = captured(lambda: sampler(seen, context, noise))
    replay()
    torch.testing.assert_close(found, want, atol=1e-5, rtol=0.0)
