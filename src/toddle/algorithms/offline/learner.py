"""What all methods of learning from stored transitions share, and imitation, which they are compared with.

One learner draws batches, keeps critics with slow copies and logs; a method is how a batch changes critics and policy.
Most take any policy with densities (`Scorable`) of single actions.  Order and constants of the updates follow CORL's
implementations (Tarasov et al. 2022, arXiv 2210.07105), which tests hold to its numbers.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Discount, Finite, NonNegative, Positive, Share, Size
from toddle.core.protocols import Acting, Module
from toddle.core.seeding import torch_generator
from toddle.core.types import Observation, Score
from toddle.data.transitions import Transitions
from toddle.models.q_ensemble import QEnsemble
from toddle.optim.flat_adam import FlatAdam
from toddle.optim.schedules import cosine_factor

__all__ = [
    "ConditionedImitationConfig",
    "ConservativeConfig",
    "OfflineConfig",
    "OfflineLearner",
    "TwinLearner",
    "effective_share",
    "seen",
]


@config
class ConservativeConfig:
    """What cql and cal-ql have, and of it `weight` and `samples` co-rft."""

    weight: NonNegative = 5.0
    """alpha: by how much the critics are pushed down on sampled actions against the data's."""
    samples: Count = 10
    """Actions drawn for each state: as many uniform ones, of the policy there, and of the policy at the next state."""
    gap: Finite | None = None
    """Learn a factor of `weight` such that the push's gap comes to this (Lagrange form); None: `weight` alone."""
    largest_backup: bool = False
    """The target is of the best of `samples` actions of the policy, not of one."""
    least_gap: Finite | None = None
    """The gap of a state is held from below to this (-200 in Cal-QL's mazes); None: it is not."""
    policy_rate: Positive = 1e-4
    """Adam's rate for the policy and its temperature (`learning_rate`: the critics')."""


@config
class ConditionedImitationConfig:
    """What recap and reinbot have, and of it `expectile` dt."""

    dropout: Share = 0.1
    """Share of actions of which nothing is known to the policy."""
    positive: Share = 0.3
    """recap: share of the data's actions whose advantage counts as good."""
    expectile: Share = 0.9
    """reinbot, dt: of the returns of a state that the predicted one is."""


@config
class ConRFTConfig:
    """What conrft has beside `conservative.samples`."""

    climb: NonNegative = 0.1
    """eta: weight of Q in the policy's loss; 0: imitation beside critics that learn."""
    imitation: NonNegative = 1.0
    """beta: weight of the consistency loss."""
    push: NonNegative = 0.1
    """alpha: weight of the critics' push."""


@config
class PACConfig:
    """What pac alone has."""

    imitation: Share = 0.5
    """alpha: share of the data's imitation in the policy's loss; the rest is that of its own better samples."""
    temperature: Positive = 0.1
    """eta, as a share of the range of returns: samples weigh softmax(Q / eta)."""
    samples: Count = 10
    """K, actions of the slow policy for each state."""
    bins: Size = 101
    """Bins of Q, from the least to the greatest return of the data."""
    width: Size = 64
    """Width of the critic's tokens."""
    latents: Size = 8
    """Latents that read the context."""

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise problem("pac.bins", "at least 2", self.bins)


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
    value_share: Share = 0.3
    """recap, arfm: share of the updates that the value function takes before the policy's begin."""
    value_bins: Size | None = None
    """recap, arfm: bins of a value that is a distribution (HL-Gauss; the paper has 201); None: a mean, by squares."""
    weights_share: Positive = 0.5
    """arfm: effective sample size that the weights are to have, as a share of the batch; 1: all alike."""
    chunk: Size = 4
    """co-rft, sarsa: H, actions of a decision, all executed before the next one."""
    history: Size = 20
    """dt: K, steps that a fresh policy looks back, this one counted."""
    spare_weight: NonNegative = 1.0
    """q-transformer: weight of the push on tokens that the data do not have, against the squared error."""
    conservative: ConservativeConfig = ConservativeConfig()
    """cql, cal-ql and co-rft."""
    conrft: ConRFTConfig = ConRFTConfig()
    """conrft."""
    pac: PACConfig = PACConfig()
    """pac."""
    conditioned: ConditionedImitationConfig = ConditionedImitationConfig()
    """recap and reinbot."""


