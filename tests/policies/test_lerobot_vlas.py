"""SmolVLA and pi0.5 as LeRobot 0.6.1 wrote them (data/README.md): they act as its own classes do; wrong loads show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_dataset import write_toy_dataset
from tests.tiny_vlm import SENTENCES, save_tokenizer
from torch import Tensor

from toddle.algorithms.sft import SFTConfig
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.data.statistics import feature_statistics
from toddle.models.backbones.hub import fit_square
from toddle.policies.pi05 import bins_of
from toddle.policies.store import classes_of, load_policy, save_policy
from toddle.recipes import sft

DATA = Path(__file__).parent / "data"
BODY = BodySpec(name="toy", proprio=5, action=3, dt=0.05)
KINDS = ("smolvla", "pi05")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    save_tokenizer(folder)
    return folder


def made(words: Path, kind: str, source: Path | None = None, **more: Any) -> Any:
    policy_class, config_class = classes_of(kind)
    given: dict[str, Any] = {"executed": 6, "steps": 4, "text_tokens": 90 if kind == "pi05" else 9} | more
    where = str(source or DATA / f"lerobot_{kind}")
    config = config_class(source=where, tokenizer=str(words), body=BODY, cameras=("image", "image2"), **given)
    return policy_class.from_pretrained(config).eval()


def answer(kind: str) -> dict[str, Tensor]:
    return load_file(DATA / f"lerobot_{kind}_answer.safetensors")


def act(policy: Any, **change: Any) -> Tensor:
    """Return its actions on the recorded observations, in deviations."""
    known = answer(policy.kind)
    seen = {"proprio": known["proprio"], "images": known["images"], "instruction": SENTENCES[:2]} | change
    action = policy.act(seen, generator=torch.Generator().manual_seed(3))[0].action
    return (action - policy.action_offset) / policy.action_scale


def copied(kind: str, folder: Path) -> Path:
    return Path(shutil.copytree(DATA / f"lerobot_{kind}", folder / kind))


def edit(folder: Path, change: dict[str, Tensor], drop: tuple[str, ...] = ()) -> Path:
    path = folder / "model.safetensors"
    state = {name: value for name, value in load_file(path).items() if name not in drop}
    save_file(state | change, path)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_it_acts_as_lerobots_own_classes(words: Path, kind: str, tmp_path: Path) -> None:
    """From raw numbers, pictures and sentences to the un-normalised chunk.

    SmolVLA's words were made with a rotary base of 100,000 in its VLM's config, which LeRobot does not heed.
    """
    policy, known = made(words, kind), answer(kind)
    theirs = (known["action"] - policy.action_offset) / policy.action_scale
    assert theirs.std() > 0.5
    torch.testing.assert_close(act(policy), theirs, atol=1e-5, rtol=1e-5)
    ids, real = policy._words(SENTENCES[:2], *([policy._see(seen_of(known)).state] if kind == "pi05" else []))
    assert torch.equal(ids, known["ids"]) and real.sum() < real.numel()
    other = act(policy, instruction=[SENTENCES[2], SENTENCES[0]])
    assert (other - theirs).abs().max() > 1e-3, "the sentence must matter"
    save_policy(tmp_path, policy)
    assert torch.equal(act(load_policy(tmp_path)), act(policy))


def seen_of(known: dict[str, Tensor]) -> Any:
    return {"proprio": known["proprio"], "images": known["images"], "instruction": SENTENCES[:2]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_placed_or_named(words: Path, kind: str, tmp_path: Path) -> None:
    pair = "paligemma_with_expert.gemma_expert.model" if kind == "pi05" else "vlm_with_expert.lm_expert"
    whole = load_file(DATA / f"lerobot_{kind}/model.safetensors")
    lost = f"model.{pair}.layers.1.self_attn.q_proj.weight"
    sizes = whole["model.action_in_proj.weight"].shape
    for change, drop, said in (
        ({}, (lost,), "Missing key"),
        ({"model.strange.weight": torch.zeros(2)}, (), "tensor model.strange.weight: expected a name"),
        ({"base_model.model.state_proj.lora_A.weight": torch.zeros(2)}, (), "expected a name"),
        ({"model.action_in_proj.weight": torch.zeros(sizes[0], 9)}, (), "size mismatch"),
        ({"model.action_in_proj.bias": torch.full((sizes[0],), torch.nan)}, (), "expected finite weights"),
    ):
        folder = edit(copied(kind, tmp_path), change, drop)
        with pytest.raises(InputError, match=said) as error:
            made(words, kind, folder)
        assert "\n" not in str(error.value)
        shutil.rmtree(folder)
    compiled = {name.replace("model.", "model._orig_mod.", 1): value for name, value in whole.items()}
    folder = copied(kind, tmp_path)
    save_file(compiled, folder / "model.safetensors")
    assert torch.equal(act(made(words, kind, folder)), act(made(words, kind)))


def test_pi05_takes_tied_words_from_its_head(words: Path, tmp_path: Path) -> None:
    """openpi's files hold the words' table under lm_head alone; without either the folder is refused."""
    table = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    head = "model.paligemma_with_expert.paligemma.lm_head.weight"
    rows = load_file(DATA / "lerobot_pi05/model.safetensors")
    kept = rows[table if table in rows else head]
    folder = edit(copied("pi05", tmp_path), {head: kept}, (table,))
    policy = made(words, "pi05", folder)
    assert torch.equal(policy.model.vlm.get_input_embeddings().weight, kept)
    assert torch.equal(act(policy), act(made(words, "pi05")))
    with pytest.raises(InputError, match="embed_tokens"):
        made(words, "pi05", edit(folder, {}, (head,)))


def test_openpis_port_of_pi05_is_taken_to_be_fine_tuned(words: Path, tmp_path: Path) -> None:
    """The same weights under the same names but for `model.`; no file says how to normalise, so it does not act yet."""
    state = load_file(DATA / "lerobot_pi05/model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in state.items()}, tmp_path / "model.safetensors")
    config = {"action_dim": 7, "action_horizon": 6, "paligemma_variant": "gemma_2b", "precision": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    policy, known = made(words, "pi05", tmp_path), made(words, "pi05")
    with pytest.raises(InputError, match="expected statistics of the state and actions"):
        act(policy)
    for name in ("state_offset", "state_scale", "action_offset", "action_scale"):
        getattr(policy, name).copy_(getattr(known, name))
    assert torch.equal(act(policy), act(known))
    with pytest.raises(InputError, match=r"tensor state_proj\.weight: expected a name that pi0\.5 has"):
        made(words, "pi05", edit(tmp_path, {"state_proj.weight": torch.zeros(12, 10)}))


def test_smolvla_scales_words_and_pictures_and_not_the_state(words: Path) -> None:
    policy, known = made(words, "smolvla"), answer("smolvla")
    vlm, state = policy.model.vlm, policy._see(seen_of(known)).state
    with torch.no_grad():
        tokens = policy.embed(state, known["images"], known["ids"])
        pixels = 2.0 * fit_square(known["images"].flatten(0, 1), 32, corner=True) - 1.0
        pictures = vlm.connector(vlm.vision_model(pixel_values=pixels).last_hidden_state).unflatten(0, (2, 2))
        own = policy.model.state_proj(torch.nn.functional.pad(state, (0, 5)))
    rows = load_file(DATA / "lerobot_smolvla/model.safetensors")
    table = rows["model.vlm_with_expert.vlm.model.text_model.embed_tokens.weight"]
    assert tokens.shape == (2, 2 * 4 + 9 + 1, 32)
    torch.testing.assert_close(tokens[:, 8:17], table[known["ids"]] * 32**0.5)
    torch.testing.assert_close(tokens[:, :8], pictures.flatten(1, 2) * 32**0.5)
    torch.testing.assert_close(tokens[:, 17], own)


def test_smolvlas_pictures_are_padded_on_the_left_and_above(words: Path) -> None:
    """With -1, where openpi and pi0 pad on both sides."""
    white = torch.full((1, 3, 24, 32), 255, dtype=torch.uint8)
    pixels = 2.0 * fit_square(white, 32, corner=True)[0, 0] - 1.0
    assert (pixels[:8] == -1.0).all() and (pixels[8:] == 1.0).all()
    assert (fit_square(white, 32)[0, 0, :4] == 0.0).all() and (fit_square(white, 32)[0, 0, -4:] == 0.0).all()


@pytest.mark.parametrize(("kind", "causal"), [("smolvla", True), ("pi05", False)])
def test_what_a_late_action_moves(words: Path, kind: str, causal: bool) -> None:
    """SmolVLA's actions see no later one: only the last moves, by exactly nothing else.  pi0.5's all see each other."""
    policy, known = made(words, kind), answer(kind)
    velocity, _ = policy.open_flow(seen_of(known), None)
    x = torch.randn(2, 1, 6, 7, generator=torch.Generator().manual_seed(1))
    tau, late, early = torch.full((2, 1), 0.3), x.clone(), x.clone()
    late[:, :, -1] += 1.0
    early[:, :, 0] += 1.0
    moved = [(velocity(other, tau) - velocity(x, tau)).abs().amax((0, 1, 3)) for other in (late, early)]
    assert bool((moved[0][:-1] == 0.0).all()) is causal and moved[0][-1] > 0.0
    assert (moved[1] > 0.0).all()


def test_smolvlas_layers_cannot_be_read_in_the_other_order(words: Path, tmp_path: Path) -> None:
    """Its odd layers' projections are of the VLM's keys: in another order, or of one kind alone, they do not fit."""
    folder = copied("smolvla", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for change, said in (
        ({"self_attn_every_n_layers": 1}, "size mismatch"),
        ({"self_attn_every_n_layers": 0}, "size mismatch"),
        ({"attention_mode": "self_attn"}, "attention_mode: expected cross_attn"),
        ({"add_image_special_tokens": True}, "add_image_special_tokens: expected False"),
        ({"resize_imgs_with_padding": [512, 512]}, "resize_imgs_with_padding"),
        ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha: expected false"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=said) as error:
            made(words, "smolvla", folder)
        assert "\n" not in str(error.value)


def test_pi05_says_the_normalised_state(words: Path) -> None:
    """Bins of [-1, 1], -1 below; numbers that were not normalised would nearly all be 255 or -1."""
    assert bins_of(torch.tensor([-1.0, -0.5, 0.0, 0.5])) == [0, 64, 128, 192]
    assert bins_of(torch.tensor([1.0, 7.0, -1.001, -9.0, 0.999])) == [255, 255, -1, -1, 255]
    policy = made(words, "pi05")
    said = policy._ids("open_the\ndrawer ", torch.tensor([-1.0, -0.5, 0.0, 0.5, -2.0]))
    text = "Task: open the drawer, State: 0 64 128 192 -1;\nAction: "
    assert said == [policy.tokenizer.bos_token_id, *policy.tokenizer(text)["input_ids"]]
    assert made(words, "pi05", state_in_prompt=False)._ids("open it ") == [
        policy.tokenizer.bos_token_id,
        *policy.tokenizer("open it\n")["input_ids"],
    ]


def test_pi05s_quantiles_come_back_exactly(words: Path) -> None:
    """-1 is q01 and +1 is q99, in the folder's statistics and in those of demonstrations."""
    policy = made(words, "pi05")
    low = torch.tensor([0.1 - 1.5 * 0.5, -0.2 - 1.5 * 2.0, 0.3 - 1.5 * 0.01])
    high = torch.tensor([0.1 + 1.7 * 0.5, -0.2 + 1.7 * 2.0, 0.3 + 1.7 * 0.01])
    torch.testing.assert_close(policy.action_offset - policy.action_scale, low)
    torch.testing.assert_close(policy.action_offset + policy.action_scale, high)
    proprio = torch.arange(1001.0)[:, None] * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    policy.fit_normalization(proprio, feature_statistics(proprio[:, :3].numpy()), "quantile", 0)
    torch.testing.assert_close(policy.state_offset[0] - policy.state_scale[0], torch.tensor(10.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(policy.state_offset[4] + policy.state_scale[4], torch.tensor(4950.0), atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_statistics_it_does_not_act(words: Path, kind: str, tmp_path: Path) -> None:
    """None in the folder, infinite ones (the base models'), or those of several robots under names of their own."""
    folder = copied(kind, tmp_path)
    for path in folder.glob("policy_*"):
        path.unlink()
    base = {
        "normalize_inputs.buffer_observation_state.mean": torch.full((5,), torch.inf),
        "normalize_inputs.so100-red_buffer_observation_state.mean": torch.zeros(5),
    }
    for change in ({}, base):
        with pytest.raises(InputError, match=r"statistics of the state and actions of body 'toy'.* --init") as error:
            act(made(words, kind, edit(folder, change)))
        assert "\n" not in str(error.value)
    old = {f"normalize_inputs.buffer_observation_state.{name}": torch.ones(5) for name in ("mean", "std")}
    old |= {f"unnormalize_outputs.buffer_action.{name}": torch.ones(3) for name in ("mean", "std")}
    config = json.loads((folder / "config.json").read_text())
    config["normalization_mapping"] = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    (folder / "config.json").write_text(json.dumps(config))
    edit(folder, old, tuple(base))
    assert act(made(words, kind, folder)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_is_asked_for(kind: str) -> None:
    policy_class, config_class = classes_of(kind)
    with pytest.raises(InputError, match=r"tokenizer: expected a folder or hub id with .*, got 'none in"):
        policy_class.from_pretrained(config_class(source=str(DATA / f"lerobot_{kind}"), body=BODY, executed=4))


@pytest.mark.parametrize("kind", KINDS)
def test_sft_begins_with_it(words: Path, kind: str, tmp_path: Path) -> None:
    data = write_toy_dataset(tmp_path / "data")
    settings = sft.Config(
        dataset=(data,),
        init=str(DATA / f"lerobot_{kind}"),
        tokenizer=str(words),
        expert=sft.FreshExpert(executed=4),
        sft=SFTConfig(steps=2, batch=4),
        out=tmp_path / "run",
    )
    sft.run(settings)
    policy = load_policy(tmp_path / "run/policy")
    assert policy.kind == kind and bool(policy.state_scale.isfinite().all() and policy.action_scale.isfinite().all())
    before = load_file(DATA / f"lerobot_{kind}/model.safetensors")["model.action_in_proj.weight"]
    assert not torch.equal(policy.model.action_in_proj.weight, before)
