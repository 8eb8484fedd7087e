"""What the methods share that compare whole episodes of the same start: no critic, PPO's surrogate."""

from __future__ import annotations

from typing import Any

from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.experience.episodes import EpisodesConfig, GroupCollector
from toddle.methods._actors import (
    CausalSettings,
    MlpSettings,
    PolicyKind,
    TokenSettings,
    bodies_of,
    label_of,
    make_policy,
    started_from,
)
from toddle.methods._base import Run, Start
from toddle.methods._together import run_of_states

__all__ = ["GroupSettings"]


@config
class GroupSettings:
    """A policy, and PPO on groups of whole episodes."""

    policy: PolicyKind = "auto"
    """Kind of policy; auto: tokens where actions are discrete, else mlp."""
    causal: CausalSettings = CausalSettings()
    """Settings of the causal transformer."""
    mlp: MlpSettings = MlpSettings()
    """Settings of the multilayer perceptron."""
    tokens: TokenSettings = TokenSettings()
    """Settings of the token policy."""
    goal_width: Size = 64
    """Width of the pooled goal."""
    episodes: EpisodesConfig = EpisodesConfig()
    """How episodes are gathered."""
    ppo: PPOConfig = PPOConfig()
    """The algorithm; what it says of a critic has no effect."""

    def run(self, start: Start, estimator: GroupAdvantages) -> Run:
        """Build PPO without a critic around the policy."""
        if self.episodes.group < 2:
            raise problem("episodes.group", "at least 2: an episode is compared with others", self.episodes.group)
        if start.init is not None:
            policy = started_from(start, ("gaussian", "causal", "tokens"))
        else:
            policy = make_policy(
                self.policy,
                start,
                causal=self.causal,
                mlp=self.mlp,
                tokens=self.tokens,
                goal_width=self.goal_width,
            )
        policy = policy.to(start.device)
        order = [body.name for body in bodies_of(start.envs)]
        sources = [
            GroupCollector(
                env,
                self.episodes,
                seed=start.seed + 1000 * index,
                body=order.index(env.body),
                label=label_of(env.name),
            )
            for index, env in enumerate(start.envs)
        ]
        iterations = max(1, round(start.steps / sum(source.decisions for source in sources)))
        parts: dict[str, Any] = {"estimator": estimator, **start.parts}
        show = ("episode/success", "episode/return")
        return run_of_states(start, policy, None, sources, self.ppo, iterations=iterations, parts=parts, show=show)
