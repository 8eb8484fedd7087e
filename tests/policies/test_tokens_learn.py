"""RL by tokens from pictures: a VLA that reaches half of the dots learns to reach them all, by presets as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from toddle.algorithms.parts import Estimator
from toddle.algorithms.sft import SFTConfig
from toddle.envs.dots import DotsEnv
from toddle.experience.evaluate import evaluate
from toddle.experience.rollout import Rollout
from toddle.methods._base import Run
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import EmbeddedBackbone, EmbeddedConfig, save_embedded, train_tokenizer
from toddle.models.token_decoder import DecoderConfig
from toddle.recipes import finetune, record, sft

SIDE = 32
SENTENCE = ("reach the red dot",)


def eyes(updates: int) -> EmbeddedBackbone:
    """A small backbone that has learned where the dot is in a picture: an untrained one does not show it."""
    sizes = EmbeddedConfig(
        image_size=SIDE,
        width=32,
        stem=(8, 16, 32),
        keypoints=8,
        registers=4,
        vision_layers=1,
        text_layers=1,
        fusion_layers=1,
        heads=4,
        text_tokens=8,
        vocabulary=80,
    )
    env = DotsEnv("one", 2000, seed=10**6, cameras=("top",), image_size=SIDE)
    pictures, places = torch.from_numpy(env.current_observation()["images"]), torch.from_numpy(env._dots[:, 0]).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = EmbeddedBackbone(sizes, train_tokenizer(SENTENCE, sizes)).train()
        head = nn.Linear(sizes.registers * sizes.width, 2)
        learned = [*backbone.parameters(), *head.parameters()]
        optimiser = torch.optim.AdamW(learned, lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
        for _ in range(updates):
            rows = torch.randint(len(places), (64,))
            words, mask = backbone.read(SENTENCE)
            seen = backbone.see(pictures[rows].flatten(0, 1))
            registers, _, _ = backbone.fuse(*seen, words.expand(64, -1, -1), mask.expand(64, -1))
            loss = (head(registers.flatten(1)) - places[rows]).abs().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    backbone.freeze()
    return backbone


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VLA of tokens that ten demonstrations have taught."""
    root = tmp_path_factory.mktemp("tokens")
    save_embedded(root / "eyes", eyes(300))
    shown: Any = {"cameras": ("top",), "image_size": SIDE, "images": "image", "image_stride": 1}
    record.run(record.Config(out=root / "demos", env=("dots/one",), episodes=10, **shown), resume=False)
    decoder = DecoderConfig(width=64, depth=2)
    settings = sft.Config(
        dataset=(root / "demos",),
        out=root / "sft",
        cache=root / "cache",
        backbone=BackboneConfig(name=str(root / "eyes")),
        cameras=("top",),
        kind="tokens",
        tokens=sft.FreshTokens(decoder=decoder, horizon=4, executed=4, bins=11),
        sft=SFTConfig(steps=200, batch=32, learning_rate=1e-3),
    )
    sft.run(settings)
    return settings.out / "policy"


class Shuffled:
    """Advantages of the right size that belong to other decisions: the control."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator, self.generator = estimator, torch.Generator().manual_seed(7)

    def fill(self, rollout: Rollout) -> dict[str, float]:
        facts = self.estimator.fill(rollout)
        flat = rollout.advantage.flatten()
        rollout.advantage.copy_(flat[torch.randperm(len(flat), generator=self.generator)].view_as(rollout.advantage))
        return facts


def reached(run: Run) -> float:
    """Share of 200 fixed starts from which the likeliest tokens lead to the dot."""
    env = DotsEnv("one", 100, cameras=("top",), image_size=SIDE)
    return float(np.mean([bool(result.success) for result in evaluate(run.policy, env, seeds=list(range(200)))]))


def practised(policy: Path, steps: int, *, preset: str = "tokens-alone", shuffled: bool) -> tuple[float, float]:
    """Success before and after a preset's own PPO on pictures, with its settings untouched."""
    run, _ = finetune.build(finetune.configure(policy=policy, env=("dots/one",), steps=steps, preset=preset))
    if shuffled:
        run.learner.estimator = Shuffled(run.learner.estimator)  # type: ignore[attr-defined]
    before = reached(run)
    for _ in range(run.iterations):
        run.learner.step()
    return before, reached(run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_vla_of_tokens_learns_from_pictures_to_reach_every_dot(taught: Path) -> None:
    """From about half to nearly always within 100,000 control steps, which take a minute of one core."""
    before, after = practised(taught, 100_000, shuffled=False)
    assert before < 0.7
    assert after >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_learns_with_its_own_successes_beside(taught: Path) -> None:
    """The preset that is taken where none is named."""
    before, after = practised(taught, 100_000, preset="tokens", shuffled=False)
    assert before < 0.7
    assert after >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_learns_nothing_from_the_advantages_of_other_decisions(taught: Path) -> None:
    before, after = practised(taught, 100_000, shuffled=True)
    assert after < before + 0.15
