"""What an expert reads beside its VLM: masked tokens are nowhere, chunks do not see each other, packing comes back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from toddle.models.prefix_expert import (
    Attention,
    GatedMLP,
    embed_time,
    keys_of,
    read_layer,
    read_prefix,
    rotary,
    suffix_view,
)

WIDTH, HEADS, KEYS, HEAD = 12, 4, 2, 6


def layers(count: int, seed: int) -> list[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [
            SimpleNamespace(
                self_attn=Attention(WIDTH, HEADS, KEYS, HEAD),
                mlp=GatedMLP(WIDTH, 20, gelu=True),
                input_layernorm=nn.RMSNorm(WIDTH),
                post_attention_layernorm=nn.RMSNorm(WIDTH),
            )
            for _ in range(count)
        ]


def read(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return read_prefix(layers(3, 0), tokens, mask.cumsum(1) - 1, mask[:, None, None], HEAD)


@torch.no_grad()
def test_masked_tokens_change_nothing_wherever_they_are() -> None:
    """A missing camera's picture, or a sentence's padding: places are counted over the real tokens alone."""
    generator = torch.Generator().manual_seed(1)
    tokens, junk = torch.randn(2, 5, WIDTH, generator=generator), torch.randn(2, 3, WIDTH, generator=generator)
    whole = torch.ones(2, 5, dtype=torch.bool)
    kept = read(tokens, whole)
    longer = torch.cat([tokens[:, :2], junk, tokens[:, 2:]], 1)
    mask = torch.cat([whole[:, :2], torch.zeros(2, 3, dtype=torch.bool), whole[:, 2:]], 1)
    found = read(longer, mask)
    assert kept.shape == (2, 5, 3 * 2 * KEYS * HEAD)
    torch.testing.assert_close(found[mask].view_as(kept), kept, atol=1e-6, rtol=1e-5)
    actions = torch.randn(2, 8, WIDTH, generator=generator)
    answers = []
    for context, real in ((kept, whole), (found, mask)):
        x = actions
        seen, positions = suffix_view(real, 0, 2, 4)
        for layer, past in zip(layers(3, 5), keys_of(context, 3, HEAD), strict=True):
            x = read_layer(layer, x, past, seen, rotary(positions, HEAD))
        answers.append(x)
    torch.testing.assert_close(*answers, atol=1e-6, rtol=1e-5)
    assert (answers[0] - actions).abs().max() > 0.1


def test_who_sees_whom() -> None:
    """Two chunks of three actions behind one shared token and two tokens of a prefix, of which one is real."""
    mask, positions = suffix_view(torch.tensor([[True, False]]), 1, 2, 3)
    shown = ["".join("x" if value else "." for value in row) for row in mask[0, 0].tolist()]
    assert shown == ["x.x......", *3 * ["x.xxxx..."], *3 * ["x.x...xxx"]]
    assert positions.tolist() == [[1, 2, 3, 4, 2, 3, 4]]
    causal, _ = suffix_view(torch.tensor([[True, False]]), 0, 2, 3, causal=True)
    shown = ["".join("x" if value else "." for value in row) for row in causal[0, 0].tolist()]
    assert shown == ["x.x.....", "x.xx....", "x.xxx...", "x....x..", "x....xx.", "x....xxx"]


def test_times_by_hand() -> None:
    """Periods from 0.5 to 2 in equal ratios: at t = 0.25 these are half a turn, a quarter, an eighth."""
    root = 0.5**0.5
    wanted = torch.tensor([0.0, 1.0, root, -1.0, 0.0, root])
    torch.testing.assert_close(embed_time(torch.tensor([0.25]), 6, 0.5, 2.0)[0], wanted, atol=1e-6, rtol=0)
