"""Flow time and its algebra, against closed forms; the direction of time has a negative control."""

import pytest
import torch

from toddle.maths import flow


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_mean_flow_time_is_the_closed_form() -> None:
    tau = flow.sample_time((200_000,), torch.Generator().manual_seed(1))
    assert tau.mean().item() == pytest.approx(0.399, abs=3e-3)
    assert tau.min() >= 0 and tau.max() <= 1
    # P(tau < x) = 1 - (s (1 - x))^1.5 by hand: at x = 0.5, 1 - (0.4995)^1.5 = 0.647
    assert (tau < 0.5).double().mean().item() == pytest.approx(0.647, abs=5e-3)


def test_time_zero_is_noise_and_one_is_the_action() -> None:
    noise, action = draws(2, 3, 4), draws(2, 3, 4, seed=1)
    assert torch.equal(flow.interpolate(noise, action, torch.zeros(2)), noise)
    assert torch.equal(flow.interpolate(noise, action, torch.ones(2)), action)


def test_the_exact_velocity_recovers_the_action_in_one_step_and_its_reverse_does_not() -> None:
    noise, action = draws(2, 3, 4), draws(2, 3, 4, seed=1)
    velocity = flow.target_velocity(noise, action)
    assert torch.allclose(flow.euler(lambda x, tau: velocity, noise, 1), action, atol=1e-12)
    assert (flow.euler(lambda x, tau: -velocity, noise, 1) - action).abs().max() > 1


@pytest.mark.parametrize("steps", [1, 4, 10, 50])
def test_an_endpoint_head_lands_on_its_endpoint(steps: int) -> None:
    noise, action = draws(2, 3, 4), draws(2, 3, 4, seed=1)
    got = flow.euler(lambda x, tau: flow.velocity_from_endpoint(action, x, tau, floor=0.0), noise, steps)
    assert torch.allclose(got, action, atol=1e-12)


def test_endpoint_and_velocity_are_inverse_where_the_floor_is_not_reached() -> None:
    noise, action, tau = draws(5, 3, 4), draws(5, 3, 4, seed=1), torch.linspace(0, 0.94, 5, dtype=torch.float64)
    noisy = flow.interpolate(noise, action, tau)
    velocity = flow.velocity_from_endpoint(action, noisy, tau)
    assert torch.allclose(velocity, action - noise, atol=1e-9)
    assert torch.allclose(flow.endpoint_from_velocity(velocity, noisy, tau), action, atol=1e-12)


def test_the_floor_bounds_the_last_instants() -> None:
    one = torch.ones(1, 1, 1)
    assert flow.velocity_from_endpoint(one, 0 * one, torch.tensor([0.999])).item() == pytest.approx(20.0)


def test_a_contracting_output_of_zero_means_an_action_near_zero() -> None:
    """Head noise takes x for noise of unit variance and leaves (1 - s) / a of it: little where there is much."""
    angle = torch.tensor([1.5, 1.0, 0.5], dtype=torch.float64)
    a, s = angle.cos(), angle.sin()
    tau, x = a / (a + s), draws(3, 2, 2)
    noisy = x / (a + s)[:, None, None]
    noise = flow.contracting(torch.zeros_like(x), noisy, tau, "noise")
    action = flow.endpoint_from_noise(noise, noisy, tau, clamp=100.0)
    assert torch.allclose(action, x * ((1 - s) / a)[:, None, None], atol=1e-9)
    velocity = flow.contracting(torch.zeros_like(x), noisy, tau, "velocity")
    assert torch.allclose(flow.endpoint_from_velocity(velocity, noisy, tau), noisy * tau[:, None, None])


def test_pi0_runs_the_other_way() -> None:
    velocity, t = flow.to_pi0(torch.tensor(2.0), torch.tensor(0.25))
    assert (velocity.item(), t.item()) == (-2.0, 0.75)
    assert [x.item() for x in flow.from_pi0(velocity, t)] == [2.0, 0.25]
