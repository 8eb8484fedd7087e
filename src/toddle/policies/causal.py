"""CausalPolicy: the causal transformer of HT / HT-2 with goal cross-attention and H action slots.  One link (L = 1).

Radosavovic et al., "Real-World Humanoid Locomotion with Reinforcement Learning" (arXiv 2303.03381) and "Learning
Humanoid Locomotion over Challenging Terrain" (HT-2, arXiv 2410.03654).  Deviations:
 1. Goals come in by cross-attention in the even blocks, as VLM tokens will in the VLA (GR00T N1, arXiv 2503.14734).
 2. The action is read at H slot tokens after o_t, not at o_t; it converts without a new head (docs/conversion.md).
 3. Positions are rotary in seconds, so keys stay valid in a cache (HT recomputes its window at every step).
a ~ N(mean, exp(log_std)^2) over the first H_exec slots; the spread does not depend on the state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Discount, LogStd, Seed, Size
from toddle.core.seeding import rand, randn
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.maths.distributions import chunk_modes, gaussian_entropy, gaussian_log_prob
from toddle.models.attention import KVRing
from toddle.models.banks import carry_over
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.goal_encoder import GoalEncoder

__all__ = ["CausalConfig", "CausalMemory", "CausalPolicy"]


@config
class CausalConfig:
    """A causal transformer policy."""

    expert: ExpertConfig
    """The action expert; its head must be direct."""
    goal_dropout: Discount = 0.15
    """Share of episodes that are collected with the goal hidden, which trains the NULL token."""
    goal_parts: Size = 256
    """Controlled parts a goal item can name (ids below this)."""
    goal_hidden: Size = 128
    """Hidden units of the goal encoder."""
    log_std: LogStd = -0.5
    """Logarithm of the standard deviation at the start (actions are in [-1, 1])."""
    std_per: Literal["action", "step"] = "action"
    """One spread for each action dimension, or for each dimension and step of the chunk."""
    noise_correlation: Discount = 0.0
    """Correlation of the noise between the steps of a chunk.  Independent noise averages out over the steps; at 0.9 a
    chunk of 8 moves 2.7 times as far at the same spread (compare pink noise, Eberhard et al. 2023)."""
    autocast: bool = False
    """Compute in bfloat16 where it is safe; faster only for wide trunks (measured: docs/conversion.md)."""
    seed: Seed = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.expert.head != "direct":
            raise problem("expert.head", "'direct' in a causal policy", self.expert.head)
        if self.noise_correlation and self.std_per == "step":
            raise problem("std_per", "'action' with noise_correlation", self.std_per)


@dataclass
class CausalMemory:
    """What the policy remembers: keys and values, the chunk executed last, and whether the goal is hidden."""

    ring: KVRing
    last: Tensor  # (B, H_exec * A), clipped to [-1, 1] as environments do
    dropped: Tensor  # (B,) bool


class CausalPolicy(nn.Module):
    """A transformer over the history of a world that gives the mean of a Gaussian over the chunk.

    The chain is (B, H_exec * A + 1): the drawn chunk, unclipped, and 1 where the goal was hidden.

    `act` in training mode (`policy.train()`) hides the goal of a share `goal_dropout` of the episodes; in evaluation
    mode or with `deterministic` never.  Where the observation lacks `previous_action`, the memory's (acting) or the
    chain's (scoring) own is used: the same numbers.  The memory given to `act` is written in place.
    """

    kind: ClassVar[str] = "causal"
    sequential = True
    cameras: ClassVar[tuple[str, ...]] = ()
    action_mask: Tensor
    modes: Tensor
    mode_log_std: Tensor

    def __init__(self, config: CausalConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        expert = config.expert
        self.config, self.horizon, self.bodies = config, expert.executed, expert.bodies
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(config.seed)
            self.goals = GoalEncoder(expert.trunk.context_width, config.goal_parts, hidden=config.goal_hidden)
            self.expert = ActionExpert(expert)
        steps = expert.executed if config.std_per == "step" else 1
        self.log_std = nn.Parameter(torch.full((len(expert.bodies), steps, expert.action_width), config.log_std))
        modes, mode_log_std = chunk_modes(expert.executed, config.noise_correlation)
        self.register_buffer("modes", modes, persistent=False)
        self.register_buffer("mode_log_std", mode_log_std, persistent=False)

    @classmethod
    def from_config(cls, config: CausalConfig) -> CausalPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def with_bodies(self, bodies: tuple[BodySpec, ...]) -> CausalPolicy:
        """Return the policy for these bodies: itself, or one that knows of each body what this one does; a body that is
        new to it finds the same trunk and gets networks of its own, which have learned nothing."""
        if bodies == self.bodies:
            return self
        made = CausalPolicy(replace(self.config, expert=replace(self.config.expert, bodies=bodies)))
        own, wanted = ([body.name for body in each] for each in (self.bodies, bodies))
        norm = [f"expert.tokens.norm.{name}" for name in self.expert.tokens.norm.state_dict()]
        carry_over(self, own, made, wanted, ["log_std", *norm])
        return made.train(self.training)

    def initial_memory(self, batch: int) -> CausalMemory:
        """Return an empty memory for `batch` worlds."""
        dtype = torch.bfloat16 if self.config.autocast else torch.float32
        ring, width = self.expert.initial_cache(batch, dtype), self.horizon * self.config.expert.action_width
        last = torch.zeros(batch, width, device=self.log_std.device)
        return CausalMemory(ring, last, torch.zeros(batch, dtype=torch.bool, device=last.device))

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics and the moments of the tokens."""
        self.expert.update_statistics(observation)

    def _context(self, observation: Observation, dropped: Tensor | None) -> tuple[Tensor, Tensor]:
        lead = tuple(observation["proprio"].shape[:-1])
        return self.goals(observation.get("goal"), observation.get("goal_mask"), dropped, lead)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.log_std.device.type, torch.bfloat16, enabled=self.config.autocast)

    def _width(self, body: int | Tensor) -> int:
        """Return how many action dimensions come out: the body's own, or the widest's in a mixed batch."""
        return self.config.expert.bodies[body].action if isinstance(body, int) else self.config.expert.action_width

    def _spread(self, body: int | Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return log_std (of the modes, `_to_modes`) and the mask of real dimensions: (1 or ..., H_exec * width)."""
        steps = self.horizon
        log_std = self.log_std[body][..., :width]
        mask = self.expert.action_mask[body][..., None, :width]
        log_std = log_std.expand(*log_std.shape[:-2], steps, width)
        if self.config.noise_correlation:
            log_std = log_std + self.mode_log_std[:, None]
        log_std = log_std.flatten(-2)
        return log_std, mask.expand(*mask.shape[:-2], steps, width).flatten(-2)

    def _to_modes(self, chunk: Tensor, inverse: bool = False) -> Tensor:
        """Turn chunks (..., H_exec * width) into the modes in which their noise is independent, or back."""
        if not self.config.noise_correlation:
            return chunk
        basis = self.modes.T if inverse else self.modes
        return (basis @ chunk.unflatten(-1, (self.horizon, -1))).flatten(-2)

    def _densities(self, x: Tensor, mean: Tensor, body: int | Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return the log-density and entropy (...) of chunks x (..., H_exec * width), padded dimensions left out."""
        log_std, mask = self._spread(body, width)
        x, mean = self._to_modes(x), self._to_modes(mean)
        if isinstance(body, int):
            log_prob = gaussian_log_prob(x, mean, log_std)
            return log_prob, gaussian_entropy(log_std).expand(log_prob.shape)
        zero = torch.zeros((), device=x.device)
        padding = (1 - mask).sum(-1)  # a padded dimension is scored as 0 under N(0, 1); its constant is taken away
        kept = torch.where(mask > 0, log_std, zero)
        constant = gaussian_log_prob(zero.view(1), zero.view(1), zero.view(1))
        log_prob = gaussian_log_prob(x * mask, mean * mask, kept) - padding * constant
        entropy = gaussian_entropy(kept) - padding * gaussian_entropy(zero.view(1))
        return log_prob, entropy

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: CausalMemory | None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, CausalMemory]:
        """Decide for (B, ...) observations.  Raises InputError when it must draw and has no generator."""
        batch = len(observation["proprio"])
        if not deterministic and generator is None:
            raise problem("generator", "a torch.Generator, as the action is drawn", None)
        memory = self.initial_memory(batch) if memory is None else memory
        fresh = memory.ring.count == 0
        first = fresh if "first" not in observation else observation["first"] | fresh
        if deterministic or not self.training or not self.config.goal_dropout:
            memory.dropped = torch.zeros_like(first)
        else:
            redrawn = rand((batch,), generator, first.device) < self.config.goal_dropout
            memory.dropped = torch.where(first, redrawn, memory.dropped)
        seen = Observation(**observation)
        seen["first"] = first
        if "previous_action" not in observation:
            seen["previous_action"] = torch.where(first[:, None], 0.0, memory.last)
        with self._autocast():
            context, mask = self._context(seen, memory.dropped)
            mean, memory.ring = self.expert.step(seen, context, mask, memory.ring, slots=self._slots())
        body = memory.ring.body
        width = self._width(body)
        mean = mean[:, : self.horizon, :width].float().flatten(1)
        draw = mean
        if not deterministic:
            log_std, real = self._spread(body, width)
            noise = log_std.exp() * real * randn(mean.shape, generator, mean.device)
            draw = mean + self._to_modes(noise, inverse=True)
        action = draw.unflatten(1, (self.horizon, width))
        clipped = nn.functional.pad(action.clamp(-1, 1), (0, memory.last.shape[1] // self.horizon - width))
        memory.last = clipped.flatten(1)
        log_prob, _ = self._densities(draw, mean, body, width)
        chain = torch.cat([draw, memory.dropped[:, None].float()], dim=1)
        return Decision(action, chain, log_prob[:, None]), memory

    def _slots(self) -> int | None:
        """Return how many slots are needed: causal ones after the executed part change nothing."""
        return self.horizon if self.config.expert.slot_mask == "causal" else None

    def mean(self, observation: Observation, dropped: Tensor | None = None, *, whole: bool = False) -> Tensor:
        """Return the mean chunks (T, B, H_exec, A) of a segment; with `whole` all H slots."""
        with self._autocast():
            context, mask = self._context(observation, dropped)
            mean = self.expert(observation, context, mask, slots=None if whole else self._slots())
        return mean.float() if whole else mean[:, :, : self.horizon].float()

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, H_exec * A + 1) of segments in time order: log_prob (T, B, 1), entropy (T, B)."""
        seen, dropped = self._with_past(observation, chain)
        return self._scored(seen, chain, self.mean(seen, dropped))

    def score_and_recall(self, observation: Observation, chain: Tensor) -> tuple[Score, Tensor, Tensor]:
        """As `score`; return also, at each decision, what the trunk makes of all until the action before (T, B, d), the
        observation itself left out, and that observation (T, B, O), normalised: what is to be predicted."""
        seen, dropped = self._with_past(observation, chain)
        with self._autocast():
            context, mask = self._context(seen, dropped)
            mean, history = self.expert.forward_with_history(
                seen, context, mask, slots=self._slots(), return_history=True
            )
        score = self._scored(seen, chain, mean[:, :, : self.horizon].float())
        now = self.expert.tokens.normed(observation["proprio"], self.expert.bodies(observation))
        return score, history[..., 0, :].float(), now

    def _with_past(self, observation: Observation, chain: Tensor) -> tuple[Observation, Tensor]:
        """Return observations with the actions before, and which goals (T, B) bool were hidden."""
        chunk = chain[..., :-1]
        seen = Observation(**observation)
        if "previous_action" not in observation:
            before = torch.cat([torch.zeros_like(chunk[:1]), chunk[:-1].clamp(-1, 1)])
            first = observation.get("first")
            hidden = torch.zeros(chain.shape[:2], dtype=torch.bool, device=chain.device) if first is None else first
            seen["previous_action"] = torch.where(hidden[..., None], 0.0, before)
        return seen, chain[..., -1] > 0.5

    def _scored(self, observation: Observation, chain: Tensor, mean: Tensor) -> Score:
        """Score chains under mean chunks (T, B, H_exec, A of the widest body)."""
        body = self.expert.bodies(observation)
        width = self._width(body)
        chunk, mean = chain[..., :-1], mean[..., :width]
        log_prob, entropy = self._densities(chunk, mean.flatten(2), body, width)
        return Score(log_prob.unsqueeze(-1), entropy, mean)
