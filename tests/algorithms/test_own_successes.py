"""Imitation of own successes: which episodes enter, whole and cut at success; the loss is that of fine-tuning."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.tiny_vla import ACTION, PROPRIO, tiny_token_vla, tiny_vla

from toddle.algorithms.own_successes import OwnSuccesses, OwnSuccessesConfig
from toddle.core.errors import InputError
from toddle.core.types import Decision, Observation
from toddle.experience.rollout import Minibatch, Rollout
from toddle.runs.checkpoint import load_state, save_state

Ends = dict[int, tuple[int, ...]]
TOKENS = 6
WHOLE = Minibatch({}, *[torch.zeros(1, 1)] * 5)  # type: ignore[typeddict-item]
"""All of an update's decisions, of which imitation asks nothing else."""


def played(
    start: int, length: int, *, worlds: int = 1, success: Ends | None = None, ended: Ends | None = None, **more: Any
) -> Rollout:
    """A rollout whose proprioception and executed actions count decisions from `start`; by world, where it succeeds."""
    found: Rollout | None = None
    chain = torch.zeros(worlds, 1)
    for t in range(length):
        seen = Observation(
            proprio=torch.full((worlds, PROPRIO), float(start + t)),
            context=torch.full((worlds, TOKENS, 16), (start + t) / 10.0).half(),
            context_mask=torch.ones(worlds, TOKENS, dtype=torch.bool),
            first=torch.zeros(worlds, dtype=torch.bool),
            body=torch.zeros(worlds, dtype=torch.int64),
            instruction=[("open the drawer", "press the red button")[world % 2] for world in range(worlds)],
        )
        found = found or Rollout(length, worlds, seen, Decision(chain, chain, chain))
        found.observe(t, seen)
        found.execute(t, np.full((worlds, 2 * ACTION), (start + t) / 100.0, np.float32))
    assert found is not None
    found.reached = torch.zeros(length, worlds, dtype=torch.bool)
    for where, at in (("reached", success), ("truncated", ended)):
        for world, times in (at or {}).items():
            for t in times:
                getattr(found, where)[t, world] = True
    if "mask" in more:
        found.mask = more["mask"]
    return found


def own(policy: Any = None, **settings: Any) -> OwnSuccesses:
    return OwnSuccesses(policy or tiny_vla(), OwnSuccessesConfig(**({"weight": 1.0, "choose": "all"} | settings)))


def loss_of(held: OwnSuccesses, part: Minibatch = WHOLE) -> Any:
    """The loss and facts of a minibatch."""
    held.draw([part])
    return held.loss(part, None)  # type: ignore[arg-type]


def decisions(held: OwnSuccesses) -> list[list[float]]:
    """The decisions that are kept, by episode."""
    return [episode["proprio"][:, 0].tolist() for kept in held.kept.values() for episode in kept]


def test_an_episode_goes_on_over_rollouts_and_is_cut_at_its_first_success() -> None:
    held, policy = own(), tiny_vla()
    first = held.begin([played(0, 4, success={0: (0,)}, ended={0: (1,)})], policy)
    assert decisions(held) == [[0.0]] and first["imitation/entered"] == 1
    held.begin([played(4, 4, success={0: (2, 3)})], policy)  # goes on from 2, succeeds at 6, and again at 7
    assert decisions(held) == [[0.0], [2.0, 3.0, 4.0, 5.0, 6.0]]
    last = held.begin([played(8, 3, success={0: (1,)}, ended={0: (1,)})], policy)  # the same episode: not once more
    assert len(decisions(held)) == 2 and last["imitation/entered"] == 0 and last["imitation/held"] == 2
    assert last["imitation/decisions"] == 3.0


def test_an_episode_that_was_lost_on_the_way_does_not_go_on() -> None:
    held = own()
    held.begin([played(0, 4)], tiny_vla())
    after = played(4, 4, success={0: (2,)})
    after.dropped[0] = True
    held.begin([after], tiny_vla())
    assert decisions(held) == [[4.0, 5.0, 6.0]]


def test_failures_and_other_worlds_do_not_enter() -> None:
    held = own()
    held.begin([played(0, 4, worlds=2, ended={0: (1,), 1: (2,)}, success={1: (3,)})], tiny_vla())
    assert decisions(held) == [[3.0]] and list(held.kept) == [(0, "press the red button")]


