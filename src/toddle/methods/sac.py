"""SAC: an off-policy actor-critic that learns from a replay of what its policy did."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from toddle.algorithms.replay_learner import ONLINE
from toddle.algorithms.soft_actor_critic import SACConfig, SoftActorCritic
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import LogStd, Share, Size
from toddle.data.replay import Replay
from toddle.experience.collect import CollectConfig, Collector
from toddle.methods._actors import started_from
from toddle.methods._base import Method, Preset, Run, Start
from toddle.methods._replay import OFFLINE, ReplaySettings, check_env, demonstrated, empty_store, replay_run, stored
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy, squashed_from
from toddle.runs.critics import load_critics

__all__ = ["METHOD", "SACSettings"]


@config
class SACSettings:
    """Soft actor-critic of a policy of states."""

    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the actor's hidden layers."""
    log_std: LogStd = 0.0
    """Logarithm of the actor's standard deviation at the start, before the tanh."""
    demonstrations: tuple[Path, ...] = ()
    """LeRobot datasets of the environment's body with rewards, a part of every batch (see `offline_share`)."""
    demonstrations_pay: Literal["success", "recorded"] = "success"
    """What pays in them: 1 at success, which ends an episode (an environment must do the same: `--reward success
    --terminate-on-success`), or what was recorded."""
    offline_share: Share = 0.5
    """Share of every batch that comes from demonstrations, where there are any."""
    critics: Path | None = None
    """Folder of a run of `toddle offline` whose critics to go on from, as from its policy (`--init`); None: fresh."""
    replay: ReplaySettings = ReplaySettings()
    """What is kept."""
    sac: SACConfig = SACConfig()
    """The algorithm."""

    def build(self, start: Start) -> Run:
        """Build it for one environment of states."""
        policy = self.policy(start)
        online = empty_store(start, policy.state_sizes, self.replay, self.sac, where="sac")
        stores, fractions = {ONLINE: online}, {ONLINE: 1.0}
        if self.demonstrations:
            c, pay = self.sac, self.demonstrations_pay
            paid: dict[str, Any] = {"reward": pay, "scale": c.reward_scale, "shift": c.reward_shift}
            data = demonstrated(self.demonstrations, policy, policy.state_sizes, discount=c.discount, **paid)
            stores[OFFLINE] = stored(data, c.discount, self.replay.kind)
            fractions = {ONLINE: 1.0 - self.offline_share, OFFLINE: self.offline_share}
        return self.learn(start, policy, Replay(stores, fractions))

    def policy(self, start: Start) -> Any:
        """Return the policy, fresh or stored."""
        check_env(start)
        if start.init is None:
            body = start.envs[0].body_spec
            made = SquashedGaussianConfig(body=body, hidden=self.hidden, log_std=self.log_std, seed=start.seed)
            return SquashedGaussianPolicy(made).to(start.device)
        found = started_from(start, ("squashed_gaussian", "gaussian"))
        return squashed_from(found).to(start.device) if found.kind == "gaussian" else found

    def _critics(self, policy: Any) -> tuple[QEnsemble | None, QEnsemble | None]:
        """Return stored critics and their slow copies.  Raises InputError where the settings are not theirs."""
        if self.critics is None:
            return None, None
        found = load_critics(self.critics)
        states, actions = policy.state_sizes
        ours: dict[str, Any] = {"observation": states, "action": actions, "hidden": self.sac.critic_hidden}
        ours |= {"count": self.sac.critics, "layer_norm": self.sac.layer_norm, "discount": self.sac.discount}
        ours |= {"reward_scale": self.sac.reward_scale, "reward_shift": self.sac.reward_shift}
        ours |= {"reward": self.demonstrations_pay} if self.demonstrations else {}
        theirs = found.facts | found.q.shape
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise problem(f"critics: {name}", f"{theirs.get(name)}, with which they were trained", value)
        return found.q, found.slow

    def learn(self, start: Start, policy: Any, replay: Replay) -> Run:
        """Put the learner together."""
        (env,) = start.envs
        collect = CollectConfig(length=1, discount=self.sac.discount, scale_rewards=False)
        collector = Collector(env, collect, seed=start.seed, critic_sees=False)
        critics, slow = self._critics(policy)
        learner = self.learner(policy, collector, replay, self.sac, seed=start.seed, critics=critics, slow=slow)
        return replay_run(start, policy, learner, self.offline_share)

    def learner(self, *rest: Any, **named: Any) -> SoftActorCritic:
        """Return what learns, given what `SoftActorCritic` takes."""
        return SoftActorCritic(*rest, **named)


METHOD = Method(
    name="sac",
    what="soft actor-critic, off-policy",
    paper="Haarnoja et al. 2018, arXiv 1812.05905",
    policies="squashed_gaussian (and gaussian of toddle offline, to go on from)",
    presets=(
        Preset(
            name="tasks",
            source="the paper's: two critics, one update a control step; alpha is learned",
            settings=SACSettings(),
            common={"worlds": 4},
        ),
    ),
    deviations=(
        "learning begins with the actor's own draws, not with uniform ones",
        "states are normalised by running statistics",
        "the actor climbs the mean of the critics (as RLPD's does), not their minimum",
    ),
)
