"""Folders of other people's weights: which layout each is, and what the commands say of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.foreign_folders import FOLDERS, OPENVLA, write_folder

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.policies.foreign import LAYOUTS, layout_of
from toddle.policies.store import load_policy


def test_there_is_a_folder_of_every_layout() -> None:
    assert FOLDERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_recognised_and_a_command_says_so(kind: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "theirs", *FOLDERS[kind])
    assert layout_of(folder) == kind
    with pytest.raises(InputError) as error:
        load_policy(folder)
    text = str(error.value)
    assert "\n" not in text and LAYOUTS[kind].name in text and str(folder) in text
    assert ("toddle does not load this layout" in text) == (not LAYOUTS[kind].loads)
    assert "toddle sft --init" in text


def test_sharded_weights_are_told_by_their_index(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"model_type": "openvla"}, ())
    index = {"weight_map": dict.fromkeys(OPENVLA, "model-00001-of-00003.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert layout_of(folder) == "openvla"


def test_compiled_weights_have_another_word_in_their_names(tmp_path: Path) -> None:
    names = ("model._orig_mod.paligemma_with_expert.paligemma.lm_head.weight", "model._orig_mod.state_proj.weight")
    assert layout_of(write_folder(tmp_path, {"type": "pi0"}, names)) == "lerobot_pi0"


def test_a_folder_without_a_config_is_none_of_others(tmp_path: Path) -> None:
    assert layout_of(tmp_path) is None
    with pytest.raises(InputError, match=r"one with policy\.json"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("config", "names", "line"),
    [
        ({"model_type": "llama"}, (), "got 'model_type 'llama''"),
        ({"type": "act"}, (), "got 'type 'act''"),
        ({}, (), "got 'another'"),
        ({"model_type": "openvla"}, (), "expected weights in model.safetensors"),
        ({"model_type": "openvla"}, ("model.norm.weight",), "expected weights named vision_backbone.*, as OpenVLA"),
        (
            {"type": "smolvla"},
            ("model.state_proj.weight",),
            "weights named model.vlm_with_expert.*, as LeRobot SmolVLA",
        ),
        ({"type": "pi05"}, FOLDERS["lerobot_pi0"][1], "weights named model.time_mlp_in.*, as LeRobot pi0.5"),
        ({"type": "pi0"}, FOLDERS["lerobot_pi05"][1], "weights named model.state_proj.*, as LeRobot pi0"),
    ],
)
def test_what_is_not_known_or_not_what_it_says_is_one_line(
    config: dict[str, str], names: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        layout_of(write_folder(tmp_path, config, names))
    text = str(error.value)
    assert line in text and "\n" not in text
    if "a layout of:" in text:
        assert all(layout.name in text for layout in LAYOUTS.values())


def test_damaged_files_and_lone_adapters_are_one_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "damaged", {"type": "smolvla"}, ())
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="not readable as safetensors"):
        layout_of(folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")  # would be waited for without end
    with pytest.raises(InputError, match=r"weights in model\.safetensors"):
        layout_of(folder)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="expected a whole model, got 'a PEFT adapter alone"):
        layout_of(tmp_path)


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_commands_end_with_2_and_the_layout(
    command: str, dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "theirs", *FOLDERS["lerobot_pi0_fast"])
    arguments = [command, "--policy", str(folder), "--env", "dots/one", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *dry])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "LeRobot pi0-FAST" in shown and "does not load this layout" in shown
