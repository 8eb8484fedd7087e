"""Learning from answers about pairs: DPO, its smoothed form, IPO, trajectory-wise TPO, and DPO of flows.

One learner; a method is a loss of the margin (`maths.preferences`) and the scale of beta.  `Likelihood` says how likely
a policy finds the actions of a piece; the numbers of the reference, a frozen copy from before the first update, are
computed once where they do not depend on noise.
Sources: Rafailov et al. 2023 (arXiv 2305.18290), Azar et al. 2023 (arXiv 2310.12036), Wallace et al. 2023 (arXiv
2311.12908), GRAPE (arXiv 2411.19309), whose released code compares windows of eight unrelated decisions: pieces are
whole here, and beta is of eight decisions of them; of a flow, of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from toddle.algorithms.sft import SampleSource
from toddle.core.config import config
from toddle.core.device import device_of, to_device
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Discount, NonNegative, Positive, Size
from toddle.core.protocols import Acting, FineTunable, Imitating
from toddle.core.seeding import torch_generator
from toddle.maths.preferences import dpo_loss, ipo_loss, margin
from toddle.optim.flat_adam import FlatAdam
from toddle.optim.schedules import cosine_factor

__all__ = ["BETA", "Likelihood", "Preference", "PreferenceConfig", "StateLikelihood", "VLALikelihood"]

Method = Literal["dpo", "ipo", "tpo", "flow-dpo"]
BETA: dict[str, float] = {"dpo": 0.1, "ipo": 0.1, "tpo": 0.1, "flow-dpo": 5.0}
DECISIONS = {"tpo": 8, "flow-dpo": 1}
"""How many decisions beta is of, whatever a piece's length: GRAPE's window; a chunk of Diffusion-DPO."""
LIMIT = 20.0
"""flow-dpo: largest magnitude of beta times the margin; beyond it a loser's error is not pushed up any further."""


@config
class PreferenceConfig:
    """Learning from answers."""

    updates: Count = 200
    """Gradient steps."""
    batch: Size = 16
    """Pairs of an update."""
    learning_rate: Positive = 1e-4
    """Adam's rate at its highest; it falls to 0 by a half cosine."""
    warm_up: Discount = 0.1
    """Share of the updates in which the rate rises."""
    max_grad_norm: Positive = 10.0
    """Limit of the gradient's norm."""
    beta: Positive | None = None
    """How strongly the policy is held to its reference, of a piece's summed log-densities: twice the decisions, twice
    the step; tpo's is of eight decisions, flow-dpo's of one, however long a piece is.  By default 0.1 (flow-dpo 5)."""
    smoothing: Discount = 0.0
    """Share of answers that are held to be wrong, below 0.5 (conservative DPO); not of ipo, which needs none."""
    imitate: NonNegative = 0.0
    """Weight of the imitation of winners (minus the log-density of a decision), which keeps it from falling with the
    losers'."""

    def __post_init__(self) -> None:
        if self.smoothing >= 0.5:
            raise problem("smoothing", "below 0.5, from where answers say nothing", self.smoothing)