def test_whole_episodes_begin_with_the_rollout() -> None:
    held = own()
    mask = torch.tensor([[True, True], [True, True], [False, True]])
    for start in (0, 10):
        held.begin([played(start, 3, worlds=2, success={0: (1,), 1: (2,)}, mask=mask)], tiny_vla())
    assert decisions(held) == [[0, 1], [10, 11], [0, 1, 2], [10, 11, 12]]


def test_only_the_shorter_half_enters() -> None:
    """Of lengths 40, 50, 60 a success of 55 is refused, one of 45 enters; a failure of 10 does not."""
    held = own(choose="shorter")
    kept = {(0, "open the drawer"): [{"executed": torch.zeros(n, 1)} for n in (40, 50, 60)]}
    held.kept = kept  # type: ignore[assignment]
    for length, success in ((55, True), (45, True), (10, False)):
        held.open.clear()
        rollout = played(0, length, success={0: (length - 1,)} if success else {}, ended={0: (length - 1,)})
        held.begin([rollout], tiny_vla())
    assert [len(episode["executed"]) for episode in held.kept[0, "open the drawer"]] == [40, 50, 60, 45]


def test_the_weight_falls_as_episodes_succeed() -> None:
    """Two of three episodes that ended succeeded: 0.1 + 1.0 (1 - 0.1 * 2 / 3); one that goes on does not count."""
    held = own(weight=1.1, least_weight=0.1)
    assert held.weight == 1.1
    held.begin([played(0, 6, success={0: (1, 3, 5)}, ended={0: (1, 2, 3)})], tiny_vla())
    assert held.weight == pytest.approx(0.1 + (1.0 - 0.1 * 2 / 3))
    whole = torch.ones(3, 2, dtype=torch.bool)  # episodes of a group may be cut without an end of their own
    held.begin([played(0, 3, worlds=2, success={1: (2,)}, mask=whole)], tiny_vla())
    assert held.solved == pytest.approx(0.9 * 0.1 * 2 / 3 + 0.1 / 2)
    again = own(weight=1.1, least_weight=0.1)
    again.load_state_dict(held.state_dict())
    assert again.weight == held.weight and own(weight=0.3).weight == 0.3


def test_the_latest_episodes_are_kept() -> None:
    held = own(episodes=2)
    held.begin([played(0, 5, success={0: (0, 1, 2, 3)}, ended={0: (0, 1, 2, 3)})], tiny_vla())
    assert decisions(held) == [[2.0], [3.0]]


