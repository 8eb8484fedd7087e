"""What methods have in common: policies of states, the critic, the collectors, for the environments' bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from gymnasium import spaces

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Discount, LogStd, Positive, Size
from toddle.core.protocols import Acting, Scorable
from toddle.core.seeding import derived_seed
from toddle.core.types import BodySpec
from toddle.envs.base import BatchedEnv
from toddle.experience.actor import body_in
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.rollout import PPO_BYTES, check_rollout
from toddle.methods._base import Run, Start
from toddle.methods._together import run_of_states
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.tokens import TokenConfig, TokenPolicy

__all__ = [
    "CausalSettings",
    "MlpSettings",
    "PolicyKind",
    "TokenSettings",
    "bodies_of",
    "check_continuous",
    "for_bodies",
    "has_goals",
    "iterations_of",
    "label_of",
    "make_collectors",
    "make_critic",
    "make_policy",
    "ppo_run",
    "started_from",
]


@config
class CausalSettings:
    """The causal transformer, which becomes the action expert of a VLA."""

    trunk: TrunkConfig = TrunkConfig(width=96, depth=2, heads=4, context_width=64)
    """The transformer."""
    horizon: Size = 8
    """H, action slots of a decision."""
    executed: Size = 8
    """Actions of a decision that are executed before the next one."""
    window: Size = 1
    """T, decisions the history reaches back."""
    bank_hidden: Size = 128
    """Hidden units of the banks of each body."""
    goal_dropout: Discount = 0.1
    """Share of episodes with the goal hidden; trains the NULL token."""
    log_std: LogStd = -0.7
    """Logarithm of the standard deviation at the start."""
    noise_correlation: Discount = 0.9
    """Correlation of the noise between the steps of a chunk; independent noise averages out and explores little."""


@config
class MlpSettings:
    """The multilayer perceptron."""

    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers."""
    horizon: Size = 1
    """Actions of a decision; all are executed."""
    log_std: LogStd = -0.5
    """Logarithm of the standard deviation at the start."""


@config
class TokenSettings:
    """The policy of categorical tokens: discrete actions, or actions in bins."""

    bins: Size = 21
    """Tokens of a number (a discrete action space has its own)."""
    horizon: Size = 1
    """Actions of a decision; all are executed."""
    hidden: tuple[Size, ...] = (64, 64)
    """Widths of the hidden layers."""
    temperature: Positive = 1.0
    """Logits are divided by it, when drawing and when scoring alike."""


PolicyKind = Literal["auto", "causal", "mlp", "tokens"]
"""auto: tokens where actions are discrete, else mlp."""


def bodies_of(envs: Sequence[BatchedEnv]) -> tuple[BodySpec, ...]:
    """Return the bodies of the environments, each once.  Raises InputError where one body has two sizes."""
    bodies: dict[str, BodySpec] = {}
    for env in envs:
        if bodies.setdefault(env.body, env.body_spec) != env.body_spec:
            raise problem("env", f"one observation and action size for body {env.body}", env.name)
    return tuple(bodies.values())


def _keys(env: BatchedEnv) -> set[str]:
    space = env.single_observation_space
    return {*space} if isinstance(space, spaces.Dict) else {"proprio"}


def check_continuous(envs: Sequence[BatchedEnv], method: str) -> None:
    """Raise InputError where an environment has discrete actions, which only policies of tokens choose among."""
    for env in envs:
        if env.discrete is not None:
            remedy = "take --method ppo, grpo or rloo, whose policies of tokens choose among actions"
            raise problem("env", f"continuous actions with {method}", f"{env.discrete} discrete ones", remedy)


def has_goals(envs: Sequence[BatchedEnv]) -> bool:
    """Whether the environments have goal items.  Raises InputError where some have and some have not."""
    found = {"goal" in _keys(env) for env in envs}
    if len(found) > 1:
        raise problem("env", "all with goals or none", ", ".join(env.name for env in envs))
    return found == {True}


def make_policy(
    kind: PolicyKind,
    start: Start,
    *,
    causal: CausalSettings | None = None,
    mlp: MlpSettings | None = None,
    tokens: TokenSettings | None = None,
    goal_width: int,
    imitates: bool = False,
) -> CausalPolicy | GaussianPolicy | TokenPolicy:
    """Build the policy of states that the settings name; `imitates`: it is to be warm-started from demonstrations."""
    bodies, goals = bodies_of(start.envs), has_goals(start.envs)
    discrete = {env.discrete for env in start.envs}
    if kind == "auto":
        kind = "mlp" if discrete == {None} else "tokens"
    if kind != "tokens" and discrete != {None}:
        raise problem("policy", "tokens (or auto) where actions are discrete", kind)
    if kind == "tokens":
        return _token_policy(start, tokens or TokenSettings(), bodies, goal_width if goals else 0, imitates=imitates)
    causal, mlp = causal or CausalSettings(), mlp or MlpSettings()
    if kind == "mlp":
        return GaussianPolicy(
            GaussianConfig(
                bodies=bodies,
                horizon=mlp.horizon,
                hidden=mlp.hidden,
                log_std=mlp.log_std,
                goal_width=goal_width if goals else 0,
                fixed_statistics=imitates,
                seed=start.seed,
            )
        )
    if imitates:
        raise problem(
            "warm_start", f"nothing with the {kind} policy", "a data set", "take --policy mlp, or method dppo"
        )
    expert = ExpertConfig(
        trunk=causal.trunk,
        bodies=bodies,
        horizon=causal.horizon,
        executed=causal.executed,
        window=causal.window,
        bank_hidden=causal.bank_hidden,
    )
    return CausalPolicy(
        CausalConfig(
            expert=expert,
            goal_dropout=causal.goal_dropout if goals else 0.0,
            log_std=causal.log_std,
            noise_correlation=causal.noise_correlation if causal.executed > 1 else 0.0,
            seed=start.seed,
        )
    )


