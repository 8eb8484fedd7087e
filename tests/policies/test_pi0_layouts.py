"""pi0 in LeRobot's and openpi's layouts: written from a tiny transformers pi0, read back to the same actions.

Each way of loading it wrongly that people met without an error is noticed.

A tiny folder that LeRobot 0.6.1 wrote itself is in data/, with what its own classes answered (data/README.md).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_dataset import write_toy_dataset
from tests.tiny_vlm import SENTENCES, pi0_inputs, save_pi0, save_tokenizer
from torch import Tensor

from toddle.algorithms.sft import SFTConfig
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.policies.foreign import layout_of
from toddle.policies.pi0 import Pi0Config, Pi0Policy, embed_paligemma, pixels_of
from toddle.policies.pi0_layouts import read_statistics
from toddle.policies.store import load_policy, save_policy
from toddle.recipes import sft

BODY = BodySpec(name="toy", proprio=5, action=3, dt=0.05)
Q = "model.paligemma_with_expert."
NEW, OLD = "new", "old"
DATA = Path(__file__).parent / "data"
STATE = torch.tensor([[0.5, -1.0, 2.0, 0.0, 3.0], [0.5, 1.0, 2.0, 4.0, 0.1]])  # mean and deviation
ACTION = torch.tensor([[0.1, -0.2, 0.3], [0.5, 2.0, 0.01]])


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers' with random words, norms and biases too (a fresh one has ones and zeros there)."""
    folder = save_pi0(tmp_path_factory.mktemp("pi0"), vision_heads=16)
    state, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(5)
    noisy = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def names_of_lerobot(model: Any, kind: str, *, tied: bool) -> dict[str, Tensor]:
    """Return a transformers model's tensors under LeRobot's names: the mapping of the facts, the other way round."""
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.startswith("model.dit.embed_tokens"):
            continue
        new = name.replace("model.vlm.vision_tower.", "model.vlm.vision_tower.vision_model.")
        new = new.replace("model.vlm.", f"{Q}paligemma.model.").replace("model.dit.", f"{Q}gemma_expert.model.")
        new = new.replace("embed_action_time.", "model.").replace("action_out_proj.", "model.action_out_proj.")
        if kind == OLD:
            new = new.replace("paligemma.model.language_model.", "paligemma.language_model.model.")
            new = new.replace("paligemma.model.", "paligemma.")
        found[new] = value.clone()
    words = next(name for name in found if name.endswith("embed_tokens.weight"))
    head = f"{Q}paligemma.language_model.lm_head.weight" if kind == OLD else f"{Q}paligemma.lm_head.weight"
    found[head] = found[words].clone()
    if tied:
        del found[words]
    found[f"{Q}gemma_expert.lm_head.weight"] = torch.full((300, 16), 9.0)
    return found


def write(theirs: Path, folder: Path, kind: str = NEW, *, tied: bool = True, statistics: bool = True) -> Path:
    """Write what LeRobot writes: from v0.4 on (NEW) or to v0.3.3 (OLD)."""
    folder.mkdir(parents=True)
    tensors = names_of_lerobot(source(theirs).model, kind, tied=tied)
    modes = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    config = {"type": "pi0", "chunk_size": 6, "max_state_dim": 10, "max_action_dim": 7, "normalization_mapping": modes}
    (folder / "config.json").write_text(json.dumps(config))
    if statistics and kind == OLD:
        for name, (mean, std) in (
            ("normalize_inputs.buffer_observation_state", STATE),
            ("unnormalize_outputs.buffer_action", ACTION),
        ):
            tensors |= {f"{name}.mean": mean.clone(), f"{name}.std": std.clone()}
    if statistics and kind == NEW:
        for place, (name, step, feature, values) in enumerate(
            (
                ("policy_preprocessor", "normalizer_processor", "observation.state", STATE),
                ("policy_postprocessor", "unnormalizer_processor", "action", ACTION),
            )
        ):
            file = f"{name}_step_{5 - 5 * place}_{step}.safetensors"
            save_file({f"{feature}.mean": values[0].clone(), f"{feature}.std": values[1].clone()}, folder / file)
            steps = [{"registry_name": step, "config": {"eps": 1e-8, "norm_map": modes}, "state_file": file}]
            (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": steps}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def source(folder: Path, tokenizer: Path | None = None, body: BodySpec = BODY) -> Pi0Policy:
    settings = Pi0Config(
        source=str(folder), body=body, executed=4, text_tokens=9, steps=4, tokenizer=str(tokenizer or "")
    )
    return Pi0Policy.from_pretrained(settings).eval()


def seen(sentence: int = 0) -> Any:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (3, 1, 3, 24, 24), generator=generator, dtype=torch.uint8)
    proprio = STATE[0] + STATE[1] * torch.randn(3, 5, generator=generator)
    return {"proprio": proprio, "images": images, "instruction": [SENTENCES[sentence]] * 3, "body": torch.zeros(3)}


