"""Offline to online: a learner of stored transitions goes on with what its policy does in an environment.

Cal-QL's online phase (Nakamoto et al. 2023, arXiv 2303.05479, section 6; the authors' code): the same updates, of
batches that are half old and half new, and the floor of the critics' push is what the new episodes came to as well, so
an episode is kept when it ends.  ConRFT's (Chen et al. 2025, arXiv 2502.05450, section IV-B) is its own update without
the push.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from toddle.algorithms.offline.learner import OfflineLearner
from toddle.algorithms.replay_learner import ONLINE, ReplayLearner, decisions_of
from toddle.core.config import config
from toddle.core.numbers import Count, Positive, Whole
from toddle.data.replay import Decisions, Replay, Unfinished
from toddle.data.transitions import Transitions
from toddle.experience.collect import Collector

__all__ = ["Continued", "OnlineConfig"]


@config
class OnlineConfig:
    """How much is learned from what is done."""

    ratio: Positive = 1.0
    """Updates for each decision of a world."""
    learn_after: Whole = 1000
    """Decisions in whole episodes, all worlds together, before the first update."""
    rounds: Count = 100
    """Decisions of each world between two lines of metrics."""


class Continued(ReplayLearner):
    """An offline learner's updates, of batches from a replay that knows what every episode came to."""

    group = "offline"

    def __init__(
        self,
        offline: OfflineLearner,
        collector: Collector,
        replay: Replay,
        pace: OnlineConfig,
        *,
        seed: int,
        reward_scale: float,
        reward_shift: float,
    ) -> None:
        """Go on with `offline` (single actions), whose policy acts; what is paid is reward_scale r + reward_shift.

        The stores of `replay` keep returns.  Statistics of states stay those of the data.
        """
        super().__init__(collector, replay, pace, batch=offline.config.batch, seed=seed)
        self.offline, self.policy = offline, offline.policy
        self.reward_scale, self.reward_shift = reward_scale, reward_shift
        self.unfinished = Unfinished(collector.env.num_envs, offline.config.discount)

    def _gather(self) -> dict[str, float]:
        rollout, metrics = self.collector.collect(self.policy, None)
        assert rollout.executed is not None
        made = decisions_of(lambda seen: seen["proprio"], rollout, rollout.executed)
        made = replace(made, reward=self.reward_scale * made.reward + self.reward_shift)
        over = (rollout.terminated | rollout.truncated)[0].cpu()
        for episode in self.unfinished.add(made, over):
            self.replay.stores[ONLINE].add(episode)
        return metrics

    def learn_at_once(self) -> float:
        """Learn from the first round on, from episodes that are taken to be cut there."""
        self._gather()
        for episode in self.unfinished.finish(range(self.collector.env.num_envs)):
            self.replay.stores[ONLINE].add(episode)
        return super().learn_at_once()

    def learn(self, batches: Decisions) -> dict[str, list[Tensor]]:
        """Make an update for each of (U, B) decisions; return metrics without dimensions, one an update."""
        found: dict[str, list[Tensor]] = {}
        for index in range(len(batches)):
            batch = batches.at(index)
            assert batch.returns is not None
            terminal = (batch.discount == 0.0).to(batch.reward)
            parts = (batch.observation, batch.action, batch.reward, batch.following, terminal, batch.returns)
            metrics = self.offline.update(Transitions(*parts)) | {"return": batch.returns.mean()}
            self.offline.updates += 1
            self.updates += 1
            for name, value in metrics.items():
                found.setdefault(name, []).append(value.detach())
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        own = {"offline": self.offline.state_dict(), "unfinished": self.unfinished.state_dict()}
        return super().state_dict() | own | {"batches": self.batches.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.offline.load_state_dict(state["offline"])
        self.unfinished.load_state_dict(state["unfinished"])
        self.batches.set_state(state["batches"])
