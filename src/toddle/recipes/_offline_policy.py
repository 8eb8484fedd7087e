"""The fresh policies of `toddle offline`, one builder a kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from toddle.algorithms.offline import OfflineConfig
from toddle.core.numbers import Size
from toddle.core.types import BodySpec
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.conditioned import Asked, ConditionedConfig, ConditionedPolicy
from toddle.policies.consistency import ConsistencyConfig, ConsistencyPolicy
from toddle.policies.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.links import FlowConfig
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy
from toddle.policies.tokens import TokenConfig, TokenPolicy

__all__ = ["fresh_policy"]


class Settings(Protocol):
    """What of the recipe's settings a policy is built from."""

    @property
    def method(self) -> str:
        """The method."""

    @property
    def hidden(self) -> tuple[Size, ...]:
        """Widths."""

    @property
    def log_std(self) -> float:
        """Of the standard deviation at the start."""

    @property
    def bins(self) -> int:
        """Tokens of a number."""

    @property
    def asks(self) -> Asked | None:
        """What is asked for."""

    @property
    def guidance(self) -> float:
        """And how much of it."""

    @property
    def seed(self) -> int:
        """Of the weights."""

    @property
    def offline(self) -> OfflineConfig:
        """The algorithm."""


def fresh_policy(kind: str, settings: Settings, body: BodySpec, horizon: int) -> Any:
    """Return a policy of `kind` for `body` that decides `horizon` actions at a time."""
    return BUILDERS[kind](settings, body, horizon)


def _gaussian(settings: Settings, body: BodySpec, horizon: int) -> Any:
    own: dict[str, Any] = {"hidden": settings.hidden, "log_std": settings.log_std, "seed": settings.seed}
    own["squashed"] = settings.method != "awac"
    return GaussianPolicy(GaussianConfig(bodies=(body,), activation="relu", horizon=horizon, **own))


def _squashed(settings: Settings, body: BodySpec, horizon: int) -> Any:
    own: dict[str, Any] = {"hidden": settings.hidden, "log_std": settings.log_std, "seed": settings.seed}
    return SquashedGaussianPolicy(SquashedGaussianConfig(body=body, **own))


def _conditioned(settings: Settings, body: BodySpec, horizon: int) -> Any:
    own: dict[str, Any] = {"hidden": settings.hidden, "log_std": settings.log_std, "seed": settings.seed}
    own |= {"asks": settings.asks or ("positive" if settings.method == "recap" else "return")}
    return ConditionedPolicy(ConditionedConfig(body=body, guidance=settings.guidance, **own))


def _denoising(settings: Settings, body: BodySpec, horizon: int) -> Any:
    chunk: dict[str, Any] = {"horizon": 1, "executed": 1, "network": MlpDenoiserConfig(width=settings.hidden[0])}
    return DenoisingPolicy(DenoisingConfig(body=body, process=FlowConfig(), seed=settings.seed, **chunk))


def _decision_transformer(settings: Settings, body: BodySpec, horizon: int) -> Any:
    sizes = {"window": settings.offline.history, "width": settings.hidden[0], "depth": len(settings.hidden)}
    return DecisionTransformer(DecisionTransformerConfig(body=body, seed=settings.seed, **sizes))


def _tokens(settings: Settings, body: BodySpec, horizon: int) -> Any:
    sizes: dict[str, Any] = {"bins": settings.bins, "hidden": settings.hidden, "width": settings.hidden[-1]}
    return TokenPolicy(TokenConfig(body=body, seed=settings.seed, **sizes))


def _consistency(settings: Settings, body: BodySpec, horizon: int) -> Any:
    network = MlpDenoiserConfig(width=settings.hidden[0])
    return ConsistencyPolicy(ConsistencyConfig(body=body, network=network, seed=settings.seed))


BUILDERS: dict[str, Callable[[Settings, BodySpec, int], Any]] = {
    "gaussian": _gaussian,
    "squashed_gaussian": _squashed,
    "conditioned": _conditioned,
    "denoising": _denoising,
    "consistency": _consistency,
    "tokens": _tokens,
    "decision_transformer": _decision_transformer,
}
