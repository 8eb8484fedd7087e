"""`toddle compress`: what is cut out, what stays, and a policy that is fine-tuned as before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import tiny_token_vla, tiny_vla
from tests.recipes.test_finetune import taught, tokens, vla

from toddle.core.config import from_dict
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.recipes import compress, sft
from toddle.transfer.compress import importance, pairs_of, prune

__all__ = ["taught", "tokens", "vla"]


@pytest.mark.parametrize("make", [tiny_vla, tiny_token_vla])
def test_silent_units_go_first_and_cost_nothing(make: Any) -> None:
    """Every second hidden unit feeds nothing: its importance is 0, and half the units less (2 d + 1 weights each) the
    policy says the same."""
    whole = make()
    pairs = pairs_of(whole)
    first = whole.get_submodule(pairs[0][0])
    for index, names in enumerate(pairs):
        before, after = (whole.get_submodule(name) for name in names)
        with torch.no_grad():
            after.weight[:, ::2] = 0.0
        g = torch.Generator().manual_seed(index)
        x = torch.randn(64, before.in_features, generator=g)
        (after(torch.tanh(before(x))) - torch.randn(64, after.out_features, generator=g)).square().sum().backward()
    scores = importance(whole, "taylor", torch.Generator())
    assert all(not score[::2].any() and bool((score[1::2] > 0).all()) for score in scores)
    small = prune(whole, scores, 0.5)
    size = [sum(value.numel() for value in policy.parameters()) for policy in (whole, small)]
    assert size[0] - size[1] == len(pairs) * (first.out_features // 2) * (2 * first.in_features + 1)
    for names in pairs:
        x = torch.randn(5, first.in_features, generator=torch.Generator().manual_seed(9))
        said = [each.get_submodule(names[1])(torch.tanh(each.get_submodule(names[0])(x))) for each in (whole, small)]
        torch.testing.assert_close(*said, atol=1e-6, rtol=0)
    chance = importance(whole, "random", torch.Generator().manual_seed(0))
    assert not torch.equal(prune(whole, chance, 0.5).get_submodule(pairs[0][0]).bias, first.bias[1::2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vla", "tokens"])
def test_a_vla_is_cut_measured_and_learns_on(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    common: dict[str, Any] = {"dataset": [folder.parent / "data"], "cache": folder.parent / "cache"}
    few = {"policy": folder, "out": tmp_path / "run", "batches": 2, "batch": 8}
    settings = from_dict(compress.Config, common | few)
    assert any("keep 32 of 64 in each of 2 blocks" in step for step in compress.plan(settings).steps) or kind != "vla"
    compress.run(settings)
    found = json.loads((tmp_path / "run/compress.json").read_text())["measured"]
    assert found["pruned"]["weights"] < found["whole"]["weights"] and found["whole"]["changed"] == 0.0
    assert found["whole, int8"]["bytes"] < found["whole"]["bytes"] and found["whole, int8"]["changed"] < 0.2
    with pytest.raises(InputError, match="expected a folder with meta/info"):
        compress.plan(replace(settings, dataset=(tmp_path,)))
    more = {"init": str(tmp_path / "run"), "cameras": ["top"], "out": tmp_path / "sft"}
    sft.run(from_dict(sft.Config, common | more | {"sft": {"steps": 2, "batch": 8}}))


def test_what_cannot_be_cut_is_one_line(tmp_path: Path) -> None:
    body = BodySpec(name="point", proprio=2, action=1, dt=0.1)
    save_policy(tmp_path / "policy", GaussianPolicy(GaussianConfig(bodies=(body,), hidden=(8,))))
    settings = compress.Config(policy=tmp_path, dataset=(tmp_path,), out=tmp_path / "run")
    with pytest.raises(InputError, match="policy: expected a policy of kind token_vla or flow_vla, got 'gaussian'"):
        compress.plan(settings)
    with pytest.raises(InputError, match="keep: expected a share above 0"):
        compress.Config(policy=tmp_path, dataset=(tmp_path,), keep=0.0)
