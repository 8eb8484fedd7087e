"""What an iteration takes with several workers and learners: a model on paper (docs/scaling.md), and a simulation.

    acting:   share = worlds / those that act     T_act   = length * (once + share * (physics + decision)) + messages
    learner:  samples = worlds * length / learners  T_learn = samples * learning + updates * (once + reduce)
    reduce:   2 (learners - 1) / learners * weights / bandwidth + 2 (learners - 1) latency        (a ring)
    T = T_act + T_learn, or with overlap (they act on the weights of one iteration before) the larger of the two
Those that act are the workers, or without them the learners, which then send no rollouts.  Workers send at once to
their learner, whose line they share; the slowest of them is waited for.  More processes than cores take turns.
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
    act_once: float = 0.0
    """What a process takes besides at each decision, however many worlds it has."""
    learn_once: float = 0.0
    """What a learner takes besides at each update, however many decisions it has."""
    rollout: float = 0.0
    """Bytes of a decision in the rollout."""
    weights: float = 0.0
    """Bytes that are sent to each worker, and that learners reduce at each update."""
    updates: int = 1
    """Gradient steps of an iteration."""
    bandwidth: float = 1e9
    latency: float = 1e-4
    """Seconds until a message arrives."""
    cores: int | None = None
    """What all processes together have; None: each has one of its own."""

    def turns(self, processes: int) -> float:
        """Return by how much so many processes that compute at once are slower than one."""
        return 1.0 if self.cores is None else max(1.0, processes / self.cores)

    def acts(self, worlds: int, processes: int) -> float:
        """Return the seconds in which one of so many processes steps its worlds and decides for them."""
        return self.turns(processes) * self.length * (self.act_once + worlds * self.act)


def acting_seconds(costs: Costs, workers: int, learners: int = 1) -> float:
    """Return the seconds from the weights' departure to the last worker's rollout; without workers nothing is sent."""
    processes = max(workers, learners)
    busy = costs.acts(-(-costs.worlds // processes), processes)
    if workers == 1:
        return busy
    sent = workers * costs.weights + costs.worlds * costs.length * costs.rollout
    return busy + 2 * costs.latency + sent / learners / costs.bandwidth


def learning_seconds(costs: Costs, learners: int) -> float:
    """Return the seconds of an iteration's updates, in which gradients go round a ring of learners."""
    samples = -(-costs.worlds // learners) * costs.length
    ring = 2 * (learners - 1) * (costs.weights / learners / costs.bandwidth + costs.latency)
    return costs.turns(learners) * (samples * costs.learn + costs.updates * costs.learn_once) + costs.updates * ring


def iteration_seconds(costs: Costs, workers: int, learners: int, *, overlap: bool = False) -> float:
    """Return the seconds of an iteration; overlap: it acts and learns at the same time."""
    parts = acting_seconds(costs, workers, learners), learning_seconds(costs, learners)
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
            ready.append((arrived + costs.acts(share[index], workers) * slower[index], share[index]))
        line = now
        for done, worlds in sorted(ready):  # rollouts in, as they come
            line = max(line, done + (costs.latency if workers > 1 else 0.0))
            line += worlds * costs.length * costs.rollout / costs.bandwidth if workers > 1 else 0.0
        now = line + learning_seconds(costs, 1)
    return now / iterations
