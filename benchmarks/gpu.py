"""One page on how near a device's limits acting, fine-tuning and PPO run: ratios to the floor, rates, utilisation.

    python benchmarks/gpu.py --out gpu.md                     any CUDA machine, under five minutes (not yet run so)
    python benchmarks/gpu.py --device cpu --tiny              the same on a CPU, in seconds; figures mean nothing

It needs torch and toddle's `core`, `maths`, `models` alone.  The floor of a decision is the time in which the device
reads what must be read, in bfloat16: the expert's weights once a pass, without those that are tables, and those that
make the context's keys once; its bandwidth is measured here by a copy, the peak of products by one large product in
bfloat16.  What is compared is measured in turns; the median of the repeats is given.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from toddle.core.types import BodySpec
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.table_sampler import TableSampler
from toddle.models.trunk import TrunkConfig

BODY = BodySpec(name="arm", proprio=17, action=7, dt=0.05)
STEPS = 10


def make_expert(width: int, depth: int, heads: int, device: torch.device) -> ActionExpert:
    trunk = TrunkConfig(width=width, depth=depth, heads=heads, context_width=1024, modulation="residual")
    settings = ExpertConfig(
        trunk=trunk, bodies=(BODY,), horizon=16, executed=16, window=1, head="velocity", bank_hidden=512
    )
    torch.manual_seed(0)
    made = ActionExpert(settings)
    with torch.no_grad():
        for parameter in made.parameters():  # parts that begin at zero would hide a difference
            if not parameter.any():
                parameter.copy_(torch.randn_like(parameter) * 0.02)
    return made.to(device).eval()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(calls: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(repeats + 2):
        for name, call in calls.items():
            wait(device)
            began = time.perf_counter()
            call()
            wait(device)
            if index >= 2:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def limits(device: torch.device, tiny: bool) -> tuple[float, float]:
    """Return bytes a second of a copy (read and written) and operations a second of a product, bfloat16."""
    size, side = (2**20, 256) if tiny or device.type == "cpu" else (2**29, 8192)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    into, square = torch.empty_like(source), torch.ones(side, side, dtype=torch.bfloat16, device=device)
    times = seconds({"copy": lambda: into.copy_(source), "product": lambda: square @ square}, device, 10)
    return 2 * size / times["copy"], 2 * side**3 / times["product"]


def acting(
    width: int, depth: int, heads: int, worlds: int, device: torch.device, args: argparse.Namespace
) -> list[str]:
    """Return rows: plain sampling, tables, and on CUDA one graph, without and with compilation."""
    expert, tokens = make_expert(width, depth, heads, device), 16 if args.tiny else 256
    make = torch.Generator().manual_seed(1)
    sizes = ((17,), (112,), (tokens, 1024), (16, 7))
    proprio, before, context, noise = (torch.randn(worlds, *size, generator=make).to(device) for size in sizes)
    seen = {"proprio": proprio, "previous_action": before}
    mask = torch.ones(worlds, tokens, dtype=torch.bool, device=device)

    def plain() -> torch.Tensor:
        with torch.no_grad():
            return expert.sample(expert.prefix(seen, context, mask, expert.initial_cache(worlds)), noise, STEPS)

    def tables(dtype: torch.dtype, *how: str) -> Callable[[], torch.Tensor]:
        sampler = TableSampler(expert, STEPS, dtype)
        for each in how:
            sampler = getattr(sampler, each)()
        ring = sampler.start(worlds)
        return lambda: sampler(seen, context, mask, ring, noise)

    calls: dict[str, Callable[[], object]] = {
        "plain, float32": plain,
        "tables, float32": tables(torch.float32),
        "tables, bfloat16": tables(torch.bfloat16),
    }
    if device.type == "cuda":
        calls["tables, bfloat16, graph"] = tables(torch.bfloat16, "graphed")
        calls["tables, bfloat16, compiled, graph"] = tables(torch.bfloat16, "compiled", "graphed")
    elif not args.tiny:
        calls["tables, float32, compiled"] = tables(torch.float32, "compiled")
    exact = tables(torch.float32)()
    want = plain()
    error = float((exact - want).abs().max() / want.abs().max())
    sizes_of = {name: p.numel() for name, p in expert.named_parameters()}
    tables = sum(size for name, size in sizes_of.items() if ".modulation." in name or ".time." in name)
    keys = sum(size for name, size in sizes_of.items() if ".cross.kv." in name)
    floor = 2 * ((sum(sizes_of.values()) - tables - keys) * (STEPS + 1) + keys) / args.bandwidth
    name = f"{width} x {depth}, {worlds} worlds"
    rows = []
    for kind, value in seconds(calls, device, args.repeats).items():
        figures = f"{1e3 * value:.2f} | {1e3 * floor:.3f} | {value / floor:.1f} | {worlds / value:,.0f} | {error:.0e}"
        rows.append(f"| {name} | {kind} | {figures} |")
    return rows


def learning(width: int, depth: int, heads: int, batch: int, device: torch.device, args: argparse.Namespace) -> str:
    """Return a row of one step of flow matching by AdamW under autocast in bfloat16."""
    expert, tokens = make_expert(width, depth, heads, device).train(), 16 if args.tiny else 256
    optimiser = torch.optim.AdamW(expert.parameters(), lr=1e-4, fused=True)
    sizes = ((1, batch, 17), (1, batch, 112), (1, batch, tokens, 1024), (1, batch, 16, 7))
    proprio, before, context, noisy = (torch.randn(size, device=device) for size in sizes)
    seen = {
        "proprio": proprio,
        "previous_action": before,
        "first": torch.ones(1, batch, dtype=torch.bool, device=device),
    }
    mask = torch.ones(1, batch, tokens, dtype=torch.bool, device=device)
    tau = torch.rand(1, batch, device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = expert(seen, context, mask, noisy, tau, last=1).float().square().mean()
        loss.backward()
        optimiser.step()

    with FlopCounterMode(display=False) as counter:
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = seconds({"step": step}, device, max(3, args.repeats // 3))["step"]
    rate, memory = counter.get_total_flops() / taken, 0.0
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    figures = f"{1e3 * taken:.1f} | {batch / taken:,.0f} | {rate / 1e12:.2f} | {100 * rate / args.peak:.0f}"
    return f"| {width} x {depth} | {batch} | {figures} | {memory:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="sizes at which a test can run it")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--sizes", type=int, default=2, help="1: the small expert alone")
    parser.add_argument("--out", type=Path, help="file for the page; it is printed in any case")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: device: expected a CUDA device, got none; take --device cpu --tiny to try the script")
    device, began = torch.device(args.device), time.perf_counter()
    args.repeats = 2 if args.tiny else args.repeats
    args.bandwidth, args.peak = limits(device, args.tiny)
    sizes = ((32, 2, 2),) if args.tiny else ((192, 4, 4), (1536, 16, 32))
    sizes = sizes[: args.sizes]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU"
    lines = [
        f"# {name}, torch {torch.__version__}{', tiny: the figures mean nothing' if args.tiny else ''}",
        "",
        f"A copy moves {args.bandwidth / 1e9:,.1f} GB/s, a bfloat16 product makes {args.peak / 1e12:,.2f} TFLOP/s.",
        "",
        f"## Acting: a decision of {STEPS} Euler steps",
        "| expert | how | ms | floor, ms | ratio | decisions/s | float32 tables against plain |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        for worlds in (2,) if args.tiny else (1, 64):
            lines += acting(*size, worlds, device, args)
    lines += [
        "",
        "## Learning: a step of flow matching, autocast",
        "| expert | batch | ms | samples/s | TFLOP/s | % of the product's | GiB at most |",
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [learning(*size, batch, device, args) for size in sizes for batch in ((2,) if args.tiny else (64, 256))]
    lines += ["", f"All of it took {time.perf_counter() - began:.0f} s."]
    page = "\n".join(lines) + "\n"
    print(page)
    if args.out is not None:
        args.out.write_text(page)


if __name__ == "__main__":
    main()
