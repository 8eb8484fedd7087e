"""pi0 (arXiv 2410.24164) as transformers has it: PaliGemma and a Gemma action expert that share attention.

Through the same commands as FlowVLA: SFT from a folder with pi0 weights, RL, evaluation, saving.  What it shares with
others of its kind is in `policies.prefix_vla`; here are the networks, which are transformers', read layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PaliGemmaConfig, PaliGemmaModel, PI0Config, PI0ForConditionalGeneration

from toddle.core.config import config
from toddle.core.errors import InputError, problem
from toddle.models.backbones.hub import fit_square
from toddle.models.prefix_expert import keys_of, read_layer, read_prefix, rotary, suffix_view
from toddle.models.recompute import recomputed
from toddle.policies.foreign import layout_of
from toddle.policies.pi0_layouts import is_other_pi0, read_settings, read_statistics, read_weights
from toddle.policies.prefix_vla import PrefixConfig, PrefixVLA, Seen, Sizes, check_sizes, pad

__all__ = ["Pi0Config", "Pi0Policy", "embed_paligemma", "load_source", "make_paligemma", "pixels_of", "read_paligemma"]

TOKENIZER = "PaliGemma's tokenizer (google/paligemma-3b-pt-224)"
"""What LeRobot's and openpi's folders do not hold."""


@config
class Pi0Config(PrefixConfig):
    """A pi0 for one body."""


class Pi0Policy(PrefixVLA):
    """transformers' pi0 for one body: PaliGemma, a Gemma action expert, and the statistics that normalise for it."""

    kind: ClassVar[str] = "pi0"
    expert_names = ("model.model.dit.",)

    def __init__(self, config: Pi0Config, model: Any, tokenizer: Any) -> None:
        """Wrap a loaded model.  Raises InputError when the checkpoint is too small for the body or the chunk."""
        super().__init__(config, _sizes(model.config), tokenizer)
        self.model = model
        model.model.dit.embed_tokens.requires_grad_(False)  # a table of words that is never read

    @property
    def vlm(self) -> nn.Module:
        """PaliGemma."""
        vlm: nn.Module = self.model.model.vlm
        return vlm

    @classmethod
    def from_config(cls, config: Pi0Config) -> Pi0Policy:
        """Build with the sizes, tokenizer and frozen weights of `config.source`; where all learn, with fresh ones.

        `load_policy` fills in what was learned.
        """
        if config.train != "all":
            return cls.from_pretrained(config)
        settings, tokenizer = load_source(config, _settings, cls.kind, TOKENIZER)
        with torch.random.fork_rng(devices=[]):
            return cls(config, PI0ForConditionalGeneration(settings), tokenizer).ready()

    @classmethod
    def from_pretrained(cls, config: Pi0Config) -> Pi0Policy:
        """Load the weights of `config.source`, and a LeRobot folder's statistics where they are of the body's size.

        Raises InputError when they cannot be had, or when a tensor is missing or left over.
        """

        def load(source: str) -> Any:
            settings = _settings(source)
            check_sizes(config, cls.kind, _sizes(settings))  # before gigabytes of weights are read
            return _load(source, settings)

        policy = cls(config, *load_source(config, load, cls.kind, TOKENIZER))
        if is_other_pi0(config.source):
            policy._take_statistics(read_statistics(Path(config.source).expanduser()))
        return policy.ready()

    def _prefix(self, state: Tensor, images: Tensor, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Read pictures and words, all of which see each other."""
        return read_paligemma(self.model.model.vlm, images, self._words(sentences), self.sizes)

    def _velocity(self, seen: Seen, x: Tensor, t: Tensor) -> Tensor:
        """Run the expert over [state | chunks]; the state never reads actions, so chunks share it."""
        embed, dit, sizes = self.model.embed_action_time, self.model.model.dit, self.sizes
        time = embed.sinusoid_embeds(t.flatten()).unflatten(0, t.shape)[:, :, None].expand(*x.shape[:3], -1)
        mixed = torch.cat([embed.action_in_proj(x), time], -1)
        actions = embed.action_time_mlp_out(nn.functional.silu(embed.action_time_mlp_in(mixed)))
        tokens = torch.cat([embed.state_proj(pad(seen.state, sizes.state))[:, None], actions.flatten(1, 2)], 1)
        mask, positions = suffix_view(seen.mask, 1, *x.shape[1:3])
        table = rotary(positions, sizes.head_dim)
        for layer, past in zip(dit.layers, keys_of(seen.context, sizes.layers, sizes.head_dim), strict=True):
            tokens = recomputed(read_layer, layer, tokens, past, mask, table)
        velocity: Tensor = self.model.action_out_proj(dit.norm(tokens[:, 1:]))
        return velocity.view(x.shape)

    def _ids(self, sentence: str, state: Tensor | None = None) -> list[int]:
        """Return start token, sentence and line end."""
        words: list[int] = self.tokenizer(sentence.strip() + "\n", add_special_tokens=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        return words if start is None else [start, *words]


def make_paligemma(settings: dict[str, Any]) -> nn.Module:
    """Return a PaliGemma with fresh weights, of the settings that `pi0_layouts.paligemma` reads off a folder."""
    return PaliGemmaModel(PaliGemmaConfig(**settings))


def pixels_of(images: Tensor, side: int) -> Tensor:
    """Return pictures (N, n, 3, H, W) uint8 as a SigLIP takes them, (N * n, 3, side, side) in [-1, 1]."""
    return 2.0 * fit_square(images.flatten(0, 1), side) - 1.0


def embed_paligemma(vlm: Any, images: Tensor, words: tuple[Tensor, Tensor], side: int) -> tuple[Tensor, Tensor]:
    """Return tokens (N, G, d) and mask (N, G) of pictures (N, n, 3, H, W) uint8 and of words, ids and mask (N, W).

    transformers scales the words by sqrt(d) in their table, and pictures by nothing: nothing is scaled here.
    """
    ids, real = words
    found = vlm.get_image_features(pixels_of(images.to(ids.device), side)).pooler_output
    pictures = found.unflatten(0, images.shape[:2]).flatten(1, 2)
    mask = torch.cat([real.new_ones(pictures.shape[:2]), real], 1)
    return torch.cat([pictures, vlm.get_input_embeddings()(ids)], 1), mask


def read_paligemma(vlm: Any, images: Tensor, words: tuple[Tensor, Tensor], sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return context (N, G, D) and mask (N, G) of what `embed_paligemma` takes; all tokens see each other."""
    tokens, mask = embed_paligemma(vlm, images, words, sizes.picture)
    layers = vlm.language_model.layers
    return read_prefix(layers, tokens, mask.cumsum(1) - 1, mask[:, None, None], sizes.head_dim), mask


def _sizes(settings: Any) -> Sizes:
    expert = settings.dit_config
    return Sizes(
        chunk=settings.chunk_size,
        state=settings.max_state_dim,
        action=settings.max_action_dim,
        picture=int(settings.vlm_config.vision_config.image_size),
        layers=expert.num_hidden_layers,
        key_heads=expert.num_key_value_heads,
        head_dim=expert.head_dim,
    )


def _settings(source: str) -> Any:
    if is_other_pi0(source):
        return PI0Config(**read_settings(Path(source).expanduser()))
    return PI0Config.from_pretrained(source)


def _load(source: str, settings: Any) -> Any:
    """Return the model in float32 with every weight of `source`.  Raises InputError for one missing or left over."""
    if is_other_pi0(source):
        with torch.random.fork_rng(devices=[]):
            model = PI0ForConditionalGeneration(settings)
        read_weights(Path(source).expanduser(), model, dead=("model.dit.embed_tokens.weight",))  # a table of words
        return model
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    model, told = PI0ForConditionalGeneration.from_pretrained(source, **options)
    unread = {"model.dit.embed_tokens.weight"}  # a table of words
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := sorted({str(name) for name in told[kind]} - unread):
            what = kind.replace("_keys", "")
            raise problem(f"pi0 {source}", "every weight of the model and no other", f"{what}: {', '.join(wrong[:3])}")
    return model


def load_source(config: Any, load: Callable[[str], Any], kind: str, words: str) -> tuple[Any, Any]:
    """Return what `load` makes of the source, and its tokenizer, `words` by name.

    Raises InputError, one line, where it cannot.
    """
    source, tokenizer = config.source, config.tokenizer or config.source
    if not Path(source).expanduser().is_dir() and (source.startswith(("/", ".", "~")) or source.count("/") != 1):
        raise problem(f"{kind} source", "a folder that exists or a hub id like lerobot/pi0_base", source)
    folder = Path(source).expanduser()
    if tokenizer == source and folder.is_dir() and layout_of(folder) != "pi0" and not list(folder.glob("tokenizer*")):
        want = f"a folder or hub id with {words}"
        raise problem("tokenizer", want, f"none in {source}", "name it (toddle sft --tokenizer)")
    try:
        return load(source), AutoTokenizer.from_pretrained(tokenizer)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:160]
        raise InputError(f"{kind}: '{source}' cannot be loaded ({line}); download it and give its folder") from None
