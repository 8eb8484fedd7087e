"""Imitation of a policy's own successes beside RL: PPO on chunks with self-behaviour-cloning.

    L = w L_PPO + weight * L_SFT(own successful episodes, demonstrations)

The policy gradient says little about one update (its noise moves every weight); a regression on what worked has a
minimum, so it holds the policy where successes are.  Beside PPO on chunks, with the shorter successes and a weight that
falls as they get more: AC-PPO, arXiv 2509.25718; self-imitation: Oh et al. 2018, arXiv 1806.05635; in turns with RL on
VLAs: iRe-VLA, Guo et al. 2025, arXiv 2501.16664.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
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
from toddle.core.seeding import numpy_generator, torch_generator
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
    """Share of a batch that comes from demonstrations, where there are any."""
    turns: Whole = 0
    """Iterations of RL after which imitation has its turn: `updates` of its own, and nothing beside RL (iRe-VLA); 0:
    it is beside RL, in every update."""
    updates: Size = 100
    """Updates of a turn."""
    learning_rate: Positive = 1e-4
    """AdamW's rate in a turn."""


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
        self.noise = torch_generator(seed, "own successes")
        self.solved = 0.0  # running share of the episodes that succeeded

    # ---- what is kept ------------------------------------------------------------------------------------------------
    def begin(self, rollouts: Sequence[Rollout], policy: Scorable) -> dict[str, float]:
        """Take in the successes that ended in these rollouts."""
        entered, outcomes = 0, list[bool]()
        for source, rollout in enumerate(rollouts):
            if rollout.reached is None:
                expected = "0 where the environment does not report success"
                raise problem("imitation.weight", expected, self.settings.weight)
            for world in range(rollout.worlds):
                new, ended = self._take(source, world, rollout)
                entered, outcomes = entered + new, outcomes + ended
        if outcomes:
            self.solved = KEPT * self.solved + (1.0 - KEPT) * statistics.mean(outcomes)
        held = [episode for kept in self.kept.values() for episode in kept]
        metrics = {"imitation/entered": float(entered), "imitation/held": float(len(held))}
        metrics["imitation/weight"] = self.weight
        return metrics | ({"imitation/decisions": statistics.mean(map(_decisions, held))} if held else {})

    def rehearse(self, rollouts: Sequence[Rollout]) -> None:
        """Keep a world's decisions of each rollout as if it had succeeded."""
        for source, rollout in enumerate(rollouts):
            self._enter(source, [_piece(rollout, 0, 0, rollout.length)])

    @property
    def weight(self) -> float:
        """The present weight."""
        settings = self.settings
        if settings.least_weight is None:
            return settings.weight
        return settings.least_weight + (settings.weight - settings.least_weight) * (1.0 - self.solved)

    def _take(self, source: int, world: int, rollout: Rollout) -> tuple[int, list[bool]]:
        """Go through a world's decisions; return how many episodes entered, and which of those that ended succeeded."""
        key, entered, begun, outcomes = (source, world), 0, 0, list[bool]()
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
                entered += self._enter(source, [*pieces, _piece(rollout, world, begun, t + 1)])
                done = True
            if ended[t] or (whole and t == length - 1):
                outcomes.append(done)
                begun, pieces, done = t + 1, [], False
        if not whole:
            self.open[key] = [*pieces, _piece(rollout, world, begun, length) | {"done": done}] if begun < length else []
        return entered, outcomes

    def _enter(self, source: int, pieces: list[Episode]) -> bool:
        names = [name for name, value in pieces[0].items() if isinstance(value, Tensor)]
        episode: Episode = {name: torch.cat([piece[name] for piece in pieces]) for name in names}
        episode["instruction"] = pieces[-1]["instruction"]
        held = self.kept.setdefault((source, episode["instruction"]), [])
        longest = statistics.median(map(_decisions, held)) if self.settings.choose == "shorter" and held else math.inf
        if _decisions(episode) > longest:
            return False
        held.append(episode)
        del held[: -self.settings.episodes]
        return True

    # ---- the loss ----------------------------------------------------------------------------------------------------
    def loss(self, part: Minibatch, score: Score) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted supervised loss of a batch drawn from all that is kept; 0 in turns."""
        found = None if self.settings.turns else self._imitated(part.share)
        if found is None:
            none = torch.zeros((), device=device_of(self.policy))
            return none, {} if self.settings.turns else {"imitation/loss": none}
        return self.weight * found, {"imitation/loss": found.detach()}

    def finish(self, iterations: int) -> dict[str, float]:
        """Make the updates of a turn, where it is imitation's.  Raises NaNError where a loss is not finite."""
        if not self.settings.turns or iterations % self.settings.turns:
            return {}
        weights = [weight for weight in self.policy.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(weights, lr=self.settings.learning_rate, weight_decay=0.0)
        losses = []
        for _ in range(self.settings.updates):
            if (loss := self._imitated()) is None:
                return {"imitation/updates": 0.0}
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise NaNError(f"imitation's turn after iteration {iterations}: its loss is {mean}")
        return {"imitation/updates": float(len(losses)), "imitation/loss": mean}

    def _imitated(self, share: float = 1.0) -> Tensor | None:
        """Return the supervised loss of a share of a batch; None while nothing is kept or shown."""
        total, size = sum(len(kept) for kept in self.kept.values()), max(1, round(share * self.settings.batch))
        device = device_of(self.policy)
        shown = round(self.settings.demonstrated * size) if self.demonstrations is not None else 0
        losses: list[tuple[float, Tensor]] = []
        if total and shown < size:
            batch = to_device(self._own(size - shown), device)
            losses.append((1.0 - shown / size, self.policy.loss(batch, self.noise)[0]))
        if self.demonstrations is not None and shown:
            chosen = self.numbers.integers(len(self.demonstrations), size=shown)
            batch = to_device(self.demonstrations.batch(chosen), device)
            losses.append((shown / size, self.policy.loss(batch, self.noise)[0]))
        return sum((share * each for share, each in losses), torch.zeros((), device=device)) if losses else None

    def _own(self, count: int) -> dict[str, Any]:
        """Return a batch of decisions, the tasks with equal weight: observation (T, B, ...), action, mask."""
        tasks = [
            [(episode, at) for episode in held for at in range(_decisions(episode))] for held in self.kept.values()
        ]
        drawn = [tasks[number] for number in self.numbers.integers(len(tasks), size=count)]
        samples = [self._window(*decisions[int(self.numbers.integers(len(decisions)))]) for decisions in drawn]
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
        """Return the episodes kept and under way, and where what is drawn stands."""
        return {
            "kept": [(place, list(held)) for place, held in self.kept.items()],
            "open": [(key, list(pieces)) for key, pieces in self.open.items()],
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
