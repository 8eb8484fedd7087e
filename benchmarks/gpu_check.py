"""All that is said of a GPU, checked on one in under five minutes (an estimate: no GPU has run it): one page.

    python benchmarks/gpu_check.py --out check.md             a CUDA machine, from the repository's root
    python benchmarks/gpu_check.py --device cpu --tiny        the same script on a CPU, in a minute, to see that it runs

Parts, each in a process of its own with a limit of time, so that one that hangs does not take the others along: acting
(`--compile` of a whole VLA against its plain pass), learning (gradient checkpointing, bfloat16, forecast against the
device's own peak), tests (`pytest -m gpu`), rates (benchmarks/gpu.py), and, with two devices, learners that share
an iteration (NCCL).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
LIMITS = {"acting": 70, "learning": 40, "tests": 70, "rates": 110, "learners": 60}
"""Seconds of each part at most."""


def vla(tiny: bool) -> Any:
    """A VLA whose parts that begin at zero have values."""
    from toddle.core.types import BodySpec
    from toddle.models.backbones.base import BackboneConfig
    from toddle.models.expert import ExpertConfig
    from toddle.models.trunk import TrunkConfig
    from toddle.policies.vla import FlowVLA, FlowVLAConfig

    sizes = {"width": 32, "depth": 2, "heads": 2} if tiny else {"width": 512, "depth": 8, "heads": 8}
    trunk = TrunkConfig(context_width=192, modulation="residual", **sizes)
    body = BodySpec(name="arm", proprio=17, action=7, dt=0.05)
    expert = ExpertConfig(trunk=trunk, bodies=(body,), horizon=8, executed=8, window=2, head="velocity")
    made = FlowVLA.from_config(FlowVLAConfig(expert=expert, backbone=BackboneConfig()))
    make = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=make))
    return made


def acting(device: str, tiny: bool) -> list[str]:
    """Chunks of three decisions by each way of acting, against the plain pass, and what a decision takes."""
    from toddle.core.device import to_device
    from toddle.core.seeding import torch_generator
    from toddle.policies.hastened import hastened

    policy, rows = vla(tiny).eval().to(device), []
    tokens, width = policy.features.shape
    make = torch.Generator().manual_seed(2)
    seen: Any = {
        "proprio": torch.randn(4, 17, generator=make),
        "previous_action": torch.zeros(4, 56),
        "first": torch.ones(4, dtype=torch.bool),
        "body": torch.zeros(4, dtype=torch.int64),
        "context": torch.randn(4, tokens, width, generator=make),
        "context_mask": torch.ones(4, tokens, dtype=torch.bool),
    }
    seen, want = to_device(seen, torch.device(device)), None
    ways = [("none", False), ("tables", False), ("tables", True)]
    ways += [("graph", False), ("graph", True), ("inductor", True)] if device != "cpu" else []
    for how, bf16 in ways:
        hastened(policy, how, bf16=bf16)  # type: ignore[arg-type]
        memory, chunks, taken = policy.initial_memory(4), [], 0.0
        for index in range(3):
            began = time.perf_counter()
            decision, memory = policy.act(seen, memory, generator=torch_generator(index, "check"))
            chunks.append(decision.action.cpu())
            taken = time.perf_counter() - began
        found = torch.stack(chunks)
        want = found if want is None else want
        rows.append(
            f"| {how}{', bf16' if bf16 else ''} | {1e3 * taken:.2f} | {float((found - want).abs().max()):.1e} |"
        )
    return ["| --compile | ms of the third decision, 4 worlds | largest difference |", "|---|---|---|", *rows]


def learning(device: str, tiny: bool) -> list[str]:
    """Forecast and measured peak of a step, without and with checkpointing and in bfloat16, and its loss."""
    from memory import Data

    from toddle.algorithms.sft import SFT, SFTConfig
    from toddle.algorithms.sft_memory import forecast
    from toddle.core.device import to_device

    lines = ["| step | ms | loss | forecast, MiB | measured, MiB |", "|---|---|---|---|---|"]
    for name, settings in {"plain": {}, "checkpointing": {"checkpointing": True}, "bf16": {"bf16": True}}.items():
        learner: Any = None  # the one before goes first
        policy = vla(tiny).to(device)
        data = Data(*policy.features.shape, window=2)
        config = SFTConfig(steps=10, batch=8 if tiny else 256, **settings)  # type: ignore[arg-type]
        before = torch.cuda.memory_allocated() if device != "cpu" else 0
        made = forecast(policy, lambda n, d=data: to_device(d.batch(range(n)), torch.device(device)), config)
        learner = SFT(policy, data, config)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            began = time.perf_counter()
            loss = learner.step()["sft/loss"]
            taken = time.perf_counter() - began
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if device != "cpu" else float("nan")
        lines.append(f"| {name} | {1e3 * taken:.1f} | {loss:.6f} | {made.peak / 2**20:.0f} | {peak:.0f} |")
    return lines


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the parts and what each runs."""
    own = [sys.executable, __file__, "--device", args.device, *(["--tiny"] if args.tiny else []), "--part"]
    rates = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device", args.device, "--repeats", "10"]
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "tests/test_gpu.py",
        "tests/models/test_table_sampler.py",
    ]
    found = {"acting": [*own, "acting"], "learning": [*own, "learning"], "tests": tests}
    found["rates"] = [*rates, *(["--tiny"] if args.tiny else [])]
    if torch.cuda.device_count() > 1:
        toddle = [sys.executable, "-m", "toddle", "pretrain", "--env", "fork/point", "--worlds", "8", "--steps", "2048"]
        found["learners"] = [*toddle, "--device", "cuda", "--learners", "2", "--out", tempfile.mkdtemp() + "/run"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="sizes at which a CPU can run it")
    parser.add_argument("--part", choices=("acting", "learning"), help="this part alone, in this process")
    parser.add_argument("--out", type=Path, help="file for the page; it is printed in any case")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: device: expected a CUDA device, got none; take --device cpu --tiny to try the script")
    if args.part:
        print("\n".join({"acting": acting, "learning": learning}[args.part](args.device, args.tiny)))
        return
    began, bad = time.perf_counter(), []
    name = torch.cuda.get_device_name() if args.device == "cuda" else "a CPU"
    page = [f"# Checked on {name}, torch {torch.__version__}"]
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT, ROOT / "tests", ROOT / "benchmarks")))
    for part, command in commands(args).items():
        environment = {**os.environ, "PYTHONPATH": path}
        try:
            run = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMITS[part]
            )
            said, status = run.stdout + ("" if run.returncode == 0 else run.stderr[-3000:]), run.returncode
        except subprocess.TimeoutExpired as late:
            said, status = (late.stdout or b"").decode(), f"stopped after {LIMITS[part]} s"
        bad += [part] if status not in (0, 5) else []  # 5: pytest has found no test to run
        page += ["", f"## {part}" + ("" if status == 0 else f" (status {status})"), said.strip()]
        print("\n".join(page[-2:]), flush=True)
    page += [
        "",
        f"{time.perf_counter() - began:.0f} s; {'not well: ' + ', '.join(bad) if bad else 'all parts ended well'}.",
    ]
    print(page[-1])
    if args.out is not None:
        args.out.write_text("\n".join(page) + "\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
