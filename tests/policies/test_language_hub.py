"""Models of transformers as VLAs that say words: the same logits as their own forward pass, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_vlm import SENTENCES, save_idefics3, save_paligemma, save_smolvlm
from transformers import AutoModelForImageTextToText

from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.models.vlms.base import SpeakingModel
from toddle.policies.language_vla import LanguageVLA, LanguageVLAConfig, Unsaid

BODY = BodySpec(name="arm", proprio=5, action=3, dt=0.05)
SAVED: list[Callable[[Path], Path]] = [save_smolvlm, save_idefics3, save_paligemma]


def loaded(source: Path, **more: Any) -> LanguageVLA:
    return LanguageVLA.from_config(LanguageVLAConfig(source=str(source), body=BODY, **more)).eval()


def pictures(batch: int, cameras: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, cameras, 3, 32, 32), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("save", SAVED)
@torch.no_grad()
def test_words_are_said_as_by_the_models_own_forward_pass(save: Callable[[Path], Path], tmp_path: Path) -> None:
    policy = loaded(save(tmp_path), lora_rank=0)
    model: SpeakingModel = policy._held[0]
    images, said = pictures(2), torch.tensor([[3, 250, 128, 0], [255, 77, 9, 31]])
    sentences = [SENTENCES[1], "go"]  # of different lengths
    prompt = model.prompt(images, sentences)
    ours = model.logits(model.forced(prompt, said))
    following = model.one_by_one(prompt)
    kept = [following(None)] + [following(said[:, place]) for place in range(3)]
    torch.testing.assert_close(model.logits(torch.stack(kept, 1)), ours, atol=1e-5, rtol=0)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for row in range(2):
        ids, mask, pixels = model.eyes.inputs(images[row : row + 1], sentences[row : row + 1])  # type: ignore[union-attr,operator]
        asked = ids[:, : int(mask.sum())]  # without padding
        whole = torch.cat([asked, model.top - said[row : row + 1]], 1)
        more: dict[str, Any] = {}
        if save is save_paligemma:
            kinds = torch.cat([torch.zeros_like(asked), torch.ones(1, said.shape[1], dtype=torch.long)], 1)
            more["token_type_ids"] = kinds  # 0: sees itself both ways
        given = {"input_ids": whole, "attention_mask": torch.ones_like(whole), "pixel_values": pixels}
        logits = theirs(**given, **more).logits[0, asked.shape[1] - 1 : -1, model.top - 255 : model.top + 1].flip(-1)
        torch.testing.assert_close(ours[row], logits, atol=1e-5, rtol=0)
    assert model.prefix_sees_itself == (save is save_paligemma)


def test_it_does_not_act_before_it_was_fine_tuned(tmp_path: Path) -> None:
    policy = loaded(save_smolvlm(tmp_path))
    seen: Any = {"proprio": torch.zeros(1, 5), "images": pictures(1, 1), "instruction": ["go"]}
    with pytest.raises(InputError, match=r"expected statistics of the 3 actions of body 'arm', got 'none'"):
        policy.act(seen)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    source = save_smolvlm(tmp_path)
    for unsaid in (Unsaid(horizon=4, decoding="parallel", attention="causal"), Unsaid(gripper="libero")):
        with pytest.raises(InputError, match="unsaid: expected horizon alone"):
            loaded(source, unsaid=unsaid)
    state = load_file(source / "model.safetensors")
    name = next(name for name in state if "q_proj" in name)
    save_file({key: value for key, value in state.items() if key != name}, source / "model.safetensors")
    with pytest.raises(InputError, match="every weight of the model and no other, got 'missing"):
        loaded(source)
    with pytest.raises(InputError, match="source: expected a folder that exists"):
        loaded(Path("no/such/model"))
