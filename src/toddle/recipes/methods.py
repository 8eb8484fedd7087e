"""What `toddle pretrain --method` means: for each method of paradigm 2 the process, and how PPO is set, with sources.

Every number is its source's unless the row says "ours"; why: docs/denoising.md.  A field of
`--ppo`, `--collect` that was left at its general default takes the method's, any other value is the user's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from toddle.algorithms.ppo import PPOConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.types import BodySpec
from toddle.experience.collect import CollectConfig
from toddle.models.denoisers import MlpDenoiserConfig, UnetConfig
from toddle.models.denoising_trunk import TrunkDenoiserConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.links import DiffusionConfig, FlowConfig

__all__ = [
    "GOALS",
    "METHODS",
    "DenoisingMethod",
    "DenoisingSettings",
    "Method",
    "Setting",
    "build_policy",
    "resolve",
    "setting_of",
    "settings_of",
]

Method = Literal["ppo", "clone", "dppo", "reinflow", "flow-sde", "flow-noise", "fpo", "ddiffpg"]
DenoisingMethod = Literal["dppo", "reinflow", "flow-sde", "flow-noise", "fpo"]
Setting = Literal["scratch", "goals", "warm"]
T = TypeVar("T")


@config
class DenoisingSettings:
    """The diffusion or flow policy (every method but ppo).  None: what the method's source takes."""

    network: Literal["trunk", "mlp", "unet"] = "trunk"
    """What denoises; only a trunk can become the action expert of a VLA."""
    trunk: TrunkDenoiserConfig = TrunkDenoiserConfig()
    """Settings of the trunk."""
    mlp: MlpDenoiserConfig = MlpDenoiserConfig()
    """Settings of the multilayer perceptron."""
    unet: UnetConfig = UnetConfig()
    """Settings of the U-Net."""
    horizon: int = 4
    """H, actions of a chunk."""
    executed: int | None = None
    """Actions of a chunk that are executed; None: all."""
    steps: int | None = None
    """Denoising or integration steps."""
    ddim_steps: int | None = None
    """dppo: steps that a DDIM sampler visits; 0: DDPM."""
    tuned_steps: int | None = None
    """dppo: last steps that are trained by RL; the earlier ones keep what imitation made.  0: all."""
    std: float | None = None
    """dppo: least standard deviation while exploring and in log-densities."""
    std_range: tuple[float, float] | None = None
    """reinflow, flow-noise: band of the learned standard deviation."""
    level: float | None = None
    """flow-sde: noise level."""
    one_random_step: bool | None = None
    """flow-sde: one step drawn at random is stochastic, the others are not."""


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    """One row of the table."""

    process: DiffusionConfig | FlowConfig
    source: str
    reduce: Literal["mean", "sum"] = "mean"
    ppo: dict[str, Any] = field(default_factory=dict)
    collect: dict[str, Any] = field(default_factory=dict)


