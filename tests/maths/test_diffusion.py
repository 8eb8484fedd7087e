"""Diffusion against diffusers' schedulers, closed forms and figures printed in the sources."""

from __future__ import annotations

import pytest
import torch

from toddle.maths import diffusion as d
from toddle.maths.flow import endpoint_from_noise, velocity_from_endpoint

diffusers = pytest.importorskip("diffusers")
F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def following(alpha_bar: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.ones(1, dtype=F64), alpha_bar[:-1]])


@pytest.mark.parametrize("steps", [5, 20, 100])
def test_schedule_is_diffusers(steps: int) -> None:
    oracle = diffusers.DDPMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(d.cosine_alpha_bar(steps).float(), oracle.alphas_cumprod, atol=1e-6, rtol=1e-5)


def test_ddpm_link_is_diffusers() -> None:
    steps, shape = 20, (3, 4, 7)
    ab = d.cosine_alpha_bar(steps)
    oracle = diffusers.DDPMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2", clip_sample=True)
    for k in (19, 7, 1, 0):
        x, eps = draw(*shape, seed=k), draw(*shape, seed=k + 100)
        mean, std = d.ddpm_link(x, d.eps_to_x0(x, eps, ab[k]), ab[k], following(ab)[k])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=F64)
        previous = oracle.step(eps, k, x, generator=torch.Generator().manual_seed(5)).prev_sample
        torch.testing.assert_close(mean + std * noise * (k > 0), previous, atol=1e-5, rtol=1e-5)


def test_ddim_link_is_diffusers() -> None:
    ab, steps, shape = d.cosine_alpha_bar(20), 5, (3, 4, 7)
    oracle = diffusers.DDIMScheduler(20, beta_schedule="squaredcos_cap_v2", set_alpha_to_one=True)
    oracle.set_timesteps(steps)
    assert oracle.timesteps.tolist() == d.ddim_steps(20, steps)
    for k in d.ddim_steps(20, steps):
        x, eps = draw(*shape, seed=k), draw(*shape, seed=k + 100)
        after = ab[k - 4] if k >= 4 else torch.ones((), dtype=F64)
        mean, std = d.ddim_link(x, d.eps_to_x0(x, eps, ab[k]), ab[k], after)
        assert std == 0
        expected = oracle.step(eps, k, x, eta=0.0, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)


def test_ddim_eta_one_is_the_ddpm_posterior() -> None:
    ab = d.cosine_alpha_bar(20)
    for k in range(20):
        x, x0 = draw(3, 5, seed=k), draw(3, 5, seed=k + 50).clamp(-1, 1)
        mean_ddpm, std_ddpm = d.ddpm_link(x, x0, ab[k], following(ab)[k])
        mean, std = d.ddim_link(x, x0, ab[k], following(ab)[k], eta=1.0)
        torch.testing.assert_close(mean, mean_ddpm, atol=1e-12, rtol=0)
        torch.testing.assert_close(std, std_ddpm, atol=1e-12, rtol=0)


def test_euler_on_the_bridged_grid_is_ddim() -> None:
    """A nonlinear noise predictor, 20 steps: both samplers end in the same action to 1e-10."""
    ab = d.cosine_alpha_bar(20)
    tau, scale = d.flow_time(ab)
    weight = draw(7, 7, seed=3) * 0.3

    def net(x: torch.Tensor, k: int) -> torch.Tensor:
        return torch.tanh(x @ weight + 0.1 * k)

    def velocity(x: torch.Tensor, eps: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return velocity_from_endpoint(endpoint_from_noise(eps, x, tau, clamp=float("inf")), x, tau, floor=0.0)

    x = start = draw(4, 7)
    for k in range(19, -1, -1):
        x, _ = d.ddim_link(x, d.eps_to_x0(x, net(x, k), ab[k], clamp=None), ab[k], following(ab)[k])
    y = start / scale[19]
    for k in range(19, -1, -1):
        y = y + ((tau[k - 1] if k else torch.ones((), dtype=F64)) - tau[k]) * velocity(y, net(scale[k] * y, k), tau[k])
    torch.testing.assert_close(y, x, atol=1e-10, rtol=0)
    reversed_time = velocity(start / scale[19], net(start, 19), 1 - tau[19])
    assert (reversed_time - velocity(start / scale[19], net(start, 19), tau[19])).abs().max() > 0.1
