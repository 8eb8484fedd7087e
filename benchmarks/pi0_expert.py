"""pi0's action expert (transformers' own class) beside toddle's, on the same VLM and the same tiny sizes.

    python benchmarks/pi0_expert.py [--rounds 15]

Both read the same PaliGemma (random weights, 64 tokens a picture of 96 x 96, 49 of text), have 4 blocks of width 96
with 4 heads and 192 hidden units, and draw chunks of 8 actions in 10 Euler steps for Meta-World's arm (17 numbers in,
4 out).  Contenders run interleaved in one process on one thread; CPU seconds, medians over the rounds.  Parameters are
also counted at full size, without memory for the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModel,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PI0Config,
    PI0ForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from toddle.core.types import BodySpec, Observation
from toddle.models.backbones.base import BackboneConfig
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.pi0 import Pi0Config, Pi0Policy
from toddle.policies.vla import FlowVLA, FlowVLAConfig

OUT = Path(__file__).parent.parent / "docs/benchmarks"
BODY = BodySpec(name="sawyer", proprio=17, action=4, dt=0.0125)
WIDTH, DEPTH, HEADS, HIDDEN, CHUNK, STEPS, TEXT = 96, 4, 4, 192, 8, 10, 48
SENTENCE = "press the handle down"


def save_checkpoints(folder: Path) -> tuple[Path, Path]:
    """Save a PaliGemma and a pi0 around the same PaliGemma, of random weights; return their folders."""
    alphabet = ["<pad>", "<s>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>")
    sizes = {
        "vocab_size": len(alphabet),
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": WIDTH // HEADS,
        "pad_token_id": 0,
    }
    vision = SiglipVisionConfig(
        image_size=96,
        patch_size=12,
        vision_use_head=False,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
    )
    vlm = PaliGemmaConfig(
        vision_config=vision,
        text_config=GemmaConfig(hidden_size=128, intermediate_size=256, **sizes),
        image_token_id=2,
        projection_dim=128,
        pad_token_id=0,
    )
    expert = GemmaConfig(hidden_size=WIDTH, intermediate_size=HIDDEN, **sizes)
    settings = PI0Config(
        vlm_config=vlm, dit_config=expert, chunk_size=CHUNK, max_state_dim=BODY.proprio, max_action_dim=BODY.action
    )
    torch.manual_seed(0)
    pi0, eyes = PI0ForConditionalGeneration(settings), PaliGemmaForConditionalGeneration(vlm)
    eyes.model.load_state_dict(pi0.model.vlm.state_dict())
    for name, model in (("paligemma", eyes), ("pi0", pi0)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "paligemma", folder / "pi0"


def policies() -> tuple[FlowVLA, Pi0Policy]:
    """Both policies, reading the same weights of the same VLM."""
    with tempfile.TemporaryDirectory() as folder:
        eyes, source = save_checkpoints(Path(folder))
        trunk = TrunkConfig(width=WIDTH, depth=DEPTH, heads=HEADS, mlp_ratio=HIDDEN / WIDTH, modulation="residual")
        expert = ExpertConfig(trunk=trunk, bodies=(BODY,), horizon=CHUNK, executed=CHUNK, window=1, head="velocity")
        backbone = BackboneConfig(name=str(eyes), text_tokens=TEXT)
        ours = FlowVLA.from_config(FlowVLAConfig(backbone=backbone, expert=expert, steps=STEPS))
        settings = Pi0Config(source=str(source), body=BODY, executed=CHUNK, steps=STEPS, text_tokens=TEXT + 1)
        return ours.eval(), Pi0Policy.from_pretrained(settings).eval()


def observation(batch: int) -> Observation:
    """One decision of `batch` worlds."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, 1, 3, 96, 96), generator=generator, dtype=torch.uint8)
    proprio = torch.randn(batch, BODY.proprio, generator=generator)
    return Observation(proprio=proprio, images=images, instruction=[SENTENCE] * batch)


def contenders(ours: FlowVLA, pi0: Pi0Policy, batch: int) -> dict[str, Callable[[], Any]]:
    """Whole decisions and their VLM part, for `batch` worlds."""
    seen = observation(batch)
    raw, mask = ours.backbone.encode(seen["images"], seen["instruction"])
    cached = Observation(proprio=seen["proprio"], context=raw, context_mask=mask)
    drawn = torch.Generator().manual_seed(2)

    return {
        f"toddle, whole, {batch}": lambda: ours.act(seen, generator=drawn),
        f"pi0, whole, {batch}": lambda: pi0.act(seen, generator=drawn),
        f"toddle, VLM, {batch}": lambda: ours.backbone.encode(seen["images"], seen["instruction"]),
        f"pi0, VLM, {batch}": lambda: pi0.encode(seen),
        f"toddle, expert, {batch}": lambda: ours.act(cached, generator=drawn),
    }


