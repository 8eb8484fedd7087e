"""A search in a model that is the law itself: a point that actions move by 0.1, paid its place, solved beyond 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny_world
from torch import Tensor

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.models.q_ensemble import QEnsemble
from toddle.models.world_model import WorldModel
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.searching import SearchConfig, SearchingPolicy

BODY = BodySpec(name="point", proprio=2, action=1, dt=0.1)


def policy() -> GaussianPolicy:
    return GaussianPolicy(GaussianConfig(bodies=(BODY,), hidden=(8,), log_std=-2.0)).train(False)


def law(*, ignores: bool = False) -> WorldModel:
    """Return the law; or one that says that actions do nothing, as the control that was shown shuffled ones."""
    model = tiny_world.Perfect(tiny_world.TINY, 2, 1)
    if ignores:
        model.following = lambda states, actions, real: torch.stack(2 * [states[:, -1]])  # type: ignore[method-assign]
    return model


def observation(at: Tensor) -> Observation:
    worlds = len(at)
    return {
        "proprio": torch.stack([at, torch.full_like(at, 3.0)], 1),
        "first": torch.ones(worlds, dtype=torch.bool),
        "body": torch.zeros(worlds, dtype=torch.int64),
        "previous_action": torch.zeros(worlds, 1),
        "instruction": ["push"] * worlds,
    }


def acted(acting: Any, seen: Observation, *, deterministic: bool = True) -> Tensor:
    memory = acting.initial_memory(len(seen["proprio"]))
    generator = torch.Generator().manual_seed(7)
    return acting.act(seen, memory, generator=generator, deterministic=deterministic)[0].action[:, 0, 0]


SEEN = observation(torch.linspace(-1.0, 0.5, 60))
SMALL = SearchConfig(rounds=3, horizon=4)


@pytest.mark.parametrize("deterministic", [True, False])
def test_one_candidate_or_none_of_the_search_in_what_is_done_is_the_policy(deterministic: bool) -> None:
    base = policy()
    own = acted(base, SEEN, deterministic=deterministic)
    one = SearchingPolicy(base, law(), SMALL, candidates=1)
    assert torch.equal(acted(one, SEEN, deterministic=deterministic), own)
    mixed = SearchingPolicy(base, law(), SearchConfig(rounds=2, own=1.0), candidates=5)
    assert torch.equal(acted(mixed, SEEN), acted(base, SEEN))


def test_a_search_takes_the_draw_that_the_law_pays_most_and_controls_do_not() -> None:
    base = policy()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    own, std = acted(base, SEEN), torch.tensor(-2.0).exp()

    def gain(model: WorldModel, **options: Any) -> float:
        found = SearchingPolicy(base, model, SearchConfig(rounds=1, horizon=4), candidates=10, **options)
        return float(((acted(found, SEEN) - own) / std).mean())

    assert gain(law()) > 1.2  # the largest of nine normal draws and 0: about 1.49
    assert gain(law(), control="flipped") < -1.2 and abs(gain(law(), control="shuffled")) < 0.35
    assert gain(law(ignores=True)) == 0.0  # all tries are alike: the first candidate, the policy's own
    deep = SearchingPolicy(base, law(), SMALL, candidates=10)
    assert ((acted(deep, SEEN) - own) / std).mean() > 1.0 and torch.equal(acted(deep, SEEN), acted(deep, SEEN))
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_with_a_critic_tries_are_paid_in_steps_until_success_and_end_in_its_value() -> None:
    base, critic = policy(), QEnsemble(2, 1, hidden=(), count=2, seed=0)
    with torch.no_grad():
        for part in (*critic.weights, *critic.biases):
            part.zero_()
    near = observation(torch.tensor([0.99]))
    config = SearchConfig(rounds=1, horizon=3, discount=0.5)
    search = SearchingPolicy(base, law(), config, candidates=2, critic=critic)
    seen = search._root(near, None)  # a step of 0.5 solves it at once, one of 0 never does
    chunks = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1)
    _, returns, doubted = search._follow(near, seen, chunks, torch.zeros(1, dtype=torch.int64))
    later = torch.tensor([0.89])
    for _ in range(2):
        later = later + 0.1 * acted(base, observation(later)).clamp(-1, 1)
    assert not doubted.any() and later < 1.0
    assert returns.tolist() == [[0.0, pytest.approx(-1.75)]]


def test_a_model_or_a_policy_of_other_sizes_is_told() -> None:
    with pytest.raises(InputError, match=r"steering\.model"):
        SearchingPolicy(policy(), WorldModel(tiny_world.TINY, 3, 1), SMALL, candidates=4)
    with pytest.raises(InputError, match="at most the horizon"):
        SearchConfig(rounds=9, horizon=8)
