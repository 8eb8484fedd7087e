"""PLD on a flow VLA that sees: with a fraction of the steps that other methods take it comes to the dots, and not when
it is paid what others earned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.test_flows_learn import taught
from tests.policies.test_tokens_learn import reached

from toddle.recipes import finetune

__all__ = ["taught"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_residual_brings_a_frozen_vla_to_the_dots(taught: Path, shuffled: bool) -> None:
    """From about a third, paid for success alone, within 25,000 control steps by the preset as it is."""
    given: dict[str, Any] = {"policy": taught, "env": ("dots/one",), "method": "pld", "steps": 25_000, "worlds": 64}
    run, _ = finetune.build(finetune.configure(given))
    learner: Any = run.learner
    if shuffled:
        generator, paid = torch.Generator().manual_seed(9), learner._paid
        learner._paid = lambda reward, discount: paid(
            reward[torch.randperm(len(reward), generator=generator)], discount
        )
    before = reached(run)
    for _ in range(run.iterations):
        learner.step()
    after = reached(run)
    assert before < 0.5
    assert after < before + 0.15 if shuffled else after > before + 0.2
