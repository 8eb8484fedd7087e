"""RL on a flow VLA from pictures by comparing whole episodes: it comes to the dots, and not by advantages of others.

The reward is minus the distance: by success alone the eight episodes of a start mostly end alike, and teach nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.test_tokens_learn import SIDE, eyes, reached

from toddle.algorithms.parts import Estimator
from toddle.algorithms.sft import SFTConfig
from toddle.experience.rollout import Rollout
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.trunk import TrunkConfig
from toddle.recipes import finetune, record, sft


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow VLA that ten demonstrations have taught."""
    root = tmp_path_factory.mktemp("flows")
    save_embedded(root / "eyes", eyes(300))
    shown: Any = {"cameras": ("top",), "image_size": SIDE, "images": "image", "image_stride": 1}
    record.run(record.Config(out=root / "demos", env=("dots/one",), episodes=10, **shown), resume=False)
    trunk = TrunkConfig(width=64, depth=2, heads=4, context_width=32, modulation="residual")
    settings = sft.Config(
        dataset=(root / "demos",),
        out=root / "sft",
        cache=root / "cache",
        backbone=BackboneConfig(name=str(root / "eyes")),
        cameras=("top",),
        expert=sft.FreshExpert(trunk=trunk, horizon=4, executed=4, steps=4),
        sft=SFTConfig(steps=200, batch=32, learning_rate=1e-3),
    )
    sft.run(settings)
    return settings.out / "policy"


class OfOthers(Estimator):
    """The control: every episode has another's advantages."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator

    def fill(self, rollout: Rollout) -> dict[str, float]:
        facts = self.estimator.fill(rollout)
        order = torch.randperm(rollout.worlds, generator=torch.Generator().manual_seed(7))
        rollout.advantage.copy_(rollout.advantage[:, order])
        return facts


def practised(policy: Path, method: str, *, others: bool = False) -> tuple[float, float]:
    """Success before and after the method's preset, with its settings untouched but the worlds and the reward."""
    given: dict[str, Any] = {"policy": policy, "env": ("dots/one",), "method": method, "steps": 100_000}
    run, _ = finetune.build(finetune.configure(given | {"worlds": 64, "reward": "dense"}))
    learner: Any = run.learner
    if others:
        learner.estimator = OfOthers(learner.estimator)
    before = reached(run)
    for _ in range(run.iterations):
        learner.step()
    return before, reached(run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_groups_teach_a_flow_vla(taught: Path, method: str) -> None:
    """From about a third to most within 100,000 control steps."""
    before, after = practised(taught, method)
    assert before < 0.5
    assert after > 0.75


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_learns_nothing_from_the_advantages_of_other_episodes(taught: Path) -> None:
    before, after = practised(taught, "grpo", others=True)
    assert after < before + 0.15
