"""What an iteration takes with several workers and learners: a model on paper (docs/scaling.md), and a simulation.

    worker:   steps = worlds / workers * length     T_act   = steps * (physics + decision) + messages
    learner:  samples = worlds * length / learners  T_learn = samples * learning + reduce
    reduce:   2 (learners - 1) / learners * weights / bandwidth + 2 (learners - 1) latency        (a ring)
    T = T_act + T_learn, or with overlap (they act on the weights of one iteration before) the larger of the two
Workers send at once to one learner, whose line they share; the slowest of them is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Costs", "acting_seconds", "iteration_seconds", "learning_seconds", "simulated_seconds"]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What things take; seconds, bytes, bytes a second."""

    worlds: int
    length: int
    """Decisions of a world in an iteration."""
    act: float
    """Physics and decision, of one decision of one world in one process."""
    learn: float
    """All epochs, of one decision in one learner."""
    rollout: float = 0.0
    """Bytes of a decision in the rollout."""
    weights: float = 0.0
    """Bytes that are sent to each worker, and that learners reduce at each update."""
    updates: int = 1
    """Gradient steps of an iteration."""
    bandwidth: float = 1e9
    latency: float = 1e-4
    """Seconds until a message arrives."""


def acting_seconds(costs: Costs, workers: int) -> float:
    """Return the seconds from the weights' departure to the last worker's rollout; one worker sends nothing."""
    steps = -(-costs.worlds // workers) * costs.length
    if workers == 1:
        return steps * costs.act
    sent = workers * costs.weights + costs.worlds * costs.length * costs.rollout
    return steps * costs.act + 2 * costs.latency + sent / costs.bandwidth


def learning_seconds(costs: Costs, learners: int) -> float:
    """Return the seconds of an iteration's updates, in which gradients go round a ring of learners."""
    samples = -(-costs.worlds // learners) * costs.length
    ring = 2 * (learners - 1) * (costs.weights / learners / costs.bandwidth + costs.latency)
    return samples * costs.learn + costs.updates * ring


def iteration_seconds(costs: Costs, workers: int, learners: int, *, overlap: bool = False) -> float:
    """Return the seconds of an iteration; overlap: it acts and learns at the same time."""
    parts = acting_seconds(costs, workers), learning_seconds(costs, learners)
    return max(parts) if overlap else sum(parts)


def simulated_seconds(
    costs: Costs, workers: int, iterations: int, *, spread: float = 0.0, generator: np.random.Generator | None = None
) -> float:
    """Return the mean seconds of an iteration of so many workers and one learner, message by message.

    Each worker has a clock of its own; the learner's line carries one message after the other, in the order in which
    they are ready.  spread: a worker's pace is multiplied by 1 + spread |N(0, 1)|, drawn at each iteration.
    """
    generator = generator or np.random.default_rng(0)
    pace = np.ones(workers) if spread == 0.0 else np.empty(0)
    now = 0.0
    for _ in range(iterations):
        slower = pace if len(pace) else 1 + spread * np.abs(generator.standard_normal(workers))
        line, ready = now, []
        share = [costs.worlds // workers + (index < costs.worlds % workers) for index in range(workers)]
        for index in range(workers):  # weights out, one worker after the other
            line += costs.weights / costs.bandwidth if workers > 1 else 0.0
            arrived = line + (costs.latency if workers > 1 else 0.0)
            ready.append((arrived + share[index] * costs.length * costs.act * slower[index], share[index]))
        line = now
        for done, worlds in sorted(ready):  # rollouts in, as they come
            line = max(line, done + (costs.latency if workers > 1 else 0.0))
            line += worlds * costs.length * costs.rollout / costs.bandwidth if workers > 1 else 0.0
        now = line + costs.worlds * costs.length * costs.learn
    return now / iterations
