"""Training of a model of an environment: one step sharply, and what a step comes to read from the model's own states.

loss = sum over members k of  mean |d_k(s_{t-T+1..t} + noise, a) - (s_{t+1} - s_t) / spread|^2      one step, recorded
       + mean over i < L of   [ (r - r^)^2 + BCE(success) + BCE(end) ](s^_i, a_{t+i}, s^_{i+1})     L steps, predicted

The heads learn on roll-outs s^ of the members, with the recorded actions and the recorded outcome, and no gradient
into the members: heads that learn on recorded states alone do not recognise success in predicted ones.  Each member has
its own draw of the training episodes, with replacement, the same throughout (the bootstrap of PETS, Chua et al. 2018,
arXiv 1805.12114).  The control learns from the same data with the actions dealt anew among all steps, so it knows what
states follow one another and not what actions do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.device import device_of
from toddle.core.errors import NaNError
from toddle.core.numbers import Count, NonNegative, Positive, Share, Size
from toddle.core.seeding import numpy_generator, randint, randn, torch_generator
from toddle.data.recordings import Recordings
from toddle.maths.world_models import alarm_level, counted, firing_level, firing_worth
from toddle.models.world_model import WorldModel
from toddle.optim.adam_state import adam_state, load_adam_state
from toddle.optim.schedules import cosine_factor

__all__ = ["OpenLoop", "WorldModelTraining", "WorldModelTrainingConfig", "open_loop"]


@config
class WorldModelTrainingConfig:
    """How a model of an environment is trained."""

    steps: Count = 3000
    """Gradient steps."""
    batch: Size = 64
    """Windows in a step, for each member."""
    learning_rate: Positive = 1e-3
    """Peak of AdamW's rate."""
    warm_up: Share = 0.02
    """Share of the steps in which the rate rises from 0; a cosine follows."""
    weight_decay: NonNegative = 1e-4
    """AdamW's weight decay."""
    clip: Positive = 1.0
    """Largest norm of the gradient of a member, and of the heads."""
    noise: NonNegative = 0.02
    """Deviation of the noise on the states that members see, in deviations of the recorded states."""
    roll_out: Size = 6
    """Steps of the roll-outs that the heads learn on."""
    roll_outs: Size = 32
    """Roll-outs in a step, of one member, in turn."""
    alarm: Share = 0.05
    """Share of the held-out episodes whose roll-out may raise the alarm of doubt, which sets its level."""


