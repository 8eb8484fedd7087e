"""SearchingPolicy: a policy that tries its candidates in a learned model of the environment before it acts.

After VLA-Reasoner (Guo et al. 2025, arXiv 2509.22643), which searches a tree of actions in a world model.  Every round
opens one node of each world's tree: the policy draws K chunks at the node's state, all are followed in the model (the
mean of its members), and from where they lead the policy goes on by itself until `horizon` decisions are through.
What is best at the root is executed.  K = 1 is the policy, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Discount, NonNegative, Share, Size
from toddle.core.protocols import Memory
from toddle.core.seeding import rand
from toddle.core.types import Decision, Observation
from toddle.maths.tree_search import SearchTree
from toddle.models.q_ensemble import QEnsemble
from toddle.models.world_model import Windows, WorldModel
from toddle.policies.around import Around, candidates, check_critic, decided, repeated, state_of

__all__ = ["SearchConfig", "SearchingPolicy"]


@config
class SearchConfig:
    """How a policy searches in a model before it acts."""

    rounds: Size = 4
    """Nodes of the tree that are opened; 1: all candidates are followed once, and the best is taken."""
    horizon: Size = 8
    """Decisions that every try looks ahead: candidates within the tree, then the policy's most likely action."""
    explore: NonNegative = 1.4
    """How much what was seldom tried is preferred (PUCT's constant; returns are in units of the range found)."""
    discount: Discount = 0.99
    """What a control step later is worth; with a critic its own discount counts."""
    own: Share = 0.0
    """Share of the policy's own action in what is executed, where the two are mixed as in VLA-Reasoner (0.6 there)."""

    def __post_init__(self) -> None:
        if self.rounds > self.horizon:
            raise problem("rounds", f"at most the horizon, {self.horizon}", self.rounds)


class Tries(Windows):
    """N tries in a model that may be wrong: what was seen, and what they were paid."""

    NAMES = ("states", "actions", "real", "paid", "held", "scale", "over", "doubted")

    def __init__(self, count: int, model: WorldModel, discount: float, *, steps: bool) -> None:
        """steps: each step until success costs 1, as critics of `--reward-shift -1` count; else the model's reward."""
        super().__init__(count, model)
        self.discount, self.steps, device = discount, steps, self.states.device
        self.paid, self.held = torch.zeros(2, count, device=device)
        self.scale = torch.ones(count, device=device)
        self.over, self.doubted = torch.zeros(2, count, dtype=torch.bool, device=device)

    @classmethod
    def taken(cls, parts: Sequence[Tries], rows: Tensor) -> Tries:
        """Return rows (M,) of tries, one part after another."""
        found = copy(parts[0])
        for name in cls.NAMES:
            setattr(found, name, torch.cat([getattr(part, name) for part in parts])[rows])
        return found

    def step(self, model: WorldModel, action: Tensor, active: Tensor) -> None:
        """Go one step on with actions (N, A) in the tries that are `active` (N,).

        A try that is solved is paid on as in the step that solved it, one that ended otherwise nothing more, and one
        that the members doubt is not believed from the start.
        """
        said = self.followed(model, action)
        following, going = said.mean(0), active & ~self.over
        outcome = model.outcome(self.states[:, -1], action, following)
        doubted = going & (model.doubt(said) > model.alarm)
        solved = outcome.success >= model.fires
        reward = torch.where(self.over, self.held, solved.float() - 1.0 if self.steps else outcome.reward)
        self.paid = torch.where(active, self.paid + self.scale * reward, self.paid)
        self.scale = torch.where(active, self.discount * self.scale, self.scale)
        stops = going & (solved | doubted | (outcome.end >= model.ends))
        self.held = torch.where(stops, torch.where(solved, reward, 0.0), self.held)
        self.over, self.doubted = self.over | stops, self.doubted | doubted
        self.go_on(going, following)

    def chunk(self, model: WorldModel, chunk: Tensor, active: Tensor) -> None:
        """Make all actions of chunks (N, H, A)."""
        for action in chunk[..., : model.sizes[1]].clamp(-1.0, 1.0).unbind(1):
            self.step(model, action, active)