def updates(ours: FlowVLA, pi0: Pi0Policy, batch: int) -> dict[str, Callable[[], Any]]:
    """Loss and gradient of one SFT batch with a frozen VLM: toddle reads cached features, pi0 runs its VLM."""
    seen = observation(batch)
    raw, mask = ours.backbone.encode(seen["images"], seen["instruction"])
    generator = torch.Generator().manual_seed(3)
    common: dict[str, Any] = {
        "action": torch.rand(batch, CHUNK, BODY.action, generator=generator) * 2 - 1,
        "mask": torch.ones(batch, CHUNK, dtype=torch.bool),
    }
    proprio, body = seen["proprio"][None], torch.zeros(1, batch, dtype=torch.int64)
    cached = {"proprio": proprio, "body": body, "context": raw[None], "context_mask": mask[None]}
    pictures = {"proprio": proprio, "body": body, "images": seen["images"][None], "instruction": seen["instruction"]}

    def update(policy: Any, observed: dict[str, Any]) -> None:
        policy.zero_grad()
        policy.loss({**common, "observation": observed}, generator)[0].backward()

    return {
        f"toddle, update, {batch}": lambda: update(ours, cached),
        f"pi0, update, {batch}": lambda: update(pi0, pictures),
    }


def count(module: nn.Module, *without: str) -> int:
    """Parameters, without those whose name contains one of `without`."""
    return sum(v.numel() for name, v in module.named_parameters() if not any(part in name for part in without))


def parameters(ours: FlowVLA, pi0: Pi0Policy) -> dict[str, list[int]]:
    """Setting -> [toddle's trunk, toddle's rest, pi0's transformer, pi0's rest]; the VLM counts for neither."""
    theirs = pi0.model
    found = {
        "these sizes": [
            count(ours.expert.trunk),
            count(ours.expert) - count(ours.expert.trunk) + count(ours.adapter),
            count(theirs.model.dit, "embed_tokens"),
            count(theirs.embed_action_time) + count(theirs.action_out_proj),
        ]
    }
    with torch.device("meta"):
        full = PI0Config()
        dit = AutoModel.from_config(full.dit_config)
        trunk = TrunkConfig(width=1024, depth=18, heads=8, mlp_ratio=4.0, context_width=2048, modulation="residual")
        expert = ActionExpert(
            ExpertConfig(trunk=trunk, bodies=(BODY,), horizon=50, executed=50, window=1, head="velocity")
        )
    width = full.dit_config.hidden_size
    rest = width * (full.max_state_dim + 1) + width * (full.max_action_dim + 1) + full.max_action_dim * (width + 1)
    rest += width * (2 * width + 1) + width * (width + 1)
    inside = count(expert.trunk)
    found["pi0's (18 blocks of 1024)"] = [inside, count(expert) - inside, count(dit, "embed_tokens"), rest]
    return found


def measure(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each function in each round, interleaved, in a new order each round."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            began = time.process_time()
            functions[name]()
            times[name].append(time.process_time() - began)
    return times


def page(record: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    ms = {name: 1e3 * value for name, value in record["medians"].items()}
    for batch in (1, 16):
        ms[f"pi0, expert, {batch}"] = ms[f"pi0, whole, {batch}"] - ms[f"pi0, VLM, {batch}"]
    lines = [
        "# pi0's action expert beside toddle's",
        "",
        f"`python benchmarks/pi0_expert.py`: {record['rounds']} interleaved rounds, one thread, CPU time, medians; "
        f"Python {record['python']}, torch {record['torch']}, transformers {record['transformers']}; load average "
        f"{record['load']:.1f} at the start.",
        "",
        __doc__.split("\n\n")[2].strip(),
        "",
        "| | toddle | pi0 | toddle is faster |",
        "|---|---|---|---|",
    ]
    for what, label in (("whole", "a decision"), ("VLM", "of it the VLM"), ("expert", "of it the expert")):
        for batch, worlds in ((1, "1 world"), (16, "16 worlds")):
            mine, other = ms[f"toddle, {what}, {batch}"], ms[f"pi0, {what}, {batch}"]
            lines.append(f"| {label}, {worlds}, ms | {mine:.1f} | {other:.1f} | x {other / mine:.2f} |")
    for what, label, share in (
        ("whole, 1", f"an action of one world ({CHUNK} a decision)", CHUNK),
        ("update, 16", "SFT, a decision of a batch of 16, VLM frozen", 16),
    ):
        mine, other = (ms[f"{name}, {what}"] / share for name in ("toddle", "pi0"))
        lines.append(f"| {label}, ms | {mine:.2f} | {other:.2f} | x {other / mine:.2f} |")
    lines += [
        "",
        "In SFT toddle reads cached features of its frozen VLM; pi0's expert needs the keys and values of "
        "every block of its VLM, which are not cached here, so its VLM runs for every batch.",
        "",
        "| parameters | toddle, trunk | toddle, banks and adapter | pi0, transformer | pi0, projections |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {name} | " + " | ".join(f"{n:,}" for n in row) + " |" for name, row in record["parameters"].items()]
    return "\n".join([*lines, "", "pi0's transformer without its table of word embeddings, which is never read.", ""])


def main() -> None:
    """Measure and write docs/benchmarks/pi0_expert.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    ours, pi0 = policies()
    functions = {**contenders(ours, pi0, 1), **contenders(ours, pi0, 16), **updates(ours, pi0, 16)}
    load = os.getloadavg()[0]
    times = measure(functions, rounds)
    record = {
        "rounds": rounds,
        "load": load,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": parameters(ours, pi0),
        "cpu_seconds": times,
        "medians": {name: statistics.median(values) for name, values in times.items()},
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "pi0_expert.json").write_text(json.dumps(record, indent=1) + "\n")
    (OUT / "pi0_expert.md").write_text(page(record))
    print(page(record))


if __name__ == "__main__":
    main()
