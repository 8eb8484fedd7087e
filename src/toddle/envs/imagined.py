"""A learned model of an environment, in the environment's place: same body, same observations, no simulator.

An episode begins at a recorded state, at the start of an episode or in the middle of one; one member of the ensemble
says what follows, the same throughout the episode, and all together say how far they disagree.  Where they disagree
more than the level set in training the world stays where it was believed last, and the episode is cut as by a time
limit, so that a learner asks the value there: doubt is neither a success nor a failure.  Below the level it may cost
something (MOPO, Yu et al. 2020, arXiv 2005.13239).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces

from toddle.core.errors import InputError, problem
from toddle.core.tensors import load_tensors
from toddle.core.types import Named
from toddle.data.recordings import Recordings
from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.streams import WorldStreams
from toddle.models.components import TokenComponents
from toddle.models.world_model import Windows, load_world_model, world_model_folder

__all__ = ["BANK", "COMPONENTS", "ImaginedEnv"]

BANK = "recordings.safetensors"
"""Beside the model: the recordings that it was trained on, where episodes begin."""
COMPONENTS = "components.safetensors"
"""Beside a model of what a VLA sees: the components of tokens that it foresees."""
ARRAYS = ("success", "now", "doubted", "doubt", "row", "last")
"""What is kept of each world besides what it has seen."""


class ImaginedEnv(BatchedEnv):
    """N worlds of a model.  Observations: `proprio` (N, O) float32, what the recordings call the state; actions (N, A).
    A model over a frozen backbone's tokens shows them too, in place of pictures: `context` and `context_mask`.

    Infos: `success` (the model's head has fired), `success_now`, `doubt` (N,) in deviations of the recorded states,
    `doubted` (the episode was cut for it), `imagined` True.
    """

    def __init__(
        self,
        folder: Path | str,
        num_envs: int,
        *,
        seed: int = 0,
        max_episode_steps: int | None = None,
        terminate_on_success: bool = False,
        reward: Literal["own", "success", "reference"] = "own",
    ) -> None:
        """reward: the recorded environment's as the model says it; or 1 in steps that end solved; or "reference": minus
        the distance to where the recorded actions lead in the same member (VLA-RFT), for as long as there are any.

        Raises InputError where the folder has no model, or a setting is none.
        """
        if reward not in ("own", "success", "reference"):
            raise problem("reward", "own, success or reference", reward)
        self.model, meta = load_world_model(folder)
        place = world_model_folder(folder)
        assert place is not None
        try:
            facts, stored = meta["env"], load_tensors(place / BANK, meta["recordings"])
            self.recordings = Recordings(**stored)
            self.body, self.dt, self.modelled = str(facts["body"]), float(facts["dt"]), str(facts["name"])
            own_limit, self.tasks_said = int(facts["max_episode_steps"]), facts["instruction"]
            self.named = {name: Named(tuple(at), float(scale), tuple(off)) for name, at, scale, off in facts["named"]}
            given = {"penalty": 0.0, **meta["imagine"]}  # models from before had none
            self.settings = {name: float(given[name]) for name in ("middle", "doubt", "penalty")}
            self.fingerprint, self.components = "", None
            if (tokens := facts.get("tokens")) is not None:
                held = load_tensors(place / COMPONENTS, tokens["sha256"])
                self.components = TokenComponents(tokens["real"], int(tokens["width"]), **held)
                self.fingerprint = str(tokens["fingerprint"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{place}: no model of an environment: {type(error).__name__} {error}") from None
        self.name, self.num_envs = f"imagined/{folder}", num_envs
        self.max_episode_steps = max_episode_steps or own_limit
        self.terminate_on_success, self.reward = terminate_on_success, reward
        size, action = self.model.sizes
        self._own = size - (0 if self.components is None else len(self.components))
        self.single_observation_space = self._space_shown()
        self.single_action_space = spaces.Box(-1.0, 1.0, (action,), np.float32)
        self._seen, self._reference = (Windows(num_envs, self.model) for _ in range(2))
        self._row, self._last = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        self._member = torch.zeros(num_envs, dtype=torch.long)
        self._doubt, self._streams = np.zeros(num_envs), WorldStreams(num_envs, seed)
        self._success, self._now, self._doubted = (np.zeros(num_envs, bool) for _ in range(3))
        if self.tasks_said is not None:
            self.instruction = [self.tasks_said] * num_envs
        self.fixed: dict[int, Array] = {}
        """Seed of an episode -> state (O,) where it begins, in place of a recorded one."""
        training = ~self.recordings.held
        self._firsts = self.recordings.start[training].numpy()
        self._lasts = (self.recordings.start + self.recordings.lengths - 1)[self.recordings.episode].numpy()
        self._rows = torch.nonzero(training[self.recordings.episode])[:, 0].numpy()
        self._allocate()
        self._reset_worlds(np.ones(num_envs, bool), None)

    def _space_shown(self) -> spaces.Dict:
        shown: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-np.inf, np.inf, (self._own,), np.float32)}
        if self.components is not None:
            shape = len(self.components.real), self.components.width
            shown["context"] = spaces.Box(-np.inf, np.inf, shape, np.float32)
            shown["context_mask"] = spaces.MultiBinary(shape[0])
        return spaces.Dict(shown)

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        worlds = np.flatnonzero(mask)
        for world in worlds:
            if seeds is not None and seeds[world] is not None:
                self._streams.reseed(world, seeds[world])
        drawn = self._streams.uniform(worlds, 3)
        middle = drawn[:, 0] < self.settings["middle"]
        firsts = self._firsts[(drawn[:, 1] * len(self._firsts)).astype(int)]
        rows = np.where(middle, self._rows[(drawn[:, 1] * len(self._rows)).astype(int)], firsts)
        taken, own = self.recordings.windows(torch.from_numpy(rows), self.model.config.window, 0)
        at = torch.from_numpy(worlds)
        for windows in (self._seen, self._reference):
            windows.states[at], windows.real[at] = self.recordings.state[taken], own
            windows.actions[at] = self.recordings.action[taken]
        self._row[worlds], self._last[worlds] = rows, self._lasts[rows]
        self._member[at] = torch.from_numpy((drawn[:, 2] * len(self.model.members)).astype(np.int64))
        for world in worlds:
            seed = None if seeds is None else seeds[world]
            if seed is not None and seed in self.fixed:
                self._seen.states[world] = torch.as_tensor(self.fixed[seed], dtype=torch.float32)
                self._seen.real[world, :-1] = False
        self._success[mask], self._now[mask], self._doubted[mask], self._doubt[mask] = False, False, False, 0.0

    @torch.no_grad()
    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        model, moving = self.model, torch.from_numpy(active)
        chosen = torch.from_numpy(np.clip(np.asarray(action, np.float32), -1.0, 1.0))
        said = self._seen.followed(model, chosen)
        doubt = model.doubt(said)
        following = said[self._member, torch.arange(self.num_envs)]
        outcome = model.outcome(self._seen.states[:, -1], chosen, following)
        doubted = (doubt > model.alarm).numpy() & active & (self.settings["doubt"] > 0)
        solved = (outcome.success >= model.fires).numpy() & active & ~doubted
        self._seen.go_on(torch.from_numpy(active & ~doubted), following)
        self._doubt = np.where(active, doubt.numpy(), self._doubt)
        self._now, self._doubted = np.where(active, solved, self._now), np.where(active, doubted, self._doubted)
        self._success |= solved
        over = (outcome.end >= model.ends).numpy() & active & ~doubted
        terminated = over | (solved if self.terminate_on_success else np.zeros(self.num_envs, bool))
        late = self._length + 1 >= self.max_episode_steps
        paid = solved.astype(np.float64) if self.reward == "success" else outcome.reward.double().numpy()
        if self.reward == "reference":
            paid = self._beside(following, moving)
            late |= self._row >= self._last
            self._row += active
        paid = paid - self.settings["penalty"] * doubt.double().numpy()
        return np.where(doubted, 0.0, paid), terminated, (late | doubted) & ~terminated

    def _beside(self, following: torch.Tensor, moving: torch.Tensor) -> Array:
        """Go on with the recorded actions in the same members; return (N,) minus how far states are from there."""
        recorded = self.recordings.action[torch.from_numpy(np.minimum(self._row, self._last))]
        there = self._reference.followed(self.model, recorded)[self._member, torch.arange(self.num_envs)]
        self._reference.go_on(moving, there)
        return -self.model.apart(following, there).double().numpy()

    def state_of(self, seen: Any) -> Array:
        """Return the states (N, O) of observations: `proprio`, and `context` where the model foresees it."""
        proprio = torch.as_tensor(seen["proprio"], dtype=torch.float32)
        if self.components is None:
            return proprio.numpy()
        return torch.cat([proprio, self.components.numbers(torch.as_tensor(seen["context"]))], 1).numpy()

    def _observe(self) -> Obs:
        state = self._seen.states[:, -1].clone()
        if self.components is None:
            return {"proprio": state.numpy()}
        context = self.components.context(state[:, self._own :]).numpy()
        mask = np.tile(self.components.real, (self.num_envs, 1))
        return {"proprio": state[:, : self._own].numpy(), "context": context, "context_mask": mask}

    def _infos(self) -> dict[str, Array]:
        facts = {"success": self._success, "success_now": self._now, "doubt": self._doubt, "doubted": self._doubted}
        return {name: value.copy() for name, value in facts.items()} | {"imagined": np.ones(self.num_envs, bool)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bitwise resume needs."""
        held = {name: getattr(self, f"_{name}").copy() for name in ARRAYS} | {"member": self._member.numpy().copy()}
        held |= {"seen": self._seen.state_dict(), "reference": self._reference.state_dict()}
        return super().state_dict() | held | {"streams": self._streams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next step is bitwise what it would have been."""
        super().load_state_dict(state)
        for name in ARRAYS:
            setattr(self, f"_{name}", np.array(state[name]))
        self._member = torch.from_numpy(np.array(state["member"]))
        self._seen.load_state_dict(state["seen"])
        self._reference.load_state_dict(state["reference"])
        self._streams.load_state_dict(state["streams"])
