"""The action expert: its fast paths against a dense oracle, causality, the cache, bodies, levels B and C's ground."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.models.attention import rotary_table, rotate
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.trunk import TrunkConfig

ARM = BodySpec(name="arm", proprio=5, action=3, dt=0.02)
ANT = BodySpec(name="ant", proprio=7, action=2, dt=0.05)
LENGTH, BATCH, ITEMS, SLOTS = 13, 3, 4, 6


def make(bodies: tuple[BodySpec, ...] = (ARM,), modulation: str = "none", **fields: Any) -> ActionExpert:
    torch.manual_seed(0)
    trunk = TrunkConfig(width=24, depth=4, heads=2, context_width=10, modulation=modulation)  # type: ignore[arg-type]
    config = ExpertConfig(trunk=trunk, bodies=bodies, **({"horizon": SLOTS, "executed": 4, "window": 5} | fields))
    expert = ActionExpert(config)
    for parameter in expert.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return expert


def inputs(seed: int = 1, proprio: int = 5, actions: int = 3) -> tuple[Observation, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    first = torch.rand(LENGTH, BATCH, generator=g) < 0.2
    first[0] = True
    observation = Observation(
        proprio=torch.randn(LENGTH, BATCH, proprio, generator=g),
        first=first,
        previous_action=torch.randn(LENGTH, BATCH, 4 * actions, generator=g),
    )
    mask = torch.rand(LENGTH, BATCH, ITEMS, generator=g) < 0.6
    mask[..., 0] = True
    return observation, torch.randn(LENGTH, BATCH, ITEMS, 10, generator=g), mask


def at(observation: Observation, t: int) -> Observation:
    return Observation(**{key: value[t] for key, value in observation.items()})  # type: ignore[typeddict-item, index]


def dense(expert: ActionExpert, observation: Observation, context: Tensor, mask: Tensor, b: int) -> Tensor:
    """World b in one (T (2 + H))^2 attention whose mask is written by loops: the slow oracle."""
    config, first = expert.config, observation["first"][:, b]
    history = expert.tokens.history(observation, 0)[:, b]
    slots = expert.tokens.slots((LENGTH,), 0, None, None, config.horizon)
    x = torch.cat([history, slots], dim=1).flatten(0, 1)
    n = 2 + config.horizon
    names = [(t, k) for t in range(LENGTH) for k in range(n)]  # k: 0 past action, 1 observation, 2.. slots
    times = [0.08 * t + (-0.08 if k == 0 else 0.02 * max(k - 2, 0)) for t, k in names]
    sees = torch.zeros(len(names), len(names), dtype=torch.bool)
    cross = torch.zeros(len(names), LENGTH * ITEMS, dtype=torch.bool)
    for i, (t, k) in enumerate(names):
        cross[i, t * ITEMS : (t + 1) * ITEMS] = mask[t, b]
        begin = max(s for s in range(t + 1) if s == 0 or first[s])
        oldest = max(begin, t - config.window + 1)
        for j, (s, m) in enumerate(names):
            if m >= 2:
                sees[i, j] = k >= 2 and s == t and (m <= k or config.slot_mask == "bidirectional")
            elif i == j:
                sees[i, j] = True
            elif m == 1:
                sees[i, j] = oldest <= s and (s < t if k == 0 else s <= t)
            else:
                sees[i, j] = oldest < s <= t
    none = -math.inf
    add = torch.zeros(sees.shape).masked_fill(~sees, none)[None, None]
    add_cross = torch.zeros(cross.shape).masked_fill(~cross, none)[None, None]
    y = expert.trunk(x[None], torch.tensor(times)[None], add, context[:, b].flatten(0, 1)[None], add_cross)
    return expert.out(y[0].view(LENGTH, n, -1)[:, 2:], 0)


@pytest.mark.parametrize("slot_mask", ["causal", "bidirectional"])
@pytest.mark.parametrize("window", [1, 3, 5, 40])
def test_segment_and_cache_equal_the_dense_oracle(slot_mask: str, window: int) -> None:
    expert = make(window=window, slot_mask=slot_mask)
    observation, context, mask = inputs()
    full = expert(observation, context, mask)
    for b in range(BATCH):
        assert (dense(expert, observation, context, mask, b) - full[:, b]).abs().max() < 1e-5
    cache = expert.initial_cache(BATCH)
    for t in range(LENGTH):
        got, cache = expert.step(at(observation, t), context[t], mask[t], cache)
        assert (got - full[t]).abs().max() < 1e-5
    assert full.std() > 0.05


def test_prefix_and_slots_equal_the_segment_with_flow_time() -> None:
    expert = make(head="velocity", modulation="residual")
    observation, context, mask = inputs()
    g = torch.Generator().manual_seed(3)
    noisy, tau = torch.randn(LENGTH, BATCH, SLOTS, 3, generator=g), torch.rand(LENGTH, BATCH, generator=g)
    full = expert(observation, context, mask, noisy, tau)
    cache = expert.initial_cache(BATCH)
    for t in range(LENGTH):
        cache = expert.prefix(at(observation, t), context[t], mask[t], cache)
        for k in (noisy[t] + 1, noisy[t]):  # the slots of an earlier Euler step leave no trace
            got = expert.slots(cache, k, tau[t])
        assert (got - full[t]).abs().max() < 1e-5


def test_modulating_all_tokens_with_a_window_of_one() -> None:
    expert = make(head="velocity", modulation="residual", window=1, modulate="all")
    observation, context, mask = inputs()
    noisy, tau = torch.randn(LENGTH, BATCH, SLOTS, 3), torch.rand(LENGTH, BATCH)
    full, history = expert.forward_with_history(observation, context, mask, noisy, tau, return_history=True)
    cache = expert.initial_cache(BATCH)
    for t in range(LENGTH):
        got, cache = expert.step(at(observation, t), context[t], mask[t], cache, noisy[t], tau[t])
        assert (got - full[t]).abs().max() < 1e-5
    _, other = expert.forward_with_history(observation, context, mask, noisy, 1 - tau, return_history=True)
    assert (history - other).abs().max() > 1e-2
    with pytest.raises(InputError, match="window"):
        make(head="velocity", modulation="residual", window=2, modulate="all")


def test_a_side_car_acts_as_it_is_trained() -> None:
    beside = TrunkConfig(width=20, depth=2, heads=2, context_width=24)
    expert = make(head="endpoint", modulation="residual", sidecar=beside)
    observation, context, mask = inputs()
    noisy, tau = torch.randn(LENGTH, BATCH, SLOTS, 3), torch.rand(LENGTH, BATCH)
    full = expert(observation, context, mask, noisy, tau)
    assert (expert(observation, context, mask, noisy[-2:], tau[-2:], last=2) - full[-2:]).abs().max() < 1e-5
    cache = expert.initial_cache(BATCH)
    for t in range(LENGTH):
        got, cache = expert.step(at(observation, t), context[t], mask[t], cache, noisy[t], tau[t])
        assert (got - full[t]).abs().max() < 1e-5


def test_long_segments_take_the_gathered_path_to_the_same_numbers() -> None:
    expert = make(window=3)  # 13 decisions >= 4 windows
    observation, context, mask = inputs()
    whole = expert(observation, context, mask)
    assert (expert(observation, context, mask, last=12) - whole[1:]).abs().max() < 1e-5


def test_the_future_never_changes_the_past() -> None:
    expert = make()
    observation, context, mask = inputs()
    before = expert(observation, context, mask)
    later = Observation(**observation)
    later["proprio"] = observation["proprio"].clone()
    later["proprio"][8] += 3
    after = expert(later, context, mask)
    assert torch.equal(before[:8], after[:8])
    assert (before[8] - after[8]).abs().max() > 1e-3


def test_a_window_of_one_is_a_function_of_the_present_observation() -> None:
    expert = make(window=1)
    observation, context, mask = inputs()
    alone = expert(Observation(proprio=observation["proprio"][6:7]), context[6:7], mask[6:7])
    assert (expert(observation, context, mask)[6] - alone[0]).abs().max() < 1e-5


def test_an_episode_forgets_the_one_before() -> None:
    expert = make()
    observation, context, mask = inputs()
    observation["first"][7] = True
    whole = expert(observation, context, mask)
    late: Any = {key: value[7:] for key, value in observation.items()}  # type: ignore[index]
    tail = expert(late, context[7:], mask[7:])
    assert (whole[7:] - tail).abs().max() < 1e-5
    observation["first"][7] = False
    assert (expert(observation, context, mask)[7:] - tail).abs().max() > 1e-3  # the control: with memory it differs


def test_context_is_a_set() -> None:
    expert = make()
    observation, context, mask = inputs()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = expert(observation, context[:, :, order], mask[:, :, order])
    assert (expert(observation, context, mask) - shuffled).abs().max() < 1e-5


def test_level_b_history_ignores_the_noisy_actions_exactly() -> None:
    expert = make(head="velocity", modulation="residual")
    observation, context, mask = inputs()
    tau = torch.rand(LENGTH, BATCH)
    noisy = torch.randn(2, LENGTH, BATCH, SLOTS, 3)
    a, b = (expert.forward_with_history(observation, context, mask, x, tau, return_history=True) for x in noisy)
    assert torch.equal(a[1], b[1])
    assert (a[0] - b[0]).abs().max() > 1e-2


def test_mixed_bodies_equal_one_body_at_a_time() -> None:
    expert = make(bodies=(ARM, ANT))
    expert.tokens.norm.update(torch.randn(50, 7) * 3 + 1, 1)
    observation, context, mask = inputs(proprio=7, actions=3)
    body = torch.tensor([0, 1, 0])
    mixed = expert(Observation(**observation, body=body.expand(LENGTH, BATCH)), context, mask)
    for index, spec in enumerate((ARM, ANT)):
        rows = body == index
        chunk = observation["previous_action"][:, rows].unflatten(-1, (4, 3))[..., : spec.action].flatten(-2)
        alone = Observation(
            proprio=observation["proprio"][:, rows][..., : spec.proprio],
            first=observation["first"][:, rows],
            previous_action=chunk,
            body=torch.full((LENGTH, int(rows.sum())), index),
        )
        assert (expert(alone, context[:, rows], mask[:, rows]) - mixed[:, rows]).abs().max() < 1e-5
    assert (mixed[:, 1, :, 2] == 0).all()  # the ant's missing action dimension is padding
    cache = expert.initial_cache(BATCH)
    for t in range(LENGTH):
        now = at(Observation(**observation, body=body.expand(LENGTH, BATCH)), t)
        got, cache = expert.step(now, context[t], mask[t], cache)
        assert (got - mixed[t]).abs().max() < 1e-5
    with pytest.raises(InputError, match="body"):
        expert(Observation(**observation, body=body.expand(LENGTH, BATCH) + 1), context, mask)


def test_only_time_differences_matter_even_after_an_hour() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 4, 8, generator=g), torch.randn(1, 1, 4, 8, generator=g)
    times = torch.tensor([[0.0, 0.02, 0.3, 1.7]], dtype=torch.float64)

    def logits(shift: float) -> Tensor:
        table = rotary_table(times + shift, 8)
        return rotate(q, table) @ rotate(k, table).transpose(-1, -2)

    assert (logits(0.0) - logits(3600.0)).abs().max() < 1e-5
    assert (logits(0.0) - q @ k.transpose(-1, -2)).abs().max() > 0.1
