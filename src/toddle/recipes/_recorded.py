"""What an evaluation recorded of a policy, for who compares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from toddle.core.errors import problem
from toddle.core.types import EpisodeResult
from toddle.maths.intervals import difference_of_shares
from toddle.reporting.episode_log import read_episodes, result_of, score_of

__all__ = ["check_as_recorded", "recorded_success"]


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


def check_as_recorded(
    recorded: Path | None,
    policy: Path,
    envs: Sequence[str],
    table: Mapping[tuple[str, str, str], Sequence[EpisodeResult]],
) -> None:
    """Raise InputError where success before RL (`table`, by candidate, environment, condition) differs from what was
    recorded of this policy."""
    if recorded is None:
        return
    known = recorded_success(recorded, policy, envs)
    here = {env: [score_of(result) or 0.0 for result in results] for (_, env, _), results in table.items()}
    shared = [env for env in envs if env in known]
    before, now = ([score for env in shared for score in found[env]] for found in (known, here))
    gap = difference_of_shares(round(sum(now)), len(now), round(sum(before)), len(before))
    if not gap.low <= 0.0 <= gap.high:
        raise problem(
            "policy",
            f"{100 * sum(before) / len(before):.0f} % of {len(before)}, as recorded in {recorded}",
            f"{100 * sum(now) / len(now):.0f} % of {len(now)} episodes here",
            "cameras, picture size, drawing, max_episode_steps or the sampler's steps differ from how it was evaluated",
        )
