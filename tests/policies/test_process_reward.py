"""The process reward model: features and pictures give the same answer, a folder gives the same model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import tiny_backbone

from toddle.core.errors import InputError
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.policies.process_reward import RewardModel, RewardModelConfig, load_reward_model, save_reward_model


def tiny_model(folder: Path | None = None, **more: Any) -> RewardModel:
    backbone = tiny_backbone()
    if folder is not None:
        save_embedded(folder, backbone)
    name = "embedded" if folder is None else str(folder)
    config = RewardModelConfig(backbone=BackboneConfig(name=name), width=16, heads=2, **more)
    if folder is not None:
        from toddle.models.backbones.load import load_backbone

        return RewardModel(config, load_backbone(config.backbone))
    return RewardModel(config, backbone)


def seen(count: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 3, 32, 32), generator=generator, dtype=torch.uint8)
    sentences = ["open the drawer", "press the red button"] * (count // 2)
    return {"images": images, "instruction": sentences, "proprio": torch.randn(count, 5, generator=generator)}


@pytest.mark.parametrize("proprio", [0, 5])
def test_pictures_and_features_give_the_same_answer(proprio: int) -> None:
    model, observation = tiny_model(proprio=proprio), seen()
    yes = model.yes(observation)  # type: ignore[arg-type]
    assert yes.shape == (6,) and len(yes.unique()) == 6 and ((yes > 0) & (yes < 1)).all()
    context, mask = model.features.encode(observation["images"], observation["instruction"])
    kept = {"context": context.half(), "context_mask": mask, "proprio": observation["proprio"]}
    assert torch.equal(model.yes(kept), yes)  # type: ignore[typeddict-item]
    torch.testing.assert_close(model.yes(kept, batch=4), yes)  # type: ignore[typeddict-item]
    rollout = {key: value.unflatten(0, (3, 2)) for key, value in kept.items()}
    torch.testing.assert_close(model.yes(rollout), yes.view(3, 2))  # type: ignore[typeddict-item]
    table = {
        "images": observation["images"].unflatten(0, (3, 2)),
        "proprio": observation["proprio"].unflatten(0, (3, 2)),
        "instruction": ["press the red button", "open the drawer"],
        "task": torch.tensor([[1, 0]] * 3),
    }
    torch.testing.assert_close(model.yes(table), yes.view(3, 2))  # type: ignore[typeddict-item]


def test_padding_is_not_read_and_proprioception_is() -> None:
    model, observation = tiny_model(proprio=5), seen()
    context, mask = model.features.encode(observation["images"], observation["instruction"])
    assert not mask.all()
    model.eval()
    plain = model(context, mask, observation["proprio"])
    spoiled = torch.where(mask[..., None], context, 100.0)
    torch.testing.assert_close(model(spoiled, mask, observation["proprio"]), plain)
    assert not torch.allclose(model(context, mask, observation["proprio"] + 1.0), plain)
    with pytest.raises(InputError, match="proprio: expected 5 numbers, which the reward model reads, got 'none'"):
        model(context, mask)


def test_a_folder_gives_the_same_model(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "eyes", proprio=5)
    save_reward_model(tmp_path / "run" / "model", model, {"held_out": [1, 2]})
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        again, meta = load_reward_model(folder)
        assert meta == {"held_out": [1, 2]} and again.config == model.config
        assert torch.equal(again.yes(seen()), model.yes(seen()))  # type: ignore[arg-type]
    assert not [file for file in (tmp_path / "run").rglob("*") if file.suffix in (".pt", ".pkl", ".pickle")]


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder: expected one with reward\.json"):
        load_reward_model(tmp_path)
    model = tiny_model(tmp_path / "eyes")
    save_reward_model(tmp_path / "model", model)
    save_embedded(tmp_path / "eyes", tiny_backbone(seed=1))
    with pytest.raises(InputError, match=r"backbone: expected fingerprint .* has changed: train it again"):
        load_reward_model(tmp_path / "model")
    save_embedded(tmp_path / "eyes", tiny_backbone())
    card = json.loads((tmp_path / "model/reward.json").read_text())
    (tmp_path / "model/reward.json").write_text(json.dumps(card | {"config": card["config"] | {"width": 32}}))
    with pytest.raises(InputError, match="the weights do not fit the config"):
        load_reward_model(tmp_path / "model")
    weights = tmp_path / "model/reward.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="the file that was saved"):
        load_reward_model(tmp_path / "model")


def test_what_cannot_be_is_refused() -> None:
    for wrong, said in (
        ({"width": 10, "heads": 4}, "width: expected a multiple of the 4 heads"),
        ({"cameras": ()}, "cameras: expected at least one"),
        ({"backbone": BackboneConfig(lora_rank=2)}, "lora_rank: expected 0"),
        ({"proprio": -1}, "proprio: expected a whole number"),
    ):
        with pytest.raises(InputError, match=said):
            RewardModelConfig(**wrong)  # type: ignore[arg-type]
    model = tiny_model()
    with pytest.raises(InputError, match="observation: expected 'images' with 'instruction'"):
        model.yes({"proprio": torch.zeros(2, 5)})
    wide = {"context": torch.zeros(2, 4, 16), "context_mask": torch.ones(2, 4, dtype=torch.bool)}
    with pytest.raises(InputError, match=r"observation: expected context of shape"):
        model.yes(wide)  # type: ignore[typeddict-item]
    with pytest.raises(InputError, match="fingerprint"):
        RewardModel(replace(model.config, fingerprint="0" * 16), tiny_backbone())
