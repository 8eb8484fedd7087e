"""MEDAL: learning a task in worlds that nobody resets, beside a policy that learns to bring them back.

Sharma et al. 2022, "A State-Distribution Matching Approach to Non-Episodic Reinforcement Learning" (arXiv 2205.05212).

    judge     D(s): logit that s is a state of the demonstrations, not of the way back; mixup, cross entropy
    way back  r = -log(1 - sigmoid D(s')) = softplus D(s'), at the optimum log(1 + p_demo / p_back)

Two of SAC's learners share one collector.  The task's policy acts until it succeeds, or for `turn` decisions; then the
way back's for as many.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from toddle.algorithms.replay_learner import ONLINE, decisions_of
from toddle.algorithms.soft_actor_critic import SACConfig, SoftActorCritic
from toddle.core.config import config
from toddle.core.numbers import Count, Positive, Size
from toddle.core.seeding import derived_seed, torch_generator
from toddle.data.replay import Decisions, Replay, Store
from toddle.experience.collect import Collector
from toddle.models.mlp import make_mlp
from toddle.optim.flat_adam import FlatAdam
from toddle.policies.squashed_gaussian import SquashedGaussianPolicy
from toddle.policies.taking_turns import TakingTurns

__all__ = ["ResetFree", "ResetFreeConfig", "mixed_up"]


@config
class ResetFreeConfig:
    """How a policy learns to bring the world back."""

    turn: Count = 60
    """Decisions after which it is the other policy's turn."""
    back: Literal["medal", "random", "none"] = "medal"
    """Who acts between two turns of the task's policy.  Controls: random actions; nobody, so that it goes on from where
    it is."""
    judge_hidden: tuple[Size, ...] = (128,)
    """Widths of the hidden layers of the judge."""
    judge_batch: Size = 256
    """States of either kind in a batch of the judge's."""
    judge_every: Count = 10
    """Updates of the way back for one of the judge."""
    judge_rate: Positive = 3e-4
    """Adam's rate of the judge."""
    shuffled: bool = False
    """The control: the judge's labels are drawn at random, so that nothing is to be learned of the way back."""


