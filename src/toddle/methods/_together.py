"""PPO around a policy of states, whose weights several learners share out where they are to."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.protocols import Critic, Scorable
from toddle.methods._base import Run, Start

__all__ = ["run_of_states"]


def run_of_states(
    start: Start,
    policy: Scorable,
    critic: Critic | None,
    sources: Sequence[Any],
    ppo: PPOConfig,
    *,
    iterations: int,
    parts: dict[str, Any],
    **more: Any,
) -> Run:
    """Return a run of PPO (with its `parts`) around a policy on the device; `more` is of the run."""
    given: dict[str, Any] = {"iterations": iterations, "seed": start.seed, **parts}
    if start.sharded:
        from toddle.algorithms.sharded_ppo import ShardedPPO, WholeCopy  # torch's FSDP takes long to import

        kept = copy.deepcopy(policy)
        learner: PPO = ShardedPPO(policy, critic, sources, ppo, engine=WholeCopy(kept), **given)
        more |= {"whole": kept.load_state_dict}
    else:
        kept, learner = policy, PPO(policy, critic, sources, ppo, **given)
    return Run(learner=learner, policy=kept, iterations=iterations, sources=sources, rewards=learner.rewards, **more)
