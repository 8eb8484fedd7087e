"""Training of the process reward model: the next word, "yes" or "no", by cross-entropy with classes of equal weight.

Source: VLA-RL (Lu et al. 2025, arXiv 2505.18719) trains a vision-language model as a next-token classifier of labels
made from successful demonstrations; the paper gives no settings, these are ours.
Controls are trained beside the model: the same pictures in the same order, the same loss, but labels that were dealt
anew among all steps, for each control differently, and first weights of its own.  What they can do is chance.

A model that says how far a task is learns from time alone: of two steps of a demonstration the later one has the higher
value (RFTF, arXiv 2505.19767), or how many steps are left (Generalist, arXiv 2509.15155).  Its controls learn from
demonstrations whose times were dealt anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.device import device_of, to_device
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Discount, NonNegative, Positive, Share, Size
from toddle.core.seeding import numpy_generator, rand, torch_generator
from toddle.data.feature_cache import FeatureCache, picture_index
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import LabelledEpisode
from toddle.maths.potentials import order_loss, steps_to_bins
from toddle.optim.adam_state import adam_state, load_adam_state
from toddle.optim.schedules import cosine_factor
from toddle.policies.process_reward import RewardModel

__all__ = ["ProgressSamples", "RewardTraining", "RewardTrainingConfig"]

Array = NDArray[Any]


@config
class RewardTrainingConfig:
    """How the process reward model is trained."""

    steps: Count = 800
    """Gradient steps."""
    batch: Size = 64
    """Pictures in a step."""
    learning_rate: Positive = 1e-3
    """Peak of AdamW's rate."""
    warm_up: Share = 0.05
    """Share of the steps in which the rate rises from 0; a cosine follows."""
    weight_decay: NonNegative = 0.01
    """AdamW's weight decay."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    hidden: Discount = 0.1
    """Share of the context's tokens that are hidden at random in training."""


