"""What the methods of `toddle finetune` share: how a VLA explores, its critic, its collectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from gymnasium import spaces

from toddle.algorithms.estimators import GAE, ActionGAE, GroupAdvantages
from toddle.algorithms.parts import Engine, Estimator
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.algorithms.ppo_memory import forecast
from toddle.algorithms.reference import ReferenceKL, ReferenceSettings
from toddle.algorithms.safety import CostConstraint
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.core.protocols import Acting, Critic, Explorable, Scorable
from toddle.core.seeding import derived_seed
from toddle.core.types import BodySpec
from toddle.envs.base import BatchedEnv
from toddle.experience.actor import body_in
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.episodes import EpisodesConfig, GroupCollector
from toddle.methods._actors import label_of
from toddle.methods._base import Run, Start
from toddle.models.lora import held_apart
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.homogeneous_critic import HomogeneousCritic
from toddle.policies.vla_critic import VLACritic, VLACriticConfig

__all__ = ["DIFFUSIONS", "FLOWS", "GROUP_PPO", "SHOWN", "TOKENS", "VLAGroupSettings", "VLAPPOSettings"]

FLOWS = ("flow_vla", "pi0", "pi05", "smolvla")
"""Kinds of VLAs that act by a flow."""
TOKENS = ("token_vla", "fast_vla", "language_vla", "fast_language_vla")
"""Kinds of VLAs that say tokens."""
DIFFUSIONS = ("diffusion_vla",)
"""Kinds of VLAs that denoise their chunk by Gaussian steps."""
BY_ACTION = ("token_vla", "language_vla")
"""Of these, kinds whose tokens are of single actions."""
LEARNS: dict[str, Literal["head", "lora", "all"]] = {
    "homogeneous": "head",
    "homogeneous-lora": "lora",
    "homogeneous-all": "all",
}
"""Critics that copy the VLA, and what of the copy learns."""
SHOWN = ("episode/success", "ppo/kl")
GROUP_PPO: dict[str, Any] = {
    "epochs": 2,
    "minibatches": 4,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "target_kl": None,
    "normalise_advantages": False,
}
"""Fields of PPO for groups of whole episodes."""


def numbers_of(env: BatchedEnv, key: str) -> int:
    """Return how many numbers an environment's observation has under a key; 0 where it has none."""
    space = env.single_observation_space
    shape = space[key].shape if isinstance(space, spaces.Dict) and key in space else None
    return shape[0] if shape else 0


class MergedLora(Engine):
    """The policy itself acts, with its VLA's LoRA folded into the backbone's weights once an iteration."""

    def __init__(self, vla: Explorable) -> None:
        self.vla = vla

    @contextmanager
    def acting(self, policy: Scorable) -> Iterator[Acting]:
        """Yield the policy, merged until this ends."""
        with self.vla.merged():
            yield policy

    def elsewhere(self) -> Engine:
        """Return what yields the policy as it is."""
        return Engine()


def with_reference(
    start: Start, settings: ReferenceSettings, vla: Explorable, explorer: Scorable, sampler: SamplerConfig
) -> dict[str, Any]:
    """Return the parts that PPO is given besides: the run's own, and the KL to a reference where it has a weight."""
    parts = dict(start.parts)
    if settings.weight:
        copy = vla.frozen_copy().explorer(sampler).requires_grad_(False).to(start.device)
        parts["auxiliaries"] = [*parts.get("auxiliaries", ()), ReferenceKL(copy, explorer, settings)]
    return parts


