"""`toddle offline`: reinforcement learning from datasets alone, without a simulator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

from toddle.algorithms.offline import METHODS, OfflineConfig, OfflineLearner
from toddle.core.config import changes, config, to_dict
from toddle.core.errors import problem
from toddle.core.memory import weights_that_fit
from toddle.core.numbers import Count, Finite, LogStd, NonNegative, Positive, Seed, Size
from toddle.core.plan import Plan
from toddle.core.seeding import torch_generator
from toddle.core.types import BodySpec
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.transitions import Transitions, read_transitions
from toddle.policies.conditioned import Asked
from toddle.policies.store import load_policy, save_policy
from toddle.recipes._features import states_seen
from toddle.recipes._offline_policy import fresh_policy
from toddle.runs.critics import FOLDER, save_critics
from toddle.runs.loop import run_loop
from toddle.runs.metrics import last
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

HIDDEN = (256, 256)
EVEN = 0.99
"""Share of a batch that carries the weight above which advantages hardly move what is imitated.  Not much lower: on
push-cube `iql` gained 40 points over imitation at 0.98 (docs/offline.md)."""
FEWEST, MOST = 2_000, 100_000
"""Updates where their number is left to the data."""

OF = {
    "expectile": ("iql",),
    "temperature": ("iql", "awac"),
    "weight_limit": ("iql", "awac"),
    "alpha": ("td3-bc", "co-rft"),
    "target_noise": ("td3-bc", "co-rft"),
    "noise_limit": ("td3-bc", "co-rft"),
    "policy_every": ("td3-bc", "co-rft"),
    "value_share": ("recap", "arfm"),
    "value_bins": ("recap", "arfm"),
    "weights_share": ("arfm",),
    "chunk": ("co-rft", "sarsa"),
    "history": ("dt",),
    "spare_weight": ("q-transformer",),
    "conservative": ("cql", "cal-ql", "co-rft", "conrft"),
    "conrft": ("conrft",),
    "pac": ("pac",),
    "conditioned": ("recap", "reinbot", "dt"),
}
"""Which methods a setting of the algorithm has an effect with."""


@config
class Config:
    """Learn a policy of states from datasets with rewards, by RL and without a simulator.

    Example: toddle offline --dataset runs/play --method iql --out runs/offline
    `--method` is iql, cql, cal-ql, td3-bc, co-rft, awac, dt, q-transformer, conrft, pac, recap,
    reinbot, arfm, sarsa (values of the policy that made the data), or bc (imitation, to compare).
    Writes <out>/policy, which `toddle evaluate` plays and `toddle pretrain --init` goes on from, and <out>/critics.
    """

    may_change: ClassVar[tuple[str, ...]] = ()

    dataset: tuple[Path, ...]
    """LeRobot datasets (v3.0) of one body, as `toddle record --keep-failures` writes them."""
    out: Path = Path("runs/offline")
    """The run's folder; the policy is in its `policy/`."""
    method: Literal[
        "iql",
        "cql",
        "cal-ql",
        "td3-bc",
        "co-rft",
        "awac",
        "dt",
        "conrft",
        "pac",
        "q-transformer",
        "recap",
        "reinbot",
        "arfm",
        "sarsa",
        "bc",
    ] = "iql"
    """How the policy is learned."""
    policy: Path | None = None
    """Folder of a policy of states to go on from; None: a fresh one."""
    features: Path | None = None
    """Folder of a VLA: critics see the state and the mean of its frozen backbone's tokens, and can steer it afterwards
    (`toddle evaluate --steer`); the policy learned beside them is of no use."""
    cache: Path = Path("runs/cache")
    """Where features of pictures are kept."""
    updates: Count | None = None
    """Updates in all; None: one for each transition, from 2,000 to 100,000 (with 256 in a batch 256 passes over the
    data, as the usual million on a million transitions; more made policies of small datasets worse)."""
    reward: Literal["success", "recorded"] = "success"
    """What pays: 1 at success (`next.success`), or the recorded rewards (`next.reward`)."""
    reward_scale: Positive = 1.0
    """Rewards are multiplied by this."""
    reward_shift: Finite = 0.0
    """Then this is added to each (-1 with success: every step before it costs)."""
    permute_rewards: bool = False
    """The control that should fail: every transition is paid, and ends, as another one."""
    hidden: tuple[Size, ...] = HIDDEN
    """Widths of a fresh policy's hidden layers; arfm and conrft are as wide as the first, dt has a block a width."""
    log_std: LogStd = 0.0
    """Logarithm of a fresh policy's standard deviation at the start (td3-bc leaves it: -2.3 explores as TD3 does)."""
    bins: Size = 256
    """q-transformer, pac: bins of each of a fresh policy's numbers."""
    asks: Asked | None = None
    """recap, reinbot: what the policy asks for when it acts; None: recap what is good, reinbot the best return."""
    guidance: NonNegative = 1.0
    """recap, reinbot: by how much what is asked for is exaggerated; 1: not at all."""
    offline: OfflineConfig = OfflineConfig()
    """The algorithm."""
    checkpoint_every: Count = 100
    """Steps (of `offline.updates_a_step` updates) between two checkpoints."""
    seed: Seed = 0
    """Seed of fresh weights, of batches and of noise."""

    def __post_init__(self) -> None:
        if not self.dataset:
            raise problem("dataset", "at least one dataset", "none")
        for name, _, given in changes(to_dict(OfflineConfig()), to_dict(self.offline)):
            methods = OF.get(name.partition(".")[0], (self.method,))
            if self.method not in methods:
                raise problem(f"offline.{name}", f"nothing without --method {' or '.join(methods)}", given)
        if self.method not in ("recap", "reinbot") and (self.asks, self.guidance) != (None, 1.0):
            raise problem("asks, guidance", "nothing without --method recap or reinbot", f"--method {self.method}")
        fresh = (self.hidden, self.log_std, self.bins, self.asks, self.guidance)
        if self.policy is not None and fresh != (HIDDEN, 0.0, 256, None, 1.0):
            found, remedy = "settings of a fresh policy", "leave them out"
            raise problem("hidden, log_std, bins, asks, guidance", "nothing with --policy", found, remedy)


