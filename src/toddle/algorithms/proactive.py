"""PAINT: learning without resets that asks for one when it predicts that nothing leads back.

Xie et al. 2022, "When to Ask for Help: Proactive Interventions in Autonomous Reinforcement Learning" (arXiv
2210.10765).

    P(s)      nothing leads out of s; learned from states that a person has sorted by binary search after every reset
    targets   y = P(s') r_min + (1 - P(s')) (r + gamma Q')
    asking    P(s') > threshold: the person resets the world, and sorts what led there
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from toddle.algorithms.reset_free import ResetFree
from toddle.core.config import config
from toddle.core.numbers import Count, Finite, Positive, Share, Size
from toddle.core.seeding import derived_seed, torch_generator
from toddle.data.replay import Decisions
from toddle.maths.reversibility import first_stuck, held_back
from toddle.models.mlp import make_mlp
from toddle.optim.flat_adam import FlatAdam

__all__ = ["Proactive", "StuckConfig"]


@config
class StuckConfig:
    """How it is learned what nothing leads out of, and who asks for a reset."""

    ask: Literal["paint", "random", "oracle", "never"] = "paint"
    """paint: where the prediction says so.  Controls: at random, at `ask_rate`; as soon as it is so; never."""
    ask_rate: Share = 0.001
    """Share of the decisions after which `random` asks."""
    threshold: Share = 0.5
    """Probability above which it asks."""
    least: Finite = -1.0
    """r_min, what a stuck state is worth, in units of scaled rewards; below all that can be earned elsewhere."""
    hidden: tuple[Size, ...] = (128, 128)
    """Widths of the network's hidden layers."""
    updates: Count = 500
    """Updates after every reset, from fresh weights."""
    batch: Size = 128
    """States of an update, half of them stuck ones."""
    learning_rate: Positive = 1e-3
    """Adam's rate."""
    kept: Count = 20_000
    """States of either kind that are kept, the newest."""


class Proactive(ResetFree):
    """A learner: `ResetFree`, with a person who resets when asked, and says of single states whether they are stuck."""

    def __init__(self, *rest: Any, stuck: StuckConfig, seed: int, **named: Any) -> None:
        """As `ResetFree`; the environment plays the person (`BatchedEnv.stuck`)."""
        super().__init__(*rest, seed=seed, **named)
        self.asking, self.seed = stuck, seed
        self.dice = torch_generator(seed, "asking")
        self.sorted = {False: self.demonstrated[-stuck.kept :].cpu(), True: self.demonstrated[:0].cpu()}
        worlds = self.collector.worlds
        self.stretch: list[list[Tensor]] = [[] for _ in range(worlds)]  # states since the last reset
        self.truth: list[list[bool]] = [[] for _ in range(worlds)]  # what the person would say of each
        self.asked, self.needless, self.questions, self.learned_anew = 0, 0, 0, 0
        self._fresh_net()

    def _fresh_net(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "stuck", self.learned_anew))
            sizes = [self.policy.state_sizes[0], *self.asking.hidden, 1]
            self.net = make_mlp(sizes, "relu").to(self.device)

    # ---- experience ----------------------------------------------------------------------------------------------
    def _turn(self, following: Tensor, done: Tensor, ended: Tensor) -> dict[str, float]:
        """Ask where it is time, and let what led to every reset be sorted."""
        truth = torch.from_numpy(self.collector.env.stuck())
        for world in (~ended).nonzero()[:, 0].tolist():  # of what an ended one came to nobody can be asked any more
            self.stretch[world].append(following[world].clone())
            self.truth[world].append(bool(truth[world]))
        asking = self._asks(following, truth) & ~ended
        self.asked, self.needless = self.asked + int(asking.sum()), self.needless + int((asking & ~truth).sum())
        reset = (asking | ended).nonzero()[:, 0].tolist()
        for world in reset:
            self._sort(world)
        if reset and len(self.sorted[True]):
            self._learn_stuck()
        if asking.any():
            self.collector.begin_again(asking.numpy())
        return super()._turn(following, done, ended | asking) | {"paint/stuck": float((truth & ~ended).float().mean())}

    def _asks(self, states: Tensor, truth: Tensor) -> Tensor:
        """Return in which worlds (B,) it asks for a reset."""
        if self.asking.ask == "random":
            return torch.rand(len(truth), generator=self.dice) < self.asking.ask_rate
        if self.asking.ask == "oracle":
            return truth
        if self.asking.ask == "never":
            return torch.zeros_like(truth)
        return self.probability(states.to(self.device)).cpu() > self.asking.threshold

    def _sort(self, world: int) -> None:
        """Let the person say where the states since the last reset became stuck."""
        states, truth = self.stretch[world], self.truth[world]
        first, asked = first_stuck(len(states), truth.__getitem__)
        self.questions += asked
        for kind, some in ((False, states[:first]), (True, states[first:])):
            if some:
                self.sorted[kind] = torch.cat([self.sorted[kind], torch.stack(some)])[-self.asking.kept :]
        self.stretch[world], self.truth[world] = [], []

    # ---- learning ------------------------------------------------------------------------------------------------
    def _learn_stuck(self) -> None:
        """Learn anew which states nothing leads out of."""
        self.learned_anew += 1
        self._fresh_net()
        optimiser = FlatAdam({"stuck": (self.net, self.asking.learning_rate)}, max_norm=math.inf)
        half = max(1, self.asking.batch // 2)
        labels = torch.arange(2, device=self.device).repeat_interleave(half).float()
        for _ in range(self.asking.updates):
            drawn = [some[torch.randint(len(some), (half,), generator=self.dice)] for some in self.sorted.values()]
            logit = self.net(self.critics.scale(torch.cat(drawn).to(self.device)))[:, 0]
            optimiser.zero_grad()
            binary_cross_entropy_with_logits(logit, labels).backward()
            optimiser.step()

    @torch.no_grad()
    def probability(self, states: Tensor) -> Tensor:
        """Return P (...) that nothing leads out of states (..., O); 0 until a stuck one is known."""
        if not len(self.sorted[True]):
            return states.new_zeros(states.shape[:-1])
        return self.net(self.critics.scale(states))[..., 0].sigmoid()

    def _weighed(self, batch: Decisions) -> Decisions:
        probability = self.probability(batch.following.to(self.device)).to(batch.reward.device)
        reward, discount = held_back(batch.reward, batch.discount, probability, self.asking.least)
        return replace(batch, reward=reward, discount=discount)

    def step(self) -> dict[str, float]:
        """As `ReplayLearner.step`."""
        metrics = super().step()
        counts = {"asked": self.asked, "needless": self.needless, "questions": self.questions}
        return metrics | {f"paint/{name}": float(value) for name, value in counts.items()}

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        return super().state_dict() | {
            "stuck": dict(self.net.state_dict()),
            "dice": self.dice.get_state(),
            "sorted": [self.sorted[False], self.sorted[True]],
            "stretch": [torch.stack(states) if states else None for states in self.stretch],
            "truth": [list(truth) for truth in self.truth],
            "asked": (self.asked, self.needless, self.questions, self.learned_anew),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.net.load_state_dict(state["stuck"])
        self.dice.set_state(state["dice"])
        self.sorted = dict(zip((False, True), (states.clone() for states in state["sorted"]), strict=True))
        self.stretch = [[] if states is None else list(states.clone()) for states in state["stretch"]]
        self.truth = [[bool(each) for each in truth] for truth in state["truth"]]
        self.asked, self.needless, self.questions, self.learned_anew = (int(count) for count in state["asked"])