def act(policy: Pi0Policy, sentence: int = 0) -> Tensor:
    return policy.act(seen(sentence), None, generator=torch.Generator().manual_seed(3))[0].action


def edit(folder: Path, change: dict[str, Tensor], drop: tuple[str, ...] = ()) -> None:
    path = folder / "model.safetensors"
    state = {name: value for name, value in load_file(path).items() if name not in drop}
    save_file(state | change, path)


@pytest.mark.parametrize(("kind", "tied"), [(NEW, True), (NEW, False), (OLD, True), (OLD, False)])
def test_read_back_it_acts_alike(theirs: Path, tmp_path: Path, kind: str, tied: bool) -> None:
    folder = write(theirs, tmp_path / "lerobot", kind, tied=tied)
    assert layout_of(folder) == ("lerobot_pi0" if kind == NEW else "lerobot_pi0_old")
    wanted, policy = source(theirs), source(folder, theirs)
    wanted._take_statistics({"state": (STATE[0], STATE[1] + 1e-8), "action": (ACTION[0], ACTION[1])})
    assert torch.equal(act(policy), act(wanted))
    save_policy(tmp_path / "saved", policy)
    assert torch.equal(act(load_policy(tmp_path / "saved")), act(policy))


def test_it_acts_as_lerobots_own_classes(tmp_path: Path) -> None:
    """From raw numbers, pictures and sentences to the un-normalised chunk, compared in deviations."""
    save_tokenizer(tmp_path)
    settings: dict[str, Any] = {"cameras": ("image", "image2"), "tokenizer": str(tmp_path), "text_tokens": 9}
    config = Pi0Config(source=str(DATA / "lerobot_pi0"), body=BODY, executed=6, steps=4, **settings)
    policy, answer = Pi0Policy.from_pretrained(config).eval(), load_file(DATA / "lerobot_pi0_answer.safetensors")
    now: Any = {"proprio": answer["proprio"], "images": answer["images"], "instruction": SENTENCES[:2]}

    def miss(**other: Any) -> float:
        action = policy.act(now | other, None, generator=torch.Generator().manual_seed(3))[0].action
        return float(((action - answer["action"]) / policy.action_scale).abs().max())

    assert miss() < 3e-5
    assert miss(images=answer["images"].flip(1)) > 0.1 and miss(instruction=SENTENCES[1::-1]) > 0.1
    assert (((answer["action"] - policy.action_offset) / policy.action_scale).flatten(0, 1).std(0) > 0.5).all()


def test_the_words_are_the_files_and_the_sentence_matters(theirs: Path, tmp_path: Path) -> None:
    """Upstream leaves the words random where they are tied (issues 1406, 2151): then no sentence has an effect."""
    policy = source(write(theirs, tmp_path / "lerobot"), theirs)
    table = policy.model.model.vlm.get_input_embeddings().weight
    file = load_file(tmp_path / "lerobot" / "model.safetensors")
    assert torch.equal(table, file[f"{Q}paligemma.lm_head.weight"])
    assert (act(policy) - act(policy, 1)).abs().max() > 1e-2


