"""OpenVLA through the commands: SFT from its folder, evaluation, RL from pictures; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.prismatic_folders import save_oft, save_openvla
from tests.tiny_vlm import save_smolvlm

from toddle.algorithms.sft import SFTConfig
from toddle.cli import main
from toddle.core.errors import InputError
from toddle.models.backbones.base import BackboneConfig
from toddle.models.fast import FastSettings
from toddle.policies.language_vla import Unsaid
from toddle.policies.store import load_policy, read_policy
from toddle.recipes import finetune, record, sft
from toddle.recipes._sft_start import LanguageStart


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("openvla")
    save_openvla(root / "openvla")
    save_oft(root / "oft", proprio=False)
    shown: Any = {"cameras": ("top",), "image_size": 32, "images": "image"}
    record.run(record.Config(out=root / "data", env=("dots/one",), episodes=3, **shown), resume=False)
    return root


def taught(root: Path, start: LanguageStart, steps: int = 3) -> Path:
    out = root / "sft"
    settings = {"dataset": (root / "data",), "out": out, "cache": root / "cache", "cameras": ("top",)}
    sft.run(sft.Config(init=str(root / "openvla"), language=start, sft=SFTConfig(steps=steps, batch=8), **settings))
    return out


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("ppo", {"collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 1}, "critic": "homogeneous"}),
        ("grpo", {"episodes": {"group": 2}, "reward": "dense"}),
    ],
)
def test_openvla_is_fine_tuned_and_improved(root: Path, tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    if not (root / "sft" / "policy").exists():
        taught(root, LanguageStart(unsaid=Unsaid(horizon=4), lora_rank=2))
    kind, config, meta, _ = read_policy(root / "sft")
    assert kind == "language_vla" and config.executed == 4 and meta["init"] == str(root / "openvla")
    small: dict[str, Any] = {"env": ("dots/one",), "worlds": 2, "steps": 60, "max_episode_steps": 10}
    small |= {"evaluation": {"episodes": 2, "videos": 0}, "policy": root / "sft", "out": tmp_path / "run"}
    settings = finetune.configure(small | more | {"method": method})
    assert settings.preset == ("tokens-alone" if method == "ppo" else "tokens")
    finetune.run(settings)
    before, after = (load_policy(path).state_dict() for path in (root / "sft", tmp_path / "run"))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("lora.") for name in moved)


def test_a_model_of_transformers_is_taught_to_say_actions(root: Path) -> None:
    (root / "smolvlm").mkdir()
    shared: Any = {"dataset": (root / "data",), "cache": root / "cache", "cameras": ("top",), "kind": "language"}
    start = LanguageStart(unsaid=Unsaid(horizon=4), lora_rank=2)
    backbone = BackboneConfig(name=str(save_smolvlm(root / "smolvlm")))
    sft.run(
        sft.Config(out=root / "words", backbone=backbone, language=start, sft=SFTConfig(steps=3, batch=8), **shared)
    )
    policy = load_policy(root / "words" / "policy")
    assert policy.kind == "language_vla" and policy.horizon == 4 and policy.config.source == backbone.name
    seen: Any = {"proprio": torch.zeros(1, 2), "instruction": ["go to the red dot"]}
    seen["images"] = torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8)
    assert bool((policy.act(seen)[0].action.abs() <= 1).all())


@pytest.mark.slow
def test_openvla_is_taught_to_say_frequencies(root: Path, tmp_path: Path) -> None:
    """FAST's tokens as its 256 words, through SFT to an iteration of PPO; OFT, which says all at once, is refused."""
    start = LanguageStart(unsaid=Unsaid(horizon=4), lora_rank=2, say="fast")
    settings = sft.Config(
        dataset=(root / "data",),
        out=tmp_path / "sft",
        cameras=("top",),
        init=str(root / "openvla"),
        language=start,
        tokens=sft.FreshTokens(fast=FastSettings(scale=4.0)),
        sft=SFTConfig(steps=3, batch=8),
    )
    sft.run(settings)
    kind, config, _, before = read_policy(settings.out)
    assert kind == "fast_language_vla" and config.code.scale == 4.0 and config.ratio_per == "chunk"
    small: dict[str, Any] = {"env": ("dots/one",), "worlds": 2, "steps": 60, "max_episode_steps": 10, "reward": "dense"}
    small |= {"collect": {"length": 3}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}
    made, _ = finetune.build(finetune.configure(small | {"policy": settings.out, "sampler": {"ratio_per": "token"}}))
    made.learner.step()
    after = made.policy.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("lora.") for name in moved)
    parallel = replace(start, unsaid=Unsaid(horizon=4, decoding="parallel", attention="causal"))
    with pytest.raises(InputError, match=r"unsaid\.decoding: expected autoregressive with FAST's tokens"):
        sft.plan(replace(settings, language=parallel, out=tmp_path / "other"))


def test_a_folder_is_not_yet_a_policy_and_oft_asks_for_its_chunk(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, line in (
        (["evaluate", "--policy", str(root / "openvla"), "--env", "dots/one"], "toddle sft --init takes it"),
        (["sft", "--init", str(root / "oft"), "--dataset", str(root / "data")], "unsaid.horizon: expected actions"),
    ):
        for dry in ([], ["--dry-run"]):
            with pytest.raises(SystemExit) as ended:
                main([*arguments, "--out", str(tmp_path / "out"), *dry])
            shown = capsys.readouterr().err
            assert ended.value.code == 2 and line in shown and shown.count("\n") == 1
