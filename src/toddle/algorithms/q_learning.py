"""Reinforcement learning from stored transitions alone: IQL, TD3+BC, AWAC, and imitation beside them.

One learner draws batches, keeps critics with slow copies and logs; a method is how a batch changes critics and policy.
Any policy with densities (`Scorable`) of single actions fits.  Order and constants of the updates follow CORL's
implementations, which tests hold to its numbers.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Discount, NonNegative, Positive, Share, Size
from toddle.core.protocols import Module, Scorable
from toddle.core.seeding import randn, torch_generator
from toddle.core.types import Observation, Score
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import advantage_weight, expectile_loss, one_step_target
from toddle.models.q_ensemble import QEnsemble
from toddle.optim.flat_adam import FlatAdam
from toddle.optim.schedules import cosine_factor

__all__ = ["METHODS", "OfflineConfig", "OfflineLearner"]


@config
class OfflineConfig:
    """Learning from stored transitions."""

    discount: Discount = 0.99
    """gamma for one control step."""
    learning_rate: Positive = 3e-4
    """Adam's rate for policy and critics."""
    batch: Size = 256
    """B, transitions of an update."""
    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the critics' hidden layers."""
    target_rate: Share = 0.005
    """By how much the slow copies move towards the critics after an update."""
    updates_a_step: Count = 100
    """Updates between two lines of metrics."""
    expectile: Share = 0.7
    """iql: tau, the expectile of Q over the data's actions that V learns: 0.5 the mean, towards 1 the best."""
    temperature: Positive = 1.0 / 3.0
    """iql, awac: an action weighs exp(advantage / temperature); IQL's beta is 1 / temperature."""
    weight_limit: Positive = 100.0
    """iql, awac: at most so much."""
    alpha: NonNegative = 2.5
    """td3-bc: weight of Q, divided by the mean of its magnitude, against squared distance to the data's action."""
    target_noise: NonNegative = 0.2
    """td3-bc: standard deviation of the noise on the action of the target, held to `noise_limit`."""
    noise_limit: NonNegative = 0.5
    """td3-bc: its largest magnitude."""
    policy_every: Count = 2
    """td3-bc: critic updates for one of the policy."""