def _read(config: Config) -> tuple[Transitions, BodySpec]:
    """Return all transitions, and the body that made them."""
    datasets = [LeRobotDataset(path) for path in config.dataset]
    first, bodies = datasets[0], {dataset.robot_type for dataset in datasets}
    if len(bodies) > 1:
        raise problem("dataset", "datasets of one body", ", ".join(sorted(map(str, bodies))))
    chunk = config.offline.chunk if METHODS[config.method].chunked else 1
    paid: dict[str, Any] = {
        "chunk": chunk,
        "scale": config.reward_scale,
        "shift": config.reward_shift,
        "discount": config.offline.discount,
    }
    vla = None if config.features is None else load_policy(config.features)
    parts = []
    for dataset in datasets:
        state = None if vla is None else states_seen(config.cache, vla, dataset)
        parts.append(read_transitions(dataset, reward=config.reward, state=state, **paid))
    if chunk > (longest := max(one.stop - one.start for dataset in datasets for one in dataset.episodes)):
        raise problem("offline.chunk", f"at most {longest}, the rows of the longest episode", chunk)
    data = Transitions.joined(parts)
    if config.reward == "success" and not bool(data.terminal.any()):
        raise problem("dataset", "a success among its episodes", "none", "without one there is nothing to learn from")
    if config.method != "bc" and not bool(data.terminal.any()) and bool((data.reward == data.reward[0]).all()):
        raise problem("dataset", "rewards that differ, or an end (next.terminated)", "neither", "nothing is better")
    if config.permute_rewards:
        data = data.permuted(torch_generator(config.seed, "permuted rewards"))
    sizes = data.observation.shape[1], data.action.shape[1] // chunk
    return data, BodySpec(name=first.robot_type or "robot", proprio=sizes[0], action=sizes[1], dt=1.0 / first.fps)


