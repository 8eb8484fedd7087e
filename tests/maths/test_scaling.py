"""The model of an iteration's time: cases that are known by hand, and the simulation at 1, 2, 8 and 64 workers."""

from __future__ import annotations

import pytest

from toddle.maths.scaling import Costs, acting_seconds, iteration_seconds, learning_seconds, simulated_seconds

COSTS = Costs(worlds=256, length=32, act=2e-4, learn=5e-5, rollout=2000, weights=4e6, bandwidth=1e9, latency=2e-4)


def test_by_hand() -> None:
    alone = Costs(worlds=10, length=5, act=0.1, learn=0.02)
    assert acting_seconds(alone, 1) == pytest.approx(5.0)  # 50 decisions
    assert learning_seconds(alone, 1) == pytest.approx(1.0)
    assert acting_seconds(alone, 3) == pytest.approx(2.0 + 2e-4)  # 4 worlds are the largest share
    assert iteration_seconds(alone, 1, 1) == pytest.approx(6.0)
    assert iteration_seconds(alone, 1, 1, overlap=True) == pytest.approx(5.0)
    assert acting_seconds(alone, 1, 3) == pytest.approx(2.0)  # learners without workers send no rollouts
    assert acting_seconds(alone, 4, 2) == pytest.approx(1.5 + 2e-4)  # each learner has two workers, of 3 worlds at most
    shared = Costs(
        worlds=8, length=5, act=0.1, learn=0.02, act_once=0.3, learn_once=0.5, updates=2, latency=0.0, cores=2
    )
    assert acting_seconds(shared, 1) == pytest.approx(5 * (0.3 + 8 * 0.1))
    assert acting_seconds(shared, 4) == pytest.approx(2 * 5 * (0.3 + 2 * 0.1))  # four take turns on two cores
    assert learning_seconds(shared, 1) == pytest.approx(40 * 0.02 + 2 * 0.5)
    assert simulated_seconds(shared, 4, 2) == pytest.approx(iteration_seconds(shared, 4, 1))
    ring = Costs(worlds=8, length=1, act=0.0, learn=1.0, weights=4e9, updates=2, bandwidth=1e9, latency=0.5)
    # 4 learners: 2 samples; a ring of 2 * 3 messages of a quarter of the weights, twice
    assert learning_seconds(ring, 4) == pytest.approx(2.0 + 2 * 6 * (1.0 + 0.5))


@pytest.mark.parametrize("workers", [1, 2, 8, 64])
def test_the_simulation_agrees_where_all_are_equally_fast(workers: int) -> None:
    """Weights leave one after the other, so the last worker begins late and the first rollouts fill that time: the
    model, which adds both, is above the simulation by at most one of them."""
    model, found = iteration_seconds(COSTS, workers, 1), simulated_seconds(COSTS, workers, 3)
    assert model - workers * COSTS.weights / COSTS.bandwidth - 1e-9 <= found <= model + 1e-9
    assert found == pytest.approx(model, rel=0.12)


def test_slow_workers_are_waited_for_and_messages_end_the_gain() -> None:
    times = {workers: simulated_seconds(COSTS, workers, 20) for workers in (1, 8, 64)}
    assert times[1] > 3 * times[8]
    assert times[64] > times[8]  # 4 MB to each of 64 workers take 0.26 s, more than they save
    small = Costs(**{**vars(COSTS), "weights": 4e5})
    assert simulated_seconds(small, 64, 20) < simulated_seconds(small, 8, 20)
    assert simulated_seconds(COSTS, 8, 20, spread=0.3) > 1.1 * times[8]
