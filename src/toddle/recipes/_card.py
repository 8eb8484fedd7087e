"""What a recorded dataset says of itself: what it holds, who acted, and how its pictures differ."""

from __future__ import annotations

from typing import Any

from toddle.core.config import changes, to_dict
from toddle.core.rendering import RenderVariation
from toddle.data.lerobot_writer import DatasetWriter

__all__ = ["card_of", "demonstrator_of", "varied"]


def varied(variation: RenderVariation) -> str:
    """Return what differs between episodes, in words."""
    found = changes(to_dict(RenderVariation()), to_dict(variation))
    changed = [f"{name.replace('_', ' ')} {now:g}" for name, _, now in found]
    return f", differing between episodes: {', '.join(changed)}" if changed else ""


def demonstrator_of(config: Any) -> str:
    """Return who acted, in words; `config`: of `toddle record`."""
    return f"replay of {' '.join(map(str, config.replay))}" if config.replay else config.policy


def card_of(config: Any, writer: DatasetWriter) -> str:
    """Return the dataset's card: what it holds and who acted."""
    lines = [
        f"# {config.out.name}",
        "",
        f"{writer.num_episodes} episodes, {writer.num_frames} rows, recorded by `toddle record` in simulation.",
        "",
        f"- environments: {', '.join(config.env)}",
        f"- demonstrator: {demonstrator_of(config)}",
    ]
    if config.policy == "human":
        lines.append("- no human: a scripted expert with these habits (`toddle record --help` explains each)")
        lines += [f"    - {name}: {value}" for name, value in to_dict(config.human).items()]
    elif config.policy == "expert" and config.noise:
        kept = "and recorded so" if config.executed else "its own are recorded"
        lines.append(f"- its executed actions are disturbed by noise of {config.noise:g}, {kept}")
    if config.randomise is not None:
        lines.append(f"- every episode differs as {config.randomise} says")
    lines.append(f"- failures: {'kept' if config.keep_failures else 'left out'}")
    return "\n".join(lines) + "\n"
