"""Supervised fine-tuning of a VLA on demonstrations.

Source: flow matching as in pi0 (arXiv 2410.24164) and GR00T N1 (arXiv 2503.14734); the loss is the policy's own
(`policies/vla.py`, `policies/pi0.py`), this file is everything around it.  Settings of AdamW (0.9, 0.95), cosine rate
with warm-up and EMA are openpi's; L2-SP is Li et al. 2018 (arXiv 1802.01483).  Muon is torch's, at the update size of
AdamW (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982), for matrices; AdamW takes the rest.
Regimes: `joint` trains all at once; `adapter_first` leaves the trunk that came from RL bitwise as it is for the first
share of the steps, while adapter, banks, modulation and new sublayers learn, then lets it in at a rate that rises from
a tenth to the whole.
Deviation: EMA's decay is min(decay, (1 + n) / (10 + n)) at step n, since runs here have hundreds of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.device import device_of, pinned, to_device
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Discount, NonNegative, Positive, Share, Size, Whole
from toddle.core.protocols import FineTunable
from toddle.core.seeding import PartGenerator, numpy_generator, torch_generator
from toddle.core.team import add_gradients, team
from toddle.core.tensors import is_part
from toddle.maths.similarity import linear_cka
from toddle.models.compiled import check_compilable, compiling
from toddle.models.recompute import recomputing
from toddle.models.sharded import clip, own_part, put, put_moments, shard, whole
from toddle.optim.adam_state import adam_state, load_adam_state
from toddle.optim.schedules import cosine_factor

PROBES = 128
"""Samples on which CKA is measured."""

__all__ = ["SFT", "SFTConfig", "SampleSource"]


@config
class SFTConfig:
    """How a VLA is fine-tuned on demonstrations."""

    steps: Count = 1000
    """Gradient steps."""
    batch: Size = 64
    """Decisions in a step."""
    accumulate: Count = 1
    """Parts of a batch that are computed one after the other, which takes so much less memory for activations."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """muon: matrices by Muon (momentum 0.95, updates as large as AdamW's), all else by AdamW, at the same rate."""
    prefetch: bool = False
    """Make the next step's batch in a thread while this one computes; on CUDA in pinned memory.  Results are the same,
    bit by bit."""
    checkpointing: bool = False
    """Keep what goes into each block alone and compute the rest again in the backward pass: about a third more time, a
    fraction of the memory for activations."""
    compile: bool = False
    """Compile the action expert's blocks (torch.compile; docs/devices.md)."""
    learning_rate: Positive = 5e-4
    """Peak learning rate."""
    adapter_factor: NonNegative = 1.0
    """The adapter's rate as a multiple of the others': a converted expert's adapter starts at weight 0."""
    warm_up: Share = 0.05
    """Share of the steps in which the rate rises from 0."""
    final_rate: Share = 0.05
    """Rate at the end of the cosine, as a share of the peak."""
    weight_decay: NonNegative = 1e-4
    """Decoupled weight decay, whichever the optimiser; biases and norms have none."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    regime: Literal["joint", "adapter_first"] = "joint"
    """Whether the trunk trains from the first step."""
    adapter_share: Share = 0.15
    """adapter_first: share of the steps before the trunk trains; it takes as many again to reach its full rate."""
    ema: Discount = 0.99
    """Decay of the average of the weights that is saved; 0 saves the last weights."""
    l2_sp: NonNegative = 0.0
    """Weight of the squared distance of the trunk from where it began."""
    bf16: bool = False
    """Compute in bfloat16 (autocast)."""
    cka_every: Whole = 0
    """Steps between two comparisons (linear CKA) of the trunk's tokens with those at the start; 0 for none."""

    def __post_init__(self) -> None:
        if self.accumulate > self.batch:
            raise problem("accumulate", f"at most the batch of {self.batch}", self.accumulate)


class SampleSource(Protocol):
    """What SFT asks of the data."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def batch(self, samples: Any) -> dict[str, Any]:
        """Return the batch of the samples' indices."""


class SFT:
    """A `Learner`: one gradient step per `step`.  `policy` is trained in place; `averaged` are the weights to save."""

    def __init__(
        self,
        policy: FineTunable,
        data: SampleSource,
        config: SFTConfig,
        *,
        seed: int = 0,
        weights: NDArray[np.float64] | None = None,
        sharded: bool = False,
    ) -> None:
        """Begin; the order of samples and the noise follow from `seed`.

        weights: of the samples (len(data),), which are then drawn in proportion to them, with repetition; None: each is
        met once before one is met again.  sharded: each of several learners keeps a part of every weight (`shard`).
        """
        self.policy, self.data, self.config, self.sharded = policy, data, config, sharded
        self.chances = None if weights is None else weights / weights.sum()
        if config.compile:
            check_compilable(policy, "sft.compile")
        self.device = device_of(policy)
        if sharded:
            shard(policy, self.device, ("loss", "trunk_tokens"), bf16=config.bf16)
        self.weights = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        self.trunk = {name: value for name, value in policy.trunk_parameters().items() if name in self.weights}
        self.start = {name: value.detach().clone() for name, value in self.trunk.items()}
        self.averaged = {name: value.detach().clone() for name, value in self.weights.items()}
        self.optimisers = self._optimisers()
        self.team = team()
        own = self.team.share(config.batch)
        self.parts = [
            own[i * len(own) // config.accumulate : (i + 1) * len(own) // config.accumulate]
            for i in range(config.accumulate)
        ]
        self.whole = len(self.parts[0]) == config.batch
        self.noise = torch_generator(seed, "sft noise", part=None if self.whole else (0, config.batch, config.batch))
        self.numbers = numpy_generator(seed, "sft samples")
        self.order, self.done = np.empty(0, np.int64), 0
        self.pool = ThreadPoolExecutor(1) if config.prefetch else None
        self.ahead: Future[list[dict[str, Any]]] | None = None  # the next step's batches, and where the sampler stood
        self.stood: tuple[Any, Any] = (None, None)
        self.tokens = self._tokens() if config.cka_every else torch.zeros(0)

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Return AdamW, and Muon for the matrices where it is asked for."""
        muon = self.config.optimiser == "muon"
        matrices = {name: value for name, value in self.weights.items() if muon and value.ndim == 2}
        rest = {name: value for name, value in self.weights.items() if name not in matrices}
        found: dict[str, torch.optim.Optimizer] = {}
        mixed = len({is_part(value) for value in rest.values()}) > 1  # torch fuses steps of one of the two
        if rest:
            found["optimiser"] = torch.optim.AdamW(
                self._groups(rest), lr=self.config.learning_rate, betas=(0.9, 0.95), fused=not mixed
            )
        if matrices:
            found["muon"] = torch.optim.Muon(self._groups(matrices), adjust_lr_fn="match_rms_adamw")
        return found

    def _groups(self, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        chosen: dict[tuple[bool, bool, bool], list[Tensor]] = {}
        for name, value in weights.items():
            chosen.setdefault((name in self.trunk, name.startswith("adapter."), value.ndim > 1), []).append(value)
        return [
            {
                "params": values,
                "trunk": trunk,
                "factor": self.config.adapter_factor if adapter else 1.0,
                "weight_decay": self.config.weight_decay if decay else 0.0,
            }
            for (trunk, adapter, decay), values in sorted(chosen.items(), key=lambda item: item[0])
        ]

    # ---- schedules ---------------------------------------------------------------------------------------------------
    def rate_at(self, step: int) -> float:
        """Return the learning rate of `step` (from 0): linear warm-up, then cosine down to final_rate * rate."""
        config = self.config
        ramp = round(config.warm_up * config.steps)
        return config.learning_rate * cosine_factor(step, config.steps, warm_up=ramp, final=config.final_rate)

    def trunk_share(self, step: int) -> float:
        """Return the trunk's rate at `step` as a share of the others': 0 where it is held."""
        if self.config.regime == "joint":
            return 1.0
        held = round(self.config.adapter_share * self.config.steps)
        if step < held:
            return 0.0
        return min(1.0, 0.1 + 0.9 * (step - held) / max(1, held))

    def _samples(self) -> Any:
        size = self.config.batch
        if self.chances is not None:
            return self.numbers.choice(len(self.data), size, p=self.chances)
        while len(self.order) < size:
            self.order = np.concatenate([self.order, self.numbers.permutation(len(self.data))])
        chosen, self.order = self.order[:size], self.order[size:]
        return chosen

    def _batches(self) -> list[dict[str, Any]]:
        """Return the batches of this learner's parts of a step; with `prefetch` the next ones are begun."""
        found = self._made(self._samples()) if self.ahead is None else self.ahead.result()
        if self.pool is not None:
            self.stood = self.numbers.bit_generator.state, self.order
            self.ahead = self.pool.submit(self._made, self._samples())
        return found

    def _made(self, samples: Any) -> list[dict[str, Any]]:
        made = [self.data.batch(samples[part.start : part.stop]) for part in self.parts]
        return pinned(made) if self.config.prefetch and self.device.type == "cuda" else made

    # ---- Learner -----------------------------------------------------------------------------------------------------
    def step(self) -> dict[str, float]:
        """Make one gradient step.  Raises NaNError when the loss or the gradient is not finite."""
        config, share = self.config, self.trunk_share(self.done)
        rate = self.rate_at(self.done)
        for group in (group for each in self.optimisers.values() for group in each.param_groups):
            group["lr"] = rate * group["factor"] * (share if group["trunk"] else 1.0)
        for value in self.trunk.values():
            value.requires_grad_(share > 0)
        self.policy.train()
        self.policy.begin_step(self.done / config.steps)
        for each in self.optimisers.values():
            each.zero_grad(set_to_none=True)
        metrics = self._gradients(self._batches(), l2_sp=config.l2_sp if share > 0 else 0.0)
        if self.sharded:
            norm = clip(self.weights.values(), config.clip, self.team)
        else:
            norm = float(nn.utils.clip_grad_norm_(self.weights.values(), config.clip))
        if not math.isfinite(norm):
            raise NaNError(f"sft: the gradient's norm is {norm}")
        for each in self.optimisers.values():
            each.step()
        self.done += 1
        self._average()
        metrics = {**metrics, "sft/grad_norm": norm, "sft/learning_rate": rate, "sft/trunk_drift": self.drift()}
        if config.cka_every and self.done % config.cka_every == 0:
            metrics["sft/cka"] = linear_cka(self._tokens(), self.tokens)
        return metrics

    def _gradients(self, batches: list[dict[str, Any]], l2_sp: float) -> dict[str, float]:
        """Set the gradients of the batch, this learner's parts of it one after the other; return facts about it.

        Every part draws the noise of the whole batch and takes its own rows; it counts by its real actions.
        """
        counts = [1.0 if self.whole else float(batch["mask"].sum()) for batch in batches]
        total = sum(counts) if self.team.size == 1 else float(self.team.add(torch.tensor(sum(counts))))
        facts: dict[str, float] = {}
        bad = 0.0
        state = self.noise.get_state()
        for part, batch, count in zip(self.parts, batches, counts, strict=True):
            if isinstance(self.noise, PartGenerator):
                self.noise.set_state(state)
                self.noise.first, self.noise.own = part.start, len(part)
            bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)
            with bf16, recomputing(self.config.checkpointing), compiling(self.config.compile):
                loss, found = self.policy.loss(to_device(batch, self.device), self.noise)
            if not self.whole:
                loss = loss * (
                    count / total * (self.team.size if self.sharded else 1)
                )  # parts have the mean's gradient
            if l2_sp and part.start == 0:  # once, whoever has the first row
                loss = loss + l2_sp * self._distance()
            bad = bad if torch.isfinite(loss) else loss.item()
            loss.backward()
            facts = {name: facts.get(name, 0.0) + value * count / total for name, value in found.items()}
        if self.team.any(not math.isfinite(bad)):
            raise NaNError(f"sft: the loss is {bad}")
        if self.team.size > 1:
            apart = [value for value in self.weights.values() if not is_part(value)]
            add_gradients(self.team, apart)
            for value in apart if self.sharded else ():  # of parts torch has made the means
                if value.grad is not None:
                    value.grad /= self.team.size
            facts = dict(
                zip(facts, self.team.add(torch.tensor([*facts.values()], dtype=torch.float64)).tolist(), strict=True)
            )
        return facts

    def own_worlds(self) -> dict[str, int]:
        """Return that all of the state is equal in every learner."""
        return {}

    @torch.no_grad()
    def _tokens(self) -> Tensor:
        """Return the trunk's tokens of a fixed choice of samples."""
        self.policy.train(False)
        chosen = np.linspace(0, len(self.data) - 1, min(PROBES, len(self.data))).astype(np.int64)
        tokens = self.policy.trunk_tokens(to_device(self.data.batch(chosen), self.device))
        if tokens is None:
            raise problem("sft.cka_every", f"0 with a policy of kind '{self.policy.kind}'", self.config.cka_every)
        return tokens.float()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.done) / (10 + self.done))
        kept, now = _parts(self.averaged), _parts(self.weights)
        torch._foreach_lerp_(kept, now, 1.0 - decay)

    def _distance(self) -> Tensor:
        total: Tensor = sum(
            ((value - self.start[name]).square().sum() for name, value in self.trunk.items()),
            torch.zeros((), device=self.device),
        )
        return total

    @torch.no_grad()
    def drift(self) -> float:
        """Return ||theta - theta_0|| / ||theta_0|| of the trunk, 0 where there is none."""
        if not self.trunk:
            return 0.0
        now, start = _parts(self.trunk), _parts(self.start)
        norms = [torch.stack(torch._foreach_norm(parts)).norm() for parts in (torch._foreach_sub(now, start), start)]
        if self.sharded:
            norms = [self.team.add(norm.square()).sqrt() for norm in norms]
        return float(norms[0] / norms[1].clamp(min=1e-12))

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the averaged weights into the policy, for evaluation or saving after the last step."""
        for name, value in self.weights.items():
            value.copy_(self.averaged[name])
            value.requires_grad_(True)
        self.policy.begin_step(1.0)
        self.policy.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, buffers, averages, optimiser, and where the sampler and the noise stand."""
        weighty = {"policy": self.policy.state_dict(), "averaged": dict(self.averaged), "start": dict(self.start)}
        weighty |= {name: adam_state(each) for name, each in self.optimisers.items()}
        numbers, order = (self.numbers.bit_generator.state, self.order) if self.ahead is None else self.stood
        return {
            **whole(weighty),
            "noise": self.noise.get_state(),
            "numbers": numbers,
            "order": order,
            "done": self.done,
            "tokens": self.tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        self.policy.load_state_dict(put(self.policy.state_dict(), state["policy"]))
        for mine, kept in ((self.averaged, state["averaged"]), (self.start, state["start"])):
            for name, value in mine.items():
                value.copy_(put(value, kept[name]))
        for name, each in self.optimisers.items():
            load_adam_state(each, put_moments(each, state[name]) if self.sharded else state[name])
        self.noise.set_state(state["noise"])
        self.ahead = None
        self.numbers.bit_generator.state = state["numbers"]
        self.order, self.done = np.asarray(state["order"], np.int64), int(state["done"])
        self.tokens = to_device(state.get("tokens", self.tokens), self.device)


def _parts(values: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what of the weights is here."""
    return [own_part(value.detach()) for value in values.values()]
