"""SAC: an off-policy actor-critic that learns from a replay of what its policy did."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig, SoftActorCritic
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.memory import size_text
from toddle.core.numbers import Count, LogStd, Share, Size
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.replay import Replay, Store, decisions_from
from toddle.data.transitions import Transitions, read_transitions
from toddle.experience.collect import CollectConfig, Collector
from toddle.methods._actors import check_continuous, has_goals, started_from
from toddle.methods._base import Method, Preset, Run, Start
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy, squashed_from
from toddle.runs.critics import load_critics
from toddle.runs.run import KEPT

__all__ = ["METHOD", "OFFLINE", "ReplaySettings", "SACSettings"]

OFFLINE = "offline"
"""The store of demonstrations."""


@config
class ReplaySettings:
    """What is kept of what the policy did."""

    capacity: Count = 1_000_000
    """Decisions; then the oldest go."""
    kind: Literal["float32", "float16"] = "float32"
    """Type of the states and actions that are kept (rewards are float32)."""
    keep: Literal["memory", "file"] = "memory"
    """Where: in memory, or in files of the run's folder that are mapped into memory."""


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
        stores, fractions = {ONLINE: self.store(start, policy)}, {ONLINE: 1.0}
        if self.demonstrations:
            stores[OFFLINE] = self.demonstrated(policy)
            fractions = {ONLINE: 1.0 - self.offline_share, OFFLINE: self.offline_share}
        return self.learn(start, policy, Replay(stores, fractions))

    def policy(self, start: Start) -> Any:
        """Return the policy, fresh or stored."""
        check_continuous(start.envs, "off-policy learning")
        if len(start.envs) != 1 or has_goals(start.envs):
            names = ", ".join(env.name for env in start.envs)
            raise problem("env", "one environment without goal items, with off-policy learning", names)
        if start.init is None:
            body = start.envs[0].body_spec
            made = SquashedGaussianConfig(body=body, hidden=self.hidden, log_std=self.log_std, seed=start.seed)
            return SquashedGaussianPolicy(made).to(start.device)
        found = started_from(start, ("squashed_gaussian", "gaussian"))
        return squashed_from(found).to(start.device) if found.kind == "gaussian" else found

    def store(self, start: Start, policy: Any) -> Store:
        """Return the empty store of what the policy will do."""
        file: Path | Literal["temporary"] | None = None
        if self.replay.keep == "file":
            file = "temporary" if start.folder is None else start.folder / "replay" / ONLINE
        if self.sac.learn_after > self.replay.capacity:
            wanted = f"at most the {self.replay.capacity:,} decisions of the replay"
            raise problem("sac.learn_after", wanted, self.sac.learn_after)
        between = start.envs[0].num_envs * self.sac.rounds * start.checkpoint_every
        capacity, slack = self.replay.capacity, (KEPT + 1) * between
        return Store(capacity, *policy.state_sizes, kind=self.replay.kind, file=file, slack=slack)

    def demonstrated(self, policy: Any) -> Store:
        """Return a store of all transitions of the datasets.  Raises InputError where they are of another body."""
        parts = [
            read_transitions(
                LeRobotDataset(path),
                reward=self.demonstrations_pay,
                scale=self.sac.reward_scale,
                shift=self.sac.reward_shift,
            )
            for path in self.demonstrations
        ]
        data = Transitions.joined(parts)
        sizes = data.observation.shape[1], data.action.shape[1]
        if policy.horizon != 1 or sizes != policy.state_sizes:
            wanted = "{} numbers of state and {} of action".format(*policy.state_sizes)
            raise problem("demonstrations", wanted, "{} and {}".format(*sizes))
        store = Store(len(data), *sizes, kind=self.replay.kind)
        store.add(decisions_from(data, self.sac.discount))
        return store

    def stored(self, policy: Any) -> tuple[QEnsemble | None, QEnsemble | None]:
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
        critics, slow = self.stored(policy)
        learner = SoftActorCritic(policy, collector, replay, self.sac, seed=start.seed, critics=critics, slow=slow)
        iterations = max(1, round(start.steps / (self.sac.rounds * collector.decisions * policy.horizon)))
        store = replay.stores[ONLINE]
        where = "in memory" if store.file is None else f"in files of {store.rows:,} rows"
        note = f"keep the last {store.capacity:,} decisions, {size_text(store.size)} {where}"
        if OFFLINE in replay.stores:
            offline = replay.stores[OFFLINE]
            note += f"; {self.offline_share:.0%} of each batch from {len(offline):,} demonstrated ones"
        return Run(
            learner=learner,
            policy=policy,
            iterations=iterations,
            sources=[learner],
            show=("episode/success", "episode/return"),
            notes=(note,),
            rehearse=learner.learn_at_once,
        )


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
