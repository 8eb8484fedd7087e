"""The causal policy with noise that is correlated over the chunk: scores are densities of what was drawn."""

from __future__ import annotations

import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.models.expert import ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy

TRUNK = TrunkConfig(width=16, depth=2, heads=2, context_width=8)
BODIES = (BodySpec(name="a", proprio=3, action=2, dt=0.02), BodySpec(name="b", proprio=4, action=3, dt=0.02))


def _policy(correlation: float) -> CausalPolicy:
    expert = ExpertConfig(trunk=TRUNK, bodies=BODIES, horizon=4, executed=4, window=2, bank_hidden=8)
    return CausalPolicy(CausalConfig(expert=expert, noise_correlation=correlation, goal_dropout=0.0))


@pytest.mark.parametrize("mixed", [False, True])
def test_scores_are_the_densities_of_the_draws(mixed: bool) -> None:
    policy = _policy(0.8)
    generator = torch.Generator().manual_seed(0)
    body = torch.tensor([0, 1, 0]) if mixed else torch.zeros(3, dtype=torch.int64)
    observation = Observation(
        proprio=torch.randn(3, 4 if mixed else 3, generator=generator), body=body, first=torch.ones(3, dtype=torch.bool)
    )
    decision, _ = policy.act(observation, generator=generator)
    segment = Observation(**{key: value[None] for key, value in observation.items()})
    score = policy.score(segment, decision.chain[None])
    torch.testing.assert_close(score.log_prob[0], decision.log_prob, atol=1e-5, rtol=0)
    mean = policy.mean(segment)[0]
    covariance = 0.2 * torch.eye(4) + 0.8 * torch.ones(4, 4)
    for row in range(3):
        width = BODIES[int(body[row])].action
        spread = policy.log_std.exp()[body[row], 0, :width]
        total = sum(
            torch.distributions.MultivariateNormal(mean[row, :, d], spread[d] ** 2 * covariance).log_prob(
                decision.action[row, :, d]
            )
            for d in range(width)
        )
        torch.testing.assert_close(decision.log_prob[row, 0], total, atol=1e-4, rtol=0)


def test_wrong_correlations_are_refused() -> None:
    expert = ExpertConfig(trunk=TRUNK, bodies=BODIES, horizon=4, executed=4, window=2, bank_hidden=8)
    for fields in ({"noise_correlation": 1.0}, {"noise_correlation": 0.5, "std_per": "step"}):
        with pytest.raises(InputError):
            CausalConfig(expert=expert, **fields)  # type: ignore[arg-type]
