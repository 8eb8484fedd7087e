"""PA-RL: a critic improves what a VLA draws, and the VLA imitates it (Mark et al. 2024, arXiv 2412.06685)."""

from __future__ import annotations

from dataclasses import replace

import torch

from toddle.algorithms.action_optimisation import ActionOptimisation, OptimiseConfig
from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig
from toddle.algorithms.steering import SteeringConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.memory import size_text
from toddle.data.replay import Replay, Store
from toddle.experience.actor import body_in
from toddle.experience.collect import CollectConfig, Collector
from toddle.methods._actors import label_of
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._steered import SMALL, KeptSettings, check_alone
from toddle.methods._vla import DIFFUSIONS, FLOWS, TOKENS
from toddle.policies.optimised import OptimisedPolicy

__all__ = ["METHOD", "PARLSettings"]

KINDS = (*FLOWS, *TOKENS, *DIFFUSIONS)


@config
class PARLSettings:
    """Optimise the VLA's actions by off-policy critics, and imitate them."""

    optimise: OptimiseConfig = OptimiseConfig()
    """How chunks are improved and imitated."""
    steering: SteeringConfig = SteeringConfig()
    """How the improved chunks take over from the VLA's own, and what is paid."""
    replay: KeptSettings = KeptSettings()
    """What is kept."""
    sac: SACConfig = SACConfig()
    """The critics; what it says of an actor, of entropy and of a temperature has no effect."""

    def build(self, start: Start) -> Run:
        """Build the learner around the VLA of `start.init`, which learns."""
        check_alone(start)
        (env,), vla = start.envs, start.init.to(start.device)
        space = env.single_action_space
        low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (space.low, space.high))
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise problem("env", "actions within bounds, which the critics climb in", "none")
        policy = OptimisedPolicy(vla, self.optimise.draws, low, high).to(start.device)
        store = Store(self.replay.capacity, *policy.state_sizes, kind=self.replay.kind)
        collect = CollectConfig(length=1, discount=self.sac.discount, scale_rewards=False)
        collector = Collector(env, collect, seed=start.seed, body=body_in(vla, env), label=label_of(env.name))
        learner = ActionOptimisation(
            policy,
            collector,
            Replay({ONLINE: store}, {ONLINE: 1.0}),
            self.sac,
            self.steering,
            self.optimise,
            seed=start.seed,
        )
        o = self.optimise
        return Run(
            learner=learner,
            policy=vla,
            iterations=max(1, round(start.steps / (self.sac.rounds * collector.decisions * policy.horizon))),
            sources=[learner],
            show=("episode/success", "sac/value"),
            merged=vla.merged,
            notes=(
                f"of {o.draws} chunks the best {o.keep} climb the critics in {o.steps} steps; the {vla.kind} imitates",
                f"keep the last {self.replay.capacity:,} decisions, {size_text(store.size)} when full",
            ),
            rehearse=learner.learn_at_once,
        )


METHOD = Method(
    name="vla-pa-rl",
    what="a critic improves actions that a VLA draws, and the VLA imitates them",
    paper="PA-RL, Mark et al. 2024, arXiv 2412.06685",
    policies=", ".join(KINDS),
    presets=(
        Preset(
            name="small",
            kinds=KINDS,
            source="PA-RL: draws, the best, steps up the gradient, softmax; ours: all numbers, chosen, not tuned",
            settings=PARLSettings(
                sac=replace(SMALL, temperature=1.0),
            ),
        ),
    ),
    deviations=(
        "8 draws, of which 4 climb in 5 steps, in place of 32, 10 and 10",
        "a step's gradient is divided by its largest number, so its length does not depend on the values' scale",
        "critics by one-step targets of online data alone, not Cal-QL's of demonstrations first",
        "the target's draws are those that were made there when it was met, and are not made anew",
    ),
)
