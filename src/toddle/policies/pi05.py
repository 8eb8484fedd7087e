"""pi0.5 (arXiv 2504.16054) as LeRobot and openpi's PyTorch port write it: PaliGemma, and an expert with adaptive norms.

    prefix: pictures | "Task: {sentence}, State: {256 bins};\\nAction: ", all of which see each other
    expert: H noisy actions; flow time enters as c = silu(W silu(W emb(t))), by scale, shift and gate of every norm
The state is read as text: the bins of its normalised numbers, "-1" below the first (`state_in_prompt` False: not at
all, as openpi trains its LIBERO policy; the prompt is then pi0's).  State and actions are normalised to quantiles.
Deviations from LeRobot: pictures are shrunk with antialiasing; openpi pads the state's bins to 32 numbers, here as in
LeRobot the body's own are said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Size
from toddle.models.prefix_expert import (
    Attention,
    GatedMLP,
    attend,
    embed_time,
    keys_of,
    project,
    rotary,
    suffix_view,
)
from toddle.models.recompute import recomputed
from toddle.policies.pi0 import TOKENIZER, load_source, make_paligemma, read_paligemma
from toddle.policies.pi0_layouts import (
    gemma,
    new_name,
    paligemma,
    read_config,
    read_statistics,
    read_weights,
    sizes_of,
)
from toddle.policies.prefix_vla import PrefixConfig, PrefixVLA, Seen, Sizes, check_sizes

__all__ = ["Pi05Config", "Pi05Policy"]

BINS = 256
"""Of [-1, 1], in which a state's number is said."""
NAMES = (
    *((f"{name}.", f"{name}.") for name in ("action_in_proj", "action_out_proj", "time_mlp_in", "time_mlp_out")),
    ("paligemma_with_expert.gemma_expert.model.", "expert."),
)
"""How names begin after `model.` that pi0 has not, or calls otherwise, and ours."""


@config
class Pi05Config(PrefixConfig):
    """A pi0.5 for one body."""

    text_tokens: Size = 200
    """Tokens of sentence and state that the prompt is padded or cut to."""
    state_in_prompt: bool = True
    """Whether the state is read, as text; no file says it."""


class AdaptiveNorm(nn.Module):
    """RMS norm whose scale and shift follow a condition, and the gate of what is made of it."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.dense = nn.Linear(condition, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed x (N, n, d) and the gate, of conditions (N, n, c)."""
        scale, shift, gate = self.dense(condition).chunk(3, -1)
        return nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6) * (1.0 + scale) + shift, gate


class ExpertLayer(nn.Module):
    """A Gemma layer whose norms are adaptive and whose branches are gated."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        width = sizes["hidden_size"]
        heads, keys = sizes["num_attention_heads"], sizes["num_key_value_heads"]
        self.self_attn = Attention(width, heads, keys, sizes["head_dim"])
        self.mlp = GatedMLP(width, sizes["intermediate_size"], gelu=True)
        self.input_layernorm = AdaptiveNorm(width, width)
        self.post_attention_layernorm = AdaptiveNorm(width, width)

    def forward(self, x: Tensor, condition: Tensor, past: Any, mask: Tensor, table: Any) -> Tensor:
        """Run tokens x (N, n, d) beside the prefix's keys and values."""
        y, gate = self.input_layernorm(x, condition)
        q, k, v = project(self.self_attn, y, table)
        k, v = (torch.cat(both, 2) for both in zip(past, (k, v), strict=True))
        x = x + gate * attend(self.self_attn, q, k, v, mask)
        y, gate = self.post_attention_layernorm(x, condition)
        return x + gate * self.mlp(y)


class Pi05Network(nn.Module):
    """The networks, with the names of the files but for what `NAMES` and pi0's say."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Build with fresh weights from `read_settings`."""
        super().__init__()
        self.settings, sizes = settings, settings["expert"]
        self.vlm = make_paligemma(settings["vlm"])
        width, action = sizes["hidden_size"], settings["action"]
        self.expert: Any = nn.Module()
        self.expert.layers = nn.ModuleList(ExpertLayer(sizes) for _ in range(sizes["num_hidden_layers"]))
        self.expert.norm = AdaptiveNorm(width, width)
        self.action_in_proj, self.action_out_proj = nn.Linear(action, width), nn.Linear(width, action)
        self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)


