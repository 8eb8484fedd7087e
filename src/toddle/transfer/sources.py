"""Which policies can become action experts, and what a conversion asks of each kind beside its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from toddle.core.errors import problem
from toddle.policies.causal import CausalPolicy
from toddle.policies.denoising import DenoisingPolicy
from toddle.policies.store import load_policy, read_policy
from toddle.transfer.convert import Conversion, ConvertConfig, Convertible
from toddle.transfer.denoising_levels import check_source, measure_denoising_levels
from toddle.transfer.levels import Level, measure_levels

__all__ = ["SOURCES", "Source", "load_source"]


class Measure(Protocol):
    """Measures what a conversion kept."""

    def __call__(self, made: Conversion, *, steps: int) -> list[Level]:
        """Return the levels; `steps`: Euler steps of the sample of level C."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A policy that becomes an action expert."""

    policy: Convertible
    steps: int
    """Euler steps in which the expert acts unless it is told otherwise."""
    replaceable: CausalPolicy | None
    """The policy where self-attention may be replaced (mode replace: blocks are ranked by its mean action, and the
    converted trunk learns its tokens back); None where that is not known how."""
    levels: Measure
    """Measures what the conversion kept."""


def _causal(policy: CausalPolicy) -> Source:
    return Source(policy=policy, steps=8, replaceable=policy, levels=partial(measure_levels, policy))


def _denoising(policy: DenoisingPolicy) -> Source:
    check_source(policy)
    levels = partial(measure_denoising_levels, policy)
    return Source(policy=policy, steps=policy.links.steps, replaceable=None, levels=levels)


SOURCES: dict[str, Callable[[Any], Source]] = {"causal": _causal, "denoising": _denoising}
"""Kind of a stored policy -> its source; another kind that can be converted is one function and one row."""


def load_source(folder: Path, settings: ConvertConfig) -> Source:
    """Load the policy of a folder.  Raises InputError where it cannot be converted, or not in this way."""
    kind = read_policy(folder)[0]
    if kind not in SOURCES:
        remedy = "pretrain one with toddle pretrain --policy causal or --method dppo"
        raise problem("source", f"a policy of kind {' or '.join(map(repr, SOURCES))}", kind, remedy)
    source = SOURCES[kind](load_policy(folder))
    if settings.context_mode == "replace" and source.replaceable is None:
        raise problem("convert.context_mode", f"pretrained or insert with a {kind} policy", "replace")
    return source
