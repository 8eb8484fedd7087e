"""The seams: what a policy, a critic and a learner are to everybody else.  Nothing else of them is assumed.

A policy is `Acting`.  One whose decisions have densities is `Scorable` too, and RL can train it; one that learns from
demonstrations of a VLA is `FineTunable`; one that RL may warm-start is `Imitating`.  Nobody asks for its class:
`policies.check_policy` checks that it keeps what its protocols promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from toddle.core.types import BodySpec, Decision, FeatureSource, Observation, Reading, Score

__all__ = [
    "Acting",
    "Critic",
    "Explorable",
    "FineTunable",
    "Flowing",
    "Hastenable",
    "Imitating",
    "Learner",
    "Memory",
    "Module",
    "Scorable",
    "StateActor",
    "Steerable",
    "Steered",
]

Memory = Any
"""What a policy remembers between decisions (a KV cache), or None.  Opaque to everybody but the policy."""


class Module(Protocol):
    """A torch module, as far as anybody asks."""

    training: bool

    def train(self, mode: bool = True) -> Any:
        """Go to training mode, or with False to evaluation mode."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Learn, or with False stay as it is."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return weights and buffers by name."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restore them."""


class Acting(Module, Protocol):
    """Draws decisions.  Actions are in the environment's units, mostly [-1, 1]."""

    @property
    def kind(self) -> str:
        """Names its class in files (`policies.store`)."""

    @property
    def config(self) -> Any:
        """The dataclass it was built from."""

    @property
    def horizon(self) -> int:
        """H_exec, actions of a decision that are executed before the next one."""

    @property
    def sequential(self) -> bool:
        """How scoring and learning may be fed: whole segments in time order, starting where the memory was last cleared
        (a causal transformer), or shuffled decisions as T = 1."""

    @property
    def bodies(self) -> tuple[BodySpec, ...]:
        """The embodiments it has banks for, in the order of their ids (`Observation.body`)."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras whose pictures it reads, in their order; none for a policy of states."""

    def initial_memory(self, batch: int) -> Memory:
        """Return an empty memory for `batch` worlds (None for a memoryless policy)."""

    def encode(self, observation: Observation) -> Observation:
        """Return what is kept of an observation (B, ...) and then acted on: a frozen backbone's features in place of
        pictures and sentence; the observation itself where there is nothing to save."""

    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations.  Where `observation["first"]`, what the memory held is forgotten."""


@runtime_checkable
class Scorable(Acting, Protocol):
    """A policy whose decisions have densities, link by link."""

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score chains (T, B, ...) drawn at observations (T, B, ...), with gradients."""

    def update_normaliser(self, observation: Observation) -> None:
        """Take the observations (T, B, ...) of one body into the running statistics, between iterations only."""


