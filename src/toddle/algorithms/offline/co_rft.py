"""CO-RFT: chunked offline RL, TD3+BC over chunks of actions with calibrated critics (Huang et al. 2025, 2508.02219).

| paper | here |
|---|---|
| chunked TD: what H steps paid, and gamma^H times the value after them | `Transitions`, `OfflineLearner.discount` |
| two critics, smoothed target actions, a policy that climbs Q and stays near the data | `TD3BC` |
| Cal-QL's push with the return that was reached as its floor | `CoRFT.critic_step` |

Deviations: 1. Policies of states, without a VLA; stage 1, imitation, is `--policy`.  2. A critic says one value for the
whole chunk, where the paper's says one for each of its prefixes.  3. The push samples uniform chunks, and the policy's
mean with the target's noise, by importance weights as our Cal-QL does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toddle.algorithms.offline.cql import calibrated, values_of
from toddle.algorithms.offline.td3_bc import TD3BC, mean_of
from toddle.core.seeding import rand, randn
from toddle.data.transitions import Transitions
from toddle.maths.distributions import gaussian_log_prob
from toddle.maths.value_targets import conservative_gap

__all__ = ["CoRFT"]


class CoRFT(TD3BC):
    """TD3+BC of chunks whose critics are pushed down on chunks that the data do not have."""

    chunked = True

    def critic_step(self, batch: Transitions, target: Tensor) -> dict[str, Tensor]:
        """Move the critics to the target (B,), and down where the data have no chunks."""
        c, returns = self.config.conservative, batch.returns
        with torch.no_grad():
            others, log_density = self.samples(batch)
        value = values_of(self.q, batch.observation, torch.cat([batch.action[:, None], others], 1))
        q, sampled = value[..., 0], value[..., 1:]
        push = conservative_gap(q, calibrated(sampled, returns, c.samples), log_density).mean(1)  # (E,)
        errors = (q - target).square().mean(-1).sum()
        loss = self.learn("q", errors + c.weight * push.sum())
        bounded = (sampled[..., c.samples :] < returns[:, None]).float().mean()
        found = {"q_loss": errors, "critic_loss": loss, "value": q.amin(0).mean()}
        return found | {"gap": push.mean(), "bound_rate": bounded}

    def samples(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Return 2 n chunks (B, 2 n, H A), uniform ones and the policy's, and their log-densities (B, 2 n)."""
        shape = (len(batch), self.config.conservative.samples, batch.action.shape[1])
        uniform = 2.0 * rand(shape, self.noise, batch.action.device) - 1.0
        flat = torch.full(shape[:2], -shape[2] * math.log(2.0), device=uniform.device)
        mean = mean_of(self.score(batch.observation, batch.action))[:, None]
        spread = max(self.config.target_noise, 1e-3)
        own = mean + spread * randn(shape, self.noise, mean.device)
        log_density = gaussian_log_prob(own, mean, torch.full_like(mean, math.log(spread)))
        return torch.cat([uniform, own.clamp(-1.0, 1.0)], 1), torch.cat([flat, log_density], 1)
