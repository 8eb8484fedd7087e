"""The nouns: what a policy sees, what it decides, what an episode came to.

Shape letters used everywhere: T time, B batch or environments, L links, K denoising steps, H chunk, A action,
O proprioception, G context or goal tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypedDict

from torch import Tensor

from toddle.core.config import config
from toddle.core.numbers import Positive, Size

__all__ = [
    "ActionParts",
    "BodySpec",
    "Decision",
    "EpisodeResult",
    "FeatureSource",
    "Observation",
    "Reading",
    "Score",
    "sentences_of",
]


@config
class BodySpec:
    """What the input and output banks need to know of an embodiment."""

    name: str
    """Name of the body, as `goal/<name>` names its goal-tracking environment."""
    proprio: Size
    """O, numbers of proprioception."""
    action: Size
    """A, numbers of one action."""
    dt: Positive
    """Seconds of one control step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionParts:
    """Where the motions of a tool stand in an action; what is in neither (a gripper) is no motion."""

    position: slice
    rotation: slice | None = None  # a rotation vector about the axes of the world
    turn: float = 1.0  # radians of a rotation of 1
    reach: float = 1.0  # metres of a motion of 1

    @property
    def motions(self) -> tuple[slice, ...]:
        """The parts that are motions."""
        return (self.position,) if self.rotation is None else (self.position, self.rotation)


class Observation(TypedDict, total=False):
    """What a policy sees at the moments it decides.  Leading dimensions are (B,) when acting, (T, B) when scoring.

    A plain dictionary (tensordict slices cost seven times as much); an environment fills the keys it has.
    """

    proprio: Tensor  # (..., O) float32, the body's own state
    goal: Tensor  # (..., G, core.goal.GOAL_FEATURES) float32, goal items of the generic physics reward
    goal_mask: Tensor  # (..., G) bool, True where the item is real
    critic: Tensor  # (..., O_critic) float32, privileged state, for the critic alone
    body: Tensor  # (...) int64, index of the body in the policy's banks
    first: Tensor  # (...) bool, True on the first observation of an episode (and of a segment, see Policy.act)
    previous_action: Tensor  # (..., H_exec * A) float32, the chunk that was executed before; 0 where `first`
    images: Tensor  # (..., cameras, 3, height, width) uint8
    instruction: list[str]  # sentences: B of them, or, beside `task`, the table that it points into
    task: Tensor  # (...) int64, which sentence of `instruction` each entry has
    context: Tensor  # (..., G, D_vlm) float32, features of a frozen backbone (cached or just computed)
    context_mask: Tensor  # (..., G) bool, True where the token is real
    executed: Tensor  # (...) int64, when scoring: actions of the chunk that were executed; absent: all
    condition: Tensor  # (..., C) float32, an extra condition of a denoising policy (a mode embedding, say)


@dataclass(frozen=True, slots=True)
class Named:
    """Where a quantity stands in an environment's state: value = state[at] * scale + offset, in metres for places."""

    at: tuple[int, ...]
    scale: float = 1.0
    offset: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of a policy: the action, the chain of links it came through, and each link's log-density."""

    action: Tensor  # (B, H, A) float32: the executed chunk, normalised; environments clip to [-1, 1]
    chain: Tensor  # (B, ...) whatever `Policy.score` needs to score the same draw again
    log_prob: Tensor  # (B, L)
    real: Tensor | None = None  # (B, L) bool, False for links of a sentence that was over before; None: all were drawn
    state: Tensor | None = None  # (B, O) what a small actor over another policy saw; None: there is none


class Distribution(Protocol):
    """What links were drawn from (`maths.distributions`)."""

    def kl(self, other: Any) -> Tensor:
        """Return the exact KL divergence (..., L), in nats, from this one to another of the same kind."""


class Score(NamedTuple):
    """The log-density, entropy and mean action of stored decisions under the present parameters, with gradients."""

    log_prob: Tensor  # (T, B, L)
    entropy: Tensor  # (T, B)
    mean: Tensor | None = None  # (T, B, H_exec, A), what guidance and behaviour cloning pull on; None: it has none
    distribution: Distribution | None = None  # what the links were drawn from, where divergences have a closed form
    real: Tensor | None = None  # (T, B, L) bool, False for links of actions that were not executed; None: all are


class FeatureSource(NamedTuple):
    """What turns pictures and sentences into features that never change, and so may be kept."""

    fingerprint: str  # changes with the weights and the preprocessing
    shape: tuple[int, int]  # (G, D) of one decision's features
    encode: Callable[[Tensor, Sequence[str]], tuple[Tensor, Tensor]]
    """(B, cameras, 3, H, W) uint8 and B sentences -> features (B, G, D) and their mask (B, G)."""


class Reading(NamedTuple):
    """How much of a sentence a policy reads."""

    tokens: int  # of the whole sentence, what begins and ends it included
    read: int  # of these, what is not cut off
    unknown: int  # tokens that stand for what the vocabulary does not have


def sentences_of(observation: Observation) -> list[str]:
    """Return the sentence of every entry of an observation, its leading dimensions flattened."""
    sentences = observation["instruction"]
    if "task" not in observation:
        return sentences
    return [sentences[index] for index in observation["task"].flatten().tolist()]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeResult:
    """What one evaluation episode came to; `success`, `cost`, `interventions` are None where not reported."""

    seed: int
    success: bool | None
    episode_return: float
    length: int  # control steps
    seconds: float  # wall-clock of the whole episode
    seconds_per_decision: float
    cost: float | None = None
    interventions: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