class Likelihood(Protocol):
    """How likely policies find stored decisions."""

    exact: bool
    """Whether these are log-densities; else minus squared errors of a flow at drawn noise."""

    def __call__(self, policy: Any, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Return the log-densities (M,) of decisions `samples` (M,), with gradients; noise follows from `generator`."""


class StateLikelihood:
    """Decisions of policies of states: observations (N, O), chunks (N, H, A)."""

    def __init__(self, observation: Tensor, action: Tensor, body: int, *, exact: bool) -> None:
        self.observation, self.action, self.body, self.exact = observation, action, body, exact

    def __call__(self, policy: Imitating, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Return minus the policy's own loss of imitation, summed over the numbers of a chunk."""
        body = torch.full((len(samples),), self.body, device=samples.device)
        action = self.action[samples]
        loss = policy.imitation_loss({"proprio": self.observation[samples], "body": body}, action, generator)
        return -loss * action[0].numel()


class VLALikelihood:
    """Decisions of VLAs: samples of `data.demonstrations`, of whose chunks the executed part counts."""

    def __init__(self, data: SampleSource, executed: int, *, exact: bool) -> None:
        self.data, self.executed, self.exact = data, executed, exact

    def __call__(self, policy: FineTunable, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Return minus how little the policy expects the chunks."""
        batch = to_device(self.data.batch(samples.cpu().numpy()), samples.device)
        executed = torch.arange(batch["mask"].shape[1], device=samples.device) < self.executed
        return -policy.surprise(batch | {"mask": batch["mask"] & executed}, generator)


class Preference:
    """A `Learner`: one update per step.  `policy` is trained in place."""

    def __init__(
        self,
        policy: Acting,
        reference: Acting,
        likelihood: Likelihood,
        winners: Sequence[np.ndarray[Any, Any]],
        losers: Sequence[np.ndarray[Any, Any]],
        config: PreferenceConfig,
        *,
        method: Method,
        seed: int,
    ) -> None:
        """winners, losers: the decisions (samples of `likelihood`) of each pair's pieces.  reference: a copy.

        Raises InputError where the method does not fit the policy.
        """
        if likelihood.exact == (method == "flow-dpo"):
            wanted = "dpo, ipo or tpo" if likelihood.exact else "flow-dpo"
            raise problem("method", f"{wanted} for a policy of kind '{policy.kind}'", method)
        if method == "ipo" and config.smoothing:
            raise problem("preference.smoothing", "0 with ipo", config.smoothing)
        self.policy, self.likelihood, self.config, self.method = policy, likelihood, config, method
        self.reference: Acting = reference.requires_grad_(False)
        self.device = device_of(policy)
        self.rows, self.real = _padded([*winners, *losers], self.device)
        self.pairs = len(winners)
        self.beta = BETA[method] if config.beta is None else config.beta
        if method in DECISIONS:
            self.beta *= DECISIONS[method] / float(self.real.sum(1).float().mean())
        self.optimiser = FlatAdam({"policy": (policy, config.learning_rate)}, max_norm=config.max_grad_norm)
        self.batches, self.noise = (
            torch_generator(seed, "preference batches"),
            torch_generator(seed, "preference noise"),
        )
        self.order, self.done = torch.zeros(0, dtype=torch.int64), 0
        for each in (policy, reference):
            each.train(False)  # no dropout in either: the margin must be 0 at the start
        self.held = self._held() if likelihood.exact else None

    @torch.no_grad()
    def _held(self) -> Tensor:
        """Return the reference's log-densities of all decisions, once and for all."""
        pieces = torch.arange(len(self.rows)).split(self.config.batch)
        return torch.cat([self._decisions(self.reference, part) for part in pieces])

    def _decisions(self, policy: Acting, pieces: Tensor) -> Tensor:
        """Return the log-density (P, D) of every decision of pieces (P,), 0 where a piece is over."""
        rows, real = self.rows[pieces], self.real[pieces]
        found = self.likelihood(policy, rows.flatten(), self.noise).view(rows.shape)
        return torch.where(real, found, 0.0)

    def _batch(self) -> Tensor:
        size = min(self.config.batch, self.pairs)
        while len(self.order) < size:
            self.order = torch.cat([self.order, torch.randperm(self.pairs, generator=self.batches)])
        chosen, self.order = self.order[:size], self.order[size:]
        return chosen

    def _with_reference(self, pieces: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-densities (P, D) under the policy and its reference, drawn with the noise of that state."""
        self.noise.set_state(noise)
        own = self._decisions(self.policy, pieces)
        if self.held is not None:
            return own, self.held[pieces]
        self.noise.set_state(noise)
        with torch.no_grad():
            return own, self._decisions(self.reference, pieces)

    def step(self) -> dict[str, float]:
        """Make one update.  Raises NaNError where the loss or the gradient is not finite."""
        config = self.config
        self.optimiser.set_rates(
            cosine_factor(self.done, config.updates, warm_up=round(config.warm_up * config.updates))
        )
        chosen, noise = self._batch(), self.noise.get_state()
        winner, winner_held = self._with_reference(chosen, noise)  # the same noise for both pieces of a pair
        loser, loser_held = self._with_reference(chosen + self.pairs, noise)
        found = margin(winner.sum(1), loser.sum(1), winner_held.sum(1), loser_held.sum(1))
        loss = self._loss(found).mean()
        decisions = self.real[chosen].sum()
        imitation = -winner.sum() / decisions
        self.optimiser.zero_grad()
        (loss + config.imitate * imitation if config.imitate else loss).backward()
        norm = self.optimiser.clip()["policy"]
        if not math.isfinite(norm) or not torch.isfinite(loss):
            raise NaNError(f"preference update {self.done}: loss or gradient not finite")
        self.optimiser.step()
        self.done += 1
        with torch.no_grad():
            won, lost = winner - winner_held, loser - loser_held
            both = decisions + self.real[chosen + self.pairs].sum()
            return {
                "prefer/loss": loss.item(),
                "prefer/margin": (self.beta * found).mean().item(),
                "prefer/accuracy": (found > 0).float().mean().item(),
                "prefer/winner": (won.sum() / decisions).item(),
                "prefer/loser": (lost.sum() / (both - decisions)).item(),
                "prefer/drift": (-(won.sum() + lost.sum()) / both).item(),
                "prefer/imitation": imitation.item(),
                "prefer/grad_norm": norm,
            }

    def _loss(self, margin: Tensor) -> Tensor:
        if self.method == "ipo":
            return ipo_loss(margin, self.beta)
        if self.method == "flow-dpo":
            margin = margin.clamp(-LIMIT / self.beta, LIMIT / self.beta)
        return dpo_loss(margin, self.beta, smoothing=self.config.smoothing)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on but answers, data and reference, which are read anew."""
        return {
            "policy": dict(self.policy.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "batches": self.batches.get_state(),
            "noise": self.noise.get_state(),
            "order": self.order,
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; the next step is bitwise what it would have been."""
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.batches.set_state(state["batches"])
        self.noise.set_state(state["noise"])
        self.order, self.done = state["order"], int(state["done"])


def _padded(pieces: Sequence[np.ndarray[Any, Any]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the decisions of pieces as (P, D), the last repeated where a piece is shorter, and which are real."""
    longest = max(map(len, pieces))
    rows = np.stack([each[np.minimum(np.arange(longest), len(each) - 1)] for each in pieces])
    real = np.stack([np.arange(longest) < len(each) for each in pieces])
    return torch.from_numpy(rows).to(device), torch.from_numpy(real).to(device)