class SearchingPolicy(Around):
    """`base` with a model of its environment, and perhaps a critic that values where tries end."""

    kind: ClassVar[str] = "searching"

    def __init__(
        self,
        base: Any,
        model: WorldModel,
        config: SearchConfig,
        *,
        candidates: int,
        width: float = 1.0,
        critic: QEnsemble | None = None,
        control: Literal["none", "shuffled", "flipped"] = "none",
    ) -> None:
        """critic: one that is paid -1 a step until success; `config.discount` is then its own.

        control: each candidate has another one's return, or the worst is the best.  Raises InputError for a policy
        with a memory or pictures, and for a model or a critic of other sizes.
        """
        super().__init__(base)
        if base.cameras:
            raise problem("steer", "a policy of states, as the model is, for mcts", f"kind '{base.kind}'")
        body = base.bodies[0]
        if model.sizes != (body.proprio, body.action):
            wanted = f"a model of {body.proprio} numbers of state and {body.action} of action"
            raise problem("steering.model", wanted, "{} and {}".format(*model.sizes))
        if critic is not None:
            check_critic(critic, base, "steering.critic")
        self.model, self.critic, self.config = model, critic, config
        self.candidates, self.width, self.control = candidates, width, control

    def initial_memory(self, batch: int) -> Memory:
        """Return what the model has seen of the episodes (B): states, actions and which of them there were.

        None where nothing of it is needed: with one candidate, a model of one step, or chunks, within which the states
        were not seen.
        """
        if self.candidates == 1 or self.horizon > 1 or self.model.config.window == 1:
            return None
        fresh = Windows(batch, self.model)
        return fresh.states, fresh.actions, fresh.real

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Decide for (B, ...) observations."""
        seen = self.encode(observation)
        if self.candidates == 1:
            return decided(self.base, seen, generator, deterministic), memory
        worlds, config = torch.arange(len(seen["proprio"]), device=seen["proprio"].device), self.config
        tree = SearchTree(len(worlds), self.candidates, config.rounds, worlds.device)
        root = here = self._root(seen, memory)
        opened = list[Tries]()  # where the chunks of each round lead, B K rows
        own = chunks = None
        for turn in range(config.rounds):
            node, edge, depth = tree.select(config.explore)
            if turn:
                here = Tries.taken(opened, (node * len(worlds) + worlds) * self.candidates + edge)
            drawn = candidates(
                self.base,
                self._at(seen, here) if turn else seen,
                self.candidates,
                generator,
                width=self.width,
                deterministic=deterministic or turn > 0,
            ).action
            own, chunks = (drawn[:, 0], drawn) if chunks is None else (own, chunks)
            leads, returns, doubted = self._follow(seen, here, drawn, depth)
            opened.append(leads)
            if self.control == "shuffled":
                order = rand(returns.shape, generator, returns.device).argsort(1)
                returns, doubted = returns.gather(1, order), doubted.gather(1, order)
            tree.back_up(-returns if self.control == "flipped" else returns, doubted)
        assert own is not None and chunks is not None
        best = chunks[worlds, tree.best()]
        action = config.own * own + (1.0 - config.own) * best
        if memory is not None:
            root.actions[:, -1] = action[:, 0].clamp(-1.0, 1.0)
            memory = root.states, root.actions, root.real
        return Decision(action, action.new_zeros(len(worlds), 0), action.new_zeros(len(worlds), 0)), memory

    def _root(self, seen: Observation, memory: Memory) -> Tries:
        """Return what the model sees of the worlds: the present, and what is remembered of their episodes."""
        root = Tries(len(seen["proprio"]), self.model, self.config.discount, steps=self.critic is not None)
        if memory is not None:
            states, actions, real = memory
            root.states[:, :-1], root.real[:, :-1] = states[:, 1:], real[:, 1:] & ~seen["first"][:, None]
            root.actions[:, :-1] = actions[:, 1:]
        root.states[:, -1], root.real[:, -1] = seen["proprio"], True
        return root

    def _at(self, seen: Observation, here: Windows) -> Observation:
        """Return the observation (B, ...) of states that the model has come to."""
        return {**seen, "proprio": here.states[:, -1], "first": torch.zeros_like(seen["first"])}

    def _follow(self, seen: Observation, here: Tries, chunks: Tensor, depth: Tensor) -> tuple[Tries, Tensor, Tensor]:
        """Follow chunks (B, K, H, A) from nodes at `depth` (B,), and then the policy, to the horizon.

        Returns where the chunks lead, the returns from the root (B, K), and whether they are doubted.
        """
        worlds, count = chunks.shape[:2]
        rows = torch.arange(worlds, device=chunks.device).repeat_interleave(count)
        going, several = Tries.taken([here], rows), repeated(seen, count)
        going.chunk(self.model, chunks.flatten(0, 1), torch.ones_like(going.over))
        leads = copy(going)  # a step makes new tensors
        for ahead in range(1, self.config.horizon):
            active = depth[rows] + ahead < self.config.horizon
            if not bool(active.any()):
                break
            likely = decided(self.base, self._at(several, going), None, True).action
            going.chunk(self.model, likely, active)
        found = going.paid
        if self.critic is not None:
            last = self._at(several, going)
            likely = decided(self.base, last, None, True).action.clamp(-1.0, 1.0).flatten(1)
            value = self.critic(state_of(last), likely[:, : self.critic.sizes[1]]).amin(0)
            found = found + torch.where(going.over, 0.0, going.scale * value)
        return leads, found.view(worlds, count), going.doubted.view(worlds, count)