def _token_policy(
    start: Start, settings: TokenSettings, bodies: tuple[BodySpec, ...], goal_width: int, *, imitates: bool
) -> TokenPolicy:
    if len(bodies) > 1:
        raise problem("env", "one body with the tokens policy", ", ".join(body.name for body in bodies))
    if imitates:
        raise problem("warm_start", "nothing with the tokens policy", "a data set", "take --policy mlp, or method dppo")
    (discrete,) = {env.discrete for env in start.envs}
    return TokenPolicy(
        TokenConfig(
            body=bodies[0],
            horizon=settings.horizon,
            bins=settings.bins if discrete is None else discrete,
            discrete=discrete is not None,
            hidden=settings.hidden,
            temperature=settings.temperature,
            goal_width=goal_width,
            seed=start.seed,
        )
    )


def started_from(start: Start, kinds: Sequence[str]) -> Any:
    """Return the stored policy to go on from, for this run's bodies.  Raises InputError where it is of another kind, or
    has not the bodies and no trunk for new ones."""
    policy = start.init
    discrete = policy.config.bins if policy.kind == "tokens" and policy.config.discrete else None
    if policy.kind not in kinds:
        raise problem("init", f"a policy of kind {' or '.join(kinds)}, which this method trains", policy.kind)
    for env in start.envs:
        if discrete != env.discrete:
            want = f"a policy of {env.discrete or 'continuous'} actions, as {env.name} has"
            raise problem("init", want, discrete or "continuous")
    return for_bodies(policy, start.envs, new=True).train()


def for_bodies(policy: Any, envs: Sequence[BatchedEnv], *, new: bool = False) -> Any:
    """Return a stored policy for the bodies of the environments, in the order of their ids in this run.

    new: whether a body that it does not know may get fresh networks, where it has a trunk that all bodies share.
    Raises InputError where it has not the bodies.
    """
    known = {body.name: body for body in policy.bodies}
    for env in envs:
        if not (new and policy.kind == "causal" and env.body not in known):
            body_in(policy, env)
    if policy.kind not in ("causal", "gaussian"):
        return policy
    return policy.with_bodies(tuple(known.get(body.name, body) for body in bodies_of(envs)))


def make_critic(start: Start, hidden: tuple[int, ...], goal_width: int, *, of: str = "critic") -> ValueNet:
    """Build the critic: of privileged state where all environments give it, else of proprioception.

    of: whose weights these are, which follow from the seed and this.
    """
    privileged = all("critic" in _keys(env) for env in start.envs)
    sizes = {env.body: env.body_spec.proprio for env in start.envs}
    if privileged:
        sizes = {env.body: int(env.single_observation_space["critic"].shape[0]) for env in start.envs}  # type: ignore[index]
    critic = ValueNet(
        CriticConfig(
            inputs=tuple(sizes.values()),
            key="critic" if privileged else "proprio",
            hidden=hidden,
            goal_width=goal_width if has_goals(start.envs) else 0,
            seed=start.seed if of == "critic" else derived_seed(start.seed, of),
        )
    )
    return critic.to(start.device)


def label_of(name: str) -> str:
    """Return an environment's name as metrics and files can bear it."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)


def make_collectors(start: Start, collect: CollectConfig) -> list[Collector]:
    """Build a collector for each environment; `body` is its body's place among the bodies."""
    order = [body.name for body in bodies_of(start.envs)]
    for env in start.envs:  # what is certain before a policy has decided
        count, spec = collect.length * env.num_envs, env.body_spec
        size = count * (PPO_BYTES + 4 * (spec.proprio + spec.action))
        check_rollout(size, collect.length, env.num_envs, start.device)
    return [
        Collector(
            env,
            collect,
            seed=start.seed + 1000 * index,
            body=order.index(env.body),
            label=label_of(env.name),
        )
        for index, env in enumerate(start.envs)
    ]


def iterations_of(start: Start, policy: Acting, collectors: Sequence[Collector]) -> int:
    """Return in how many iterations the steps are used up."""
    return max(1, round(start.steps / policy.horizon / sum(collector.decisions for collector in collectors)))


def ppo_run(
    start: Start,
    policy: Scorable,
    ppo: PPOConfig,
    collect: CollectConfig,
    *,
    critic_hidden: tuple[int, ...],
    goal_width: int,
) -> Run:
    """Put PPO together around a policy, with a critic and a collector for each environment."""
    policy = policy.to(start.device)
    if policy.sequential and ppo.minibatches > min(env.num_envs for env in start.envs):
        worlds = min(env.num_envs for env in start.envs)
        raise problem("ppo.minibatches", f"at most {worlds} (worlds): the policy needs whole worlds", ppo.minibatches)
    critic = make_critic(start, critic_hidden, goal_width)
    collectors = make_collectors(start, collect)
    iterations = iterations_of(start, policy, collectors)
    parts, safe = dict(start.parts), start.safety is not None
    if start.safety is not None:
        costs = make_critic(start, critic_hidden, goal_width, of="cost critic")
        parts["safety"] = start.safety.part(costs, ppo, start.seed)
    return run_of_states(start, policy, critic, collectors, ppo, iterations=iterations, parts=parts, safe=safe)