def run_of(
    start: Start,
    vla: Explorable,
    explorer: Scorable,
    critic: Critic | None,
    sources: Sequence[Any],
    settings: VLAPPOSettings | VLAGroupSettings,
    *,
    iterations: int,
    estimator: Estimator,
    safety: CostConstraint | None = None,
) -> Run:
    """Put PPO together around an explorer of a VLA; return a run of `toddle finetune`."""
    given: dict[str, Any] = {"iterations": iterations, "seed": start.seed, "estimator": estimator, "cut_chunks": True}
    given |= with_reference(start, settings.reference, vla, explorer, settings.sampler)
    if start.sharded:
        from toddle.algorithms.sharded_ppo import ShardedPPO, WholeCopy  # torch's FSDP takes long to import

        if settings.reference.refresh:
            raise problem("reference.refresh", "0 with sharding full", settings.reference.refresh)
        kept: Explorable = vla.frozen_copy(lora=bool(held_apart(vla)))  # as the policy it keeps pictures then
        acting: Scorable = kept.explorer(settings.sampler).to(start.device).train()
        engine = WholeCopy(acting, kept.merged)
        learner: PPO = ShardedPPO(explorer, critic, sources, settings.ppo, engine=engine, **given)
        vla, explorer = kept, acting
    else:
        learner = PPO(explorer, critic, sources, settings.ppo, engine=MergedLora(vla), safety=safety, **given)
    return Run(
        learner=learner,
        policy=vla,
        iterations=iterations,
        sources=sources,
        show=SHOWN,
        acting=explorer,
        whole=explorer.load_state_dict,
        merged=vla.merged,
        rewards=learner.rewards,
        forecast=partial(forecast, learner),
    )