class WorldModelTraining:
    """A `Learner`: one gradient step of the model, and of its control, per `step`; they are trained in place."""

    def __init__(
        self,
        models: dict[str, WorldModel],
        data: Recordings,
        config: WorldModelTrainingConfig,
        *,
        seed: int = 0,
        felt: int | None = None,
    ) -> None:
        """models: "model", and perhaps "control", whose actions are shuffled.  felt: how many numbers of a state come
        before the components of what is seen, where there are any."""
        self.models, self.config, self.done = models, config, 0
        self.device = device_of(models["model"])
        self.data = Recordings(**{name: value.to(self.device) for name, value in data.tensors().items()})
        self.generator = torch_generator(seed, "world model")
        training = np.flatnonzero(~data.held.numpy())
        count = len(models["model"].members)
        starts, lengths = data.start.numpy(), data.lengths.numpy()
        self.rows: list[Tensor] = []  # of each member, the steps of its episodes
        for member in range(count):
            own = numpy_generator(seed, "bootstrap", member).choice(training, len(training)) if count > 1 else training
            steps = [np.arange(starts[one], starts[one] + lengths[one]) for one in own]
            self.rows.append(torch.from_numpy(np.concatenate(steps)).to(self.device))
        mixed = torch.from_numpy(numpy_generator(seed, "shuffled actions").permutation(len(data))).to(self.device)
        self.actions = {name: self.data.action if name == "model" else self.data.action[mixed] for name in models}
        kept = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in training])
        rows = torch.from_numpy(kept).to(self.device)
        inner = _inner(self.data, rows)
        self.optimisers: dict[str, torch.optim.AdamW] = {}
        for name, model in models.items():
            state, reward = self.data.state, self.data.reward
            change = state[inner + 1] - state[inner]
            model.fit_statistics(state[rows], change, reward[rows], felt)
            self.counts = (model.spread > 0).float()  # of each number of the state, in the loss
            if felt is not None:
                self.counts = self.counts * counted(change.double().var(0, correction=0), felt).float()
            fused = self.device.type in ("cpu", "cuda")  # where torch has it
            self.optimisers[name] = torch.optim.AdamW(
                model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused
            )

    def _drawn(self, member: int, count: int) -> Tensor:
        rows = self.rows[member]
        return rows[randint(len(rows), (count,), self.generator, self.device)]

    def _one_step(self, model: WorldModel, actions: Tensor, member: int, rows: Tensor) -> Tensor:
        """Return a member's loss on the windows that end at rows (B,)."""
        data, window = self.data, model.config.window
        taken, own = data.windows(rows, window, 1)
        seen, real = data.state[taken], own[:, :-1]
        noise = self.config.noise * randn(seen[:, :-1].shape, self.generator, self.device) * model.norm.var[0].sqrt()
        found = model.changes(member, (seen[:, :-1] + noise).float(), actions[taken[:, :-1]], real)
        moving = model.spread > 0
        wanted = (seen[:, 1:] - seen[:, :-1])[..., moving] / model.spread[moving]
        weight = self.counts[moving]
        error = ((found[..., moving] - wanted).square() * weight).sum(-1) / weight.sum()
        counts = real & own[:, 1:]
        return (error * counts).sum() / counts.sum().clamp_min(1)

    def _heads(self, model: WorldModel, actions: Tensor, member: int, rows: Tensor) -> dict[str, Tensor]:
        """Return the heads' losses on a member's roll-outs from rows (B,)."""
        data, config = self.data, self.config
        taken, own = data.windows(rows, model.config.window, config.roll_out - 1)
        states, real = data.state[taken], own.clone()
        now = model.config.window - 1
        with torch.no_grad():
            rolled = _rolled(model, member, states[:, : now + 1], actions[taken], real[:, : now + 1])
        said = model.logits(rolled[:, :-1], actions[taken][:, now:], rolled[:, 1:])
        taken, counts = taken[:, now:], own[:, now:].float()
        reward = (data.reward[taken] - model.reward[0]) / model.reward[1]
        solved = data.success[taken]
        fresh = counts * ((solved.cumsum(1) - solved.long()) == 0)  # after the first success of the piece: not asked
        losses = {
            "reward": ((said[..., 0] - reward).square(), counts),
            "success": (F.binary_cross_entropy_with_logits(said[..., 1], solved.float(), reduction="none"), fresh),
            "end": (
                F.binary_cross_entropy_with_logits(said[..., 2], data.terminated[taken].float(), reduction="none"),
                counts,
            ),
        }
        return {name: (loss * weight).sum() / weight.sum().clamp_min(1) for name, (loss, weight) in losses.items()}

    def step(self) -> dict[str, float]:
        """Make one gradient step.  Raises NaNError when a loss or a gradient is not finite."""
        config = self.config
        rate = config.learning_rate * cosine_factor(
            self.done, config.steps, warm_up=round(config.warm_up * config.steps)
        )
        count = len(self.rows)
        rows = [self._drawn(member, config.batch) for member in range(count)]
        member = self.done % count
        begun = self._drawn(member, config.roll_outs)
        metrics = {"world_model/learning_rate": rate}
        for name, model in self.models.items():
            actions, optimiser = self.actions[name], self.optimisers[name]
            single = torch.stack([self._one_step(model, actions, k, rows[k]) for k in range(count)])
            heads = self._heads(model, actions, member, begun)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            loss = single.sum() + sum(heads.values(), torch.zeros((), device=self.device))
            loss.backward()
            parts = [*model.members, model.heads]
            norms = [float(nn.utils.clip_grad_norm_(part.parameters(), config.clip)) for part in parts]
            if not math.isfinite(sum(norms) + loss.item()):
                raise NaNError(f"world model: the loss is {loss.item()}, the gradients' norms {norms}")
            optimiser.step()
            prefix = "world_model" if name == "model" else "control"
            metrics[f"{prefix}/loss"] = single.mean().item()
            metrics |= {f"{prefix}/{head}_loss": value.item() for head, value in heads.items()}
        self.done += 1
        return metrics

    @torch.no_grad()
    def set_levels(self) -> dict[str, dict[str, float]]:
        """Set doubt's and the heads' levels on roll-outs of the held-out episodes; return what they are worth there.

        The models are on the CPU afterwards.
        """
        data = Recordings(**{name: value.cpu() for name, value in self.data.tensors().items()})
        return {name: _set_levels(model.cpu(), data, self.config.alarm) for name, model in self.models.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimisers, and where the draws stand."""
        return {
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "optimisers": {name: adam_state(optimiser) for name, optimiser in self.optimisers.items()},
            "generator": self.generator.get_state(),
            "done": self.done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        for name, model in self.models.items():
            model.load_state_dict(state["models"][name])
            load_adam_state(self.optimisers[name], state["optimisers"][name])
        self.generator.set_state(state["generator"])
        self.done = int(state["done"])


def _inner(data: Recordings, rows: Tensor) -> Tensor:
    """Return those of the rows that another row of the same episode follows."""
    episode = data.episode
    follows = torch.cat([episode[1:] == episode[:-1], torch.zeros_like(data.success[:1])])
    return rows[follows[rows]]


def _rolled(model: WorldModel, member: int, states: Tensor, actions: Tensor, real: Tensor) -> Tensor:
    """Return the states (B, 1 + L, O) that a member says follow, the last of the window's states (B, T, O) first.

    actions: (B, T - 1 + L, A), those of the window and of the steps after it; real: (B, T).
    """
    window = states.shape[1]
    found = [states[:, -1]]
    for step in range(actions.shape[1] - window + 1):
        change = model.changes(member, states, actions[:, step : step + window], real)[:, -1]
        found.append(model.after(states[:, -1], change))
        states = torch.cat([states[:, 1:], found[-1][:, None]], 1)
        real = torch.cat([real[:, 1:], torch.ones_like(real[:, :1])], 1)
    return torch.stack(found, 1)


class OpenLoop:
    """Roll-outs of recorded actions from recorded states, each of one member; arrays (B, L, ...) on the CPU."""

    def __init__(self, model: WorldModel, data: Recordings, rows: Tensor, steps: int, member: Tensor) -> None:
        window = model.config.window
        taken, own = data.windows(rows, window, steps)
        states, real, actions = data.state[taken[:, :window]], own[:, :window], data.action[taken]
        self.first, self.truth, self.after = states[:, -1], data.state[taken[:, window:]], own[:, window:]
        self.rows, self.real = taken[:, window - 1 : -1], own[:, window - 1 : -1]
        rolled, doubt = [], []
        for step in range(steps):
            said = model.following(states, actions[:, step : step + window], real)
            rolled.append(said[member, torch.arange(len(rows))])
            doubt.append(model.doubt(said))
            states = torch.cat([states[:, 1:], rolled[-1][:, None]], 1)
            real = torch.cat([real[:, 1:], torch.ones_like(real[:, :1])], 1)
        self.predicted, self.doubt = torch.stack(rolled, 1), torch.stack(doubt, 1)
        before = torch.cat([self.first[:, None], self.predicted[:, :-1]], 1)
        self.outcome = model.outcome(before, actions[:, window - 1 : -1], self.predicted)


@torch.no_grad()
def open_loop(model: WorldModel, data: Recordings, rows: Tensor, steps: int) -> OpenLoop:
    """Roll `steps` recorded actions out from rows (B,), the members in turn."""
    return OpenLoop(model, data, rows, steps, torch.arange(len(rows)) % len(model.members))


def _set_levels(model: WorldModel, data: Recordings, alarm: float) -> dict[str, float]:
    """Choose success's level on every other of the held-out episodes, and measure it on those between."""
    starts, succeeded = data.start[data.held], data.succeeded()[data.held]
    found = open_loop(model, data, starts, int(data.lengths.max()))
    doubt = torch.where(found.real, found.doubt, 0.0).amax(1)
    level = alarm_level(doubt.numpy(), alarm)
    model.alarm.fill_(min(level, 1e9))
    scores = torch.where(found.real, found.outcome.success, 0.0).amax(1).numpy()
    success = firing_level(scores[::2], succeeded.numpy()[::2])
    model.fires.fill_(min(success.level, 2.0))
    worth = firing_worth(scores[1::2], succeeded.numpy()[1::2], float(model.fires))
    ended = (data.terminated[found.rows] & found.real).any(1).numpy()
    end = firing_level(torch.where(found.real, found.outcome.end, 0.0).amax(1).numpy(), ended)
    model.ends.fill_(min(end.level, 2.0))
    numbers = {"alarm": float(model.alarm), "success_level": float(model.fires), "end_level": float(model.ends)}
    named = {f"success_{name}": value for name, value in worth._asdict().items() if name != "level"}
    return numbers | {name: value for name, value in named.items() if math.isfinite(value)}
