"""OpenVLA's action tokens and quantiles, with the numbers that its own code gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toddle.core.errors import InputError
from toddle.maths.action_tokens import from_quantiles, openvla_actions, openvla_tokens, to_quantiles

WORDS = 32000
LOW, HIGH = torch.tensor([-2.0, 0.0, 1.0, 0.0]), torch.tensor([4.0, 0.5, 1.0, 1.0])
MASK = torch.tensor([True, True, True, False])


def test_tokens_are_those_of_numpys_digitize() -> None:
    edges = np.linspace(-1.0, 1.0, 256)
    actions = np.concatenate([np.linspace(-1.2, 1.2, 5001), edges, np.nextafter(edges, -2.0)])
    wanted = WORDS - np.digitize(np.clip(actions, -1.0, 1.0), edges)
    tokens = openvla_tokens(torch.from_numpy(actions), WORDS)
    assert np.array_equal(tokens.numpy(), wanted) and tokens.min() == 31744 and tokens.max() == 31999
    centres = (edges[:-1] + edges[1:]) / 2.0
    decoded = centres[np.clip(WORDS - wanted - 1, 0, 254)]
    assert np.allclose(openvla_actions(tokens, WORDS).numpy(), decoded, rtol=0, atol=1e-7)


def test_known_tokens() -> None:
    assert openvla_tokens(torch.tensor([1.0, -1.0]), WORDS).tolist() == [WORDS - 256, WORDS - 1]
    values = openvla_actions(torch.tensor([31872, 31744, 31745, 31999]), WORDS)
    assert values[0].abs() < 1e-7 and values[1] == values[2]  # the token of 1.0 alone is counted to the last bin
    assert torch.allclose(values[[1, 3]], torch.tensor([0.99608, -0.99608]), atol=1e-5)
    assert len(openvla_actions(torch.arange(31744, 32000), WORDS).unique()) == 255


def test_there_and_back_misses_by_half_a_bin_at_most() -> None:
    actions = torch.linspace(-1.0, 1.0, 20001, dtype=torch.float64)
    miss = (openvla_actions(openvla_tokens(actions, WORDS), WORDS) - actions).abs().max()
    assert 0.0039 < miss <= 1.0 / 255 + 1e-6


def test_the_padded_vocabulary_would_show() -> None:
    """The table has 64 rows more than the tokenizer words: counted with them, every bin is 64 off and 0.3 says 0.8."""
    tokens = openvla_tokens(torch.tensor([0.3, -0.3]), WORDS)
    assert torch.allclose(openvla_actions(tokens, WORDS), torch.tensor([0.3, -0.3]), atol=1 / 255)
    with pytest.raises(InputError, match="action tokens: expected 31808 to 32063, got '31744 to 31744'"):
        openvla_actions(openvla_tokens(torch.tensor([1.0]), WORDS), WORDS + 64)
    assert openvla_actions(tokens, WORDS + 64)[0] == pytest.approx(0.8, abs=1e-2)


@pytest.mark.parametrize("token", [31743, 32000, 2])
def test_other_words_are_no_actions(token: int) -> None:
    with pytest.raises(InputError, match="expected 31744 to 31999"):
        openvla_actions(torch.tensor([31800, token]), WORDS)


def test_ends_of_the_quantiles() -> None:
    """-1 gives the 1 % quantile and +1 the 99 % one exactly; the gripper, which is masked, is as it came."""
    ones = torch.ones(4)
    assert torch.equal(from_quantiles(-ones, LOW, HIGH, MASK)[:3], LOW[:3])
    assert torch.equal(from_quantiles(ones, LOW, HIGH, MASK)[:3], HIGH[:3])
    assert from_quantiles(torch.full((4,), 0.3), LOW, HIGH, MASK)[3] == 0.3 * ones[3]


def test_quantiles_there_and_back() -> None:
    inside = LOW + (HIGH - LOW) * torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    normal = to_quantiles(inside, LOW, HIGH, MASK)
    assert normal.abs().max() <= 1.0 and torch.equal(normal[:, 2], torch.zeros(50))  # it never moved
    assert torch.allclose(from_quantiles(normal, LOW, HIGH, MASK), inside, atol=1e-6)
    outside = torch.tensor([9.0, -9.0, 1.0, 7.0])
    wanted = torch.tensor([4.0, 0.0, 1.0, 7.0])
    assert torch.equal(from_quantiles(to_quantiles(outside, LOW, HIGH, MASK), LOW, HIGH, MASK), wanted)
