"""What a step has alive, against a count by hand; and what two small batches say of a large one."""

from __future__ import annotations

import torch
from tests.policies.tiny_vla import ToyDemonstrations, tiny_vla

from toddle.core.live_memory import LiveBytes, at_batch
from toddle.core.seeding import torch_generator
from toddle.models.recompute import recomputing

N = 1000


def test_two_sines_have_three_layers_alive() -> None:
    """x is there before; forwards h1 = sin x and h2 = sin h1 are alive, backwards h1, cos h1 and their product."""
    x = torch.ones(5, N, requires_grad=True)

    layer = 4 * 5 * N
    with LiveBytes() as live:
        loss = x.sin().sin().sum()
        assert max(live.timeline) == 2 * layer + 4 and live.live == layer + 4  # h2 goes, the sum stays
        loss.backward()
    assert 3 * layer <= max(live.timeline) <= 3 * layer + 16
    del loss
    assert live.live == layer  # the gradient
    x.grad = None
    assert live.live == 0


def test_two_small_batches_say_what_a_large_one_takes() -> None:
    data, found = ToyDemonstrations(), {}
    for on in (False, True):
        policy = tiny_vla().train()

        def step(rows: int, policy=policy, on: bool = on) -> None:  # type: ignore[no-untyped-def]
            policy.zero_grad(set_to_none=True)
            batch = data.batch(range(rows))
            with recomputing(on):
                loss, _ = policy.loss(batch, torch_generator(0, "step"))
            loss.backward()

        found[on] = at_batch(step, 32)
        with LiveBytes() as live:
            step(32)
        assert abs(found[on] - max(live.timeline)) <= 0.02 * found[on]
    assert found[True] < 0.7 * found[False]
