"""Imitation of a policy's own successes beside RL: PPO on chunks with self-behaviour-cloning.

    L = w L_PPO + weight * L_SFT(own successful episodes, demonstrations)

The policy gradient says little about one update (its noise moves every weight); a regression on what worked has a
minimum, so it holds the policy where successes are.  Beside PPO on chunks, with the shorter successes and a weight that
falls as they get more: AC-PPO, arXiv 2509.25718; self-imitation: Oh et al. 2018, arXiv 1806.05635; in turns with RL on
VLAs: iRe-VLA, Guo et al. 2025, arXiv 2501.16664.
Several learners keep the same episodes and draw the same batches, of which each computes its rows.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from toddle.algorithms.parts import Auxiliary
from toddle.algorithms.sft import SampleSource
from toddle.core.config import config
from toddle.core.device import device_of, to_device
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import NonNegative, Positive, Share, Size, Whole
from toddle.core.protocols import FineTunable, Scorable
from toddle.core.seeding import PartGenerator, numpy_generator, torch_generator
from toddle.core.team import add_gradients, team
from toddle.core.types import Score
from toddle.experience.rollout import Minibatch, Rollout

__all__ = ["OwnSuccesses", "OwnSuccessesConfig"]

Episode = dict[str, Any]
"""Tensors (D, ...) of an episode's D decisions: what was observed, `executed` (D, H_exec * A); and its sentence."""
Place = tuple[int, str]
"""An environment's number and a sentence: episodes are compared within."""

KEPT = 0.9
"""How much of the running share of successes an iteration keeps."""


@config
class OwnSuccessesConfig:
    """Imitation of the policy's own successful episodes, beside RL."""

    weight: NonNegative = 0.0
    """Weight of the supervised loss on successful episodes; 0 switches it off."""
    least_weight: NonNegative | None = None
    """Its weight once every episode succeeds; on the way it falls with the running share of successes (AC-PPO); None:
    it is always `weight`."""
    episodes: Size = 50
    """Own episodes kept of each task, the latest."""
    choose: Literal["all", "shorter"] = "shorter"
    """Keep every success, or those alone that are no longer than the median of what is kept of the task."""
    batch: Size = 64
    """Decisions in the supervised loss of one update."""
    demonstrated: Share = 0.25
    """Share of a batch that comes from demonstrations, where there are any; all of it until something is kept."""
    turns: Whole = 0
    """Iterations of RL after which imitation has its turn: `updates` of its own, and nothing beside RL (iRe-VLA); 0:
    it is beside RL, in every update."""
    updates: Size = 100
    """Updates of a turn."""
    learning_rate: Positive = 1e-4
    """AdamW's rate in a turn."""


@dataclass
class _Drawn:
    """A batch that was drawn: own successes and demonstrations, as far as there are both."""

    kinds: list[tuple[float, Any, Callable[[Any], dict[str, Any]]]]
    """Of each: its share of the batch, what was drawn, and what makes a batch of some of it."""
    noise: Tensor | None = None
    """Where the noise stood before the first part, once that is computed."""


@dataclass
class _Rows:
    """Rows of one kind: their batch, of which `first` and `total` say which rows these are, and their weight."""

    batch: dict[str, Any]
    first: int
    total: int
    weight: float


