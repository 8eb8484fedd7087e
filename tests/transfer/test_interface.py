"""The interface kept: a resampler learns goal tokens of the backbone's, and what it misses is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from toddle.cli import main
from toddle.core.types import BodySpec
from toddle.models.expert import ExpertConfig
from toddle.models.resampler import Resampler
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy
from toddle.policies.store import load_policy, save_policy
from toddle.recipes._interface import InterfaceConfig
from toddle.recipes.transfer import Config, run
from toddle.transfer.interface import Moments, learn_interface, share_unexplained


def moments(count: int, *, seed: int, shuffled: bool = False) -> Moments:
    """One of six tokens, which its first number marks, says what the goal token is, by its other numbers."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(count, 6, 12, generator=generator)
    context[..., 0] = -1.0
    place = torch.randint(6, (count,), generator=generator)
    context[torch.arange(count), place, 0] = 3.0
    there = torch.nn.functional.layer_norm(context[torch.arange(count), place, 1:5], (4,))
    token = torch.cat([there, -there], 1)
    if shuffled:
        token = token[torch.randperm(count, generator=generator)]
    mask = torch.ones(count, 6, dtype=torch.bool)
    return Moments(context.half(), mask, token)


def learned(data: Moments) -> Resampler:
    torch.manual_seed(0)
    resampler = Resampler(8, 12, 3, heads=2)
    learn_interface(resampler, data, steps=100, batch=48, learning_rate=1e-2, seed=0)
    return resampler.eval()


def test_it_learns_what_the_tokens_say_and_nothing_where_they_say_nothing() -> None:
    fresh = moments(500, seed=1)
    assert share_unexplained(learned(moments(1000, seed=0)), fresh) < 0.5
    assert share_unexplained(learned(moments(1000, seed=0, shuffled=True)), fresh) > 0.9


def test_the_share_is_one_for_the_mean_and_zero_for_what_is_exact() -> None:
    data = moments(300, seed=2)

    class Fixed(Resampler):
        said: torch.Tensor

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.said[:, None], mask

    fixed = Fixed(8, 12, 1, heads=2)
    fixed.said = data.token
    assert share_unexplained(fixed, data, batch=300) == 0.0
    fixed.said = data.token.mean(0).expand(300, -1)
    assert share_unexplained(fixed, data, batch=300) == pytest.approx(1.0, rel=1e-5)


def test_what_is_masked_is_not_read() -> None:
    torch.manual_seed(0)
    resampler, tokens = Resampler(8, 12, 3, heads=2), torch.randn(2, 5, 6, 12)
    mask = torch.ones(2, 5, 6, dtype=torch.bool)
    mask[..., 4:] = False
    made, there = resampler(tokens, mask)
    assert made.shape == (2, 5, 3, 8) and there.shape == (2, 5, 3) and bool(there.all())
    tokens[..., 4:, :] = 9.0
    torch.testing.assert_close(resampler(tokens, mask)[0], made)


def policy_of(folder: Path, **more: Any) -> Path:
    body = BodySpec(name="sawyer", proprio=17, action=4, dt=0.0125)
    trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=16, **more)
    expert = ExpertConfig(trunk=trunk, bodies=(body,), horizon=4, executed=4, window=2)
    save_policy(folder, CausalPolicy(CausalConfig(expert=expert)))
    return folder


def test_what_has_no_known_goals_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["transfer", "--source", str(policy_of(tmp_path / "rl")), "--out", str(tmp_path / "out"), "--dry-run"]
    without = policy_of(tmp_path / "blind", blocks=("self", "self"))
    blind = ["--source", str(without), "--convert.context-mode", "insert"]
    for asked, said in (
        (["--interface.envs", "goal/sawyer"], "interface.envs: expected scenes with known goals"),
        (["--interface.queries", "2"], "interface.envs: expected environments in which the goal tokens are learned"),
        (["--interface.envs", "touch/reach-v3", "--vlm-width", "8"], "vlm_width: expected none with interface.envs"),
        (["--interface.envs", "touch/reach-v3", "--convert.fresh-adapter"], "convert.fresh_adapter: expected False"),
        ([*blind, "--interface.envs", "touch/reach-v3"], "interface.envs: expected none for a policy without cross"),
    ):
        with pytest.raises(SystemExit):
            main([*source, *asked])
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_keeps_it_and_the_policy_loads(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    asked = InterfaceConfig(envs=("touch/reach-v3",), decisions=20, steps=5)
    run(Config(source=policy_of(tmp_path / "rl"), interface=asked, out=tmp_path / "out"))
    assert json.loads((tmp_path / "out/transfer.json").read_text())["interface"].keys() == {"learned", "held_out"}
    policy = load_policy(tmp_path / "out/policy")
    assert isinstance(policy.adapter, Resampler) and policy.config.queries == 4