@runtime_checkable
class Imitating(Acting, Protocol):
    """A policy that RL may warm-start from demonstrations."""

    @property
    def chunk_size(self) -> int:
        """H, actions of the demonstrated chunks that it learns from; at least `horizon`."""

    def fit_normaliser(self, observation: Observation) -> None:
        """Take the demonstrations' observations (M, ...) into the running statistics."""

    def imitation_loss(self, observation: Observation, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss (M,) of demonstrated chunks (M, H, A) at observations (M, ...), with gradients."""

    def finish_imitation(self) -> None:
        """Hear that imitation is over (a diffusion policy freezes its base)."""


@runtime_checkable
class FineTunable(Acting, Protocol):
    """A VLA that supervised fine-tuning trains (`algorithms.sft`)."""

    @property
    def window_sizes(self) -> tuple[int, int, int]:
        """H, decisions of history, actions executed per decision: the windows of demonstrations it learns from."""

    @property
    def features(self) -> FeatureSource | None:
        """What makes its features of pictures and sentences, where that is frozen and they may be cached."""

    def body_index(self, name: str | None) -> int:
        """Return the id of a body; the only one there is where `name` is None.  Raises InputError when unknown."""

    def reading(self, sentence: str) -> Reading:
        """Return how much of a sentence it reads."""

    def fit_normalization(self, proprio: Tensor, actions: Any, mode: Any, body: int, *, refit: bool = False) -> None:
        """Fit to demonstrations: proprioception (N, O), `data.statistics.FeatureStatistics` of the actions, a mode."""

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch with gradients, and metrics."""

    @property
    def exact(self) -> bool:
        """Whether `surprise` is minus a log-density; else it is a squared error at noise that is drawn."""

    def surprise(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return (B,), with gradients, how little it expects each chunk of a batch that `loss` takes, summed over the
        real numbers: preferences compare it (`algorithms.preference`)."""

    def begin_step(self, share: float) -> None:
        """Hear before each step which share of the steps is done (schedules of the policy's own)."""

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """Return the weights that came from pretraining and that `adapter_first` protects."""

    def trunk_tokens(self, batch: dict[str, Any]) -> Tensor | None:
        """Return the trunk's tokens (N, d) of a batch, the same for equal weights; None where it shows none."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the weights by name."""


@runtime_checkable
class Explorable(FineTunable, Protocol):
    """A VLA that RL can improve (`toddle finetune`)."""

    def explorer(self, sampler: Any) -> Scorable:
        """Return what RL trains: this policy, exploring as `policies.flow_explorer.SamplerConfig` says.  Its weights
        are this policy's own (and perhaps those of a spread), so this policy is what is kept afterwards."""

    def merged(self) -> AbstractContextManager[None]:
        """Act with LoRA, where it has any, folded into the backbone's weights as it is now, until this ends."""

    @property
    def prompt_width(self) -> int:
        """D, numbers of `prompt_hidden`."""

    def prompt_hidden(self, observation: Observation) -> Tensor:
        """Return the hidden state (..., D) of the last token of what it reads before it acts, at observations
        (T, B, ...) in time order or single ones (N, ...)."""

    @property
    def context_width(self) -> int:
        """D, numbers of a token of the `context` that `encode` keeps in place of pictures; 0 where it keeps none."""

    def frozen_copy(self, *, lora: bool = False) -> Self:
        """Return a copy that does not learn, as it is now; it shares the backbone's own weights.  With `lora` the
        copy's LoRA goes on learning."""


@runtime_checkable
class Steerable(Acting, Protocol):
    """A policy whose chunk is a function of noise, so that what says the noise steers it (`policies.steered`)."""

    @property
    def window_sizes(self) -> tuple[int, int, int]:
        """H, decisions of history, actions executed per decision."""

    @property
    def flow_shape(self) -> tuple[int, int]:
        """(H, A) of what flows: whole chunks, padded to the widest body."""

    @property
    def summary_width(self) -> int:
        """Numbers of `summary`."""

    def chunk_from(
        self, observation: Observation, noise: Tensor, memory: Memory = None, *, steps: int | None = None
    ) -> tuple[Tensor, Memory]:
        """Return the actions (B, H_exec, A) in the environment's units that the flow without noise on the way makes of
        noise (B, H, A), in so many Euler steps (None: as many as it acts with), and the memory."""

    def summary(self, observation: Observation) -> Tensor:
        """Return what it sees as one vector (..., D), without gradients."""


@runtime_checkable
class Flowing(Steerable, FineTunable, Protocol):
    """A VLA whose chunk is the end of a flow from noise: RL explores with it through `policies.flow_explorer`."""

    @property
    def from_noise(self) -> bool:
        """Whether the flow comes from noise, and not from an action."""
        ...

    def set_flow_steps(self, steps: int) -> None:
        """Integrate the flow in so many steps from now on, and from drawn noise even where no exploring is asked."""

    def open_flow(self, observation: Observation, memory: Memory) -> tuple[Callable[[Tensor, Tensor], Tensor], Memory]:
        """Open a decision at (B, ...) observations: the velocities (B, L, H, A) as a function of L chunks x of that
        shape and tau (B, L), without gradients, and the memory."""

    def velocities(self, observation: Observation, x: Tensor, tau: Tensor) -> Tensor:
        """Return the velocities (T, B, L, H, A), with gradients, of L chunks a decision at times tau (T, B, L)."""

    def executed(self, chunk: Tensor, observation: Observation) -> Tensor:
        """Return the action (..., H_exec, A) in the environment's units of chunks (..., H, A) at the flow's end."""

    def own_numbers(self, observation: Observation) -> Tensor:
        """Return (..., A) float, 1 for the numbers of an action that are the row's body's own, 0 for padding."""


@runtime_checkable
class Hastenable(Acting, Protocol):
    """A policy that can be made to act faster, after which it is not to learn (`policies.hastened`)."""

    def hasten(self, how: Any, dtype: torch.dtype) -> None:
        """Act from now on by tables of the weights as they are, in `dtype`.  Raises InputError where it has none."""


class StateActor(Module, Protocol):
    """A small network over flat states whose draws can be differentiated."""

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return numbers (B, N) within [-1, 1] at states (B, O), drawn by standard normal `noise` (B, N), and their
        log-densities (B,), both with gradients."""

    def update_normaliser(self, state: Tensor) -> None:
        """Take states (..., O) into the running statistics, between updates only."""


@runtime_checkable
class Steered(Acting, Protocol):
    """A policy that a small actor decides.  What its numbers come to (an action, a correction of another policy's, the
    noise that a flow begins at) the policy alone knows: it makes the decision's action of them.

    A decision's chain (B, N) are the actor's numbers before the tanh that holds them to [-1, 1]; where the policy sets
    the decision's `state`, after it.
    """

    @property
    def actor(self) -> StateActor:
        """What learns."""

    @property
    def state_sizes(self) -> tuple[int, int]:
        """O, numbers of a state, and N, numbers that the actor says."""

    def state(self, observation: Observation) -> Tensor:
        """Return what actor and critics see of (encoded) observations (..., ...): (..., O) float32."""


@runtime_checkable
class Critic(Module, Protocol):
    """Values of observations; never sees the chain."""

    def value(self, observation: Observation) -> Tensor:
        """Return (T, B) values for (T, B, ...) observations (any leading dimensions); or (T, B, H), one for each action
        of the chunk that is decided there."""

    def update_normaliser(self, observation: Observation) -> None:
        """Take the observations (T, B, ...) of one body into the running statistics, between iterations only."""


class Learner(Protocol):
    """What `runs.loop` drives.  Everything that must survive a kill is in the state."""

    def step(self) -> dict[str, float]:
        """Do one iteration and return its metrics, named group/name."""

    def state_dict(self) -> dict[str, Any]:
        """Return a tree of dicts, lists, tensors, numpy arrays and plain JSON values (no pickle)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned: the next `step` is bitwise what it would have been."""
