"""How a body walks, added up from two episodes by hand."""

from __future__ import annotations

from typing import Any

import pytest

from toddle.core.types import EpisodeResult
from toddle.reporting.episode_log import summarise
from toddle.reporting.walking import command_plot, walking_line, walking_section


def _episode(seed: int, **info: Any) -> EpisodeResult:
    return EpisodeResult(
        seed=seed, success=None, episode_return=1.0, length=100, seconds=1.0, seconds_per_decision=0.1, info=info
    )


FIRST = _episode(
    0,
    walked=8.0,
    terminated=False,
    pushed=True,
    goals=3,
    goals_reached=2,
    commands=[
        [0, 1, 1.0, 0.0, 0.0, 0.9, 0.0, 0.0],
        [0, 0, 0.5, 0.0, 0.0, 0.5, 0.3, 0.0],
        [3, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ],
)
SECOND = _episode(
    1, walked=2.0, terminated=True, goals=1, goals_reached=0, commands=[[0, 0, -0.5, 0.0, 0.0, -0.3, 0.0, 0.0]]
)


def test_tracked_metres_falls_and_slope() -> None:
    """Deviations of 1, 0.5 and -0.5 from their mean 1/3: the slope is 1.4333 / 1.1667."""
    facts = summarise([FIRST, SECOND]).walking
    assert facts == {
        "walked": 5.0,
        "falls": 0.5,
        "pushed_survived": 1.0,
        "tracked": pytest.approx(1 / 3),
        "tracked_stand": 1.0,
        "velocity_goals": 3.0,
        "speed_error": pytest.approx(0.2),
        "slope": pytest.approx((0.9 * 2 / 3 + 0.5 / 6 + 0.3 * 5 / 6) / (4 / 9 + 1 / 36 + 25 / 36)),
    }
    assert walking_line(facts).startswith("tracked 33 % of 3 velocity goals, walked 5.0 m an episode, fell in 50 %")
    picture = command_plot({"a policy": [FIRST, SECOND]})
    assert "a policy" in picture and picture.count("<use") >= 9


def test_a_report_shows_it() -> None:
    """Beside a cell that does not walk, of which nothing is said."""
    others = [_episode(0, terminated=True)]
    shown = walking_section({("a", "walk/ant", "plain"): [FIRST, SECOND], ("b", "dots/one", "plain"): others})
    assert "walk/ant, a" in shown and "dots" not in shown
    assert [f">{value}<" in shown for value in ("0.33", "0.20", "5.00", "0.50", "1.00")] == [True] * 5


def test_other_episodes_have_none_of_it() -> None:
    others = [_episode(0, terminated=True)]
    assert summarise(others).walking == {}
    assert walking_section({("b", "dots/one", "plain"): others}) == ""