class OfflineLearner:
    """Imitation of the data (method bc), and what every method has: batches, networks, optimisers, state.

    `step` makes `updates_a_step` updates.  Imitation's rate falls to 0 by a half cosine, as IQL's does: it must not be
    behind for that alone.
    """

    policy_kind: ClassVar[str] = "gaussian"
    """Of a fresh policy (`policies.store`)."""
    chunked: ClassVar[bool] = False
    """Whether a decision is a chunk of `config.chunk` actions, and a transition as long."""
    remembers: ClassVar[bool] = False
    """Whether the policy has a memory."""
    policy: Any
    """`Scorable`, or what else the method needs of its kind."""

    def __init__(self, policy: Acting, data: Transitions, config: OfflineConfig, *, updates: int, seed: int) -> None:
        """Learn from `data` with `updates` updates in all.  Raises InputError for a policy of chunks or of memory."""
        length = config.chunk if self.chunked else 1
        if policy.sequential != self.remembers or policy.horizon != length:
            several = f"chunks of {length} actions" if self.chunked else "single actions"
            memory = "with" if self.remembers else "without"
            raise problem("policy", f"one that decides {several} {memory} memory", policy.kind)
        self.discount = config.discount**length
        self.data, self.config = data, config
        self.policy: Any = policy  # `Scorable`, or what else the method needs of its kind
        self.total, self.updates, self.seed = updates, 0, seed
        self.batches = torch_generator(seed, "offline batches")
        self.noise = torch_generator(seed, "offline noise")
        self.networks: dict[str, Module] = {"policy": policy}
        self.optimisers: dict[str, FlatAdam] = {}
        self.learned: dict[str, list[Tensor]] = {}
        self.make_networks()
        for name, network in self.networks.items():
            if any(p.requires_grad for p in network.parameters()):
                self.learned[name] = [p for p in network.parameters() if p.requires_grad]
                self.optimisers[name] = FlatAdam({name: (network, self.rate(name))}, max_norm=math.inf)

    def make_networks(self) -> None:
        """Build what the method has besides the policy."""

    def rate(self, name: str) -> float:
        """Return the learning rate of a network."""
        return self.config.learning_rate

    @property
    def twin(self) -> tuple[QEnsemble, QEnsemble] | None:
        """The critics and their slow copies; None where the method has none."""
        return None

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Change the networks by one batch; return metrics without dimensions."""
        self.optimisers["policy"].set_rates(cosine_factor(self.updates, self.total))
        score = self.score(batch.observation, batch.action)
        return {"policy_loss": self.learn("policy", -score.log_prob[:, 0].mean())}

    def draw(self) -> Transitions:
        """Return the next batch."""
        return self.data.draw(self.config.batch, self.batches)

    def step(self) -> dict[str, float]:
        """Make some updates.  Raises NaNError where a metric is not finite."""
        found: dict[str, list[Tensor]] = {}
        for _ in range(self.config.updates_a_step):
            batch = self.draw()
            for name, value in (self.update(batch) | {"return": batch.returns.mean()}).items():
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
        found: Score = self.policy.score(seen(observation), action)
        return found

    def drawn(self, observation: Tensor) -> Tensor:
        """Return actions (B, A) drawn from the policy, held to [-1, 1]."""
        return self.policy.act(seen(observation), generator=self.noise)[0].action[:, 0].clamp(-1.0, 1.0)

    def learn(self, name: str, loss: Tensor) -> Tensor:
        """Make one step of a network's optimiser down `loss` (other networks get no gradients); return it."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad()
        loss.backward(inputs=self.learned[name])
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


def seen(observation: Tensor) -> Observation:
    """Return states (B, O) of one body as an observation."""
    body = torch.zeros(len(observation), dtype=torch.int64, device=observation.device)
    return {"proprio": observation, "body": body}


def effective_share(weight: Tensor) -> Tensor:
    """Return the effective sample size of weights, as a share of the batch (Kish)."""
    return weight.sum().square() / weight.square().sum() / len(weight)
