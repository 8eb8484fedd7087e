"""`toddle transfer` end to end at small size: folders, the record, and refusals in one line."""

import json
from pathlib import Path

import pytest
import torch
from tests.policies.tiny_vla import tiny_backbone

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.expert import ActionExpert, ExpertConfig, make_adapter
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_expert, load_policy, save_policy
from toddle.recipes.transfer import Config, SideCarSettings, _rollouts, plan, run
from toddle.transfer.convert import ConvertConfig

BODY = BodySpec(name="toy", proprio=6, action=2, dt=0.02)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    trunk = TrunkConfig(width=16, depth=4, heads=2, context_width=8)
    expert = ExpertConfig(trunk=trunk, bodies=(BODY,), horizon=3, executed=3, window=3)
    policy = CausalPolicy(CausalConfig(expert=expert))
    g = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    policy.update_normaliser(Observation(proprio=torch.randn(50, 6, generator=g) * 2))
    save_policy(tmp_path / "rl" / "policy", policy)
    return tmp_path / "rl"


def test_a_policy_becomes_an_expert_folder(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(source=source, out=tmp_path / "out", vlm_width=10)
    assert any("expert" in step for step in plan(config).steps)
    run(config)
    stored = load_expert(tmp_path / "out" / "expert")
    expert, adapter = ActionExpert(stored.config), make_adapter(8, stored.vlm_width)
    expert.load_state_dict(stored.expert)
    adapter.load_state_dict(stored.adapter)
    record = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert all(level["kept"] for level in record["levels"])
    assert stored.meta["levels"] == record["levels"]
    printed = capsys.readouterr().out
    assert "flow sample" in printed and "0 (exact)" in printed
    with pytest.raises(InputError, match="resume"):
        run(config)


def test_the_vla_acts_as_the_rl_policy_without_a_goal(source: Path, tmp_path: Path) -> None:
    """Level C through the whole system: pictures, sentence, backbone, adapter, flow; folders saved and loaded."""
    save_embedded(tmp_path / "eyes", tiny_backbone())
    config = Config(source=source, out=tmp_path / "out", backbone=BackboneConfig(name=str(tmp_path / "eyes")))
    run(config)
    policy, vla = load_policy(source), load_policy(tmp_path / "out")
    g, memory, cache = torch.Generator().manual_seed(1), None, None
    previous = torch.zeros(2, 6)
    for _ in range(5):
        plain = Observation(proprio=torch.randn(2, 6, generator=g) * 2, previous_action=previous)
        seen = Observation(
            **plain,
            images=torch.randint(256, (2, 1, 3, 32, 32), generator=g, dtype=torch.uint8),
            instruction=["open the drawer", "press the red button"],
        )
        expected, memory = policy.act(plain, memory, deterministic=True)
        got, cache = vla.act(seen, cache, generator=g)
        assert (got.action - expected.action.clamp(-1, 1)).abs().max() < 1e-5
        previous = expected.action.clamp(-1, 1).flatten(1)
    assert expected.action.abs().max() > 0.05


def test_replace_ranks_distils_and_keeps_what_it_took_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ConvertConfig(context_mode="replace")
    config = Config(source=source, out=tmp_path / "out", vlm_width=10, convert=settings, distill_steps=60)
    run(config)
    printed = capsys.readouterr().out
    assert "lesion scores: block 1" in printed and "drawn from the policy's statistics" in printed
    first, last = (float(word) for word in printed.split("error ")[1].split("\n")[0].split(" -> "))
    assert last < 0.5 * first
    assert (tmp_path / "out" / "removed.safetensors").exists()
    levels = json.loads((tmp_path / "out" / "transfer.json").read_text())["levels"]
    assert {level["level"]: level["tolerance"] for level in levels}["C"] is None
    assert {level["level"]: level["deviation"] for level in levels}["tau"] == 0


def test_rollouts_in_the_second_of_two_bodies(tmp_path: Path) -> None:
    """Blocks are ranked and distilled on what the body of `rollout_env` sees, through its own banks."""
    point = BodySpec(name="point", proprio=4, action=2, dt=0.1)
    trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=8)
    expert = ExpertConfig(trunk=trunk, bodies=(BODY, point), horizon=3, executed=3, window=3)
    config = Config(source=tmp_path, out=tmp_path, rollout_env="fork/point")
    seen = _rollouts(config, CausalPolicy(CausalConfig(expert=expert)), length=5, worlds=3)
    assert seen["proprio"].shape == (5, 3, 4) and (seen["body"] == 1).all()
    assert seen["first"].tolist() == [[True] * 3] + [[False] * 3] * 4
    assert (seen["previous_action"][0] == 0).all() and (seen["previous_action"][1:] != 0).any()


def test_growth_and_side_car_together(source: Path, tmp_path: Path) -> None:
    config = Config(
        source=source,
        out=tmp_path / "out",
        vlm_width=10,
        grow_depth=2,
        grow_width=2,
        grow_mlp=3.0,
        sidecar=SideCarSettings(width=12, depth=2, heads=2),
    )
    run(config)
    record = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert all(level["kept"] for level in record["levels"])
    trunk = load_expert(tmp_path / "out" / "expert").config.trunk
    assert (trunk.width, trunk.depth, trunk.mlp_ratio) == (32, 8, 3.0)


def test_what_cannot_be_converted_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"policy\.json"):
        plan(Config(source=tmp_path / "nothing", vlm_width=10))
    for policy in (GaussianPolicy(GaussianConfig(bodies=(BODY,))), FPOPolicy(FPOConfig(body=BODY))):
        save_policy(tmp_path / policy.kind, policy)
        for command in (plan, run):
            with pytest.raises(InputError, match=rf"\Asource: expected [^\n]*'causal'[^\n]* got '{policy.kind}'"):
                command(Config(source=tmp_path / policy.kind, out=tmp_path / "out", vlm_width=10))
