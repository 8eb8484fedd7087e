"""What VLAs share that say their chunk in tokens: drawing and scoring them, SFT on them, RL's view of them.

L = H_exec A tokens a decision.  Only the bins are in the vocabulary, so no other token can be drawn or scored; the
temperature is one number that acting and scoring share.  Evaluation takes the likeliest token of each.  The chain is
(B, L): the tokens as bins, 0 the lowest number, or the draws of a Laplace head (OFT's L1 loss with a spread; RIPT-VLA,
arXiv 2505.17016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from toddle.core.seeding import rand
from toddle.core.types import Decision, Observation, Score
from toddle.maths.distributions import Categorical, Distribution, Laplace
from toddle.policies.bounds import bounded
from toddle.policies.flow_explorer import OF_FLOWS, SamplerConfig, refuse_without_effect
from toddle.policies.one_body import OneBody, last_of, rows_of

__all__ = ["LOG_SCALE", "Speaking"]

LOG_SCALE = (-4.0, 0.5)
"""Bounds of the Laplace head's log-scale, in normalised actions."""


class Speaking(OneBody):
    """Part of a policy, beside what it sees with: a subclass says what its hidden states are and how they are read.

    Actions are normalised: a = (action - action_offset) / action_scale, and then held within [-1, 1] by the bins.
    """

    config: Any  # with body, horizon, executed, decoding, head, temperature, ratio_per
    centres: Tensor  # (bins,), the number that each token means

    # ---- what a subclass says --------------------------------------------------------------------------------------
    def _hidden(self, observation: Observation, length: int, tokens: Tensor | None) -> Tensor:
        """Return the hidden states (N, L, d) that say tokens (N, L); in parallel they are not looked at."""
        raise NotImplementedError

    def _one_by_one(self, observation: Observation) -> Callable[[Tensor | None], Tensor]:
        """Open a decision: what was said last (N,), None before the first -> the hidden state (N, d) of the next."""
        raise NotImplementedError

    def _logits(self, hidden: Tensor) -> Tensor:
        """Return logits (..., bins) of hidden states (..., d)."""
        raise NotImplementedError

    def _laplace(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-scales (N, L) of hidden states (N, L, d)."""
        raise NotImplementedError

    def _bins(self, action: Tensor) -> Tensor:
        """Return the tokens of normalised actions (...)."""
        raise NotImplementedError

    # ---- what SFT asks ---------------------------------------------------------------------------------------------
    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of demonstrated tokens (or the L1 loss); the batch is that of `FlowVLA.loss`.

        It is of the distribution that acts, at its temperature: else a policy that explores hot and imitates its own
        draws would become more random with every update.  Returns the mean over real numbers and detached metrics.
        """
        observation, action, weight = self._demonstrated(batch)
        total = weight.sum().clamp(min=1)
        if self.config.head == "laplace":
            mean, log_scale = self._laplace(self._hidden(observation, action.shape[1], None))
            miss = (action - mean).abs()
            # the spread learns beside the mean and does not weigh its errors: the L1 loss stays OFT's
            loss = ((miss + miss.detach() * (-log_scale).exp() + log_scale) * weight).sum() / total
            error = (miss.detach() * weight).sum() / total
            return loss, {"sft/loss": loss.item(), "sft/endpoint_error": error.item()}
        tokens = self._bins(action)
        log_probs = self._log_probs(self._hidden(observation, action.shape[1], tokens))
        losses = -log_probs.gather(-1, tokens[..., None])[..., 0]
        loss = (losses * weight).sum() / total
        with torch.no_grad():
            said = log_probs.argmax(-1)
            metrics = {
                "sft/loss": loss.item(),
                "sft/endpoint_error": float(((self.centres[said] - action).abs() * weight).sum() / total),
                "sft/token_accuracy": float(((said == tokens) * weight).sum() / total),
            }
        return loss, metrics

    @property
    def exact(self) -> bool:
        """`surprise` is minus a log-density."""
        return True

    def surprise(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return minus the log-density (B,) of each demonstrated chunk's real numbers."""
        observation, action, weight = self._demonstrated(batch)
        if self.config.head == "laplace":
            mean, log_scale = self._laplace(self._hidden(observation, action.shape[1], None))
            each = _laplace_log_prob(action, mean, log_scale.exp() * self.config.temperature)
        else:
            tokens = self._bins(action)
            log_probs = self._log_probs(self._hidden(observation, action.shape[1], tokens))
            each = log_probs.gather(-1, tokens[..., None])[..., 0]
        return -(each * weight).sum(1)

    def _demonstrated(self, batch: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
        """Return the observations (B, ...), normalised actions (B, L) and weights of a batch, 1 where they are real."""
        observation = last_of(batch["observation"])
        action, mask = (batch["action"] - self.action_offset) / self.action_scale, batch["mask"]
        if self._thoughts:
            real = mask[..., None].to(action.dtype)
            whole = (action * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1.0)
            action, mask = torch.cat([whole, action], 1), torch.cat([mask.any(1, keepdim=True), mask], 1)
        weight = mask.repeat_interleave(self.config.body.action, 1).to(action.dtype)
        return observation, action.flatten(1), weight

    # ---- what is said ----------------------------------------------------------------------------------------------
    def _log_probs(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities (..., bins) of hidden states (..., d)."""
        return torch.log_softmax(self._logits(hidden).float() / self.config.temperature, -1)

    @property
    def _thoughts(self) -> int:
        """What is said first, as actions that are not executed: 1 where it says what the whole chunk comes to."""
        return 0

    @property
    def _length(self) -> int:
        return int((self._thoughts + self.config.executed) * self.config.body.action)

    def _draw(self, log_probs: Tensor, generator: torch.Generator | None, greedy: bool) -> Tensor:
        """Return tokens (...) drawn from log-probabilities (..., bins), or the likeliest."""
        if greedy:
            return log_probs.argmax(-1)
        point = rand((*log_probs.shape[:-1], 1), generator, log_probs.device)  # the first bin whose sum exceeds it
        return (log_probs.exp().cumsum(-1) < point).sum(-1).clamp(max=log_probs.shape[-1] - 1)

    def _action(self, numbers: Tensor) -> Tensor:
        """Return the action (..., H_exec, A) in the environment's units of normalised numbers (..., L)."""
        chunk = numbers.unflatten(-1, (self._thoughts + self.config.executed, -1))[..., self._thoughts :, :]
        action = chunk * self.action_scale + self.action_offset
        return bounded(action, self.action_offset[0], self.action_scale[0])

    def parted(self, chain: Tensor) -> tuple[Tensor, Tensor]:
        """Return of chains (..., L) the thought (..., A) and the chunk (..., H_exec, A), in the environment's units."""
        numbers = self.centres[chain]
        first = numbers[..., : self.config.body.action]
        return first * self.action_scale[0] + self.action_offset[0], self._action(numbers)

    def _by_link(self, numbers: Tensor, trailing: int = 0) -> Tensor:
        """Return numbers (..., L, ...) with `trailing` more dimensions as (..., L', E, ...): a ratio is of E each."""
        links = {"token": self._length, "action": self._thoughts + self.config.executed, "chunk": 1}[
            self.config.ratio_per
        ]
        return numbers.unflatten(-1 - trailing, (links, -1))

    def _links(self, log_prob: Tensor) -> Tensor:
        """Return the log-densities (..., L') of what `ratio_per` says, of those of numbers (..., L)."""
        return self._by_link(log_prob).sum(-1)

    def _executed(self, observation: Observation) -> Tensor | None:
        """Return (..., L) bool, True for the numbers that were executed; None where that is not known."""
        if "executed" not in observation:
            return None
        steps = (self._thoughts + observation["executed"][..., None]) * self.config.body.action
        return torch.arange(self._length, device=steps.device) < steps

    def _thought(self, token: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what stands in the place of a thought's token (N,) that was drawn: itself."""
        return token

    # ---- Policy ----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` takes the likeliest token of each (the mean)."""
        if self.config.head == "laplace":
            return self._act_laplace(observation, generator, deterministic), None
        if self.config.decoding == "parallel":
            log_probs = self._log_probs(self._hidden(observation, self._length, None))
            chain = self._draw(log_probs, generator, deterministic)
            log_prob = log_probs.gather(-1, chain[..., None])[..., 0]
            return Decision(self._action(self.centres[chain]), chain, self._links(log_prob)), None
        following, token = self._one_by_one(observation), None
        tokens, log_probs_of = [], []
        for place in range(self._length):
            each = self._log_probs(following(token))
            token = self._draw(each, generator, deterministic)
            if place < self._thoughts * self.config.body.action:
                token = self._thought(token, generator)
            tokens.append(token)
            log_probs_of.append(each.gather(-1, token[:, None])[:, 0])
        chain = torch.stack(tokens, 1)
        return Decision(self._action(self.centres[chain]), chain, self._links(torch.stack(log_probs_of, 1))), None

    def _act_laplace(self, observation: Observation, generator: torch.Generator | None, greedy: bool) -> Decision:
        mean, log_scale = self._laplace(self._hidden(observation, self._length, None))
        scale = log_scale.exp() * self.config.temperature
        point = rand(mean.shape, generator, mean.device) - 0.5
        draw = mean if greedy else mean - scale * point.sign() * torch.log1p(-2 * point.abs().clamp(max=0.4999999))
        return Decision(self._action(draw), draw, self._links(_laplace_log_prob(draw, mean, scale)))

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, L): log_prob (T, B, L'), entropy (T, B) averaged over tokens, the expected action."""
        lead, flat = chain.shape[:-1], chain.flatten(0, 1)
        rows = rows_of(observation, len(lead))
        tokens = None if self.config.head == "laplace" else flat
        hidden, alive = self._hidden(rows, self._length, tokens), self._executed(rows)
        weight = self._by_link(torch.ones_like(flat) if alive is None else alive).unflatten(0, lead)
        if self.config.head == "laplace":
            mean, log_scale = self._laplace(hidden)
            scale = log_scale.exp() * self.config.temperature
            log_prob = _laplace_log_prob(flat, mean, scale)
            entropy = 1 + math.log(2) + scale.log()
            each = [self._by_link(part).unflatten(0, lead) for part in (mean, scale)]
            drawn: Distribution = Laplace(mean=each[0], scale=each[1], weight=weight)
        else:
            log_probs = self._log_probs(hidden)
            log_prob = log_probs.gather(-1, flat[..., None])[..., 0]
            probability = log_probs.exp()
            entropy, mean = -(probability * log_probs).sum(-1), (probability * self.centres).sum(-1)
            drawn = Categorical(log_probs=self._by_link(log_probs, 1).unflatten(0, lead), weight=weight)
        if alive is not None:
            log_prob, entropy = (torch.where(alive, part, 0.0) for part in (log_prob, entropy))
        entropy = entropy.mean(-1) if alive is None else entropy.sum(-1) / alive.sum(-1)
        found = [value.unflatten(0, lead) for value in (self._links(log_prob), entropy, self._action(mean))]
        return Score(found[0], found[1], found[2], drawn, None if alive is None else weight.bool().any(-1))

    def explorer(self, sampler: SamplerConfig) -> Self:
        """Return itself, drawing at the sampler's temperature.  Raises InputError for settings of flows."""
        refuse_without_effect(sampler, OF_FLOWS, "tokens")
        self.config = replace(self.config, temperature=sampler.temperature, ratio_per=sampler.ratio_per)
        return self


def _laplace_log_prob(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return -(x - mean).abs() / scale - (2 * scale).log()