class ProgressSamples:
    """The steps of labelled episodes, with features of their pictures.

    Arrays, one entry a step: `labels` bool, `episode` (which of `episodes`), `proprio` (N, O), `to_success` steps.
    """

    def __init__(self, parts: Sequence[tuple[LeRobotDataset, FeatureCache, Sequence[LabelledEpisode]]]) -> None:
        """parts: dataset, its cache, and the episodes taken of it.  Raises InputError where there are none."""
        self.episodes = [one for _, _, episodes in parts for one in episodes]
        if not self.episodes:
            raise problem("episodes", "at least one", "none")
        self.labels = np.concatenate([one.labels for one in self.episodes])
        self.to_success = np.concatenate([one.to_success for one in self.episodes])
        self.episode = np.repeat(np.arange(len(self.episodes)), [len(one.rows) for one in self.episodes])
        kept = [part for part in parts if part[2]]
        rows = [np.concatenate([one.rows for one in episodes]) for _, _, episodes in kept]
        self.source = np.repeat(np.arange(len(kept)), [len(own) for own in rows])
        self.picture = np.concatenate([picture_index(part[0], own) for part, own in zip(kept, rows, strict=True)])
        states = [part[0].vector("observation.state")[own] for part, own in zip(kept, rows, strict=True)]
        if len({state.shape[1] for state in states}) > 1:
            raise problem("datasets: observation.state", "one size for all", [state.shape[1] for state in states])
        self.proprio = np.concatenate(states).astype(np.float32)
        self.maps = [cache.load() for _, cache, _ in kept]

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.labels)

    def batch(self, chosen: Array) -> dict[str, Tensor]:
        """Return context (b, G, D) float16, its mask and proprioception of the steps `chosen` (b,)."""
        source, picture = self.source[chosen], self.picture[chosen]
        features, real = self.maps[0]
        context = np.empty((len(chosen), *features.shape[1:]), np.float16)
        mask = np.empty((len(chosen), *real.shape[1:]), bool)
        for index, (features, real) in enumerate(self.maps):
            at = source == index
            context[at], mask[at] = features[picture[at]], real[picture[at]]
        found = {"context": context, "context_mask": mask, "proprio": self.proprio[chosen]}
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def others(self, chosen: Array, generator: np.random.Generator) -> Array:
        """Return for each of the chosen steps (B,) one drawn from all of its episode."""
        first = np.searchsorted(self.episode, self.episode[chosen])
        last = np.searchsorted(self.episode, self.episode[chosen], side="right")
        found: Array = generator.integers(first, last)
        return found

    def yes(self, model: RewardModel, batch: int = 256) -> Array:
        """Return the model's probability of "yes" at every step, (N,)."""
        return self._asked(model.yes, model, batch)

    def progress(self, model: RewardModel, batch: int = 256) -> Array:
        """Return how far the model says the task is at every step, (N,)."""
        return self._asked(model.progress, model, batch)

    def _asked(self, ask: Callable[[Any], Tensor], model: RewardModel, batch: int) -> Array:
        parts = np.array_split(np.arange(len(self)), -(-len(self) // batch))
        found = [ask(to_device(self.batch(part), device_of(model))) for part in parts]
        return torch.cat(found).double().cpu().numpy()


class RewardTraining:
    """A `Learner`: one gradient step of each of `models` per `step`.

    `models` are trained in place: "model" on the labels, all others on labels that are shuffled for each of them.
    """

    def __init__(
        self, models: dict[str, RewardModel], samples: ProgressSamples, config: RewardTrainingConfig, *, seed: int = 0
    ) -> None:
        """Begin.  Raises InputError where every step has the same label."""
        self.models, self.samples, self.config = models, samples, config
        self.device = device_of(models["model"])
        self.says = models["model"].config.says
        if self.says == "key-frame":
            self._label(seed)
        else:
            self._time(seed)
        self.optimisers = {
            name: torch.optim.AdamW(
                model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
            )
            for name, model in models.items()
        }
        self.hiding = torch_generator(seed, "hidden tokens")
        self.numbers = numpy_generator(seed, "reward samples")
        self.order, self.done = np.empty(0, np.int64), 0
        for model in models.values():
            if model.config.proprio:
                model.norm.update(torch.from_numpy(samples.proprio).to(self.device))

    def _label(self, seed: int) -> None:
        """Deal the labels of key frames, and weigh their classes alike."""
        samples = self.samples
        many = int(samples.labels.sum())
        if many in (0, len(samples)):
            raise problem("labels", "some steps of either kind", f"{many} of {len(samples)} lead to a key frame")
        self.weight = torch.tensor([0.5 / (len(samples) - many), 0.5 / many], device=self.device) * len(samples)
        self.labels = {name: numpy_generator(seed, "labels", name).permutation(samples.labels) for name in self.models}
        self.labels["model"] = samples.labels

    def _time(self, seed: int) -> None:
        """Deal the steps to go, the controls' anew within each demonstration."""
        samples, longest = self.samples, float(self.samples.to_success.max())
        self.labels = {name: samples.to_success.copy() for name in self.models}
        for name in (name for name in self.models if name != "model"):
            generator = numpy_generator(seed, "labels", name)
            for number in range(len(samples.episodes)):
                own = samples.episode == number
                self.labels[name][own] = generator.permutation(samples.to_success[own])
        for model in self.models.values():
            model.longest.fill_(longest)

    def _loss(self, name: str, chosen: Array, said: Tensor) -> tuple[Tensor, Tensor]:
        """Return a model's loss on the chosen steps, of which it said (B, outputs), and the share it has right."""
        target = torch.from_numpy(self.labels[name][chosen]).long().to(self.device)
        if self.says == "key-frame":
            return F.cross_entropy(said, target, self.weight), (said.argmax(-1) == target).float().mean()
        if self.says == "steps-to-go":
            bins = steps_to_bins(target, float(self.models[name].longest), said.shape[-1])
            return F.cross_entropy(said, bins), (said.argmax(-1) == bins).float().mean()
        value, half = said[:, 0], len(chosen) // 2  # the second half are steps of the same demonstrations
        first = target[:half] > target[half:]
        differ = target[:half] != target[half:]
        earlier, later = torch.where(first, value[:half], value[half:]), torch.where(first, value[half:], value[:half])
        losses = order_loss(earlier, later)[differ]
        loss = losses.mean() if len(losses) else 0.0 * value.sum()
        return loss, (later > earlier)[differ].float().mean() if len(losses) else torch.ones(())

    @torch.no_grad()
    def calibrate(self) -> None:
        """Tell models that say how far a task is what 0 and 1 are: what they say where demonstrations begin and end."""
        if self.says == "key-frame":
            return
        first = np.flatnonzero(np.diff(self.samples.episode, prepend=-1))
        last = np.append(first[1:], len(self.samples)) - 1
        for model in self.models.values():
            for place, steps in enumerate((first, last)):
                seen = to_device(self.samples.batch(steps), self.device)
                said = model(seen["context"], seen["context_mask"], seen["proprio"])
                model.ends[place] = model.value(said).mean()

    def step(self) -> dict[str, float]:
        """Make one gradient step.  Raises NaNError when a loss or a gradient is not finite."""
        config = self.config
        while len(self.order) < config.batch:
            self.order = np.concatenate([self.order, self.numbers.permutation(len(self.samples))])
        chosen, self.order = self.order[: config.batch], self.order[config.batch :]
        if self.says == "order":
            chosen = np.concatenate([chosen, self.samples.others(chosen, self.numbers)])
        seen = to_device(self.samples.batch(chosen), self.device)
        shown = rand(seen["context_mask"].shape, self.hiding, self.device) >= config.hidden
        mask = seen["context_mask"] & shown
        rate = config.learning_rate * cosine_factor(
            self.done, config.steps, warm_up=round(config.warm_up * config.steps)
        )
        metrics = {"reward_model/learning_rate": rate}
        for name, model in self.models.items():
            loss, right = self._loss(name, chosen, model(seen["context"], mask, seen["proprio"]))
            optimiser = self.optimisers[name]
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
            if not math.isfinite(norm + loss.item()):
                raise NaNError(f"reward model: the loss is {loss.item()}, the gradient's norm {norm}")
            optimiser.step()
            metrics["reward_model/loss" if name == "model" else f"reward_model/loss_of_{name}"] = loss.item()
            if name == "model":
                metrics["reward_model/accuracy"] = float(right)
                metrics["reward_model/grad_norm"] = norm
        self.done += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimisers, and where the sampler and the hiding of tokens stand."""
        return {
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "optimisers": {name: adam_state(optimiser) for name, optimiser in self.optimisers.items()},
            "hiding": self.hiding.get_state(),
            "numbers": self.numbers.bit_generator.state,
            "order": self.order,
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        for name, model in self.models.items():
            model.load_state_dict(state["models"][name])
            load_adam_state(self.optimisers[name], state["optimisers"][name])
        self.hiding.set_state(state["hiding"])
        self.numbers.bit_generator.state = state["numbers"]
        self.order, self.done = np.asarray(state["order"], np.int64), int(state["done"])
