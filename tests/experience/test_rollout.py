"""A rollout gives back what was put in: every decision once, whole worlds in time order where asked."""

from __future__ import annotations

import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.types import Decision, sentences_of
from toddle.experience.rollout import Rollout

T, B, L, WIDTH, H, A = 5, 6, 2, 3, 4, 1


def filled() -> Rollout:
    """Every number of decision (t, b) is 10 t + b."""
    rollout = None
    for t in range(T + 1):
        number = (10.0 * t + torch.arange(B)).float()
        observation = {
            "proprio": number[:, None].expand(B, WIDTH),
            "first": torch.arange(B) == t,
            "instruction": [f"go to {(t + b) % 4}" for b in range(B)],
        }
        decision = Decision(
            number.view(B, 1, 1).expand(B, H, A), number[:, None].expand(B, 7), number[:, None].expand(B, L)
        )
        rollout = Rollout(T, B, observation, decision) if rollout is None else rollout  # type: ignore[arg-type]
        rollout.observe(t, observation)  # type: ignore[arg-type]
        if t < T:
            rollout.decide(t, decision)
            rollout.value[t] = rollout.advantage[t] = rollout.target[t] = number
    assert rollout is not None
    return rollout


def test_shapes_and_the_row_after_the_last() -> None:
    rollout = filled()
    assert rollout.observation["proprio"].shape == (T, B, WIDTH)
    assert rollout.observation_and_last["proprio"].shape == (T + 1, B, WIDTH)
    assert rollout.chain.shape == (T, B, 7)
    assert rollout.log_prob.shape == (T, B, L)
    assert rollout.observation_and_last["proprio"][T, 2, 0] == 10 * T + 2


def test_sentences_follow_their_decisions() -> None:
    """World b hears "go to (t + b) mod 4" at decision t: four sentences in the table, each entry its own."""
    rollout = filled()
    assert sorted(rollout.sentences) == [f"go to {i}" for i in range(4)]
    said = sentences_of(rollout.observation)
    assert said == [f"go to {(t + b) % 4}" for t in range(T) for b in range(B)]
    for sequential in (True, False):
        for part in rollout.minibatches(3, sequential, torch.Generator().manual_seed(0)):
            numbers = part.chain[..., 0].flatten().long()
            wanted = [f"go to {(int(n) // 10 + int(n) % 10) % 4}" for n in numbers]
            assert sentences_of(part.observation) == wanted


@pytest.mark.parametrize("large", [2**24, 1])
@pytest.mark.parametrize("sequential", [True, False])
def test_columns_travel_and_large_ones_are_gathered_alike(
    sequential: bool, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toddle.experience.rollout.LARGE", large)
    rollout = filled()
    rollout.columns["hint"] = rollout.chain[..., :2] + 1000.0
    for part in rollout.minibatches(2, sequential, torch.Generator().manual_seed(1)):
        assert torch.equal(part.columns["hint"], part.chain[..., :2] + 1000.0)
        assert torch.equal(part.observation["proprio"][..., 0], part.value)
        assert part.mask is None


def test_only_real_decisions_are_learned_from() -> None:
    rollout = filled()
    rollout.mask = torch.arange(T)[:, None] < torch.tensor([5, 1, 2, 5, 3, 4])  # steps each world's episode took
    rollout.chain[~rollout.mask] = float("nan")
    seen = torch.cat([part.chain[0, :, 0] for part in rollout.minibatches(3, False, torch.Generator().manual_seed(0))])
    assert len(seen) == 20 and not seen.isnan().any()
    for part in rollout.minibatches(2, True, torch.Generator().manual_seed(0)):
        assert part.mask is not None and torch.equal(part.mask, ~part.chain[..., 0].isnan())
    with pytest.raises(InputError, match="1 to 20, the number of decisions"):
        next(iter(rollout.minibatches(21, False, torch.Generator())))


@pytest.mark.parametrize("count", [1, 4, 7, T * B])
def test_shuffled_decisions_are_each_there_once(count: int) -> None:
    parts = list(filled().minibatches(count, False, torch.Generator().manual_seed(0)))
    assert len(parts) == count
    assert {part.chain.shape[1] for part in parts} <= {T * B // count, T * B // count + 1}
    seen = torch.cat([part.chain[0, :, 0] for part in parts])
    assert seen.sort().values.tolist() == sorted(10.0 * t + b for t in range(T) for b in range(B))
    assert seen.tolist() != seen.sort().values.tolist()  # shuffled
    for part in parts:  # every field tells of the same decision
        for field in (
            part.observation["proprio"][..., 0],
            part.log_prob[..., 1],
            part.value,
            part.advantage,
            part.target,
        ):
            assert torch.equal(field, part.chain[..., 0])


def test_sequential_minibatches_hold_whole_worlds_in_time_order() -> None:
    parts = list(filled().minibatches(4, True, torch.Generator().manual_seed(0)))
    assert [part.chain.shape[1] for part in parts] == [2, 2, 1, 1]
    worlds = torch.cat([part.chain[0, :, 0] for part in parts])
    assert sorted(worlds.tolist()) == list(range(B))
    for part in parts:
        assert torch.equal(part.chain[:, :, 0], part.chain[0, :, 0] + 10.0 * torch.arange(T)[:, None])
        assert torch.equal(part.observation["proprio"][..., 0], part.chain[..., 0])


def test_the_order_comes_from_the_generator_alone() -> None:
    rollout = filled()
    a, b, c = (
        next(iter(rollout.minibatches(2, False, torch.Generator().manual_seed(seed)))).chain for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_too_many_minibatches() -> None:
    with pytest.raises(InputError, match="1 to 6"):
        next(iter(filled().minibatches(7, True, torch.Generator())))
    with pytest.raises(InputError, match="decision"):
        Rollout(0, B, {}, Decision(torch.zeros(B, H, A), torch.zeros(B, 7), torch.zeros(B, L)))
