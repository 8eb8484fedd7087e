"""Going on from a policy of several bodies: with one of them, with one that is new, and as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toddle.core.errors import InputError
from toddle.envs.make import make_env
from toddle.methods._base import Run, build
from toddle.policies.store import save_policy

REACHER, PENDULUM, CART = "gymnasium/Reacher-v5", "gymnasium/InvertedPendulum-v5", "gymnasium/InvertedDoublePendulum-v5"
TINY: dict[str, Any] = {
    "policy": "causal",
    "causal": {"trunk": {"width": 16, "depth": 2, "heads": 2, "context_width": 16}, "horizon": 1, "executed": 1},
    "collect": {"length": 4},
}


def _made(*names: str, method: str = "ppo", **more: Any) -> Run:
    settings = {key: value for key, value in (TINY | more).items() if value is not None}
    settings |= {"ppo": {"minibatches": 1}} if method != "clone" else {"clone": {"minibatches": 1}}
    return build(method, [make_env(name, 2) for name in names], steps=100, **settings)


@pytest.mark.parametrize("kind", ["causal", "mlp"])
def test_a_run_goes_on_with_one_body_of_several(kind: str) -> None:
    """It was the second, so its number is another now."""
    both = _made(REACHER, PENDULUM, policy=kind).policy
    made = _made(PENDULUM, policy=kind, init=both)
    assert [body.name for body in made.policy.bodies] == [both.bodies[1].name]
    made.learner.step()


def test_a_body_that_is_new_gets_networks_of_its_own_where_there_is_a_trunk() -> None:
    both = _made(REACHER, PENDULUM)
    made = _made(CART, PENDULUM, init=both.policy)
    made.learner.step()
    with pytest.raises(InputError, match="policy: expected a bank for the body"):
        _made(CART, policy="mlp", init=_made(REACHER, policy="mlp").policy)


@pytest.mark.parametrize(("method", "kind"), [("clone", "causal"), ("rpd", "mlp")])
def test_a_teacher_of_several_bodies_teaches_one(method: str, kind: str, tmp_path: Path) -> None:
    save_policy(tmp_path, _made(REACHER, PENDULUM, policy=kind).policy)
    _made(PENDULUM, method=method, policy=kind, teacher=tmp_path).learner.step()
    with pytest.raises(InputError, match="policy: expected a bank for the body"):
        _made(CART, method=method, policy=kind, teacher=tmp_path)