class Pi05Policy(PrefixVLA):
    """pi0.5 for one body."""

    kind: ClassVar[str] = "pi05"
    expert_names = ("model.expert.",)
    _state_mode = "quantile"

    def __init__(self, config: Pi05Config, model: Pi05Network, tokenizer: Any) -> None:
        """Wrap a network.  Raises InputError when the checkpoint is too small for the body or the chunk."""
        super().__init__(config, _sizes(model.settings), tokenizer)
        self.model = model

    @property
    def vlm(self) -> nn.Module:
        """Its vision-language model."""
        return self.model.vlm

    @classmethod
    def from_config(cls, config: Pi05Config) -> Pi05Policy:
        """Build with the sizes and frozen weights of `config.source`; where all learn, with fresh ones.

        `load_policy` fills in what was learned.
        """
        return cls._fresh(config).ready() if config.train == "all" else cls.from_pretrained(config)

    @classmethod
    def _fresh(cls, config: Pi05Config) -> Pi05Policy:

        def load(source: str) -> Pi05Network:
            settings = read_settings(Path(source).expanduser())
            check_sizes(config, cls.kind, _sizes(settings))
            with torch.random.fork_rng(devices=[]):
                return Pi05Network(settings)

        return cls(config, *load_source(config, load, cls.kind, TOKENIZER))

    @classmethod
    def from_pretrained(cls, config: Pi05Config) -> Pi05Policy:
        """Load the weights of `config.source`, a folder of LeRobot's or openpi's, and LeRobot's statistics.

        Raises InputError when they cannot be had, or when a tensor is missing or left over.
        """
        policy, folder = cls._fresh(config), Path(config.source).expanduser()
        read_weights(folder, policy.model, name_of)
        policy._take_statistics(read_statistics(folder))
        return policy.ready()

    def _prefix(self, state: Tensor, images: Tensor, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Read pictures, and words that say the state too."""
        said = state if self.config.state_in_prompt else None
        return read_paligemma(self.model.vlm, images, self._words(sentences, said), self.sizes)

    def _velocity(self, seen: Seen, x: Tensor, t: Tensor) -> Tensor:
        """Run the expert over the chunks; all actions of a chunk see each other."""
        model, sizes = self.model, self.sizes
        time = embed_time(t, model.settings["expert"]["hidden_size"], *model.settings["periods"])
        silu = nn.functional.silu
        condition = silu(model.time_mlp_out(silu(model.time_mlp_in(time)))).repeat_interleave(x.shape[2], 1)
        tokens = model.action_in_proj(x).flatten(1, 2)
        mask, positions = suffix_view(seen.mask, 0, *x.shape[1:3])
        table = rotary(positions, sizes.head_dim)
        keys = keys_of(seen.context, sizes.layers, sizes.head_dim)
        for layer, past in zip(model.expert.layers, keys, strict=True):
            tokens = recomputed(layer, tokens, condition, past, mask, table)
        velocity: Tensor = model.action_out_proj(model.expert.norm(tokens, condition)[0])
        return velocity.view(x.shape)

    def _ids(self, sentence: str, state: Tensor | None = None) -> list[int]:
        """Return start token and prompt; without a state, where it would be read, one of as many numbers is said."""
        text = sentence.strip() + "\n"
        if self.config.state_in_prompt:
            numbers = [BINS // 2] * self.config.body.proprio if state is None else bins_of(state)
            task = sentence.strip().replace("_", " ").replace("\n", " ")
            text = f"Task: {task}, State: {' '.join(map(str, numbers))};\nAction: "
        words: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        return words if start is None else [start, *words]


def bins_of(state: Tensor) -> list[int]:
    """Return the bins 0 to 255 of normalised numbers (O,); -1 below -1, 255 from 1 on."""
    edges = torch.linspace(-1, 1, BINS + 1, dtype=torch.float64)[:-1]
    found: list[int] = (torch.bucketize(state.detach().cpu().double(), edges, right=True) - 1).tolist()
    return found


def name_of(name: str) -> str | None:
    """Return our name of a tensor, None for one that is not read.  Raises InputError for an unknown one."""
    plain = name.replace("._orig_mod.", ".").removeprefix("model.")
    for old, new in NAMES:
        if plain.startswith(old):
            return new + plain.removeprefix(old)
    if plain.startswith(("state_proj.", "action_time_mlp_")):
        raise problem(f"pi05: tensor {name}", "a name that pi0.5 has", "one of pi0's")
    found = new_name(name)
    return None if found is None else found.removeprefix("model.")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what `Pi05Network` is built from: sizes off the weights, the rest of config.json.

    Raises InputError for settings that change what the network computes and are not read here.
    """
    found, sizes = read_config(folder), sizes_of(folder, name_of)
    return {
        "vlm": paligemma(sizes, "vlm."),
        "expert": gemma(sizes, "expert."),
        "chunk": int(found.get("chunk_size", found.get("action_horizon", 50))),
        "state": int(found.get("max_state_dim", 32)),
        "action": sizes["action_out_proj.weight"][0],
        "periods": (float(found.get("min_period", 4e-3)), float(found.get("max_period", 4.0))),
    }


def _sizes(settings: dict[str, Any]) -> Sizes:
    expert = settings["expert"]
    return Sizes(
        chunk=settings["chunk"],
        state=settings["state"],
        action=settings["action"],
        picture=settings["vlm"]["vision_config"]["image_size"],
        layers=expert["num_hidden_layers"],
        key_heads=expert["num_key_value_heads"],
        head_dim=expert["head_dim"],
    )
