"""`toddle worldmodel imagine`: a policy in the model and in the environment, from the same starts, never one alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from toddle.algorithms.world_model_evaluation import agreement
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, NonNegative, Seed, Size
from toddle.core.plan import Plan
from toddle.recipes._imagined import check_policies, gate_line, gated, line_of, named_policies, paths, play, told
from toddle.reporting.world_model import write_imagined_page
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

DRAWN = 6
"""Starts of each policy whose paths are drawn."""


@config
class Config:
    """Play policies in a model and in the environment it models, from the same starts, and set the two side by side.

    Success in a model rises in nearly every training in it and shows nothing by itself: it stands beside the real one.
    Example: toddle worldmodel imagine --model runs/world_model --policy base=runs/base imagined=runs/in_model
    """

    may_change: ClassVar[tuple[str, ...]] = ()

    model: Path
    """Folder of `toddle worldmodel train`."""
    policy: tuple[str, ...]
    """Policy folders, `folder` or `name=folder`."""
    out: Path = Path("runs/imagined")
    """Folder of results: imagined.json and the page index.html."""
    episodes: Count = 50
    """Episodes of each policy, real and imagined."""
    num_envs: Size = 50
    """Worlds at once."""
    deterministic: bool = False
    """Take a policy's most likely action instead of a draw."""
    gate: NonNegative | None = None
    """Accept each later policy where it gains more than this share of the first one's return in the model (RL-100:
    0.05); the model's penalty for doubt counts (docs/world_models.md)."""
    seed: Seed = 0
    """Seed of the first episode, counting up."""

    def __post_init__(self) -> None:
        if not self.policy:
            raise problem("policy", "at least one policy", "none")
        named_policies(self.policy)
        if self.gate is not None and len(self.policy) < 2:
            raise problem("policy", "at least two for a gate, the present one first", len(self.policy))


def plan(config: Config) -> Plan:
    """Check model and policies, and say what will be played."""
    name = check_policies(config.model, config.policy)
    return Plan(
        steps=[
            *(f"play {policy}: {config.episodes} episodes in {name} and in the model" for policy in config.policy),
            f"write {config.out / 'imagined.json'} and {config.out / 'index.html'}",
        ],
        memory_bytes=10**9,
        seconds=5.0 + 0.1 * config.episodes * len(config.policy),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Play, and write both beside each other; it is always made anew."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        played = play(
            config.model,
            config.policy,
            seed=config.seed,
            episodes=config.episodes,
            worlds=config.num_envs,
            deterministic=config.deterministic,
        )
        policies = [told(one) for one in played]
        found = {
            "policies": policies,
            "agreement": agreement([(one.real, one.imagined) for one in played]),
        }
        gates = [] if config.gate is None else gated(played, config.gate)
        write_json_atomic(config.out / "imagined.json", found | ({"gate": gates} if gates else {}))
        drawn = {
            name: paths(config.model, path, seed=config.seed, starts=DRAWN, deterministic=config.deterministic)
            for name, path in named_policies(config.policy).items()
        }
        write_imagined_page(config.out / "index.html", found, played, drawn)
        folder.finish(1)
    for row in policies:
        print(line_of(row))
    for row in gates:
        print(gate_line(row))
    print(f"numbers: {config.out / 'imagined.json'}; page: {config.out / 'index.html'}")
