"""PPO of a policy of states: paradigm 1's pretraining of an action expert, or any task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.experience.collect import CollectConfig
from toddle.methods._actors import (
    CausalSettings,
    MlpSettings,
    PolicyKind,
    TokenSettings,
    has_goals,
    make_policy,
    ppo_run,
    started_from,
)
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._imitation import ImitationConfig, warm_start
from toddle.models.trunk import TrunkConfig

__all__ = ["GOALS", "METHOD", "ROLLOUT", "TASKS", "PPOSettings"]

GOALS = PPOConfig(epochs=4, minibatches=2, learning_rate=5e-4, critic_learning_rate=2e-3, lam=0.8, target_kl=0.1)
"""PPO for goal tracking, measured on goal/sawyer: docs/results/gctr."""
TASKS = PPOConfig(epochs=4, minibatches=2, learning_rate=5e-4, critic_learning_rate=2e-3, lam=0.95, target_kl=0.1)
"""The same with the horizon of a task."""
ROLLOUT = CollectConfig(length=16, discount=0.99)


@config
class PPOSettings:
    """PPO of a policy of states."""

    policy: PolicyKind = "auto"
    """Kind of policy: a causal transformer, which can become the action expert of a VLA; an MLP with a Gaussian; or
    categorical tokens.  auto: tokens where actions are discrete, else mlp."""
    causal: CausalSettings = CausalSettings()
    """Settings of the causal transformer."""
    mlp: MlpSettings = MlpSettings()
    """Settings of the multilayer perceptron."""
    tokens: TokenSettings = TokenSettings()
    """Settings of the token policy."""
    critic_hidden: tuple[Size, ...] = (256, 256)
    """Widths of the critic's hidden layers."""
    goal_width: Size = 64
    """Width of the pooled goal in the critic and the multilayer perceptron."""
    warm_start: Path | None = None
    """Dataset to imitate before RL (policy mlp); None starts from random weights."""
    imitation: ImitationConfig = ImitationConfig()
    """How it is imitated."""
    collect: CollectConfig = ROLLOUT
    """How experience is gathered."""
    ppo: PPOConfig = TASKS
    """The algorithm."""

    def build(self, start: Start) -> Run:
        """Build PPO around the policy, which is fresh, imitated or stored."""
        if start.init is not None:
            if self.warm_start is not None:
                raise problem("warm_start", "nothing with --init", str(self.warm_start), "it has learned already")
            policy = started_from(start, ("gaussian", "causal", "tokens"))
        else:
            policy = make_policy(
                self.policy,
                start,
                causal=self.causal,
                mlp=self.mlp,
                tokens=self.tokens,
                goal_width=self.goal_width,
                imitates=self.warm_start is not None,
            )
            policy.to(start.device)
            if self.warm_start is not None:
                goals = has_goals(start.envs)
                warm_start(policy, self.warm_start, self.imitation, start, goals=goals)  # type: ignore[arg-type]
        return ppo_run(
            start, policy, self.ppo, self.collect, critic_hidden=self.critic_hidden, goal_width=self.goal_width
        )


METHOD = Method(
    name="ppo",
    what="proximal policy optimisation of a policy of states",
    paper="Schulman et al. 2017, arXiv 1707.06347",
    policies="causal, gaussian, tokens",
    shared=True,
    presets=(
        Preset(
            name="goals",
            source="ours, measured on goal/sawyer: docs/results/gctr",
            settings=PPOSettings(policy="causal", ppo=GOALS, collect=CollectConfig(length=16, discount=0.95)),
            families=("goal", "touch"),
        ),
        Preset(
            name="walk",
            source="ours, measured on walk/ant: docs/walking.md",
            settings=PPOSettings(
                policy="causal",
                causal=CausalSettings(
                    trunk=TrunkConfig(width=64, depth=2, heads=4, context_width=64),
                    horizon=4,
                    executed=4,
                    log_std=-0.3,
                ),
                collect=CollectConfig(length=16, discount=0.97),
                ppo=replace(GOALS, minibatches=4, learning_rate=1e-3, lam=0.9, schedule="adaptive", target_kl=0.02),
            ),
            families=("walk", "spoken", "goal"),
            common={"worlds": 256},
        ),
        Preset(
            name="started",
            source="as DPPO's fine-tuning (arXiv 2409.00588): small steps, the critic first; clip ours",
            settings=PPOSettings(
                policy="mlp",
                ppo=PPOConfig(
                    epochs=5,
                    minibatches=8,
                    learning_rate=1e-4,
                    critic_learning_rate=1e-3,
                    critic_warm_up=2,
                    schedule="constant",
                ),
            ),
            started=True,
        ),
        Preset(
            name="table",
            source="ours, measured on tabletop/pick-cube: docs/tabletop.md",
            settings=PPOSettings(
                mlp=MlpSettings(log_std=-1.0),
                collect=CollectConfig(length=16, discount=0.9),
                ppo=replace(TASKS, epochs=5, learning_rate=1e-3, lam=0.9),
            ),
            families=("tabletop",),
        ),
        Preset(
            name="tasks",
            source="ours: as goals with gamma 0.99 and lambda 0.95, which tasks of a thousand steps need",
            settings=PPOSettings(),
        ),
    ),
)
