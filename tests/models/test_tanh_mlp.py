"""The hand-written MLP is the ordinary one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from toddle.models.tanh_mlp import TanhMLP


def pair(sizes: tuple[int, ...]) -> tuple[TanhMLP, nn.Sequential]:
    fast = TanhMLP(sizes[0], sizes[1:-1], sizes[-1], last_gain=1.0, generator=torch.Generator().manual_seed(0))
    layers: list[nn.Module] = []
    for index in range(len(sizes) - 1):
        linear = nn.Linear(sizes[index], sizes[index + 1])
        linear.weight.data.copy_(getattr(fast, f"weight_{index}").data)
        getattr(fast, f"bias_{index}").data.normal_(generator=torch.Generator().manual_seed(index))
        linear.bias.data.copy_(getattr(fast, f"bias_{index}").data)
        layers += [linear, nn.Tanh()]
    return fast, nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("sizes", [(5, 7, 6, 3), (4, 2), (3, 8, 1)])
@pytest.mark.parametrize("lead", [(11,), (4, 3)])
def test_same_values_and_gradients_as_torch(sizes: tuple[int, ...], lead: tuple[int, ...]) -> None:
    fast, plain = pair(sizes)
    x = torch.randn(*lead, sizes[0], generator=torch.Generator().manual_seed(1))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ya, yb = fast(a), plain(b)
    assert ya.shape == (*lead, sizes[-1])
    assert torch.allclose(ya, yb, atol=1e-6)
    ya.pow(3).sum().backward()
    yb.pow(3).sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-5)
    slow = list(plain.parameters())
    for mine, other in zip(fast.parameters(), slow, strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_gradcheck_in_double() -> None:
    fast, _ = pair((3, 4, 2))
    fast.double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: fast(z), (x,))


def test_wrong_backward_would_be_seen() -> None:
    """Control: without the derivative of tanh the gradients differ."""
    fast, plain = pair((3, 4, 2))
    linear = nn.Sequential(*[m for m in plain if isinstance(m, nn.Linear)])
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    fast(x).sum().backward()
    linear(x).sum().backward()
    assert not torch.allclose(fast.weight_0.grad, linear[0].weight.grad, atol=1e-2)