def mixed_up(states: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return states (N, O) and labels (N,) between those given and others of them, at uniform shares (mixup)."""
    other = torch.randperm(len(states), generator=generator)
    share = torch.rand(len(states), generator=generator).to(states.device)
    return torch.lerp(states, states[other], share[:, None]), torch.lerp(labels, labels[other], share)


def _going_on(store: Store) -> Store:
    """Return a store with those decisions of another after which its episode goes on: what follows is known of them."""
    fresh = Store(store.capacity, *store.sizes, kind=store.kind)
    if len(store):
        kept = store.at(torch.arange(len(store)))
        fresh.add(kept.at(kept.discount > 0))
    return fresh


class ResetFree(SoftActorCritic):
    """A learner: SAC's of the task, beside it SAC's of the way back (`way`), and the judge that pays that one."""

    def __init__(
        self,
        policy: SquashedGaussianPolicy,
        collector: Collector,
        replay: Replay,
        config: SACConfig,
        *,
        settings: ResetFreeConfig,
        demonstrated: Tensor,
        seed: int,
        **named: Any,
    ) -> None:
        """As `SoftActorCritic`; `demonstrated` (N, O) are the states that the way back should lead to.

        The environment pays more than 0 where the task is done, and nothing else.
        """
        super().__init__(policy, collector, replay, config, seed=seed, **named)
        self.settings, self.demonstrated = settings, demonstrated.to(self.device)
        own = derived_seed(seed, "way back")
        back = SquashedGaussianPolicy(replace(policy.config, seed=own)).to(self.device)
        kept = Replay({name: _going_on(store) for name, store in replay.stores.items()}, replay.fractions)
        self.way = SoftActorCritic(back, collector, kept, config, seed=own)
        self.turns = TakingTurns(policy, back, collector.worlds)
        self.since = torch.zeros(collector.worlds, dtype=torch.int64)  # decisions of the turn under way
        self.draws = torch_generator(seed, "reset-free")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "judge"))
            self.judge = make_mlp([policy.state_sizes[0], *settings.judge_hidden, 1], "relu").to(self.device)
        self.judging = FlatAdam({"judge": (self.judge, settings.judge_rate)}, max_norm=math.inf)
        self.resets, self.turned, self.judged = 0, 0, 0

    # ---- experience ----------------------------------------------------------------------------------------------
    def _gather(self) -> dict[str, float]:
        rollout, metrics = self.collector.collect(self.turns, None)
        returning = self.turns.returning
        made = decisions_of(self.policy.state, rollout, rollout.chain.tanh())
        for learner in (self, self.way):
            learner._look(made.observation.to(self.device))
        done = (made.reward > 0) & ~returning
        paid = self.config.reward_scale * (made.reward > 0).float() + self.config.reward_shift
        made = replace(made, reward=paid, discount=torch.where(done, 0.0, made.discount))
        for learner, whose in ((self, ~returning), (self.way, returning)):
            if whose.any():
                learner.replay.stores[ONLINE].add(made.at(whose))
        ended = (rollout.terminated | rollout.truncated)[0].cpu()
        return metrics | self._turn(made.following, done, ended)

    def _turn(self, following: Tensor, done: Tensor, ended: Tensor) -> dict[str, float]:
        """Pass the turn on in the worlds (B,) where it is over; return metrics of the turns that are.

        following (B, O) is where they have come to; ended: those that have been reset.
        """
        returning = self.turns.returning
        self.since += 1
        over = done | (self.since >= self.settings.turn) | ended
        own = over & ~returning
        self.resets += int(ended.sum())
        self.turned += int(own.sum())
        after = own & ~ended if self.settings.back != "none" else torch.zeros_like(over)
        self.turns.returning = torch.where(over, after, returning)
        self.since[over] = 0
        return {"reset_free/solved": float(done.sum() / own.sum())} if own.any() else {}

    # ---- learning ------------------------------------------------------------------------------------------------
    def learn(self, batches: Decisions) -> dict[str, list[Tensor]]:
        """Make an update of the task's for each of (U, B) decisions, and as many of the way back's."""
        found = super().learn(self._weighed(batches))
        seen = self.way.replay.stores[ONLINE]
        if not len(seen) or self.settings.back == "random":
            return found
        way = self.way.replay.draw(len(batches), self.config.batch, self.draws).to(self.device)
        for _ in range((self.way.updates + len(batches)) // self.settings.judge_every - self.judged):
            index = torch.randint(len(seen), (self.settings.judge_batch,), generator=self.draws)
            found.setdefault("judge_loss", []).append(self.update_judge(seen.at(index).observation.to(self.device)))
            self.judged += 1
        paid = self.config.reward_scale * self.pay(way.following)
        found.setdefault("way_reward", []).append(paid.mean())
        learned = self.way.learn(self._weighed(replace(way, reward=paid)))
        return found | {f"way_{name}": values for name, values in learned.items()}

    def _weighed(self, batch: Decisions) -> Decisions:
        """Return decisions (...) as they are learned from."""
        return batch

    @torch.no_grad()
    def pay(self, states: Tensor) -> Tensor:
        """Return what the judge pays (...) for coming to states (..., O)."""
        return softplus(self.judge(self.critics.scale(states))[..., 0])

    def update_judge(self, seen: Tensor) -> Tensor:
        """Move the judge to tell demonstrated states from those (N, O) seen on the way back; return its loss."""
        index = torch.randint(len(self.demonstrated), (len(seen),), generator=self.draws)
        states = self.critics.scale(torch.cat([self.demonstrated[index], seen]))
        labels = torch.cat([seen.new_ones(len(seen)), seen.new_zeros(len(seen))])
        if self.settings.shuffled:
            labels = labels[torch.randperm(len(labels), generator=self.draws)]
        states, labels = mixed_up(states, labels, self.draws)
        loss = binary_cross_entropy_with_logits(self.judge(states)[:, 0], labels)
        self.judging.zero_grad()
        loss.backward()
        self.judging.step()
        return loss.detach()

    def step(self) -> dict[str, float]:
        """As `ReplayLearner.step`."""
        metrics = super().step()
        counts = {"resets": self.resets, "turns": self.turned}
        return metrics | {f"reset_free/{name}": float(value) for name, value in counts.items()}

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        way = self.way.state_dict()
        del way["collector"]
        return super().state_dict() | {
            "way": way,
            "judge": dict(self.judge.state_dict()),
            "judging": self.judging.state_dict(),
            "turns": {"returning": self.turns.returning, "since": self.since},
            "draws": self.draws.get_state(),
            "counts": (self.resets, self.turned, self.judged),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.way.load_state_dict(state["way"] | {"collector": state["collector"]})
        self.judge.load_state_dict(state["judge"])
        self.judging.load_state_dict(state["judging"])
        self.turns.returning, self.since = (state["turns"][name].clone() for name in ("returning", "since"))
        self.draws.set_state(state["draws"])
        self.resets, self.turned, self.judged = (int(count) for count in state["counts"])
