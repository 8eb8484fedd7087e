"""Generalist: REINFORCE on a VLA whose reward is the fall of the steps that a model sees left (arXiv 2509.15155)."""

from __future__ import annotations

from toddle.algorithms.estimators import ReturnsToGo
from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Discount
from toddle.experience.episodes import EpisodesConfig
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._vla import FLOWS, GROUP_PPO, TOKENS, VLAGroupSettings

__all__ = ["METHOD", "GeneralistSettings"]

REMEDY = (
    "toddle reward train --model.says steps-to-go --dataset ... --out runs/steps, then --process-reward.model "
    "runs/steps --process-reward.form difference"
)


@config
class GeneralistSettings(VLAGroupSettings):
    """The policy gradient on a VLA with returns that need no baseline."""

    discount: Discount = 0.9
    """gamma of a decision in the returns."""

    def build(self, start: Start) -> Run:
        """Build PPO with returns-to-go.  Raises InputError where no model says how many steps are left."""
        if not any(term.looks_at_ends for term in start.parts.get("rewards", ())):
            raise problem("process_reward.model", "a model of the steps to go with this method", "none", REMEDY)
        return self.run(start, ReturnsToGo(self.discount))


METHOD = Method(
    name="vla-generalist",
    what="REINFORCE on a VLA without a baseline: a decision is paid by how many steps fewer a model sees left",
    paper="Self-Improving Embodied Foundation Models (Generalist), arXiv 2509.15155 (project page; no code was found)",
    policies=", ".join((*FLOWS, *TOKENS)),
    deviations=(
        "the model has weights of its own on the frozen backbone; there one network says actions and steps",
        "the environment says when it is done, and pays success besides",
        "steps left are counted in demonstrations: a whole one is worth 1; Adam makes the step",
    ),
    presets=(
        Preset(
            name="any",
            source="Generalist: gamma 0.9, no critic, no baseline; ours: the rate, one update a batch",
            settings=GeneralistSettings(
                episodes=EpisodesConfig(group=1),
                ppo=PPOConfig(**GROUP_PPO | {"epochs": 1, "minibatches": 1, "learning_rate": 3e-4}),
            ),
        ),
    ),
)