class OfflineLearner:
    """Imitation of the data (method bc), and what every method has: batches, networks, optimisers, state.

    `step` makes `updates_a_step` updates.  Imitation's rate falls to 0 by a half cosine, as IQL's does: it must not be
    behind for that alone.
    """

    def __init__(self, policy: Scorable, data: Transitions, config: OfflineConfig, *, updates: int, seed: int) -> None:
        """Learn from `data` with `updates` updates in all.  Raises InputError for a policy of chunks or of memory."""
        if policy.sequential or policy.horizon != 1:
            raise problem("policy", "one that decides single actions without memory", policy.kind)
        self.policy, self.data, self.config = policy, data, config
        self.total, self.updates, self.seed = updates, 0, seed
        self.batches = torch_generator(seed, "offline batches")
        self.noise = torch_generator(seed, "offline noise")
        self.networks: dict[str, Module] = {"policy": policy}
        self.optimisers: dict[str, FlatAdam] = {}
        self.make_networks()
        for name, network in self.networks.items():
            if any(p.requires_grad for p in network.parameters()):
                self.optimisers[name] = FlatAdam({name: (network, config.learning_rate)}, max_norm=math.inf)

    def make_networks(self) -> None:
        """Build what the method has besides the policy."""

    @property
    def twin(self) -> tuple[QEnsemble, QEnsemble] | None:
        """The critics and their slow copies; None where the method has none."""
        return None

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Change the networks by one batch; return metrics without dimensions."""
        self.optimisers["policy"].set_rates(cosine_factor(self.updates, self.total))
        score = self.score(batch.observation, batch.action)
        return {"policy_loss": self.learn("policy", -score.log_prob[:, 0].mean())}

    def step(self) -> dict[str, float]:
        """Make some updates.  Raises NaNError where a metric is not finite."""
        found: dict[str, list[Tensor]] = {}
        for _ in range(self.config.updates_a_step):
            for name, value in self.update(self.data.draw(self.config.batch, self.batches)).items():
                found.setdefault(name, []).append(value.detach())
            self.updates += 1
        metrics = {f"offline/{name}": float(torch.stack(values).mean()) for name, values in found.items()}
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise NaNError(f"after {self.updates} updates: {bad[0]} is not finite")
        return metrics | {"offline/updates": float(self.updates)}

    # ---- what methods are written with ---------------------------------------------------------------------------
    def critics(self, count: int, *, actions: bool = True) -> QEnsemble:
        """Return `count` networks of state and action (or of state alone), normalised as the data are."""
        sizes = self.data.observation.shape[1], self.data.action.shape[1] if actions else 0
        seed = int(torch.randint(2**62, (), generator=torch_generator(self.seed, "critics", str(len(self.networks)))))
        made = QEnsemble(*sizes, hidden=self.config.hidden, count=count, seed=seed)
        made.scale.update(self.data.observation)
        return made

    def score(self, observation: Tensor, action: Tensor) -> Score:
        """Return the policy's log-density of actions (B, A) and its mean, with gradients."""
        return self.policy.score(_seen(observation), action)

    def drawn(self, observation: Tensor) -> Tensor:
        """Return actions (B, A) drawn from the policy, held to [-1, 1]."""
        return self.policy.act(_seen(observation), generator=self.noise)[0].action[:, 0].clamp(-1.0, 1.0)

    def learn(self, name: str, loss: Tensor) -> Tensor:
        """Make one step of a network's optimiser down `loss` (other networks' gradients are not kept); return it."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    @torch.no_grad()
    def follow(self, slow: str, fast: str) -> None:
        """Move a slow copy towards its network."""
        pairs = zip(self.networks[slow].parameters(), self.networks[fast].parameters(), strict=True)
        for old, new in pairs:
            old.lerp_(new, self.config.target_rate)

    # ---- state ---------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on but the data."""
        return {
            "networks": {name: dict(network.state_dict()) for name, network in self.networks.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "generators": [self.batches.get_state(), self.noise.get_state()],
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.batches.set_state(state["generators"][0])
        self.noise.set_state(state["generators"][1])
        self.updates = int(state["updates"])


class TwinLearner(OfflineLearner):
    """What all methods but imitation have: two critics with slow copies."""

    def make_networks(self) -> None:
        """Build them."""
        self.q = self.critics(2)
        self.slow = copy.deepcopy(self.q).requires_grad_(False)
        self.networks |= {"q": self.q, "slow": self.slow}

    @property
    def twin(self) -> tuple[QEnsemble, QEnsemble]:
        """The critics and their slow copies."""
        return self.q, self.slow


class IQL(TwinLearner):
    """Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): no action that is not in the data is ever valued.

    The policy's rate falls to 0 by a half cosine, as in the authors' code.
    """

    def make_networks(self) -> None:
        """V beside the critics."""
        super().make_networks()
        self.v = self.critics(1, actions=False)
        self.networks["v"] = self.v

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """V to an expectile of Q, Q to one step of V, the policy to the actions that are better than V."""
        c = self.config
        with torch.no_grad():
            following = self.v(batch.following)[0]  # of V before this update
            value = self.slow(batch.observation, batch.action).amin(0)
        advantage = value - self.v(batch.observation)[0]
        value_loss = self.learn("v", expectile_loss(advantage, c.expectile).mean())
        target = one_step_target(batch.reward, batch.terminal, c.discount, following)
        q_loss = self.learn("q", (self.q(batch.observation, batch.action) - target).square().mean())
        self.follow("slow", "q")
        self.optimisers["policy"].set_rates(cosine_factor(self.updates, self.total))
        weight = advantage_weight(advantage.detach(), c.temperature, c.weight_limit)
        log_prob = self.score(batch.observation, batch.action).log_prob[:, 0]
        policy_loss = self.learn("policy", -(weight * log_prob).mean())
        losses = {"value_loss": value_loss, "q_loss": q_loss, "policy_loss": policy_loss}
        return losses | {"value": value.mean(), "advantage": advantage.mean(), "weights_used": _used(weight)}


class AWAC(TwinLearner):
    """Advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359): Q of the policy, which imitates by it."""

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Q to one step of the policy's own action, the policy to the actions that are better than one of its own."""
        c = self.config
        with torch.no_grad():
            following = self.slow(batch.following, self.drawn(batch.following)).amin(0)
        target = one_step_target(batch.reward, batch.terminal, c.discount, following)
        q_loss = self.learn("q", (self.q(batch.observation, batch.action) - target).square().mean(-1).sum())
        with torch.no_grad():
            own = self.q(batch.observation, self.drawn(batch.observation)).amin(0)
            value = self.q(batch.observation, batch.action).amin(0)
        weight = advantage_weight(value - own, c.temperature, c.weight_limit)
        log_prob = self.score(batch.observation, batch.action).log_prob[:, 0]
        policy_loss = self.learn("policy", -(weight * log_prob).mean())
        self.follow("slow", "q")
        losses = {"q_loss": q_loss, "policy_loss": policy_loss}
        return losses | {"value": value.mean(), "advantage": (value - own).mean(), "weights_used": _used(weight)}


class TD3BC(TwinLearner):
    """TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): the policy's mean climbs Q and stays near the data."""

    def make_networks(self) -> None:
        """A slow copy of the policy too."""
        super().make_networks()
        self.slow_policy: Scorable = copy.deepcopy(self.policy).requires_grad_(False)
        self.networks["slow_policy"] = self.slow_policy

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Q to one step of the slow policy's disturbed action; every second time the policy and the slow copies."""
        c = self.config
        with torch.no_grad():
            noise = c.target_noise * randn(batch.action.shape, self.noise, batch.action.device)
            noise = noise.clamp(-c.noise_limit, c.noise_limit)
            after = _mean(self.slow_policy.score(_seen(batch.following), batch.action))
            following = self.slow(batch.following, (after + noise).clamp(-1.0, 1.0)).amin(0)
        target = one_step_target(batch.reward, batch.terminal, c.discount, following)
        q = self.q(batch.observation, batch.action)
        q_loss = self.learn("q", (q - target).square().mean(-1).sum())
        found = {"q_loss": q_loss, "value": q.amin(0).mean()}
        if (self.updates + 1) % c.policy_every == 0:
            mean = _mean(self.score(batch.observation, batch.action))
            value = self.q(batch.observation, mean)[0]
            near = (mean - batch.action).square().mean()
            policy_loss = near - c.alpha / value.detach().abs().mean() * value.mean()
            found |= {"policy_loss": self.learn("policy", policy_loss), "distance": near}
            for slow, fast in (("slow", "q"), ("slow_policy", "policy")):
                self.follow(slow, fast)
        return found


METHODS: dict[str, type[OfflineLearner]] = {"iql": IQL, "td3-bc": TD3BC, "awac": AWAC, "bc": OfflineLearner}


def _seen(observation: Tensor) -> Observation:
    body = torch.zeros(len(observation), dtype=torch.int64, device=observation.device)
    return {"proprio": observation, "body": body}


def _mean(score: Score) -> Tensor:
    """Return the mean action (B, A).  Raises InputError for a policy that has none."""
    if score.mean is None:
        raise problem("policy", "one whose actions have a mean with method td3-bc", "one without")
    return score.mean[:, 0]


def _used(weight: Tensor) -> Tensor:
    """Return the effective sample size of weights, as a share of the batch (Kish)."""
    return weight.sum().square() / weight.square().sum() / len(weight)
