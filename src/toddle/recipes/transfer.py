"""`toddle transfer`: an RL policy becomes the action expert of a vision-language-action model."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

import safetensors.torch
import torch

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_atomic, write_json_atomic
from toddle.core.memory import weights_that_fit
from toddle.core.numbers import Positive, Size, SizeOrNone, Whole
from toddle.core.plan import Plan
from toddle.core.types import Observation
from toddle.envs.make import make_env
from toddle.experience.actor import body_in
from toddle.experience.collect import CollectConfig, Collector
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.policies.causal import CausalPolicy
from toddle.policies.store import StoredExpert, save_expert, save_policy
from toddle.policies.vla import FlowVLA, FlowVLAConfig
from toddle.recipes._interface import InterfaceConfig, check_scenes, interface_bytes, keep_interface
from toddle.runs.loop import ProgressLine
from toddle.runs.run import RunFolder
from toddle.transfer.convert import Conversion, ConvertConfig, Convertible, convert
from toddle.transfer.distill import distill
from toddle.transfer.graft import graft
from toddle.transfer.grow import enlarge
from toddle.transfer.lesion import draw_observation, lesion_scores, rank_blocks
from toddle.transfer.levels import Level
from toddle.transfer.sources import Source, load_source
from toddle.transfer.table import conversion_record, print_record

__all__ = ["Config", "InterfaceConfig", "plan", "run"]

KEPT = 3.0
"""Copies of the weights while converting: the source, what is made, and what is grown from it."""


@config
class SideCarSettings:
    """A second trunk beside the pretrained one, for widths that growth cannot reach."""

    width: SizeOrNone = 0
    """Its width; 0 for none."""
    depth: Size = 4
    """Its blocks."""
    heads: Size = 4
    """Its attention heads."""


@config
class Config:
    """Convert a pretrained policy into the action expert of a vision-language-action model.

    Example: toddle transfer --source runs/pretrain/policy --out runs/transfer
    Writes <out>/policy (what `toddle sft --init` takes), <out>/expert (the expert alone) and <out>/transfer.json, and
    prints what was kept exactly, what is new, and how far each part is from its source.
    """

    source: Path
    """Folder of the policy that `toddle pretrain` wrote: a causal one, or a denoising one over a trunk."""
    out: Path = Path("runs/transfer")
    """The run's folder."""
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    """How it is converted."""
    grow_depth: Size = 1
    """Times as many blocks; the new ones start as exact no-ops."""
    grow_width: Size = 1
    """Times as wide; channels are copied, the function stays."""
    grow_mlp: Positive | None = None
    """New ratio of the blocks' hidden units; the extra ones start silent."""
    sidecar: SideCarSettings = field(default_factory=SideCarSettings)
    """A trunk of another width beside it."""
    interface: InterfaceConfig = InterfaceConfig()
    """Keep the goal tokens as what the expert reads."""
    rollout_env: str | None = None
    """Environment whose rollouts rank blocks and distil (mode replace); None: goal/<first body>."""
    distill_steps: Whole = 1000
    """Steps of self-distillation after mode replace."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model that the expert will read."""
    vlm_width: Size | None = None
    """Width of VLM tokens: then no backbone is loaded and only <out>/expert is written."""
    steps: Size | None = None
    """Euler steps of the flow when acting; None: those of a denoising source, else 8."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures the backbone reads."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if not self.interface.envs and self.interface != InterfaceConfig():
            raise problem("interface.envs", "environments in which the goal tokens are learned", "none")
        if self.interface.envs and self.vlm_width is not None:
            raise problem("vlm_width", "none with interface.envs, which a backbone watches", self.vlm_width)
        if self.interface.envs and self.convert.fresh_adapter:
            raise problem("convert.fresh_adapter", "False with interface.envs, where no adapter is left", True)


def plan(config: Config) -> Plan:
    """Check the source, convert and enlarge it, and say what would be done."""
    with weights_that_fit(KEPT):
        source = load_source(config.source, config.convert).policy
        made = convert(source, config.convert, config.vlm_width or 1)
        made = _enlarged(config, made)
    numbers = sum(value.numel() for value in made.expert.parameters())
    steps = [
        f"convert {config.source} ({config.convert.context_mode}, {made.config.trunk.modulation}, "
        f"head {made.config.head}) into about {numbers:,} weights"
    ]
    _check_rollouts(config, source)
    memory = round(4 * KEPT * numbers) + 5 * 10**8
    if kept := config.interface.envs:
        check_scenes(config.interface, source, config.cameras, config.backbone)
        memory += interface_bytes(config.interface, load_backbone(config.backbone), len(config.cameras))
        what = f"{config.interface.decisions} decisions in each of {', '.join(kept)}"
        steps.append(f"learn to make goal tokens of the backbone's: {what}, {config.interface.steps} steps")
    distilled = config.convert.context_mode == "replace"
    if distilled:
        steps.append(f"rank self-attention blocks by lesion, then distil for {config.distill_steps} steps")
    written = config.out / ("policy" if config.vlm_width is None else "expert")
    steps += ["measure levels A, B, C", f"write {written} and the table"]
    seconds = 10 + 4e-9 * numbers + (0.1 * config.distill_steps if distilled else 0)
    seconds += 0.03 * config.interface.decisions * len(kept) + 0.02 * config.interface.steps * bool(kept)
    return Plan(steps=steps, memory_bytes=memory, seconds=seconds)


def run(config: Config, *, resume: bool = False) -> None:
    """Convert, measure, write and print.  A run that was interrupted is simply done again with `--resume`."""
    source = load_source(config.source, config.convert)
    _check_rollouts(config, source.policy)
    check_scenes(config.interface, source.policy, config.cameras, config.backbone)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        backbone = None if config.vlm_width else load_backbone(config.backbone)
        with weights_that_fit(KEPT):
            made, levels = _convert(config, source, config.vlm_width or (backbone.width if backbone else 0))
        record = conversion_record(source.policy, made, levels)
        meta = {"source": str(config.source), "levels": record["levels"], "numbers": record["numbers"]}
        if backbone is not None:
            vla = _vla(config, made, backbone, config.steps or source.steps)
            if config.interface.envs:
                meta["interface"] = record["interface"] = keep_interface(
                    config.interface, source.policy, vla, config.convert.seed
                )
            save_policy(config.out / "policy", vla, meta)
        save_expert(
            config.out / "expert",
            StoredExpert(made.config, made.expert.state_dict(), made.adapter.state_dict(), made.vlm_width, meta),
        )
        if made.removed:
            removed = config.out / "removed.safetensors"
            write_atomic(removed, lambda path: safetensors.torch.save_file(made.removed, path))
        write_json_atomic(config.out / "transfer.json", record)
        print_record(record)
        folder.finish(1)
        print(f"policy: {config.out / 'policy'}" if backbone is not None else f"expert: {config.out / 'expert'}")


def _vla(config: Config, made: Conversion, backbone: Backbone, steps: int) -> FlowVLA:
    """Build the vision-language-action model around the converted expert."""
    vla = FlowVLA(
        FlowVLAConfig(
            backbone=config.backbone,
            expert=made.config,
            steps=steps,
            queries=config.interface.queries if config.interface.envs else 0,
            cameras=config.cameras,
            seed=config.convert.seed,
        ),
        backbone,
    )
    vla.expert.load_state_dict(made.expert.state_dict())
    if not config.interface.envs:
        vla.adapter.load_state_dict(made.adapter.state_dict())
    return vla


def _convert(config: Config, source: Source, vlm_width: int) -> tuple[Conversion, list[Level]]:
    """Convert, enlarge and measure."""
    if config.convert.context_mode == "replace":
        assert source.replaceable is not None  # load_source has seen to it
        made = _replace(config, source.replaceable, vlm_width)
    else:
        made = convert(source.policy, config.convert, vlm_width)
    made = _enlarged(config, made)
    return made, source.levels(made, steps=config.steps or source.steps)


def _enlarged(config: Config, made: Conversion) -> Conversion:
    """Grow, and put the side-car beside it."""
    made = enlarge(
        made, depth=config.grow_depth, width=config.grow_width, mlp_ratio=config.grow_mlp, seed=config.convert.seed
    )
    if config.sidecar.width:
        car = config.sidecar
        made.expert, new = graft(made.expert, car.width, car.depth, car.heads, config.convert.seed)
        made.status |= {name: "new: 0" if ".merge." in name else "new: behind a projection of 0" for name in new}
        made.expert.eval()
    return made


def _replace(config: Config, policy: CausalPolicy, vlm_width: int) -> Conversion:
    """Convert by mode replace: the blocks that matter least give way, and the trunk learns back what they did."""
    rollouts, count = _rollouts(config, policy), config.distill_steps
    scores = lesion_scores(policy, rollouts)
    print("lesion scores: " + ", ".join(f"block {index}: {score:.4f}" for index, score in scores.items()))
    made = convert(policy, config.convert, vlm_width, ranking=rank_blocks(scores))
    if count:
        with ProgressLine("distil", count) as bar:
            losses = distill(policy, made, rollouts, steps=count, on_step=lambda i, _: bar.advance(i + 1))
        print(f"self-distillation: error {losses[0]:.4f} -> {losses[-1]:.4f}")
    return made


def _check_rollouts(config: Config, source: Convertible) -> None:
    """Raise InputError where `rollout_env` is no environment, or none that the policy can act in."""
    if config.rollout_env is not None:
        env = make_env(config.rollout_env, 1)
        try:
            body_in(source.expert.config, env)
        finally:
            env.close()


@torch.no_grad()
def _rollouts(config: Config, policy: CausalPolicy, length: int = 32, worlds: int = 16) -> Observation:
    """Let the policy act and return segments (T, B, ...) of what it saw, `previous_action` included.

    Without a goal/<body> environment, draws from the policy's own statistics stand in, and that is printed.
    """
    name = config.rollout_env or f"goal/{policy.config.expert.bodies[0].name}"
    try:
        env = make_env(name, worlds, seed=config.convert.seed)
    except ValueError as error:
        if config.rollout_env is not None:
            raise
        print(f"no rollouts ({error}): observations are drawn from the policy's statistics")
        return draw_observation(policy, length, worlds, torch.Generator().manual_seed(config.convert.seed))
    gathering = CollectConfig(length=length, scale_rewards=False)
    collector = Collector(env, gathering, seed=config.convert.seed, body=body_in(policy, env))
    collector.gather(policy)
    env.close()
    assert collector.rollout is not None
    return collector.rollout.observation