def _policy(config: Config, data: Transitions, body: BodySpec) -> Any:
    """Load the policy, or build one that is normalised as the data are."""
    kind = METHODS[config.method].policy_kind
    horizon = config.offline.chunk if METHODS[config.method].chunked else 1
    if config.policy is not None:
        found = load_policy(config.policy)
        if found.kind != kind:
            raise problem("policy", f"a policy of states of the kind {kind} for --method {config.method}", found.kind)
        if found.horizon != horizon:
            several = f"decisions of {horizon} actions (--offline.chunk)"
            wanted = several if METHODS[config.method].chunked else "decisions of single actions"
            raise problem("policy", f"{wanted} with --method {config.method}", found.horizon)
        mine = found.bodies[0]
        if (mine.proprio, mine.action) != (body.proprio, body.action):
            wanted = f"a policy of {body.proprio} numbers and actions of {body.action}, as the data have"
            raise problem("policy", wanted, f"{mine.proprio} and {mine.action}")
        return found
    made = fresh_policy(kind, config, body, horizon)
    made.fit_normaliser({"proprio": data.observation})
    return made


def _learner(config: Config) -> OfflineLearner:
    data, body = _read(config)
    with weights_that_fit():
        policy = _policy(config, data, body)
        updates = config.updates or min(max(len(data), FEWEST), MOST)
        updates = -(-updates // config.offline.updates_a_step) * config.offline.updates_a_step
        return METHODS[config.method](policy, data, config.offline, updates=updates, seed=config.seed)


def plan(config: Config) -> Plan:
    """Read the data, build the networks, and say what will be done."""
    learner = _learner(config)
    data, weights = learner.data, sum(p.numel() for n in learner.networks.values() for p in n.parameters())
    width, samples = data.observation.shape[1], 0
    if config.method in OF["conservative"]:  # of actions at random, of the policy's here and of those that follow
        critics = sum(p.numel() for p in learner.networks["q"].parameters())
        samples = 3 * config.offline.conservative.samples * critics
    return Plan(
        steps=[
            f"read {len(data):,} transitions of {width} numbers from {', '.join(map(str, config.dataset))}: "
            f"{int(data.terminal.sum()):,} end an episode, rewards from {data.reward.min():g} to {data.reward.max():g}"
            + (", permuted" if config.permute_rewards else ""),
            f"make {learner.total:,} updates of {config.offline.batch} transitions by {config.method}, "
            f"with {weights:,} weights",
            f"write {config.out / 'policy'}" + ("" if learner.twin is None else f" and {config.out / FOLDER}"),
        ],
        memory_bytes=5 * 10**8 + 24 * weights + 8 * len(data) * (2 * width + data.action.shape[1] + 2),
        seconds=learner.total * (2e-3 + 4e-11 * (weights + samples) * config.offline.batch),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Learn and save."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        learner = _learner(config)
        run_loop(
            learner,
            folder,
            learner.total // config.offline.updates_a_step,
            checkpoint_every=config.checkpoint_every,
            label="offline",
            show=("offline/policy_loss", "offline/value"),
        )
        facts = {"method": config.method, "updates": learner.updates}
        _save_critics(config, learner, facts)
        datasets = [str(path.resolve()) for path in config.dataset]
        save_policy(config.out / "policy", learner.policy, facts | {"datasets": datasets})
    used = last(config.out, "offline/weights_used", default=0.0)
    if config.method in OF["temperature"] and used > EVEN:
        print(
            f"advantages hardly weigh (offline/weights_used {used:.3f}): this is close to imitating all of the data; "
            "try another --offline.temperature, mostly a lower one",
            file=sys.stderr,
        )
    print(f"policy: {config.out / 'policy'}; play it: toddle evaluate --policy {config.out} --env ...")


def _save_critics(config: Config, learner: OfflineLearner, facts: dict[str, Any]) -> None:
    """Write what an online run goes on from; imitation has no critics."""
    if learner.twin is None:
        return
    state = learner.state_dict()
    others = {name: network for name, network in state["networks"].items() if name not in ("policy", "q", "slow")}
    facts = facts | {"discount": config.offline.discount, "reward": config.reward}
    facts |= {"chunk": learner.policy.horizon, "reward_scale": config.reward_scale, "reward_shift": config.reward_shift}
    save_critics(config.out / FOLDER, *learner.twin, others=others, optimisers=state["optimisers"], facts=facts)