_SCRATCH = {"epochs": 5, "minibatches": 8, "target_kl": None}
_WARM = {
    "epochs": 5,
    "minibatches": 8,
    "learning_rate": 1e-4,
    "critic_learning_rate": 1e-3,
    "critic_warm_up": 2,
    "target_kl": None,
    "schedule": "constant",
}
GOALS: dict[str, Any] = {
    "epochs": 4,
    "minibatches": 2,
    "learning_rate": 5e-4,
    "critic_learning_rate": 2e-3,
    "lam": 0.8,
    "target_kl": 0.1,
}
"""PPO's settings for goal tracking, measured on goal/sawyer: docs/results/gctr."""
METHODS: dict[tuple[str, str], _Defaults] = {
    ("dppo", "scratch"): _Defaults(
        process=DiffusionConfig(train_steps=10, min_sampling_std=0.2, min_log_prob_std=0.2),
        source="DPPO, from scratch: K = K' = 10, clip 0.1, no link discount; ours: least standard deviation 0.2",
        ppo=_SCRATCH | {"ratio": "per_link", "clip_low": 0.1, "clip_high": 0.1},
    ),
    ("dppo", "warm"): _Defaults(
        process=DiffusionConfig(train_steps=20, tuned_steps=10),
        source="DPPO, robomimic state: K 20, K' 10, link discount 0.99, gamma 0.999; ours: clip 0.005 to 0.05, lr 3e-4",
        ppo=_WARM
        | {
            "ratio": "per_link",
            "clip_low": 0.05,
            "clip_high": 0.05,
            "link_clip_first": 0.005,
            "link_discount": 0.99,
            "learning_rate": 3e-4,
        },
        collect={"discount": 0.999},
    ),
    ("reinflow", "scratch"): _Defaults(
        process=FlowConfig(noise="reinflow", std_range=(0.1, 0.24)),
        source="ReinFlow; clip as DPPO's from scratch",
        ppo=_SCRATCH | {"ratio": "mean", "clip_low": 0.1, "clip_high": 0.1},
    ),
    ("reinflow", "goals"): _Defaults(
        process=FlowConfig(noise="reinflow", std_range=(0.1, 0.24)),
        reduce="sum",
        source="ours: densities summed, and PPO as for the causal transformer",
        ppo=GOALS,
    ),
    ("reinflow", "warm"): _Defaults(
        process=FlowConfig(noise="reinflow", std_range=(0.1, 0.24)),
        source="ReinFlow: K 4, std 0.1 to 0.24, critic's lr 6.5e-4, gamma 0.99; ours: clip 0.05, lr 2e-4",
        ppo=_WARM
        | {"ratio": "mean", "clip_low": 0.05, "clip_high": 0.05, "learning_rate": 2e-4, "critic_learning_rate": 6.5e-4},
        collect={"discount": 0.99},
    ),
    ("flow-sde", "scratch"): _Defaults(
        process=FlowConfig(noise="flow_sde"),
        source="pi_RL: K 4, level 0.5; clip as DPPO's from scratch",
        ppo=_SCRATCH | {"ratio": "mean", "clip_low": 0.1, "clip_high": 0.1},
    ),
    ("flow-sde", "warm"): _Defaults(
        process=FlowConfig(noise="flow_sde", one_random_step=True),
        source="pi_RL: K 4, level 0.5, one random step; clip (densities are averaged) and lr as reinflow's here",
        ppo=_WARM | {"clip_low": 0.05, "clip_high": 0.05, "learning_rate": 2e-4},
        collect={"discount": 0.99},
    ),
    ("flow-noise", "scratch"): _Defaults(
        process=FlowConfig(noise="flow_noise"),
        source="pi_RL: std 0.08 to 0.16; clip as DPPO's from scratch",
        ppo=_SCRATCH | {"ratio": "mean", "clip_low": 0.1, "clip_high": 0.1},
    ),
    ("flow-noise", "warm"): _Defaults(
        process=FlowConfig(noise="flow_noise"),
        source="pi_RL: K 4, std 0.08 to 0.16; clip and lr as reinflow's here",
        ppo=_WARM | {"ratio": "mean", "clip_low": 0.05, "clip_high": 0.05, "learning_rate": 2e-4},
        collect={"discount": 0.99},
    ),
    ("fpo", "scratch"): _Defaults(
        process=FlowConfig(steps=10),
        source="FPO: 10 steps, 8 pairs, clip 0.05, lr 3e-4, gamma 0.995",
        ppo=_SCRATCH | {"clip_low": 0.05, "clip_high": 0.05, "learning_rate": 3e-4},
        collect={"discount": 0.995},
    ),
    ("fpo", "warm"): _Defaults(
        process=FlowConfig(steps=10),
        source="FPO: 10 steps, 8 pairs, clip 0.05; lr as DPPO's",
        ppo=_WARM | {"clip_low": 0.05, "clip_high": 0.05},
        collect={"discount": 0.995},
    ),
}
"""(method, setting) -> defaults; the setting is `scratch`, `goals` (goal tracking from scratch) or `warm` (after
imitation).  A method without a row for goals takes that of `scratch`."""


