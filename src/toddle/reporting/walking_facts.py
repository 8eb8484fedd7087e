"""What episodes of walking add up to, as numbers; the plots are in `reporting.walking`, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toddle.core.types import EpisodeResult
from toddle.maths.walking import KINDS, slope

__all__ = ["commands_of", "walking_facts"]


def commands_of(found: Sequence[EpisodeResult]) -> np.ndarray:
    """Return the commands of episodes (N, 8), as `experience.evaluate` writes them."""
    rows = [row for result in found for row in result.info.get("commands", ())]
    return np.array(rows, dtype=np.float64).reshape(-1, 8)


def walking_facts(found: Sequence[EpisodeResult]) -> dict[str, float]:
    """Return what episodes of walking add up to, empty where none is one.

    `tracked`: share of velocity goals that were met (a fall misses the goal), `tracked_<kind>` of the others; `walked`:
    metres an episode along what was commanded; `falls`: share of episodes that ended in one, `pushed_survived`: share
    of those that were pushed and did not; `speed_error`: mean distance of the planar velocity reached from the one
    asked, m/s, of velocity goals; `slope`: how much faster it goes forwards for 1 m/s more, 1 where it follows.
    """
    walks = [result for result in found if "walked" in result.info]
    if not walks:
        return {}
    rows, falls = commands_of(walks), [bool(result.info["terminated"]) for result in walks]
    facts = {"walked": float(np.mean([result.info["walked"] for result in walks])), "falls": float(np.mean(falls))}
    if pushed := [not fell for fell, result in zip(falls, walks) if result.info.get("pushed")]:
        facts["pushed_survived"] = float(np.mean(pushed))
    for number, kind in enumerate(KINDS):
        if len(chosen := rows[rows[:, 0] == number]):
            facts["tracked" if number == 0 else f"tracked_{kind}"] = float(chosen[:, 1].mean())
    if len(velocity := rows[rows[:, 0] == 0]):
        facts["velocity_goals"] = float(len(velocity))
        facts["speed_error"] = float(np.linalg.norm(velocity[:, 5:7] - velocity[:, 2:4], axis=1).mean())
        if np.isfinite(steep := slope(velocity[:, 2], velocity[:, 5])):
            facts["slope"] = steep
    return facts
