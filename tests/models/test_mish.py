"""Mish by hand is torch's own, derivative included."""

import torch

from toddle.models.mish import mish


def test_values_and_derivative_are_torchs() -> None:
    x = torch.cat([torch.linspace(-40, 40, 401, dtype=torch.float64), torch.tensor([-1e4, 1e4], dtype=torch.float64)])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(mish(ours), torch.nn.functional.mish(theirs), atol=1e-12, rtol=1e-12)
    mish(ours).sum().backward()
    torch.nn.functional.mish(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(mish, (torch.randn(20, dtype=torch.float64, requires_grad=True),))
