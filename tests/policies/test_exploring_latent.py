"""A bottleneck of data on a line: exploring stays on it, noise of the same length does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.test_guided import observation
from torch import Tensor

from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.maths.smoothness import mean_squared_jerk
from toddle.models.bottleneck import Bottleneck, BottleneckConfig, fit_bottleneck
from toddle.policies.exploring_latent import OnManifold
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

BODY = BodySpec(name="toy", proprio=3, action=2, dt=0.05)
SMALL = BottleneckConfig(latent=3, hidden=32, updates=200)


@pytest.fixture(scope="module")
def line() -> tuple[Bottleneck, dict[str, float]]:
    """Actions (x, -x), of which the state's first number tells x, half of it noise that no state tells."""
    draw = torch.Generator().manual_seed(0)
    state = torch.randn(600, 3, generator=draw)
    x = 0.3 * state[:, 0] + 0.1 * torch.randn(600, generator=draw)
    return fit_bottleneck(SMALL, state, torch.stack([x, -x], 1))


def policy() -> GaussianPolicy:
    return GaussianPolicy(GaussianConfig(bodies=(BODY,), hidden=(8,), log_std=-2.0)).train(False)


def acted(acting: Any, seen: Any, memory: Any = None, seed: int = 7) -> tuple[Tensor, Any]:
    decision, memory = acting.act(seen, memory, generator=torch.Generator().manual_seed(seed), deterministic=True)
    return decision.action[:, 0], memory


def test_exploring_stays_where_the_data_are_and_noise_of_the_same_length_does_not(line: Any) -> None:
    (bottleneck, told), base, seen = line, policy(), observation(200)
    assert told["error"] < 0.4 and told["heard"] >= 1 and told["nats"] > 0.1  # 0.1 of the variance is noise
    own, _ = acted(base, seen)
    moved, other = (
        acted(OnManifold(base, bottleneck, 2.0, control=control), seen)[0] - own for control in (False, True)
    )
    assert torch.allclose(moved.norm(dim=1), other.norm(dim=1), atol=1e-5) and moved.norm(dim=1).mean() > 0.02
    off = [float(each.sum(1).square().mean() / each.square().sum(1).mean()) for each in (moved, other)]
    assert off[0] < 0.05 and off[1] > 0.6  # share of the motion across the line; 1 of drawn directions on average
    assert torch.equal(acted(OnManifold(base, bottleneck, 0.0), seen)[0], own)


def test_noise_is_held_and_drawn_anew_in_a_new_episode(line: Any) -> None:
    exploring, seen = OnManifold(policy(), line[0], 2.0, hold=2), observation(4)
    later = {**seen, "first": torch.tensor([False, False, True, False])}
    one, memory = acted(exploring, seen, exploring.initial_memory(4))
    two, memory = acted(exploring, later, memory, seed=8)
    assert torch.equal(one[[0, 1, 3]], two[[0, 1, 3]]) and not torch.equal(one[2], two[2])
    three, _ = acted(exploring, {**seen, "first": torch.zeros(4, dtype=torch.bool)}, memory, seed=9)
    assert (three != two).any(1).tolist() == [True, True, False, True]


def test_what_is_held_jerks_less_than_noise_of_each_decision(line: Any) -> None:
    """Independent numbers have third differences of variance 20; held for five, a jump (variance 2) in five makes
    differences of 1, -2 and 1 times itself: 2 x 6 / 5.  So 8.3 times less, at the same variance."""
    seen, base, jerk = observation(300), policy(), []
    own, _ = acted(base, seen)
    for hold, control in ((1, True), (5, False)):
        exploring, path = OnManifold(base, line[0], 2.0, hold=hold, control=control), []
        memory = exploring.initial_memory(300)
        for t in range(28):
            seen["first"] = torch.full((300,), t == 0)
            action, memory = acted(exploring, seen, memory, seed=t)
            path.append(action - own)
        moved = torch.stack(path, 1).double().numpy()  # (300, 28, 2)
        spread = moved.var(1).sum(-1).mean() * 28 / (28 - hold)  # of a mean over 28 / hold draws
        jerk.append(float(np.mean([mean_squared_jerk(each, 1.0) for each in moved]) / spread))
    assert jerk[0] / jerk[1] == pytest.approx(20 / 2.4, rel=0.15)


def test_a_bottleneck_that_says_nothing_and_one_of_other_numbers_are_told() -> None:
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="no latent number"):
        fit_bottleneck(
            BottleneckConfig(latent=2, hidden=8, updates=20, beta=100.0), *torch.randn(2, 50, 3, generator=draw)
        )
    with pytest.raises(InputError, match=r"soe\.dataset"):
        OnManifold(policy(), Bottleneck(SMALL, 3, 5), 1.0)
