"""`toddle compress`: a VLA with fewer weights, for `toddle sft` and `toddle finetune` to recover what it could."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from toddle.algorithms.sft import SFTConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, Seed, Share, Size
from toddle.core.plan import Plan
from toddle.core.seeding import numpy_generator, torch_generator
from toddle.core.types import Observation
from toddle.policies.store import load_policy, meta_of, save_policy
from toddle.recipes import sft
from toddle.recipes._sft_data import check_fits, open_datasets
from toddle.runs.run import RunFolder
from toddle.transfer.compress import By, importance, in_int8, pairs_of, prune

__all__ = ["Config", "plan", "run"]

REPEATS = 30
"""Decisions of each policy that are timed, in turns."""


@config
class Config:
    """Cut hidden units out of a vision-language-action model, and measure what that and int8 save.

    Example: toddle compress --policy runs/sft --dataset runs/demos --keep 0.5 --out runs/small
    Writes <out>/policy, which `toddle sft --init` and then `toddle finetune` recover, and <out>/compress.json.
    """

    may_change: ClassVar[tuple[str, ...]] = ()

    policy: Path
    """Folder of a VLA of kind token_vla or flow_vla."""
    dataset: tuple[Path, ...]
    """Demonstrations (LeRobot v3.0) on which it is found what matters."""
    out: Path = Path("runs/compressed")
    """The run's folder."""
    keep: Share = 0.5
    """Share of the hidden units of every block's MLP that stay."""
    by: By = "taylor"
    """What matters: the loss's first-order change without a unit, the size of its weights, or (the control) chance."""
    batches: Count = 16
    """Batches of demonstrations whose gradient it is."""
    batch: Size = 32
    """Decisions of a batch."""
    cache: Path = Path(".cache/features")
    """Where features of the frozen backbone are kept."""
    seed: Seed = 0
    """Seed of batches and noise."""

    def __post_init__(self) -> None:
        if self.keep == 0.0:
            raise problem("keep", "a share above 0", self.keep)
        if not self.dataset:
            raise problem("dataset", "at least one folder", "none")


def _learning(config: Config) -> sft.Config:
    """Return the settings with which the policy would learn on: its loss says which units matter."""
    return sft.Config(
        dataset=config.dataset,
        init=str(config.policy),
        cache=config.cache,
        sft=SFTConfig(batch=config.batch),
        seed=config.seed,
    )


def plan(config: Config) -> Plan:
    """Look at the policy and the datasets, and say what will be done."""
    policy: Any = load_policy(config.policy)
    hidden = [policy.get_submodule(name).out_features for name, _ in pairs_of(policy)]
    learning = _learning(config)
    datasets = open_datasets(learning.dataset)
    check_fits(sft.make_policy(learning, datasets), datasets)
    weights = sum(value.numel() for value in policy.parameters())
    return Plan(
        steps=[
            f"find by {config.by} on {config.batches} batches of {config.batch} decisions which hidden units matter",
            f"keep {max(1, round(config.keep * hidden[0]))} of {hidden[0]} in each of {len(hidden)} blocks",
            "measure size, time of a decision, and int8",
            f"write {config.out / 'policy'}",
        ],
        memory_bytes=5 * 10**8 + 16 * weights,
        seconds=20 + config.batches * 1e-8 * weights * config.batch,
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Compress, measure, write and print.  A run that was interrupted is done again with `--resume`."""
    pairs_of(load_policy(config.policy))  # before a backbone encodes anything
    with RunFolder.open(config.out, config, resume=resume) as folder:
        learner, whole, _ = sft.make_learner(_learning(config))
        numbers, noise = numpy_generator(config.seed, "compress"), torch_generator(config.seed, "compress noise")
        whole.zero_grad()  # type: ignore[attr-defined]
        for _ in range(config.batches):
            batch = learner.data.batch(numbers.integers(len(learner.data), size=config.batch))
            (whole.loss(batch, noise)[0] / config.batches).backward()
        pruned = prune(whole, importance(whole, config.by, noise), config.keep)
        whole.zero_grad()  # type: ignore[attr-defined]
        policies = {"whole": whole, "whole, int8": in_int8(whole), "pruned": pruned, "pruned, int8": in_int8(pruned)}
        batch = learner.data.batch(numbers.integers(len(learner.data), size=16))
        found = _measured(policies, batch["observation"])
        write_json_atomic(folder.path / "compress.json", {"measured": found})
        save_policy(config.out / "policy", pruned, meta_of(config.policy))
        folder.finish(1)
    for name, row in found.items():
        print(
            f"{name}: {row['weights']:,} weights, {row['bytes']:,} bytes, a decision of 1 world {row['ms_1']:.2f} ms, "
            f"of 16 worlds {row['ms_16']:.2f} ms, mean change of an action {row['changed']:.3g}"
        )


@torch.no_grad()
def _measured(policies: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each policy its weights and bytes, the median time of a decision, and by how much its actions are not
    the first policy's."""
    rows: dict[str, dict[str, Any]] = {}
    now: Any = {name: value[-1] for name, value in seen.items() if isinstance(value, Tensor)}
    actions: dict[str, Tensor] = {}
    for name, policy in policies.items():
        policy.train(False)
        buffer = io.BytesIO()
        torch.save(policy.state_dict(), buffer)
        weights = sum(value.numel() for value in policies[name.removesuffix(", int8")].parameters())
        rows[name] = {"weights": weights, "bytes": buffer.tell()}
        actions[name] = _acted(policy, now)
        rows[name]["changed"] = float((actions[name] - actions["whole"]).abs().mean())
    for worlds in (1, 16):
        part: Any = {name: value[:worlds] for name, value in now.items()}
        times: dict[str, list[float]] = {name: [] for name in policies}
        for _ in range(REPEATS):
            for name, policy in policies.items():
                began = time.perf_counter()
                _acted(policy, part)
                times[name].append(time.perf_counter() - began)
        for name, taken in times.items():
            rows[name][f"ms_{worlds}"] = 1000.0 * statistics.median(taken)
    return rows


def _acted(policy: Any, seen: Observation) -> Tensor:
    memory = policy.initial_memory(len(seen["proprio"]))
    action: Tensor = policy.act(seen, memory, deterministic=True)[0].action
    return action