def test_words_are_scaled_once_and_pictures_not(theirs: Path, tmp_path: Path) -> None:
    """The mean square of words in the prefix is sqrt(width) that of the table; of pictures it is the projector's."""
    policy, now = source(write(theirs, tmp_path / "lerobot"), theirs), seen()
    words, vlm, count = policy._words(now["instruction"]), policy.model.model.vlm, 16
    with torch.no_grad():
        prefix, _ = embed_paligemma(vlm, now["images"], words, policy.sizes.picture)
        tower = vlm.vision_tower(pixels_of(now["images"], policy.sizes.picture)).last_hidden_state
        projected = vlm.multi_modal_projector(tower)
    rows = load_file(tmp_path / "lerobot" / "model.safetensors")[f"{Q}paligemma.lm_head.weight"][words[0]]
    assert torch.allclose(prefix[:, count:], rows * 24**0.5, rtol=1e-3)
    assert torch.allclose(prefix[:, :count], projected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (f"{Q}paligemma.lm_head.weight", "expected a tensor for model.vlm.language_model.embed_tokens.weight"),
        (f"{Q}paligemma.model.vision_tower.vision_model.post_layernorm.weight", "Missing key"),
        (f"{Q}gemma_expert.model.layers.1.self_attn.q_proj.weight", "Missing key"),
        ("model.action_time_mlp_out.bias", "Missing key"),
    ],
)
def test_a_missing_tensor_is_named(theirs: Path, tmp_path: Path, name: str, line: str) -> None:
    folder = write(theirs, tmp_path / "lerobot")
    edit(folder, {}, drop=(name,))
    with pytest.raises(InputError) as error:
        source(folder, theirs)
    assert line in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model.proprio_history_proj.weight": torch.zeros(2)}, "tensor model.proprio_history_proj.weight"),
        ({f"{Q}gemma_expert.model.layers.0.extra": torch.zeros(2)}, "Unexpected key"),
        ({"model.state_proj.bias": torch.zeros(2)}, "size mismatch"),
        ({"model.state_proj.bias": torch.full((16,), float("nan"))}, "expected finite weights"),
        ({"base_model.model.state_proj.lora_A.weight": torch.zeros(2)}, "base_model.model.state_proj.lora_A.weight"),
    ],
)
def test_what_does_not_belong_is_named(theirs: Path, tmp_path: Path, change: dict[str, Tensor], line: str) -> None:
    folder = write(theirs, tmp_path / "lerobot")
    edit(folder, change)
    with pytest.raises(InputError) as error:
        source(folder, theirs)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_transformers_own_folder_is_strict_too(theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs, tmp_path / "pi0")
    edit(tmp_path / "pi0", {}, drop=("state_proj.bias",))
    with pytest.raises(InputError, match=r"missing: embed_action_time\.state_proj\.bias"):
        source(tmp_path / "pi0")


@pytest.mark.parametrize("kind", [NEW, OLD])
def test_statistics_that_are_none_do_not_act(theirs: Path, tmp_path: Path, kind: str) -> None:
    """Base models carry none, or infinity: upstream sends deviations to the robot."""
    policy = source(write(theirs, tmp_path / "none", kind, statistics=False), theirs)
    with pytest.raises(InputError, match="expected statistics of the state and actions of body 'toy'"):
        act(policy)
    folder = write(theirs, tmp_path / "inf", OLD)
    edit(folder, {"unnormalize_outputs.buffer_action.std": torch.full((3,), float("inf"))})
    with pytest.raises(InputError, match="got 'none that fit'; fine-tune it"):
        act(source(folder, theirs))
    other = BodySpec(name="arm", proprio=4, action=3, dt=0.05)
    assert source(write(theirs, tmp_path / "other", kind), theirs, other).state_scale.isnan().all()


@pytest.mark.parametrize(
    ("mode", "names", "low", "high"),
    [("QUANTILES", ("q01", "q99"), -1.0, 1.0), ("MIN_MAX", ("min", "max"), -1.0, 1.0), ("MEAN_STD", ("mean",), 0.0, 0)],
)
def test_ends_of_each_mode(
    theirs: Path, tmp_path: Path, mode: str, names: tuple[str, ...], low: float, high: float
) -> None:
    """n = -1 gives the lower end and n = +1 the upper one; by mean and deviation n = 0 gives the mean."""
    folder = write(theirs, tmp_path / "lerobot")
    step = json.loads((folder / "policy_postprocessor.json").read_text())
    step["steps"][0]["config"]["norm_map"]["ACTION"] = mode  # what the step says counts before config.json
    (folder / "policy_postprocessor.json").write_text(json.dumps(step))
    values = {"q01": -2.0, "q99": 4.0, "min": -3.0, "max": 5.0, "mean": 0.5, "std": 2.0}
    tensors = {f"action.{name}": torch.full((3,), value) for name, value in values.items()}
    save_file(tensors, folder / step["steps"][0]["state_file"])
    offset, scale = read_statistics(folder)["action"]
    for name, end in zip(names, (low, high), strict=False):
        assert torch.allclose(end * scale + offset, torch.full((3,), values[name]), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha"),
        ({"use_relative_actions": True}, "use_relative_actions"),
        ({"normalization_mapping": {"VISUAL": "MEAN_STD"}}, "normalisation of pictures"),
        ({"normalization_mapping": {"STATE": "LOG"}}, "expected IDENTITY, MEAN_STD"),
    ],
)
def test_settings_that_change_the_function_are_refused(
    theirs: Path, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    folder = write(theirs, tmp_path / "lerobot", OLD)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=line):
        source(folder, theirs)