def setting_of(*, warm: bool, goals: bool) -> Setting:
    """Return which rows of the table a run takes."""
    if warm:
        return "warm"
    return "goals" if goals else "scratch"


def settings_of(method: str, setting: Setting) -> _Defaults:
    """Return the row of a method.  Raises InputError where there is none."""
    key = (method, "scratch") if setting == "goals" and (method, setting) not in METHODS else (method, setting)
    if key not in METHODS:
        raise problem("method", "one of " + ", ".join(sorted({name for name, _ in METHODS})), method)
    return METHODS[key]


def resolve(given: T, general: T, plain: T, changes: dict[str, Any]) -> T:
    """Return the method's config, `plain` with its `changes`, but `given` in those fields that differ from `general`.

    general: what the command's config holds when the user says nothing.
    """
    names = [entry.name for entry in dataclasses.fields(given)]  # type: ignore[arg-type]
    users = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(general, name)}
    return dataclasses.replace(plain, **changes | users)  # type: ignore[type-var]


def resolved_ppo(method: str, setting: Setting, given: PPOConfig, general: PPOConfig) -> PPOConfig:
    """Return PPO's settings for a method."""
    return resolve(given, general, PPOConfig(), settings_of(method, setting).ppo)


def resolved_collect(method: str, setting: Setting, given: CollectConfig, general: CollectConfig) -> CollectConfig:
    """Return the settings of the collector for a method."""
    return resolve(given, general, general, settings_of(method, setting).collect)


def _process(method: str, setting: Setting, settings: DenoisingSettings) -> DiffusionConfig | FlowConfig:
    process = settings_of(method, setting).process
    if isinstance(process, DiffusionConfig):
        given: dict[str, Any] = {
            "train_steps": settings.steps,
            "ddim_steps": settings.ddim_steps,
            "tuned_steps": settings.tuned_steps,
            "min_sampling_std": settings.std,
            "min_log_prob_std": settings.std,
        }
        foreign = ("std_range", "level", "one_random_step")
    else:
        given = {
            "steps": settings.steps,
            "std_range": settings.std_range,
            "level": settings.level,
            "one_random_step": settings.one_random_step,
        }
        foreign = ("ddim_steps", "tuned_steps", "std")
    for name in foreign:
        if getattr(settings, name) is not None:
            raise problem(f"denoising.{name}", f"nothing with method {method}", getattr(settings, name))
    return dataclasses.replace(process, **{name: value for name, value in given.items() if value is not None})


def build_policy(
    method: str, settings: DenoisingSettings, body: BodySpec, *, setting: Setting, goal_width: int, seed: int
) -> DenoisingPolicy | FPOPolicy:
    """Build the policy of a method; `goal_width` 0: the environments have no goals."""
    networks: dict[str, TrunkDenoiserConfig | MlpDenoiserConfig | UnetConfig] = {
        "trunk": settings.trunk,
        "mlp": settings.mlp,
        "unet": settings.unet,
    }
    network = networks[settings.network]
    if network.contract is None:
        network = dataclasses.replace(network, contract=setting != "warm")
    if isinstance(network, TrunkDenoiserConfig) and not goal_width:
        network = dataclasses.replace(network, goal_dropout=0.0)
    shared: dict[str, Any] = {
        "body": body,
        "horizon": settings.horizon,
        "executed": settings.executed or settings.horizon,
        "network": network,
        "goal_width": goal_width,
        "fixed_statistics": setting == "warm",
        "seed": seed,
    }
    process = _process(method, setting, settings)
    if method == "fpo":
        return FPOPolicy(FPOConfig(**shared, steps=process.steps))
    reduce = settings_of(method, setting).reduce
    return DenoisingPolicy(DenoisingConfig(**shared, process=process, reduce=reduce))