@pytest.mark.parametrize("make", [lambda: tiny_vla(), lambda: tiny_vla(window=3), lambda: tiny_token_vla()])
def test_its_gradient_is_that_of_fine_tuning_on_the_same_decisions(make: Any) -> None:
    policy = make().train()
    held = own(policy, batch=6)
    held.begin([played(0, 5, success={0: (4,)})], policy)
    horizon, history, _ = policy.window_sizes
    state = held.state_dict()
    numbers = np.random.default_rng()
    numbers.bit_generator.state = state["numbers"]
    numbers.integers(1, size=6)
    at = [int(numbers.integers(5)) for _ in range(6)]
    rows = [[max(0, t + i) for i in range(1 - history, 1)] for t in at]  # by hand, from the counting rollout
    seen = torch.tensor(rows).T.float()
    action = torch.tensor([[min(2 * t + i, 9) // 2 / 100 for i in range(horizon)] for t in at])
    first = torch.tensor([[i == max(0, history - 1 - t) for i in range(history)] for t in at]).T
    by_hand = {
        "observation": {
            "proprio": seen[..., None].expand(-1, -1, PROPRIO),
            "context": (seen / 10)[..., None, None].expand(-1, -1, TOKENS, 16).half().float(),
            "context_mask": torch.ones(*seen.shape, TOKENS, dtype=torch.bool),
            "first": first,
            "body": torch.zeros(seen.shape, dtype=torch.int64),
        },
        "action": action[..., None].expand(-1, -1, ACTION),
        "mask": torch.tensor([[2 * t + i < 10 for i in range(horizon)] for t in at]),
    }
    gradients = []
    noise = torch.Generator()
    noise.set_state(state["noise"])
    for compute in (lambda: loss_of(held)[0], lambda: policy.loss(by_hand, noise)[0]):
        policy.zero_grad()
        compute().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-7) and float(gradients[0].norm()) > 0.01


@pytest.mark.parametrize("make", [lambda: tiny_vla(), lambda: tiny_vla(window=3), lambda: tiny_token_vla()])
def test_parts_of_a_batch_are_the_batch(make: Any) -> None:
    """Parts of 3, 0 and 8 of 11 decisions: a third learner whose part has none draws alike."""
    policy = make().train()

    class Shown:
        def __len__(self) -> int:
            return 5

        def batch(self, samples: Any) -> dict[str, Any]:
            (episode,) = held.kept[0, "open the drawer"]
            return held._own([(episode, int(at)) for at in samples])

    held = own(policy, batch=9)
    held.begin([played(0, 5, success={0: (4,)})], policy)
    held.demonstrations = Shown()
    state, found = held.state_dict(), []
    for places in ([(0, 1, 1)], [(0, 3, 11), (3, 0, 11), (3, 8, 11)]):
        held.load_state_dict(state)
        policy.zero_grad()
        parts = [dataclasses.replace(WHOLE, place=place) for place in places]
        held.draw(parts)
        losses = [part.share * held.loss(part, None)[0] for part in parts]  # type: ignore[arg-type]
        torch.stack(losses).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
        found.append(torch.stack(losses).sum().detach())
        found.append(held.state_dict()["noise"])
    assert torch.allclose(found[0], found[3], atol=1e-7) and float(found[0].norm()) > 0.01
    assert torch.allclose(found[1], found[4], atol=1e-6) and torch.equal(found[2], found[5])


def test_demonstrations_have_their_share() -> None:
    policy = tiny_vla()
    batches: list[int] = []

    class Source:
        def __len__(self) -> int:
            return 9

        def batch(self, samples: Any) -> dict[str, Any]:
            batches.append(len(samples))
            return held._own(held._chosen(len(samples)))

    held = own(policy, batch=8, demonstrated=0.25)
    assert float(loss_of(held)[0]) == 0.0
    held.begin([played(0, 5, success={0: (4,)})], policy)
    held.demonstrations = Source()
    loss, facts = loss_of(held)
    assert batches == [2] and loss.requires_grad and float(facts["imitation/loss"]) == float(loss.detach())


def test_without_a_success_it_is_fine_tuning_on_the_demonstrations() -> None:
    """iRe-VLA's second stage with no new episode: the whole batch, and the whole loss, are the demonstrations'."""
    policy = tiny_vla().train()
    held, other = own(policy, batch=8, demonstrated=0.5), own(policy)
    other.begin([played(0, 5, success={0: (4,)})], policy)
    (episode,) = other.kept[0, "open the drawer"]

    class Shown:
        def __len__(self) -> int:
            return 5

        def batch(self, samples: Any) -> dict[str, Any]:
            return other._own([(episode, int(at)) for at in samples])

    held.demonstrations = Shown()
    state, numbers, noise = held.state_dict(), np.random.default_rng(), torch.Generator()
    numbers.bit_generator.state = state["numbers"]
    noise.set_state(state["noise"])
    loss, _ = loss_of(held)
    wanted, _ = policy.loss(Shown().batch(numbers.integers(5, size=8)), noise)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_the_state_holds_episodes_under_way(tmp_path: Any) -> None:
    whole, policy = own(batch=4), tiny_vla()
    whole.begin([played(0, 4, success={0: (0,)}, ended={0: (0,)})], policy)
    save_state(tmp_path / "state", whole.state_dict())
    resumed = own(batch=4)
    resumed.load_state_dict(load_state(tmp_path / "state")[0])
    for held in (whole, resumed):
        held.begin([played(4, 2, success={0: (1,)})], policy)
    assert decisions(whole) == decisions(resumed) == [[0.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
    assert loss_of(whole)[0].equal(loss_of(resumed)[0])


def test_without_reported_success_it_is_refused() -> None:
    rollout = played(0, 2)
    rollout.reached = None
    with pytest.raises(InputError, match=r"imitation\.weight: expected 0 where the environment does not report"):
        own().begin([rollout], tiny_vla())
