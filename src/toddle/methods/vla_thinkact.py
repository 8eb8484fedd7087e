"""ThinkAct on a VLA that thinks first: GRPO, paid too for thoughts that say where it goes (arXiv 2507.16815)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from toddle.algorithms.estimators import GroupAdvantages
from toddle.algorithms.plan_consistency import PlanConsistency
from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative, Share
from toddle.experience.episodes import EpisodesConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import GROUP_PPO, VLAGroupSettings
from toddle.policies.flow_explorer import SamplerConfig

__all__ = ["METHOD", "ThinkActSettings"]


@config
class ThinkActSettings(VLAGroupSettings):
    """Group-relative policy optimisation of thoughts and actions, with a reward of both together."""

    weight: NonNegative = 0.5
    """What an episode whose thoughts are all right is paid; success pays 1."""
    goal: Share = 0.5
    """Share of where the path ends in that; the rest is the path's."""
    control: Literal["none", "shuffled"] = "none"
    """shuffled: each decision is paid for another one's thought, from which thoughts learn nothing."""

    def build(self, start: Start) -> Run:
        """Build PPO with advantages from groups and the reward of thoughts."""
        self.compared()
        parts = start.envs[0].action_parts
        motions = slice(None) if parts is None else parts.position
        given: dict[str, Any] = {"weight": self.weight, "goal": self.goal, "control": self.control, "seed": start.seed}
        policy: Any = start.init
        if policy.kind != "token_vla" or not policy.config.thought:
            remedy = "toddle sft --kind tokens --tokens.thought makes one"
            raise problem("policy", "a VLA of tokens that says a thought first", f"kind '{policy.kind}'", remedy)
        term = PlanConsistency(policy, motions, **given)
        rewards = {"rewards": [*start.parts.get("rewards", ()), term]}
        settled = dataclasses.replace(start, parts=dict(start.parts) | rewards)
        return self.run(settled, GroupAdvantages(uneven_in="episode_return"))


METHOD = Method(
    name="vla-thinkact",
    what="GRPO on a VLA that thinks first, paid also for thoughts that say where its actions go",
    paper="ThinkAct, Huang et al. 2025, arXiv 2507.16815",
    policies="token_vla, with --tokens.thought",
    deviations=(
        "a thought is one action's tokens, the mean of the chunk, and means a straight path of the tool; no words, no "
        "latent plan, no separate action model",
        "the path is compared with the one that is then made, not with one that a detector sees in demonstrations",
        "no reward of the form, as nothing else can be said; where the path begins is always right and not paid",
    ),
    shared=True,
    presets=(
        Preset(
            name="tokens",
            kinds=("token_vla",),
            source="ThinkAct: half goal, half path, groups; SimpleVLA-RL: group 8, clip 0.2 / 0.28, temperature 1.6; "
            "ours: weight beside success, rates",
            settings=ThinkActSettings(
                sampler=SamplerConfig(temperature=1.6, ratio_per="token"),
                episodes=EpisodesConfig(success_return=True),
                ppo=PPOConfig(**GROUP_PPO, ratio="per_link", aggregate="trajectory", clip_low=0.2, clip_high=0.28),
            ),
        ),
    ),
)