def test_relative_actions_and_files_outside_are_refused(theirs: Path, tmp_path: Path) -> None:
    folder = write(theirs, tmp_path / "lerobot")
    path = folder / "policy_postprocessor.json"
    step = json.loads(path.read_text())
    step["steps"].append({"registry_name": "absolute_actions_processor", "config": {"enabled": True}})
    path.write_text(json.dumps(step))
    with pytest.raises(InputError, match="expected absolute actions"):
        source(folder, theirs)
    step["steps"] = [step["steps"][0] | {"state_file": "../secret.safetensors"}]
    path.write_text(json.dumps(step))
    with pytest.raises(InputError, match="expected a path inside"):
        source(folder, theirs)


def test_the_tokenizer_is_asked_for(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer: expected a folder or hub id with PaliGemma's tokenizer"):
        source(write(theirs, tmp_path / "lerobot"))


def test_a_wrong_number_of_heads_would_show(theirs: Path, tmp_path: Path) -> None:
    """No file says the tower's heads: 16 are taken.  A pi0 with 2 gives other actions from the same weights."""
    policy = source(write(theirs, tmp_path / "lerobot"), theirs)
    before = act(policy)
    for layer in policy.model.model.vlm.vision_tower.encoder.layers:
        layer.self_attn.num_heads, layer.self_attn.head_dim, layer.self_attn.scale = 2, 8, 8**-0.5
    assert (act(policy) - before).abs().max() > 0.1


def test_a_picture_that_is_masked_changes_nothing(theirs: Path, tmp_path: Path) -> None:
    """LeRobot fills `empty_cameras` with masked pictures; here they are left out."""
    policy, now = source(write(theirs, tmp_path / "lerobot"), theirs), seen()
    inputs, count = pi0_inputs(policy, now["proprio"], now["images"], now["instruction"]), 16
    more = dict(inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    more["input_ids"] = torch.cat([ids[:, :count], ids], dim=1)
    more["attention_mask"] = torch.cat([mask[:, :count], torch.zeros_like(mask[:, :count]), mask[:, count:]], dim=1)
    more["pixel_values"] = torch.cat([inputs["pixel_values"], torch.full_like(inputs["pixel_values"], -1.0)], dim=1)
    more["pixel_attention_mask"] = torch.tensor([[True, False]] * 3)
    noise = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, two = (policy.model.sample_actions(noise=noise, num_steps=3, **each) for each in (inputs, more))
    assert torch.allclose(one, two, atol=1e-6)


def test_a_wide_picture_has_its_empty_rows_above_and_below(theirs: Path, tmp_path: Path) -> None:
    """Padded with -1, not with -3 (LeRobot 0.4.0 to 0.4.4), and on both sides, not on one (older ones)."""
    white = torch.full((1, 1, 3, 24, 32), 255, dtype=torch.uint8)
    pixels = pixels_of(white, source(write(theirs, tmp_path / "lerobot"), theirs).sizes.picture)[0, 0]
    assert pixels.shape == (32, 32) and pixels.min() == -1.0 and pixels.max() == 1.0
    assert (pixels[:4] == -1.0).all() and (pixels[-4:] == -1.0).all() and (pixels[4:-4] == 1.0).all()


def test_openpis_port_is_taken_to_be_fine_tuned(theirs: Path, tmp_path: Path) -> None:
    """The same weights under the same names but for `model.`; without statistics, it acts after fine-tuning alone."""
    folder = write(theirs, tmp_path / "lerobot")
    state = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in state.items()}, folder / "model.safetensors")
    config = {"action_dim": 7, "action_horizon": 6, "paligemma_variant": "gemma_2b", "precision": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    assert layout_of(folder) == "openpi_pi0"
    wanted, policy = source(theirs), source(folder, theirs)
    with pytest.raises(InputError, match="expected statistics"):
        act(policy)
    for each in (wanted, policy):
        each._take_statistics({"state": (STATE[0], STATE[1]), "action": (ACTION[0], ACTION[1])})
    assert torch.equal(act(policy), act(wanted))


def test_sft_begins_with_it(theirs: Path, tmp_path: Path) -> None:
    data = write_toy_dataset(tmp_path / "data")
    folder = write(theirs, tmp_path / "lerobot", statistics=False)
    expert, steps = sft.FreshExpert(executed=4), SFTConfig(steps=2, batch=2)
    given: dict[str, Any] = {"expert": expert, "sft": steps, "init": str(folder), "out": tmp_path / "run"}
    with pytest.raises(InputError, match="toddle sft --tokenizer"):
        sft.plan(sft.Config(dataset=(data,), **given))
    sft.run(sft.Config(dataset=(data,), tokenizer=str(theirs), **given))
    policy = load_policy(tmp_path / "run" / "policy")
    assert policy.kind == "pi0" and bool(policy.state_scale.isfinite().all() and policy.action_scale.isfinite().all())
