"""The commands on the tabletop tasks: protocols of reward and time reach the worlds."""

from __future__ import annotations

import pytest

from toddle.recipes import pretrain


@pytest.mark.parametrize(
    ("given", "reward", "limit"),
    [({}, "dense", 100), ({"reward": "simplified"}, "simplified", 100), ({"horizon_scale": 10}, "dense", 1000)],
)
def test_protocols_reach_the_worlds(given: dict[str, object], reward: str, limit: int) -> None:
    made = pretrain.build(pretrain.configure(env=("tabletop/pick-place-cube",), worlds=2, steps=64, **given))
    env = made.sources[0].env  # type: ignore[attr-defined]
    assert (env.reward, env.max_episode_steps) == (reward, limit)
