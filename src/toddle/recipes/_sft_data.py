"""The datasets of `toddle sft`: whether they are of one robot, fit the policy and are understood by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toddle.core.errors import problem
from toddle.core.protocols import FineTunable
from toddle.data.lerobot_dataset import LeRobotDataset

__all__ = ["action_range", "check_fits", "check_sentences", "first_episodes", "open_datasets"]


def open_datasets(paths: Sequence[Path]) -> list[LeRobotDataset]:
    """Open the datasets.  Raises InputError where they are not of one robot that is driven in one way."""
    datasets = [LeRobotDataset(path) for path in paths]
    first = datasets[0]
    for other in datasets[1:]:
        facts: list[tuple[str, Any, Any]] = [("robot_type", first.robot_type, other.robot_type)]
        facts.append(("fps", first.fps, other.fps))
        for name in ("observation.state", "action"):
            facts.append((f"{name}: names", first.names(name), other.names(name)))
            facts.append((f"{name}: size", first.vector(name).shape[1], other.vector(name).shape[1]))
        for label, a, b in facts:
            if a != b and not (label.endswith("names") and None in (a, b)):
                remedy = "train a policy for each"
                raise problem(f"dataset: {other.path}: {label}", f"{a}, as {first.path} has it", str(b), remedy)
    return datasets


def check_fits(policy: FineTunable, datasets: list[LeRobotDataset]) -> None:
    """Check that the policy can learn from the datasets.

    Raises InputError for another body, other sizes, or cameras that are missing or give no colours.
    """
    first, body = datasets[0], policy.bodies[policy.body_index(datasets[0].robot_type)]
    for name, wanted in (("observation.state", body.proprio), ("action", body.action)):
        if (found := first.vector(name).shape[1]) != wanted:
            where = f"dataset: {first.path}: {name}"
            raise problem(where, f"{wanted} numbers, as body '{body.name}' of the policy has", found)
    if not policy.cameras:
        raise problem("cameras", "one or more of the datasets' (record with pictures)", "none")
    for dataset in datasets:
        dataset.picture_size(*policy.cameras)


def check_sentences(policy: FineTunable, datasets: list[LeRobotDataset], *, lossy: bool) -> int:
    """Return the tokens of the longest sentence.

    Raises InputError, unless `lossy`, for one that the policy would cut or of which it does not know half.
    """
    longest = 0
    for dataset in datasets:
        for sentence in dataset.tasks:
            tokens, read, unknown = policy.reading(sentence)
            longest = max(longest, tokens)
            where, lossless = f"dataset: {dataset.path}: sentence '{sentence[:60]}'", not lossy
            if lossless and read < tokens:
                remedy = f"shorten it, make room (--backbone.text-tokens {tokens}, with --init random or a pi0)"
                raise problem(where, f"at most {read} tokens", tokens, f"{remedy}, or cut it (--lossy-sentences)")
            if lossless and 2 * unknown >= tokens:
                remedy = "translate it, take another backbone, or train all the same (--lossy-sentences)"
                want = "words that the backbone's vocabulary has"
                raise problem(where, want, f"{unknown} unknown tokens of {tokens}", remedy)
    return longest


def action_range(datasets: list[LeRobotDataset]) -> tuple[float, float]:
    """Return the smallest and the largest number of all actions."""
    actions = [dataset.vector("action") for dataset in datasets]
    return float(min(part.min() for part in actions)), float(max(part.max() for part in actions))


def first_episodes(dataset: LeRobotDataset, per_task: int | None) -> list[int]:
    """Return the places of the first `per_task` episodes of each environment (or sentence)."""
    seen: dict[str, int] = {}
    chosen = []
    for place, episode in enumerate(dataset.episodes):
        task = str(episode.facts.get("env") or dataset.task_of(episode.start))
        seen[task] = seen.get(task, 0) + 1
        if per_task is None or seen[task] <= per_task:
            chosen.append(place)
    return chosen