@config
class VLAPPOSettings:
    """PPO on a VLA, with a critic."""

    sampler: SamplerConfig = SamplerConfig()
    """How the VLA explores."""
    critic: Literal["auto", "privileged", "context", "state", "homogeneous", "homogeneous-lora", "homogeneous-all"] = (
        "auto"
    )
    """What the critic sees: the simulator's state, which the policy does not; the frozen backbone's context and
    proprioception; proprioception alone; or what a frozen copy of the VLA makes of its prompt (homogeneous, VLA-RL),
    a copy with a LoRA of its own that learns (homogeneous-lora, where the VLA has LoRA), or one that learns whatever
    the VLA learns (homogeneous-all, FLaRe; a frozen backbone stays frozen in both).
    auto: the simulator's state where every environment gives it, else the context where the backbone is frozen."""
    value_per: Literal["chunk", "action"] = "chunk"
    """What has a value, a reward and an advantage of its own: a decision, or every action of its chunk (RLinf-VLA),
    with VLAs whose tokens are of single actions."""
    critic_hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers of a critic of context or state."""
    collect: CollectConfig = CollectConfig()
    """How experience is gathered."""
    ppo: PPOConfig = PPOConfig()
    """The algorithm."""
    reference: ReferenceSettings = ReferenceSettings()
    """A penalty on leaving what the policy was at the start."""

    def build(self, start: Start) -> Run:
        """Build PPO around the VLA of `start.init`."""
        vla = start.init.to(start.device)
        explorer = vla.explorer(self.sampler).to(start.device)
        values = explorer.horizon if self.value_per == "action" else 1
        estimator = self._estimator(vla.kind, start)
        critic = self._critic(vla, explorer.bodies, start, values).to(start.device)
        collectors = [
            Collector(
                env,
                self.collect,
                seed=start.seed + 1000 * index,
                body=body_in(explorer, env),
                label=label_of(env.name),
                critic_sees=critic.sees or any(term.looks_at_ends for term in start.parts.get("rewards", ())),
                tasks=start.tasks,
                values=values,
            )
            for index, env in enumerate(start.envs)
        ]
        worlds = min(env.num_envs for env in start.envs)
        if explorer.sequential and self.ppo.minibatches > worlds:
            raise problem("ppo.minibatches", f"at most {worlds} (worlds): the VLA has a history", self.ppo.minibatches)
        steps = explorer.horizon * sum(collector.decisions for collector in collectors)
        iterations = max(1, round(start.steps / steps))
        safety = None
        if start.safety is not None:
            costs = self._critic(vla, explorer.bodies, replace(start, seed=derived_seed(start.seed, "costs")), values)
            safety = start.safety.part(costs.to(start.device), self.ppo, start.seed)
        given: Any = {"iterations": iterations, "estimator": estimator, "safety": safety}
        made = run_of(start, vla, explorer, critic, collectors, self, **given)
        return replace(made, safe=start.safety is not None)

    def _estimator(self, kind: str, start: Start) -> Estimator:
        """Return where advantages come from.  Raises InputError where actions cannot have their own."""
        if self.value_per == "chunk":
            return GAE(self.ppo.lam)
        if kind not in BY_ACTION:
            raise problem("value_per", f"chunk, or a policy of kind {' or '.join(BY_ACTION)}", self.value_per)
        if self.sampler.ratio_per == "chunk" or self.ppo.ratio != "per_link":
            had = f"{self.sampler.ratio_per} with {self.ppo.ratio}"
            raise problem("sampler.ratio_per", "action or token, with ppo.ratio per_link and value_per action", had)
        if self.ppo.aggregate != "link":
            raise problem("ppo.aggregate", "link with value_per action", self.ppo.aggregate)
        if start.parts.get("rewards"):
            raise problem("value_per", "chunk: a process reward is of a decision", self.value_per)
        return ActionGAE(self.ppo.lam, self.collect.discount)

    def _critic(
        self, vla: Explorable, bodies: tuple[BodySpec, ...], start: Start, values: int
    ) -> VLACritic | HomogeneousCritic:
        width, seed = vla.context_width, start.seed
        known = {numbers_of(env, "critic") for env in start.envs}
        if self.critic == "privileged" and (0 in known or len(known) > 1):
            raise problem("critic", "environments that give a critic equally many numbers of their state", self.critic)
        if self.critic in ("auto", "privileged") and 0 not in known and len(known) == 1:
            hidden = self.critic_hidden
            state = VLACriticConfig(proprio=known.pop(), key="critic", hidden=hidden, values=values, seed=seed)
            return VLACritic(state)
        if self.critic in LEARNS:
            if self.critic == "homogeneous-lora" and width:
                raise problem("critic", "homogeneous, or a VLA with LoRA on its backbone", self.critic)
            return HomogeneousCritic(vla, seed=seed, learns=LEARNS[self.critic], values=values)
        if self.collect.keep == "pictures":
            width = 0
        if self.critic == "context" and not width:
            raise problem("critic", "state, or a frozen backbone whose features are kept", "context")
        proprio = {body.proprio for body in bodies}
        if len(proprio) > 1:
            raise problem("policy", "a VLA of one body, for the critic", ", ".join(b.name for b in bodies))
        sizes = VLACriticConfig(
            proprio=proprio.pop(),
            context=0 if self.critic == "state" else width,
            hidden=self.critic_hidden,
            values=values,
            seed=seed,
        )
        return VLACritic(sizes)


@config
class VLAGroupSettings:
    """Whole episodes on a VLA, without a critic."""

    sampler: SamplerConfig = SamplerConfig()
    """How the VLA explores."""
    episodes: EpisodesConfig = EpisodesConfig()
    """How episodes are gathered."""
    ppo: PPOConfig = PPOConfig()
    """The algorithm; what it says of a critic has no effect."""
    reference: ReferenceSettings = ReferenceSettings()
    """A penalty on leaving what the policy was at the start."""

    def run(self, start: Start, estimator: Estimator) -> Run:
        """Build PPO without a critic around the VLA of `start.init`."""
        vla = start.init.to(start.device)
        explorer = vla.explorer(self.sampler).to(start.device)
        collectors = [
            GroupCollector(
                env,
                self.episodes,
                seed=start.seed + 1000 * index,
                body=body_in(explorer, env),
                label=label_of(env.name),
                tasks=start.tasks,
            )
            for index, env in enumerate(start.envs)
        ]
        iterations = max(1, round(start.steps / sum(collector.decisions for collector in collectors)))
        return run_of(start, vla, explorer, None, collectors, self, iterations=iterations, estimator=estimator)

    def compared(self) -> None:
        """Raise InputError where episodes have no others of the same start to be compared with."""
        if self.episodes.group < 2:
            raise problem("episodes.group", "at least 2: an episode is compared with others", self.episodes.group)

    def against_groups(self, start: Start, **estimator: Any) -> Run:
        """As `run`, with `algorithms.estimators.GroupAdvantages` of these settings."""
        self.compared()
        return self.run(start, GroupAdvantages(**estimator))
