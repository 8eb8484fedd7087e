"""What an evaluation recorded of a policy, for who compares with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toddle.core.errors import problem
from toddle.reporting.episode_log import read_episodes, result_of, score_of

__all__ = ["recorded_success"]


def recorded_success(folder: Path, policy: Path, envs: Sequence[str]) -> dict[str, list[float]]:
    """Return the scores of the policy's undisturbed episodes in an evaluation's folder, by environment.

    Raises InputError where there are none, or several candidates of which none is this policy.
    """
    rows = [row for row in read_episodes(folder / "episodes.jsonl") if row.get("condition") == "plain"]
    rows = [row for row in rows if row.get("env") in envs]
    if not rows:
        raise problem("evaluation.recorded", f"an evaluation with episodes of {', '.join(envs)}", str(folder))
    names = {str(row.get("candidate")) for row in rows}
    if len(names) > 1:
        own = {policy.name, policy.parent.name} & names
        if len(own) != 1:
            raise problem(
                "evaluation.recorded", f"an evaluation of {policy} alone", f"candidates {', '.join(sorted(names))}"
            )
        names = own
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get("candidate") in names:
            found.setdefault(str(row["env"]), []).append(score_of(result_of(row)) or 0.0)
    return found
