"""TokenPolicy: a state policy that says its chunk token by token.  L = H A links, each categorical given those before.

The smallest of its kind: an MLP reads the state; the token of link l is drawn from a softmax over bins whose logits
depend on the state and on the sum of embeddings of the tokens before it, so a chunk is scored in one pass.  A discrete
action space has one token an action, which is the action.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Seed, Size, SizeOrNone
from toddle.core.seeding import rand, torch_generator
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.maths.action_tokens import bin_centres, to_tokens
from toddle.models.tanh_mlp import TanhMLP
from toddle.policies.features import BodyFeatures

__all__ = ["TokenConfig", "TokenPolicy"]


@config
class TokenConfig:
    """A policy of categorical tokens over state."""

    body: BodySpec
    """The embodiment."""
    horizon: Size = 1
    """H, actions in one decision; all are executed."""
    bins: Size = 21
    """Tokens of a number; of a discrete action space, its actions."""
    discrete: bool = False
    """The token is the action (0, 1, ...), not a bin of [-1, 1]."""
    hidden: tuple[Size, ...] = (64, 64)
    """Widths of the hidden layers."""
    width: Size = 32
    """Width of the sum of embeddings that the links share."""
    temperature: Positive = 1.0
    """Logits are divided by it, when drawing and when scoring alike."""
    goal_width: SizeOrNone = 0
    """Width of the pooled goal; 0 for environments without goals."""
    goal_parts: Size = 256
    """Controlled parts a goal item can name (ids below this)."""
    seed: Seed = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise problem("bins", "at least 2", self.bins)


class TokenPolicy(nn.Module):
    """A policy over chunks as sequences of tokens.  The chain is (B, H A) float: the tokens."""

    kind: ClassVar[str] = "tokens"
    sequential = False
    cameras: ClassVar[tuple[str, ...]] = ()
    values: Tensor

    def __init__(self, config: TokenConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.config, self.horizon, self.bodies = config, config.horizon, (config.body,)
        self.links = config.horizon * config.body.action
        generator = torch_generator(config.seed, "token policy", config.body.name)
        self.features = BodyFeatures(config.body.proprio, config.goal_width, config.goal_parts, "proprio", generator)
        self.mlp = TanhMLP(self.features.width, config.hidden, config.width, last_gain=1.0, generator=generator)
        size = (self.links, config.bins, config.width)
        self.said = nn.Parameter(0.1 * torch.randn(size, generator=generator))  # embedding of each token of each link
        self.out = nn.Parameter(0.01 * torch.randn(size, generator=generator))
        self.bias = nn.Parameter(torch.zeros(self.links, config.bins))
        values = torch.arange(config.bins).float() if config.discrete else bin_centres(config.bins)
        self.register_buffer("values", values, persistent=False)

    @classmethod
    def from_config(cls, config: TokenConfig) -> TokenPolicy:
        """Build a policy, as `policies.store` does."""
        return cls(config)

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: there is nothing to save."""
        return observation

    @property
    def chunk_size(self) -> int:
        """H, actions of a demonstrated chunk."""
        return self.horizon

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.fit_normaliser(observation)

    # ---- imitation -----------------------------------------------------------------------------------------------
    def fit_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) into the running statistics."""
        self.features.update_normaliser(observation)

    def imitation_loss(self, observation: Observation, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return minus the log-probability (M,) of the tokens of demonstrated chunks (M, H, A), a token."""
        flat = action.flatten(1)
        tokens = (
            flat.round().clamp(0, self.config.bins - 1) if self.config.discrete else to_tokens(flat, self.config.bins)
        )
        return -self.score(observation, tokens.float()).log_prob.mean(-1)

    def finish_imitation(self) -> None:
        """Nothing follows."""

    # ---- Policy --------------------------------------------------------------------------------------------------

    def _logits(self, hidden: Tensor, link: int | slice) -> Tensor:
        """Return logits (..., bins) of a link, or (..., L, bins) of all, from their sums (..., width)."""
        return torch.einsum("...w,...bw->...b", hidden.tanh(), self.out[link]) + self.bias[link]

    def _log_probs(self, hidden: Tensor, link: int | slice) -> Tensor:
        return torch.log_softmax(self._logits(hidden, link) / self.config.temperature, -1)

    def logits(self, observation: Observation, tokens: Tensor) -> Tensor:
        """Return the logits (..., L, bins) of every link, given the tokens (..., L) int64 before it."""
        said = self.said[torch.arange(self.links, device=tokens.device), tokens]
        before = said.cumsum(-2) - said
        return self._logits(self.mlp(self.features(observation)).unsqueeze(-2) + before, slice(None))

    def _action(self, numbers: Tensor) -> Tensor:
        return numbers.unflatten(-1, (self.horizon, -1))

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` takes the likeliest token of each link."""
        hidden = self.mlp(self.features(observation))
        tokens, log_probs = [], []
        for link in range(self.links):
            each = self._log_probs(hidden, link)
            if deterministic:
                token = each.argmax(-1)
            else:  # the first bin whose cumulative probability exceeds a uniform number
                point = rand((len(hidden), 1), generator, hidden.device)
                token = (each.exp().cumsum(-1) < point).sum(-1).clamp(max=self.config.bins - 1)
            hidden = hidden + self.said[link, token]
            tokens.append(token)
            log_probs.append(each.gather(-1, token[:, None]))
        chain = torch.stack(tokens, 1)
        return Decision(self._action(self.values[chain]), chain.float(), torch.cat(log_probs, 1)), None

    def score(self, observation: Observation, chain: Tensor) -> Score:
        """Score tokens (..., L): log_prob (..., L), entropy (...) summed over links, the expected action as mean."""
        tokens = chain.long()
        each = torch.log_softmax(self.logits(observation, tokens) / self.config.temperature, -1)
        log_prob = each.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        entropy = -(each.exp() * each).sum((-1, -2))
        return Score(log_prob, entropy, self._action((each.exp() * self.values).sum(-1)))
