"""Methods of whole episodes on VLAs: the first update's gradient is the mean of advantage times score, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import tiny_backbone, tiny_config, tiny_token_config
from torch import Tensor

from toddle.core.types import BodySpec
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.policies.store import save_policy
from toddle.policies.token_vla import TokenVLA
from toddle.policies.vla import FlowVLA
from toddle.recipes import finetune

BODY = BodySpec(name="dot", proprio=2, action=2, dt=0.1)
GROUP, WORLDS = 4, 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow and a token VLA of random weights for dots/one."""
    root = tmp_path_factory.mktemp("groups")
    save_embedded(root / "eyes", tiny_backbone())
    backbone, plain = BackboneConfig(name=str(root / "eyes")), tiny_config()
    flow = replace(plain, expert=replace(plain.expert, bodies=(BODY,)), backbone=backbone, cameras=("top",))
    tokens = replace(tiny_token_config(), body=BODY, backbone=backbone, cameras=("top",))
    for name, policy in (("flow", FlowVLA.from_config(flow)), ("tokens", TokenVLA.from_config(tokens))):
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():  # fresh decoders end in zeros, where many gradients vanish
            for value in policy.parameters():
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
        save_policy(root / name, policy)
    return root


def grpo(rollout: Any, t: int, world: int) -> float:
    """(R - mean) / std of the episodes that began where this one did, the sample's deviation."""
    own = rollout.episode_return[rollout.group == rollout.group[world]]
    return float((rollout.episode_return[world] - own.mean()) / (own.std() + 1e-6))


def rloo(rollout: Any, t: int, world: int) -> float:
    """R less the mean of the others."""
    others = [i for i in range(WORLDS) if rollout.group[i] == rollout.group[world] and i != world]
    return float(rollout.episode_return[world] - rollout.episode_return[others].mean())


def tgrpo(rollout: Any, t: int, world: int) -> float:
    """Half of that of the rewards of this step, of the episodes that still run, and half of that of the returns."""
    running = [i for i in range(WORLDS) if rollout.group[i] == rollout.group[world] and rollout.mask[t, i]]
    step = rollout.reward[t, running]
    compared = (rollout.reward[t, world] - step.mean()) / (step.std() + 1e-6) if len(running) > 1 else torch.zeros(())
    return float(0.5 * compared + 0.5 * grpo(rollout, t, world))


def reinforce(rollout: Any, t: int, world: int) -> float:
    """R less the mean of all others, wherever they began."""
    return float(
        rollout.episode_return[world] - rollout.episode_return[[i for i in range(WORLDS) if i != world]].mean()
    )


def trajectories(learner: Any, rollout: Any, advantage: Tensor, real: Tensor) -> Tensor:
    """Every episode alike: the mean over its tokens, then over episodes (SimpleVLA-RL)."""
    score = learner.policy.score(rollout.observation | {"executed": rollout.steps}, rollout.chain)
    links = torch.where(real[..., None], torch.ones(score.log_prob.shape, dtype=torch.bool), False)
    links = links if score.real is None else links & score.real
    each = (score.log_prob * advantage[..., None] * links).sum((0, 2)) / links.sum((0, 2)).clamp(min=1)
    return -each.sum() / links.any(2).any(0).sum()


def links(learner: Any, rollout: Any, advantage: Tensor, real: Tensor) -> Tensor:
    """Every decision alike, by the sum of its links."""
    score = learner.policy.score(rollout.observation | {"executed": rollout.steps}, rollout.chain)
    return -(score.log_prob.sum(-1) * advantage)[real].mean()


@pytest.mark.parametrize(
    ("kind", "method", "by_hand", "loss"),
    [
        ("flow", "grpo", grpo, links),
        pytest.param("flow", "rloo", rloo, links, marks=pytest.mark.slow),
        ("flow", "tgrpo", tgrpo, links),
        pytest.param("flow", "reinforce", reinforce, links, marks=pytest.mark.slow),
        ("tokens", "grpo", grpo, trajectories),
        pytest.param("tokens", "tgrpo", tgrpo, links, marks=pytest.mark.slow),
    ],
)
def test_the_first_gradient_is_advantage_times_score(
    folders: Path, kind: str, method: str, by_hand: Callable[..., float], loss: Callable[..., Tensor]
) -> None:
    given: dict[str, Any] = {"policy": folders / kind, "env": ("dots/one",), "method": method, "worlds": WORLDS}
    given |= {"reward": "dense", "max_episode_steps": 6, "imitation": {"weight": 0.0}}
    if method != "reinforce":
        given["episodes"] = {"group": GROUP}
    if method == "tgrpo":
        given["episodes"] |= {"stop_together": False}
    learner: Any = finetune.build(finetune.configure(given))[0].learner
    rollout, _ = learner.sources[0].collect(learner.policy, None)
    learner._estimate(rollout)
    real = rollout.mask
    assert real.any() and (method == "reinforce" or rollout.group.unique().numel() == 2)
    advantage = torch.zeros_like(rollout.reward)
    for t, world in real.nonzero().tolist():
        advantage[t, world] = by_hand(rollout, t, world)
    torch.testing.assert_close(rollout.advantage[real], advantage[real], atol=1e-4, rtol=1e-4)
    assert float(advantage[real].std()) > 0.01
    parts = next(iter(rollout.minibatches(1, False, learner.generator)))
    weights = [value for value in learner.policy.parameters() if value.requires_grad]
    mine, theirs = (
        torch.cat([g.flatten() for g in torch.autograd.grad(value, weights, allow_unused=True) if g is not None])
        for value in (learner._loss(parts)[0], loss(learner, rollout, advantage, real))
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    assert float(theirs.norm()) > 0.0
