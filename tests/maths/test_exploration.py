"""Exploration's numbers against closed forms: levels of noise, a divergence, informations, designs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from toddle.maths.exploration import choose_experiments, information_gain, kl_from_normal, noise_level, signal_to_noise


def test_levels_are_those_of_the_released_schedule_and_its_reverse() -> None:
    # SIME's code multiplies by 1 - g with g = k / T at the scheduler's timestep k, T - 1 first
    assert noise_level(0, 100, "late") == pytest.approx(0.01) and noise_level(99, 100, "late") == 1.0
    assert noise_level(0, 100, "early") == 1.0 and noise_level(99, 100, "early") == pytest.approx(0.01)


def test_divergence_and_signal() -> None:
    # N(1, 1/4) against N(0, 1): (1 + 1/4 - 1) / 2 + ln 2
    assert float(kl_from_normal(torch.tensor(1.0), torch.tensor(0.5))) == pytest.approx(0.818147, abs=1e-6)
    mean, std = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.5, 1.0], [0.5, 1.0]])
    assert signal_to_noise(mean, std).tolist() == [4.0, 0.0]


def test_information_telescopes_and_a_design_takes_both_directions() -> None:
    # y = theta x + N(0, 0.1^2) at x = 0.5, 1, 2: information 525, deviation 0.04364
    parts = [np.array([[x**2 / 0.1**2]]) for x in (0.5, 1.0, 2.0)]
    assert sum(parts)[0, 0] == pytest.approx(525) and math.sqrt(1 / 525) == pytest.approx(0.04364, abs=1e-5)
    prior = np.eye(1)
    steps, known = 0.0, prior
    for part in parts:
        steps, known = steps + information_gain(part, known), known + part
    assert steps == pytest.approx(information_gain(sum(parts), prior)) == pytest.approx(math.log(526))
    # the trace prefers one direction (100) to both (20); the determinant does not
    one, both = np.diag([100.0, 1e-6])[None], np.diag([10.0, 10.0])[None]
    assert choose_experiments([one, both], 1e-3 * np.eye(2), 1) == [1]
    first, second = np.diag([9.0, 0.0])[None], np.diag([0.0, 4.0])[None]
    assert choose_experiments([first, first, second], np.eye(2), 2) == [0, 2]
