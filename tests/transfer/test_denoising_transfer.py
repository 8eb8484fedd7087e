"""A denoising policy over a trunk becomes a VLA's expert with every trained weight: levels A, B, C, bridge included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import tiny_backbone

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.denoising_trunk import TrunkDenoiserConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.links import DiffusionConfig, FlowConfig
from toddle.policies.store import load_policy, save_policy
from toddle.recipes.transfer import Config, plan, run
from toddle.transfer.convert import Conversion, ConvertConfig, convert
from toddle.transfer.denoising_levels import measure_denoising_levels
from toddle.transfer.grow import enlarge

ARM = BodySpec(name="arm", proprio=5, action=3, dt=0.02)
TRUNK = TrunkConfig(width=32, depth=4, heads=2, context_width=12, modulation="residual")
PROCESSES = {
    "ddpm": DiffusionConfig(train_steps=10),
    "ddim": DiffusionConfig(train_steps=20, ddim_steps=5),
    "reinflow": FlowConfig(steps=4),
    "flow_sde": FlowConfig(noise="flow_sde", steps=6),
    "fpo": None,
}
VLM = 20


def make(name: str, contract: bool = False, **changes: Any) -> Any:
    """A policy whose every weight is away from its initial value, as training leaves it."""
    network = TrunkDenoiserConfig(trunk=TRUNK, bank_hidden=16, goal_hidden=16, contract=contract)
    shared: dict[str, Any] = {"body": ARM, "network": network, "horizon": 5, "executed": 4, "goal_width": 6}
    policy: Any
    if name == "fpo":
        policy = FPOPolicy(FPOConfig(**shared | {"steps": 10} | changes)).eval()
    else:
        policy = DenoisingPolicy(DenoisingConfig(**shared | {"process": PROCESSES[name]} | changes)).eval()
    g = torch.Generator().manual_seed(7)
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    policy.update_normaliser(Observation(proprio=torch.randn(200, 5, generator=g) * 3 + 1, **no_goals(200)))
    return policy


def no_goals(batch: int) -> Any:
    from toddle.core.goal import GOAL_FEATURES

    return {"goal": torch.zeros(batch, 1, GOAL_FEATURES), "goal_mask": torch.zeros(batch, 1, dtype=torch.bool)}


def by_name(policy: DenoisingPolicy, made: Conversion, steps: int) -> dict[str, tuple[float, float | None]]:
    levels = measure_denoising_levels(policy, made, steps=steps)
    return {level.name: (level.deviation, level.tolerance) for level in levels}


@pytest.mark.parametrize("contract", [False, True])
@pytest.mark.parametrize("process", PROCESSES)
def test_every_trained_weight_goes_over_and_level_c_is_exact(process: str, contract: bool) -> None:
    policy = make(process, contract)
    made = convert(policy, ConvertConfig(), VLM)
    found = by_name(policy, made, policy.links.steps)
    assert found["A"] == (0.0, 0.0) and found["B"] == (0.0, 0.0)
    # A float32 rounding of the noise, 3e-7, is divided by tau = 0.005 at a diffusion's first step.
    assert found["C"][0] < (5e-5 if process.startswith("dd") else 1e-5) <= (found["C"][1] or 0)
    state = made.expert.state_dict()
    for name, value in policy.expert.state_dict().items():
        assert torch.equal(state[name], value), name
    assert {name for name in made.status if ".modulation." in name or "trunk.time" in name}
    assert all(status.startswith("kept") for name, status in made.status.items() if not name.startswith("adapter"))
    assert made.config.head == ("noise" if process.startswith("dd") else "velocity")


def test_another_number_of_euler_steps_is_not_promised_and_a_diffusion_keeps_its_own() -> None:
    flow, diffusion = make("reinflow"), make("ddim")
    deviation, tolerance = by_name(flow, convert(flow, ConvertConfig(), VLM), 7)["C"]
    assert tolerance is None and deviation > 1e-3
    assert by_name(diffusion, convert(diffusion, ConvertConfig(), VLM), 7)["C"][0] < 5e-5


def test_level_c_needs_the_trained_modulation() -> None:
    """Control: with the time embedder of a fresh expert the sample is another one."""
    policy = make("reinflow")
    made = convert(policy, ConvertConfig(), VLM)
    for block in made.expert.trunk.layers():
        assert block.modulation is not None
        torch.nn.init.zeros_(block.modulation.linear.weight)
    assert by_name(policy, made, 4)["C"][0] > 1e-3


@pytest.mark.parametrize("process", ["ddim", "reinflow"])
def test_growth_keeps_trained_modulation_too(process: str) -> None:
    policy = make(process)
    made = enlarge(convert(policy, ConvertConfig(), VLM), depth=2, width=2, mlp_ratio=3.0)
    found = by_name(policy, made, policy.links.steps)
    assert found["A"][0] < 1e-5 and found["C"][0] < (5e-5 if process == "ddim" else 1e-5)


def test_the_vla_acts_as_the_policy_from_the_same_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Level C through the whole system: pictures, sentence, backbone, adapter, sampler; folders saved and loaded."""
    for process in ("ddim", "reinflow"):
        save_embedded(tmp_path / process / "eyes", tiny_backbone())
        policy = make(process)
        save_policy(tmp_path / process / "policy", policy)
        backbone = BackboneConfig(name=str(tmp_path / process / "eyes"))
        config = Config(source=tmp_path / process / "policy", out=tmp_path / process / "out", backbone=backbone)
        assert any("convert" in step for step in plan(config).steps)
        run(config)
        record = json.loads((tmp_path / process / "out/transfer.json").read_text())
        assert {level["level"] for level in record["levels"]} == {"A", "B", "C"}
        assert all(level["kept"] for level in record["levels"])
        vla = load_policy(tmp_path / process / "out/policy")
        assert vla.config.steps == policy.links.steps
        images = torch.randint(256, (3, 1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        seen = Observation(proprio=torch.randn(3, 5), images=images, instruction=["open it"] * 3)
        decision, _ = vla.act(seen, generator=torch.Generator().manual_seed(5))
        bare = Observation(proprio=seen["proprio"], **no_goals(3))
        chunk = policy.integrate(bare, decision.chain, torch.ones(3, dtype=torch.bool))
        assert (decision.action - chunk[:, :4].clamp(-1, 1)).abs().max() < (5e-5 if process == "ddim" else 1e-5)
    assert "kept" in capsys.readouterr().out


def test_what_is_no_single_trunk_is_refused(tmp_path: Path) -> None:
    save_policy(tmp_path / "mlp", make("ddpm", network=MlpDenoiserConfig(width=8)))
    with pytest.raises(InputError, match=r"network: expected a trunk"):
        plan(Config(source=tmp_path / "mlp", vlm_width=VLM))
    two = make("ddpm", process=DiffusionConfig(train_steps=10, tuned_steps=4))
    save_policy(tmp_path / "two", two)
    with pytest.raises(InputError, match=r"one network for all 10 steps .*tuned-steps"):
        plan(Config(source=tmp_path / "two", vlm_width=VLM))
    save_policy(tmp_path / "one", make("ddpm"))
    with pytest.raises(InputError, match="context_mode"):
        plan(Config(source=tmp_path / "one", vlm_width=VLM, convert=ConvertConfig(context_mode="replace")))
