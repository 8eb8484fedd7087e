"""A vision-language model's causal decoder that says numbers by 256 of its words (OpenVLA, arXiv 2406.09246).

    prompt: [start | pictures | sentence]  ->  words said one by one, each given those before
The 256 words are the last of the tokenizer's own; the last of them says the lowest number.  Of the head only their
rows are kept, so no other word can be drawn.  Prompts of different lengths are padded at their end, positions count
real tokens only, and every mask is made here: what a row sees does not depend on who is beside it in the batch.
In parallel (OpenVLA-OFT, arXiv 2502.19645) placeholders stand for all words: [prompt | L zeros | stop word], where all
see all, or each only what is before it; word l is read one place earlier, the first at the prompt's last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toddle.maths.masks import additive
from toddle.models.backbones.base import VisionLanguageModel
from toddle.models.vlms.parts import new_cache

__all__ = ["WORDS", "Prompt", "SpeakingModel"]

WORDS = 256
"""Words that say numbers."""


class Prompt(NamedTuple):
    """A prompt in the decoder's width, with what was read as it was."""

    x: Tensor  # (N, S, D)
    real: Tensor  # (N, S) bool, False where it is padding; the first token is real
    last: Tensor  # (N,) int64, the place of the last real token


class SpeakingModel(VisionLanguageModel):
    """What a token policy needs of a vision-language model; a subclass makes prompts."""

    width: int
    decoder: Any  # transformers' text model: embeddings in, hidden states after the final norm out
    top: int  # id of the word that says the lowest number; top - k says the k-th
    stop: int = -1  # id of the word that ends an answer, which parallel decoding puts last
    prefix_sees_itself = False  # whether the prompt's tokens see later ones of it (PaliGemma)
    head: Tensor  # (256, D), rows of the head, the lowest number first

    def prompt(self, images: Tensor, sentences: Sequence[str], more: Tensor | None = None) -> Prompt:
        """Read pictures (N, n, 3, H, W) uint8 and N sentences; `more` (N, m, D) are tokens after the pictures."""
        raise NotImplementedError

    def keep_rows(self, head: Tensor) -> None:
        """Keep the rows of the 256 words of a head (V, D)."""
        rows = head[self.top - WORDS + 1 : self.top + 1].flip(0).detach().clone()
        self.head = nn.Parameter(rows, requires_grad=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (..., 256) of hidden states (..., D), in float32."""
        return hidden.float() @ self.head.float().T

    def words(self, ids: Tensor) -> Tensor:
        """Return the embeddings (..., D) of word ids (...)."""
        embedded: Tensor = self.decoder.get_input_embeddings()(ids)
        return embedded

    def forced(self, prompt: Prompt, said: Tensor) -> Tensor:
        """Return the hidden states (N, L, D) that say the words `said` (N, L), 0 to 255, all in one pass."""
        after = self.words(self.top - said[:, :-1])
        return self._answers(prompt, after, self._seen(_longer(prompt.real, after.shape[1]), prompt.real.shape[1]))

    def together(self, prompt: Prompt, length: int, *, both_ways: bool, placeholders: Tensor | None = None) -> Tensor:
        """Return the hidden states (N, L, D) that say `length` words at once; placeholders (N, L, D) in place of 0."""
        size = len(prompt.x)
        stop = self.words(torch.full((size, 1), self.stop, device=prompt.x.device))
        holders = stop.new_zeros(size, length, self.width) if placeholders is None else placeholders.to(stop.dtype)
        after = torch.cat([holders, stop], 1)
        real = _longer(prompt.real, length + 1)
        seen = real[:, None].expand(-1, real.shape[1], -1) if both_ways else self._seen(real, prompt.real.shape[1])
        return self._answers(prompt, after, seen)[:, :length]

    def one_by_one(self, prompt: Prompt) -> Callable[[Tensor | None], Tensor]:
        """Open an answer: the word said last (N,), None before the first -> the hidden state (N, D) of the next."""
        cache, real = new_cache(self.decoder), prompt.real

        def following(said: Tensor | None) -> Tensor:
            nonlocal real
            if said is None:
                hidden = self._run(prompt.x, real, self._seen(real, real.shape[1]), cache)
                return _at(hidden, prompt.last)
            real = _longer(real, 1)
            return self._run(self.words(self.top - said)[:, None], real, real[:, None], cache)[:, -1]

        return following

    def prompt_hidden(self, prompt: Prompt) -> Tensor:
        """Return the hidden state (N, D) of the prompt's last token."""
        return _at(self._run(prompt.x, prompt.real, self._seen(prompt.real, prompt.real.shape[1])), prompt.last)

    def _answers(self, prompt: Prompt, after: Tensor, seen: Tensor) -> Tensor:
        """Return the hidden states (N, m + 1, D) at the prompt's last token and at the m tokens after it."""
        hidden = self._run(torch.cat([prompt.x, after], 1), _longer(prompt.real, after.shape[1]), seen)
        return torch.cat([_at(hidden, prompt.last)[:, None], hidden[:, prompt.x.shape[1] :]], 1)

    def _seen(self, real: Tensor, prefix: int) -> Tensor:
        """Return (N, S, S) bool: which token (second) each token (first) sees."""
        place = torch.arange(real.shape[1], device=real.device)
        before = place <= place[:, None]
        if self.prefix_sees_itself:
            before = before | (place < prefix)
        return before & real[:, None]

    def _run(self, x: Tensor, real: Tensor, seen: Tensor, cache: Any = None) -> Tensor:
        """Return the hidden states (N, m, D) of the last m of S tokens; real (N, S), seen (N, m, S)."""
        places = (real.long().cumsum(1) - 1)[:, -x.shape[1] :]
        done: Tensor = self.decoder(
            inputs_embeds=x,
            attention_mask=additive(seen)[:, None].to(x.dtype),
            position_ids=places,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return done


def _longer(real: Tensor, more: int) -> Tensor:
    return torch.cat([real, real.new_ones(len(real), more)], 1)


def _at(hidden: Tensor, place: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), place]
