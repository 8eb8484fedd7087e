"""What the methods of `toddle pretrain` share that go on from a run of `toddle offline`, critics and all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from toddle.algorithms.continued import Continued, OnlineConfig
from toddle.algorithms.offline import OfflineConfig, OfflineLearner
from toddle.algorithms.replay_learner import ONLINE
from toddle.core.config import config
from toddle.core.device import CPU
from toddle.core.errors import problem
from toddle.core.numbers import Share
from toddle.data.replay import Replay
from toddle.experience.collect import CollectConfig, Collector
from toddle.methods._actors import started_from
from toddle.methods._base import Run, Start
from toddle.methods._replay import (
    OFFLINE,
    ReplaySettings,
    check_env,
    demonstrated,
    empty_store,
    replay_run,
    stored,
)
from toddle.runs.critics import FOLDER, StoredCritics, load_critics

__all__ = ["ContinuedSettings"]


@config
class ContinuedSettings:
    """Go on online with a policy, critics and optimisers of `toddle offline`."""

    demonstrations: tuple[Path, ...] = ()
    """The LeRobot datasets it has learned from, a part of every batch (see `offline_share`)."""
    offline_share: Share = 0.5
    """Share of every batch that comes from them."""
    critics: Path | None = None
    """Folder of the run of `toddle offline`; None: that of `--init`."""
    replay: ReplaySettings = ReplaySettings()
    """What is kept."""
    online: OnlineConfig = OnlineConfig()
    """How much is learned from what is done."""
    offline: OfflineConfig = OfflineConfig()
    """The algorithm; `discount` and `hidden` are those of the run that it goes on from."""

    def known_runs(self) -> dict[str, type[OfflineLearner]]:
        """Return which runs of `toddle offline` it goes on from, by method, and how."""
        raise NotImplementedError

    def build(self, start: Start) -> Run:
        """Build it for one environment of states."""
        check_env(start)
        if start.device != CPU:
            raise problem("device", "cpu, with a method that goes on from toddle offline", str(start.device))
        if start.init is None:
            raise problem("init", "a run of toddle offline, with a method that goes on from one", "none")
        known = self.known_runs()
        policy = started_from(start, tuple({kind.policy_kind for kind in known.values()}))
        if not self.demonstrations:
            raise problem("demonstrations", "the datasets of the run that it goes on from", "none")
        found = self._stored(start)
        facts = found.facts
        if facts["method"] not in known or facts.get("chunk", 1) != 1:
            raise problem("critics", f"of toddle offline --method {' or '.join(known)}", f"of {facts['method']}")
        kind = known[facts["method"]]
        body = start.envs[0].body_spec
        paid = {"scale": float(facts["reward_scale"]), "shift": float(facts["reward_shift"])}
        shape: dict[str, Any] = found.q.shape
        algorithm = replace(self.offline, discount=float(facts["discount"]), hidden=tuple(shape["hidden"]))
        sizes, discount = (body.proprio, body.action), algorithm.discount
        data = demonstrated(self.demonstrations, policy, sizes, reward=facts["reward"], discount=discount, **paid)
        offline = kind(policy, data, algorithm, updates=1, seed=start.seed)
        self._go_on(offline, found)
        online = empty_store(start, sizes, self.replay, self.online, where="online", returns=True)
        stores = {ONLINE: online, OFFLINE: stored(data, discount, self.replay.kind, returns=True)}
        replay = Replay(stores, {ONLINE: 1.0 - self.offline_share, OFFLINE: self.offline_share})
        collect = CollectConfig(length=1, discount=discount, scale_rewards=False)
        collector = Collector(start.envs[0], collect, seed=start.seed, critic_sees=False)
        options: dict[str, Any] = {"reward_scale": paid["scale"], "reward_shift": paid["shift"]}
        learner = Continued(offline, collector, replay, self.online, seed=start.seed, **options)
        return replay_run(start, policy, learner, self.offline_share)

    def _stored(self, start: Start) -> StoredCritics:
        """Return what the run of `toddle offline` left."""
        if self.critics is not None:
            return load_critics(self.critics)
        if start.origin is None:
            raise problem("critics", "the folder of a run of toddle offline", "none")
        whole = (start.origin / FOLDER).is_dir()  # else it is the `policy/` of a run
        return load_critics(start.origin if whole else start.origin.parent)

    @staticmethod
    def _go_on(offline: OfflineLearner, found: StoredCritics) -> None:
        """Put the run's networks and moments into the learner.  Raises InputError where they are others."""
        states = {"q": dict(found.q.state_dict()), "slow": dict(found.slow.state_dict())} | found.others
        wanted = offline.networks.keys() - {"policy"}
        if states.keys() != wanted:
            names = ", ".join(sorted(wanted ^ states.keys()))
            raise problem("critics", "networks of the same settings (offline.conservative.gap)", f"not alike: {names}")
        try:
            for name, state in states.items():
                offline.networks[name].load_state_dict(state)
            for name, optimiser in offline.optimisers.items():
                optimiser.load_state_dict(found.optimisers[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise problem("critics", "of this policy and environment", " ".join(str(error).split())[:200]) from None