class OwnSuccesses(Auxiliary):
    """The supervised loss of successful episodes that the policy has played during RL, and of demonstrations."""

    def __init__(
        self,
        policy: FineTunable,
        settings: OwnSuccessesConfig,
        *,
        demonstrations: SampleSource | None = None,
        seed: int = 0,
    ) -> None:
        """`policy` is the VLA whose explorer acts; what is drawn follows from `seed`."""
        self.policy, self.settings, self.demonstrations = policy, settings, demonstrations
        self.kept: dict[Place, list[Episode]] = {}
        self.open: dict[tuple[int, int], list[Episode]] = {}  # of (source, world): pieces of the episode under way
        self.numbers = numpy_generator(seed, "own successes")
        self.noise = torch_generator(seed, "own successes", part=(0, 0, 0))
        self.team, self.parts = team(), deque[tuple[_Drawn, list[_Rows]]]()  # parts: whose losses come next
        self.solved = 0.0  # running share of the episodes that succeeded

    # ---- what is kept ------------------------------------------------------------------------------------------------
    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Take in the successes that ended in these rollouts."""
        entered, outcomes = 0, list[bool]()
        for source, rollout in enumerate(rollouts):
            if rollout.reached is None:
                expected = "0 where the environment does not report success"
                raise problem("imitation.weight", expected, self.settings.weight)
            for new, ended in self.team.objects(self._taken(source, rollout)):
                entered, outcomes = entered + sum(self._enter(source, episode) for episode in new), outcomes + ended
        if outcomes:
            self.solved = KEPT * self.solved + (1.0 - KEPT) * statistics.mean(outcomes)
        held = [episode for kept in self.kept.values() for episode in kept]
        metrics = {"imitation/entered": float(entered), "imitation/held": float(len(held))}
        metrics["imitation/weight"] = self.weight
        return metrics | ({"imitation/decisions": statistics.mean(map(_decisions, held))} if held else {})

    def rehearse(self, rollouts: Sequence[Rollout]) -> None:
        """Keep a world's decisions of each rollout as if it had succeeded."""
        for source, rollout in enumerate(rollouts):
            self._enter(source, _joined([_piece(rollout, 0, 0, rollout.length)]))

    @property
    def weight(self) -> float:
        """The present weight."""
        settings = self.settings
        if settings.least_weight is None:
            return settings.weight
        return settings.least_weight + (settings.weight - settings.least_weight) * (1.0 - self.solved)

    def _taken(self, source: int, rollout: Rollout) -> tuple[list[Episode], list[bool]]:
        """Go through this learner's worlds; return the successful episodes, and which of those that ended succeeded."""
        first = self.team.place(rollout.worlds)[0]
        own = range(first, first + rollout.worlds)
        for key in [key for key in self.open if key[0] == source and key[1] not in own]:
            del self.open[key]  # a checkpoint has those of all worlds
        found = [self._take((source, first + world), world, rollout) for world in range(rollout.worlds)]
        return [episode for each, _ in found for episode in each], [ended for _, each in found for ended in each]

    def _take(self, key: tuple[int, int], world: int, rollout: Rollout) -> tuple[list[Episode], list[bool]]:
        """Go through a world's decisions; return its successful episodes, and which of those that ended succeeded."""
        found, begun, outcomes = list[Episode](), 0, list[bool]()
        assert rollout.reached is not None
        success = rollout.reached[:, world].tolist()
        ended = (rollout.terminated | rollout.truncated)[:, world].tolist()
        whole = rollout.mask is not None
        length = rollout.length if rollout.mask is None else int(rollout.mask[:, world].sum())
        pieces = [] if whole else self.open.pop(key, [])
        pieces = [] if rollout.dropped[world] else pieces
        done = bool(pieces) and bool(pieces[-1]["done"])
        for t in range(length):
            if success[t] and not done:
                found.append(_joined([*pieces, _piece(rollout, world, begun, t + 1)]))
                done = True
            if ended[t] or (whole and t == length - 1):
                outcomes.append(done)
                begun, pieces, done = t + 1, [], False
        if not whole:
            self.open[key] = [*pieces, _piece(rollout, world, begun, length) | {"done": done}] if begun < length else []
        return found, outcomes

    def _enter(self, source: int, episode: Episode) -> bool:
        held = self.kept.setdefault((source, episode["instruction"]), [])
        longest = statistics.median(map(_decisions, held)) if self.settings.choose == "shorter" and held else math.inf
        if _decisions(episode) > longest:
            return False
        held.append(episode)
        del held[: -self.settings.episodes]
        return True

    # ---- the loss ----------------------------------------------------------------------------------------------------
    def draw(self, parts: Sequence[Minibatch]) -> None:
        """Draw a batch, and cut it as the minibatch is cut."""
        if not self.settings.turns:
            self._cut([part.place for part in parts])

    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted supervised loss of a part of a batch drawn from all that is kept; 0 in turns."""
        found = None if self.settings.turns else self._imitated()
        if found is None:
            none = torch.zeros((), device=device_of(self.policy))
            return none, {} if self.settings.turns else {"imitation/loss": none}
        found = found / (part.share or 1.0)  # of the whole batch's loss it is a part already, not a mean
        return self.weight * found, {"imitation/loss": found.detach()}

    def finish(self, iterations: int) -> dict[str, float]:
        """Make the updates of a turn, where it is imitation's.  Raises NaNError where a loss is not finite."""
        if not self.settings.turns or iterations % self.settings.turns:
            return {}
        weights = [weight for weight in self.policy.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(weights, lr=self.settings.learning_rate, weight_decay=0.0)
        losses = []
        for _ in range(self.settings.updates):
            self._cut([(self.team.index, 1, self.team.size)])
            if (loss := self._imitated()) is None:
                return {"imitation/updates": 0.0}
            optimiser.zero_grad()
            loss.backward()
            if self.team.size > 1:
                add_gradients(self.team, weights)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            losses.append(loss.detach())
        mean = float(self.team.add(torch.stack(losses).mean()))
        if not math.isfinite(mean):
            raise NaNError(f"imitation's turn after iteration {iterations}: its loss is {mean}")
        return {"imitation/updates": float(len(losses)), "imitation/loss": mean}

    def _drawn(self) -> _Drawn:
        """Draw a batch; until something is kept, of demonstrations alone, and without these, one of nothing."""
        total, size = sum(len(kept) for kept in self.kept.values()), self.settings.batch
        shown = round(self.settings.demonstrated * size) if self.demonstrations is not None else 0
        shown = size if shown and not total else shown
        drawn = _Drawn([])
        if total and shown < size:
            drawn.kinds.append((1.0 - shown / size, self._chosen(size - shown), self._own))
        if self.demonstrations is not None and shown:
            samples = self.numbers.integers(len(self.demonstrations), size=shown)
            drawn.kinds.append((shown / size, samples, self.demonstrations.batch))
        return drawn

    def _cut(self, places: Sequence[tuple[int, int, int]]) -> None:
        """Draw a batch and make its parts, which are where the parts of an update are (`Minibatch.place`).

        A part counts by its real actions.  One without rows has a row that stands in, with weight 0, so that all
        learners compute and draw alike.
        """
        drawn = self._drawn()
        parts = [[_rows(samples, make, place) for _, samples, make in drawn.kinds] for place in places]
        self.parts.clear()
        if drawn.kinds:
            counts = self.team.add(torch.tensor([[rows.weight for rows in part] for part in parts]).double().sum(0))
            for part in parts:
                for rows, (share, _, _), count in zip(part, drawn.kinds, counts.tolist(), strict=True):
                    rows.weight = share * (rows.weight / count)
        self.parts += [(drawn, part) for part in parts]

    def _imitated(self) -> Tensor | None:
        """Return the next part's share of the supervised loss of its batch; None while nothing is kept or shown."""
        drawn, part = self.parts.popleft()
        if drawn.noise is None:
            drawn.noise = self.noise.get_state()
        self.noise.set_state(drawn.noise)  # every part draws the noise of the whole batch, and takes its own rows
        device, found = device_of(self.policy), list[Tensor]()
        for rows in part:
            assert isinstance(self.noise, PartGenerator)
            self.noise.first, self.noise.own, self.noise.total = rows.first, len(rows.batch["mask"]), rows.total
            found.append(rows.weight * self.policy.loss(to_device(rows.batch, device), self.noise)[0])
        return sum(found, torch.zeros((), device=device)) if found else None

    def _chosen(self, count: int) -> list[tuple[Episode, int]]:
        """Draw decisions (an episode, and at which of its decisions), the tasks with equal weight."""
        tasks = [
            [(episode, at) for episode in held for at in range(_decisions(episode))] for held in self.kept.values()
        ]
        drawn = [tasks[number] for number in self.numbers.integers(len(tasks), size=count)]
        return [decisions[int(self.numbers.integers(len(decisions)))] for decisions in drawn]

    def _own(self, decisions: Sequence[tuple[Episode, int]]) -> dict[str, Any]:
        """Return a batch of decisions: observation (T, B, ...), action, mask."""
        samples = [self._window(*decision) for decision in decisions]
        names = [name for name, value in samples[0][0].items() if isinstance(value, Tensor)]
        observation: dict[str, Any] = {name: torch.stack([seen[name] for seen, _, _ in samples], 1) for name in names}
        if "context" not in observation:
            observation["instruction"] = [seen["instruction"] for seen, _, _ in samples]
        action, mask = torch.stack([chunk for _, chunk, _ in samples]), torch.stack([real for _, _, real in samples])
        return {"observation": observation, "action": action, "mask": mask}

    def _window(self, episode: Episode, at: int) -> tuple[Episode, Tensor, Tensor]:
        """Return what was observed at the decisions up to `at`, the chunk (H, A) executed from there, what is real."""
        horizon, history, stride = self.policy.window_sizes
        wanted = torch.arange(at + 1 - history, at + 1)
        rows = wanted.clamp(min=0)
        seen = {
            name: value[rows] for name, value in episode.items() if isinstance(value, Tensor) and name != "executed"
        }
        seen["first"] = wanted == max(0, at + 1 - history)
        seen["instruction"] = episode["instruction"]
        actions = episode["executed"][at:].unflatten(1, (stride, -1)).flatten(0, 1)
        ahead = torch.arange(horizon)
        return seen, actions[ahead.clamp(max=len(actions) - 1)], ahead < len(actions)

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes kept and under way in all learners, and where what is drawn stands; all learners call it
        together."""
        under_way = {key: list(pieces) for own in self.team.objects(self.open) for key, pieces in own.items()}
        return {
            "kept": [(place, list(held)) for place, held in self.kept.items()],
            "open": sorted(under_way.items()),
            "numbers": self.numbers.bit_generator.state,
            "noise": self.noise.get_state(),
            "solved": self.solved,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.kept = {tuple(place): list(held) for place, held in state["kept"]}
        self.open = {tuple(key): list(pieces) for key, pieces in state["open"]}
        self.numbers.bit_generator.state = state["numbers"]
        self.noise.set_state(state["noise"])
        self.solved = float(state["solved"])


def _decisions(episode: Episode) -> int:
    return len(episode["executed"])


def _rows(samples: Any, make: Callable[[Any], dict[str, Any]], place: tuple[int, int, int]) -> _Rows:
    """Return the rows of a place; their weight is their number of real actions for now."""
    (before, here, every), total = place, len(samples)
    first, last = total * before // every, total * (before + here) // every
    if last == first:
        return _Rows(make(samples[:1]), 0, total, 0.0)
    batch = make(samples[first:last])
    return _Rows(batch, first, total, float(batch["mask"].sum()))


def _joined(pieces: Sequence[Episode]) -> Episode:
    """Return the pieces of an episode as one."""
    names = [name for name, value in pieces[0].items() if isinstance(value, Tensor)]
    episode: Episode = {name: torch.cat([piece[name] for piece in pieces]) for name in names}
    return {**episode, "instruction": pieces[-1]["instruction"]}


def _piece(rollout: Rollout, world: int, start: int, stop: int) -> Episode:
    """Return decisions [start, stop) of a world, as copies on the CPU."""
    seen = rollout.observation
    found: Episode = {
        name: value[start:stop, world].clone().cpu()
        for name, value in seen.items()
        if isinstance(value, Tensor) and name not in ("task", "critic", "first")
    }
    assert rollout.executed is not None
    found["executed"] = rollout.executed[start:stop, world].clone()
    found["instruction"] = seen["instruction"][int(seen["task"][start, world])] if "task" in seen else ""
    return found
