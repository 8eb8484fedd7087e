"""From an RL policy to a flow-matching action expert, weight by weight (docs/conversion.md).

Kept are the trunk, the banks of known bodies, the normalisation, the slot embeddings and, with head endpoint, the
decoder.  New are the flow-time modulation (zero deviation), W_in(x_tau, tau) (zero last layer), the adapter from VLM
tokens (weight 0, bias = the learned NULL goal) and whatever the context mode adds.  Three levels are then exact:
A the trunk for any tokens and tau, B the history whatever the noisy actions, C (endpoint) the flow's sample equals
the RL chunk under the NULL goal.  `levels.py` measures them, `table.py` lists what was kept.
A denoising policy over a trunk (paradigm 2) is an action expert already: head, modulation, time embedder and W_in are
kept as they were trained, and only the adapter is new.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Seed, Size
from toddle.core.types import BodySpec
from toddle.models.expert import ActionExpert, ExpertConfig, make_adapter
from toddle.models.goal_encoder import GoalEncoder
from toddle.models.mlp import zero_
from toddle.models.trunk import TrunkConfig

__all__ = ["Conversion", "ConvertConfig", "Convertible", "convert", "match_moments"]


class Convertible(Protocol):
    """An RL policy that has an action expert: a causal one, or a denoising one over a trunk."""

    @property
    def expert(self) -> ActionExpert:
        """The expert."""

    @property
    def goals(self) -> GoalEncoder:
        """What makes its context tokens."""


BANKS = ("tokens.observation_in", "tokens.past_in")


@config
class ConvertConfig:
    """How an RL policy becomes an action expert."""

    context_mode: Literal["pretrained", "insert", "replace"] = "pretrained"
    """How the expert reads the VLM: through the cross-attention that read goals (exact), through new sublayers that
    start silent (exact), or in place of the self-attention that matters least (not exact; GR00T's layout)."""
    modulation: Literal["none", "residual", "dit_literal", "groot"] = "residual"
    """Flow-time modulation; dit_literal erases the pretrained function and is there as an ablation."""
    head: Literal["velocity", "endpoint", "noise"] = "endpoint"
    """Endpoint keeps the RL decoder, so that the first sample is the RL chunk; velocity gets a fresh decoder.  A
    denoising policy keeps its own head and modulation (noise: one that was trained as a diffusion)."""
    slot_mask: Literal["causal", "bidirectional"] | None = None
    """Mask among action slots; None keeps the source's.  From causal to bidirectional a bias of -40 holds later slots
    back until training anneals it."""
    modulate: Literal["slots", "all"] = "slots"
    """Which tokens flow time modulates; all (GR00T's way) needs `window` 1, and then level B holds at step 0 only."""
    bodies: tuple[BodySpec, ...] = ()
    """Embodiments of the expert (all of the source's); one the source does not know gets fresh banks."""
    fresh_inputs: bool = False
    """Give every body fresh encoders (level A only)."""
    fresh_decoder: bool = False
    """Give every body a fresh decoder with head endpoint too (velocity always has one)."""
    fresh_adapter: bool = False
    """Start the adapter from random weights: its tokens say something from the first step, level C is lost."""
    moment_match: bool = True
    """Scale fresh encoders so that their tokens have the mean and spread of the RL policy's."""
    replace_blocks: Size = 1
    """Self-attention blocks that become cross-attention in mode replace: those of least lesion score."""
    context_width: Size = 64
    """d_g, where the source has no cross-attention of its own."""
    horizon: Size | None = None
    """H of the expert, at most the source's; None keeps it."""
    executed: Size | None = None
    """H_exec of the expert; None keeps it."""
    window: Size | None = None
    """History in decisions; None keeps it."""
    seed: Seed = 0
    """Seed of what is new."""


@dataclass
class Conversion:
    """A converted expert with its adapter, and the record of what each tensor is."""

    expert: ActionExpert
    adapter: nn.Sequential
    vlm_width: int
    status: dict[str, str]  # tensor of `expert` or `adapter` -> kept | new, with a note
    origin: dict[str, str] = field(default_factory=dict)  # kept tensor of `expert` -> the source's tensor
    removed: dict[str, Tensor] = field(default_factory=dict)  # self-attention weights that mode replace took out
    width_factor: int = 1  # by growth

    @property
    def config(self) -> ExpertConfig:
        """The expert's sizes."""
        return self.expert.config


def convert(
    policy: Convertible, settings: ConvertConfig, vlm_width: int, *, ranking: list[int] | None = None
) -> Conversion:
    """Convert a policy into an action expert that reads VLM tokens of width `vlm_width`.

    ranking: self-attention blocks in the order of their lesion score (`lesion.rank_blocks`), for mode replace.
    Raises InputError where the mode does not fit the source.
    """
    source = policy.expert
    if source.config.head != "direct":  # it denoises already: nothing about flow time is new
        modulation = source.config.trunk.modulation
        settings = dataclasses.replace(settings, head=source.config.head, modulation=modulation)
    target_config, chosen = _target_config(source.config, settings, ranking)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        expert = ActionExpert(target_config)
        adapter = make_adapter(target_config.trunk.context_width, vlm_width)
    status = _copy_known(source, expert, settings)
    removed = _replace_attention(source, expert, chosen, status)
    if settings.slot_mask == "bidirectional" and source.config.slot_mask == "causal":
        expert.set_future_bias(-40.0)
    if "cross" in source.config.trunk.kinds and not settings.fresh_adapter:
        linear = cast(nn.Linear, adapter[1])
        zero_(linear)
        with torch.no_grad():
            linear.bias.copy_(policy.goals.null)
        status["adapter.1.bias"] = "kept: the NULL goal token"
        status["adapter.1.weight"] = "new: 0"
    for name in adapter.state_dict():
        status.setdefault(f"adapter.{name}", "new")
    origin = {name: name for name, value in status.items() if value.startswith("kept")}
    conversion = Conversion(expert, adapter, vlm_width, status, origin, removed)
    if settings.moment_match and float(source.tokens.moments.count) > 0:
        match_moments(conversion, settings.seed)
    expert.eval()
    return conversion


def _target_config(
    source: ExpertConfig, settings: ConvertConfig, ranking: list[int] | None
) -> tuple[ExpertConfig, list[int]]:
    """Return the expert's config and the blocks whose self-attention is replaced."""
    trunk, kinds, selves = source.trunk, list(source.trunk.kinds), []
    selves = [index for index, kind in enumerate(kinds) if kind == "self"]
    chosen: list[int] = []
    inserted = trunk.inserted
    if settings.context_mode == "pretrained" and "cross" not in kinds:
        raise problem("context_mode", "'insert' or 'replace', as the source has no cross-attention", "pretrained")
    if settings.context_mode == "insert":
        inserted = tuple(selves)
    if settings.context_mode == "replace":
        if not 1 <= settings.replace_blocks <= len(selves):
            raise problem("replace_blocks", f"1 to {len(selves)} (self-attention blocks)", settings.replace_blocks)
        chosen = (ranking or selves)[: settings.replace_blocks]
        kinds = ["cross" if index in chosen else kind for index, kind in enumerate(kinds)]
    horizon = settings.horizon or source.horizon
    if horizon > source.horizon:
        raise problem("horizon", f"at most the source's {source.horizon}", horizon, "pretrain with more slots")
    width = trunk.context_width if "cross" in source.trunk.kinds else settings.context_width
    new_trunk: TrunkConfig = dataclasses.replace(
        trunk, modulation=settings.modulation, blocks=tuple(kinds), inserted=inserted, context_width=width
    )
    executed = settings.executed or min(source.executed, horizon)
    return dataclasses.replace(
        source,
        trunk=new_trunk,
        head=settings.head,
        bodies=settings.bodies or source.bodies,
        horizon=horizon,
        executed=executed,
        window=settings.window or source.window,
        slot_mask=settings.slot_mask or source.slot_mask,
        modulate=settings.modulate,
    ), chosen


def _fresh_banks(source: ExpertConfig, target: ExpertConfig, settings: ConvertConfig) -> tuple[str, ...]:
    """Return the prefixes of tensors that are not copied though the source may have one of that name."""
    prefixes = [f"{bank}." for bank in BANKS] if settings.fresh_inputs else []
    known = {body.name: body for body in source.bodies}
    for body in target.bodies:
        was = known.get(body.name)
        if was is None or (was.proprio, was.action) != (body.proprio, body.action):
            prefixes += [f"{bank}.mlps.{body.name}." for bank in (*BANKS, "out")]
    if target.executed != source.executed:
        prefixes.append("tokens.past_in.")
    if settings.fresh_decoder or (settings.head != source.head and settings.head == "velocity"):
        prefixes.append("out.")
    return tuple(prefixes)


@torch.no_grad()
def _copy_known(source: ActionExpert, expert: ActionExpert, settings: ConvertConfig) -> dict[str, str]:
    """Copy every tensor the two experts share; return what each tensor of the target is."""
    status: dict[str, str] = {}
    known, target = source.state_dict(), expert.state_dict()
    fresh = _fresh_banks(source.config, expert.config, settings)
    for name, value in target.items():
        if name.startswith("tokens.norm."):
            status[name] = _copy_norm_rows(name, known[name], value, source.config, expert.config)
        elif name == "tokens.slot":
            value.copy_(known[name][: len(value)])
            status[name] = "kept" if len(value) == len(known[name]) else f"kept: the first {len(value)} slots"
        elif name in known and known[name].shape == value.shape and not name.startswith(fresh):
            value.copy_(known[name])
            status[name] = "kept"
        else:
            status[name] = "new: 0" if not value.any() else "new"
    return status


def _copy_norm_rows(name: str, old: Tensor, new: Tensor, source: ExpertConfig, target: ExpertConfig) -> str:
    """Copy the normalisation of the bodies both experts know."""
    rows = {body.name: (index, body.proprio) for index, body in enumerate(source.bodies)}
    fresh = []
    for index, body in enumerate(target.bodies):
        row, size = rows.get(body.name, (-1, -1))
        if size != body.proprio:
            fresh.append(body.name)
        elif new.ndim == 1:
            new[index] = old[row]
        else:
            new[index, :size] = old[row, :size]
    return f"new for {', '.join(fresh)}" if fresh else "kept"


@torch.no_grad()
def _replace_attention(
    source: ActionExpert, expert: ActionExpert, chosen: list[int], status: dict[str, str]
) -> dict[str, Tensor]:
    """Turn self-attention into cross-attention: W_Q and W_O kept, W_V and W_O's bias 0, so the VLM starts silent.

    Exactly one factor is 0 in series (W_V); returns the weights that were taken out, for mode insert later.
    """
    removed: dict[str, Tensor] = {}
    width = source.config.trunk.width
    for index in chosen:
        prefix = f"trunk.blocks.{index}"
        old, cross = source.trunk.layers()[index].attention, expert.trunk.layers()[index].cross
        cross.q.weight.copy_(old.qkv.weight[:width])
        cross.q.bias.copy_(old.qkv.bias[:width])
        cross.out.weight.copy_(old.out.weight)
        cross.out.bias.zero_()
        cross.kv.weight[width:].zero_()
        cross.kv.bias[width:].zero_()
        status |= {f"{prefix}.cross.q.weight": "kept", f"{prefix}.cross.q.bias": "kept"}
        status |= {f"{prefix}.cross.out.weight": "kept", f"{prefix}.cross.out.bias": "new: 0"}
        status |= {f"{prefix}.cross.kv.{part}": "new: values 0" for part in ("weight", "bias")}
        removed |= {f"{prefix}.attention.{key}": value.clone() for key, value in old.state_dict().items()}
    return removed


@torch.no_grad()
def match_moments(conversion: Conversion, seed: int, batch: int = 2048) -> list[str]:
    """Scale and shift the last layer of fresh encoders so that each channel of their tokens has the RL tokens' moments.

    Inputs are drawn as encoders see them: normalised observations N(0, 1), past chunks U(-1, 1) (data-dependent
    initialisation; with `seed`).  Returns the banks that were matched.
    """
    tokens, generator, matched = conversion.expert.tokens, torch.Generator().manual_seed(seed), []
    for bank, name, row in ((tokens.past_in, BANKS[1], 0), (tokens.observation_in, BANKS[0], 1)):
        for body, size in zip(conversion.config.bodies, bank.inputs, strict=True):
            prefix = f"{name}.mlps.{body.name}"
            if not conversion.status[f"{prefix}.2.weight"].startswith("new"):
                continue
            x = torch.randn(batch, size, generator=generator)
            if row == 0:
                x = torch.rand(batch, size, generator=generator) * 2 - 1
            mlp = bank.mlps[body.name]
            std, mean = torch.std_mean(mlp(x), dim=0, correction=0)
            factor = tokens.moments.std[row] / std.clamp(min=1e-6)
            last = bank.last_layers()[[b.name for b in conversion.config.bodies].index(body.name)]
            last.weight.mul_(factor[:, None])
            last.bias.copy_((last.bias - mean) * factor + tokens.moments.mean[row])
            for part in ("weight", "bias"):
                conversion.status[f"{prefix}.2.{part}"] = "new: moments matched"
            matched.append(prefix)
    return matched
