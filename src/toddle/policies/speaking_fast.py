"""What VLAs share that say the frequencies of their chunk, in as many tokens as it takes (FAST, arXiv 2501.09747).

What a token means is `models.fast`'s.  The chain is (B, H A): the tokens, and `NONE` after the last.  A token says
something of every action of the chunk, so a ratio is of a token or of all of a decision, and all tokens count though an
episode ends within the chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.types import Decision, Observation, Score
from toddle.maths.distributions import Categorical
from toddle.models.fast import NONE, FastTokenizer
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.one_body import rows_of
from toddle.policies.speaking import Speaking

__all__ = ["SpeakingFast", "check_ratio"]


def check_ratio(ratio_per: str) -> None:
    """Raise InputError where a ratio would be of the tokens of one action: there are none."""
    if ratio_per == "action":
        raise problem("ratio_per", "token or chunk: a token is of all actions of a chunk", ratio_per)


class SpeakingFast(Speaking):
    """Part of a policy, as `policies.speaking`, before it in the order of the bases."""

    code: FastTokenizer

    @property
    def _length(self) -> int:
        return self.code.longest

    def _likely(self, hidden: Tensor, left: Tensor) -> Tensor:
        """Return log-probabilities (..., V) of what still fits into the coefficients that are `left` (...)."""
        logits = self._logits(hidden).float() / self.config.temperature
        return torch.log_softmax(self.code.fitting(logits, left), -1)

    def _decoded(self, tokens: Tensor) -> Tensor:
        """Return the action (N, H_exec, A) in the environment's units of sentences (N, L)."""
        return self._action(self.code.decode(tokens)[:, : self.config.executed].flatten(1))

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the tokens of demonstrated chunks; the batch is that of `FlowVLA.loss`.

        A chunk that reaches beyond its episode's end is written with the last action repeated, as it comes.
        """
        log_probs, tokens, real = self._said(batch)
        said = log_probs.gather(-1, tokens.clamp(min=0)[..., None])[..., 0]
        loss = -said[real].mean()
        with torch.no_grad():
            metrics = {
                "sft/loss": loss.item(),
                "sft/token_accuracy": float((log_probs.argmax(-1) == tokens)[real].float().mean()),
                "sft/tokens": float(real.sum(1).float().mean()),
            }
        return loss, metrics

    def surprise(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return minus the log-probability (B,) of each demonstrated chunk's sentence."""
        log_probs, tokens, real = self._said(batch)
        said = log_probs.gather(-1, tokens.clamp(min=0)[..., None])[..., 0]
        return -torch.where(real, said, 0.0).sum(1)

    def _said(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities (B, L, V), tokens (B, L) of the demonstrated sentences, and which are real."""
        observation = self._demonstrated(batch)[0]
        tokens = self.code.encode((batch["action"] - self.action_offset) / self.action_scale)
        tokens, real = self._used(tokens)
        hidden = self._hidden(observation, tokens.shape[1], tokens.clamp(min=0))
        return self._likely(hidden, self.code.left(tokens)), tokens, real

    @staticmethod
    def _used(tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (N, L) as far as the longest sentence goes, and which of them are real."""
        real = tokens >= 0
        used = int(real.sum(1).max())
        return tokens[:, :used], real[:, :used]

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` takes the likeliest token of each that still fits."""
        following, token = self._one_by_one(observation), None
        left = torch.full((len(observation["proprio"]),), self._length, device=observation["proprio"].device)
        tokens, log_probs = [], []
        while bool((left > 0).any()):
            each = self._likely(following(token), left)
            token = self._draw(each, generator, deterministic)
            saying = left > 0
            # rounding may have drawn past the last probability, where tokens stand that do not fit
            token = torch.where(self.code.lengths[token] > left, each.argmax(-1), token)
            tokens.append(torch.where(saying, token, NONE))
            log_probs.append(torch.where(saying, each.gather(-1, token[:, None])[:, 0], 0.0))
            left = left - torch.where(saying, self.code.lengths[token], 0)
        room = (0, self._length - len(tokens))
        chain, log_prob = F.pad(torch.stack(tokens, 1), room, value=NONE), F.pad(torch.stack(log_probs, 1), room)
        real = self._by_link(chain >= 0).any(-1)
        return Decision(self._decoded(chain), chain, self._links(log_prob), real), None

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, L): log_prob (T, B, L'), entropy (T, B) averaged over tokens, no mean."""
        lead, flat = chain.shape[:-1], chain.flatten(0, 1)
        tokens, real = self._used(flat)
        hidden = self._hidden(rows_of(observation, len(lead)), tokens.shape[1], tokens.clamp(min=0))
        log_probs = self._likely(hidden, self.code.left(tokens))
        log_prob = torch.where(real, log_probs.gather(-1, tokens.clamp(min=0)[..., None])[..., 0], 0.0)
        entropy = torch.where(real, -(log_probs.exp() * log_probs).sum(-1), 0.0).sum(-1) / real.sum(-1)
        room = (0, self._length - tokens.shape[1])
        weight = self._by_link(flat >= 0).unflatten(0, lead)
        said = self._by_link(F.pad(log_probs, (0, 0, *room)), 1).unflatten(0, lead)
        drawn = Categorical(log_probs=said, weight=weight)
        log_prob = self._links(F.pad(log_prob, room)).unflatten(0, lead)
        return Score(log_prob, entropy.unflatten(0, lead), None, drawn, weight.any(-1))

    def explorer(self, sampler: SamplerConfig) -> Self:
        """Return itself, drawing at the sampler's temperature; a ratio is of a token, else of all of a decision."""
        per: Literal["token", "chunk"] = "token" if sampler.ratio_per == "token" else "chunk"
        return super().explorer(replace(sampler, ratio_per=per))
