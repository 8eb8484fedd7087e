"""`toddle sft` end to end on a toy dataset: fresh expert, resume, an earlier policy, pi0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.foreign_folders import FOLDERS, write_folder
from tests.policies.tiny_vla import tiny_backbone
from tests.tiny_dataset import picture_of, state_of, write_foreign_dataset, write_toy_dataset
from tests.tiny_vlm import save_pi0

from toddle.algorithms.sft import SFTConfig
from toddle.cli import main
from toddle.core.errors import InputError
from toddle.core.reading import read_json
from toddle.core.rendering import FAST, RenderSettings, RenderVariation
from toddle.core.types import BodySpec
from toddle.data.augment import PictureAugmentation
from toddle.data.layout import Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.experience.taught import Taught
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import load_embedded, save_embedded
from toddle.models.trunk import TrunkConfig
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, read_policy, save_policy
from toddle.recipes._sft_data import open_datasets
from toddle.recipes.sft import Config, FreshExpert, VLMStart, make_policy, plan, run
from toddle.reporting.episode_log import read_episodes


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("sft")
    save_embedded(root / "eyes", tiny_backbone())
    trunk = TrunkConfig(width=32, depth=2, heads=2, context_width=16, modulation="residual")
    return Config(
        dataset=(write_toy_dataset(root / "data"),),
        out=root / "run",
        cache=root / "cache",
        backbone=BackboneConfig(name=str(root / "eyes")),
        expert=FreshExpert(trunk=trunk, horizon=4, executed=2, steps=3),
        sft=SFTConfig(steps=6, batch=5),
        normalization="mean_std",
        checkpoint_every=2,
    )


def test_plan_and_run(setting: Config) -> None:
    shown = plan(setting)
    assert "read 3 episodes" in shown.steps[0] and "encode 12 pictures" in shown.steps[1]
    run(setting)
    policy = load_policy(setting.out / "policy")
    assert policy.kind == "flow_vla" and policy.window_sizes == (4, 1, 2)
    assert float(policy.expert.tokens.norm.count[0]) > 0 and not torch.equal(policy.action_scale[0], torch.ones(3))
    with pytest.raises(InputError, match="--resume"):
        run(setting)


def test_stopped_and_resumed_equals_whole(setting: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(setting, out=tmp_path / "whole")
    run(whole)
    broken = replace(setting, out=tmp_path / "broken")
    from toddle.algorithms.sft import SFT

    steps, original = [0], SFT.step

    def failing(self: SFT) -> dict[str, float]:
        steps[0] += 1
        if steps[0] == 4:
            raise OSError("pulled the plug")
        return original(self)

    monkeypatch.setattr(SFT, "step", failing)
    with pytest.raises(OSError, match="plug"):
        run(broken)
    run(broken, resume=True)
    a, b = (load_policy(one.out / "policy").state_dict() for one in (whole, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_going_on_from_a_policy_and_like_it(setting: Config, tmp_path: Path) -> None:
    first = replace(setting, out=tmp_path / "first")
    run(first)
    folder = first.out / "policy"
    run(replace(setting, out=tmp_path / "more", init=str(folder), sft=replace(setting.sft, regime="adapter_first")))
    run(replace(setting, out=tmp_path / "like", like=folder, seed=3))
    old, like = load_policy(folder), load_policy(tmp_path / "like" / "policy")
    assert like.config.expert == old.config.expert and like.config.seed == 3
    with pytest.raises(InputError, match="architecture"):
        replace(setting, init=str(folder), like=folder)
    gaussian = GaussianPolicy(GaussianConfig(bodies=old.bodies))
    save_policy(tmp_path / "gaussian", gaussian)
    with pytest.raises(InputError, match="like: expected a policy of kind 'flow_vla', got 'gaussian'"):
        plan(replace(setting, like=tmp_path / "gaussian"))
    previous = replace(setting.expert, source="previous", spread=0.2)
    save_policy(tmp_path / "last", make_policy(replace(setting, expert=previous), open_datasets(setting.dataset)), {})
    alike: Any = make_policy(replace(setting, like=tmp_path / "last"), [])
    assert (alike.config.source, alike.config.spread) == ("previous", 0.2)
    with pytest.raises(InputError, match=r"expert\.source, expert\.spread: expected nothing without --init random"):
        replace(setting, init=str(folder), expert=previous)
    with pytest.raises(InputError, match=r"expert\.spread: expected nothing without --expert\.source previous"):
        replace(setting, expert=replace(setting.expert, spread=0.2))


def test_other_peoples_weights_are_named(setting: Config, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "theirs", *FOLDERS["lerobot_pi0_fast"])
    with pytest.raises(InputError, match=r"got 'the layout of LeRobot pi0-FAST'; toddle does not load this layout"):
        plan(replace(setting, init=str(folder)))


def test_pi0_through_the_same_command(setting: Config, tmp_path: Path) -> None:
    folder = save_pi0(tmp_path / "pi0")
    run(replace(setting, init=str(folder), out=tmp_path / "run", sft=SFTConfig(steps=2, batch=2)))
    assert load_policy(tmp_path / "run" / "policy").kind == "pi0"


def test_what_learns_of_a_vlm_is_asked_of_those_that_have_one(setting: Config) -> None:
    with pytest.raises(InputError, match=r"vlm: expected nothing but with the folder of a pi0, .* got .--init random"):
        plan(replace(setting, vlm=VLMStart(train="lora")))


def test_what_stays_as_it_is_needs_no_gradients(
    setting: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so much memory the expert of a pi0 can be trained and the whole cannot."""
    theirs = replace(setting, init=str(save_pi0(tmp_path / "pi0")))
    monkeypatch.setattr("toddle.core.memory.free_memory", lambda device=None: 400_000)
    assert "that stay" in plan(theirs).steps[3]
    with pytest.raises(InputError, match=r"memory: what is kept beside 28,375 weights that learn takes about"):
        plan(replace(theirs, vlm=VLMStart(train="all")))


def test_pi0_from_demonstrations_to_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands as a user calls them, defaults and all, on Meta-World's arm."""
    pytest.importorskip("metaworld", reason="metaworld is not installed")
    data, task = str(tmp_path / "data"), "metaworld/handle-press-v3"
    shaded = ("--render.shadows", "True", "--render.shadow-map", "256")
    call("record", "--env", task, "--episodes", "1", "--image-size", "32", "--seed", "50", "--out", data, *shaded)
    assert LeRobotDataset(data).render == RenderSettings(shadows=True, shadow_map=256).over(FAST)
    small = save_pi0(tmp_path / "small")
    sft = ("--sft.steps", "2", "--sft.batch", "2", "--dataset", data, "--out", str(tmp_path / "sft"))
    with pytest.raises(SystemExit) as stopped:
        main(["sft", "--init", str(small), *sft])
    assert stopped.value.code == 2 and "max_state_dim: expected at least 17" in capsys.readouterr().err
    large = save_pi0(tmp_path / "large", chunk_size=8, max_state_dim=17)
    call("sft", "--init", str(large), *sft)
    policy = load_policy(tmp_path / "sft" / "policy")
    assert policy.kind == "pi0" and policy.config.body.name == "sawyer" and not (policy.action_scale <= 0).any()
    few = ("--episodes", "2", "--num-envs", "2", "--max-episode-steps", "20", "--videos", "0", "--push")
    call("evaluate", "--policy", str(tmp_path / "sft"), "--env", task, *few, "--out", str(tmp_path / "evaluate"))
    assert "taught" not in capsys.readouterr().err  # it is shown what it was taught with
    foreign = ("--render.shadows", "False", "--out", str(tmp_path / "foreign"))
    call("evaluate", "--policy", str(tmp_path / "sft"), "--env", task, *few, *foreign)
    told = [line for line in capsys.readouterr().err.splitlines() if "taught" in line]
    assert len(told) == 1 and "taught with shadows" in told[0] and "shown no shadows" in told[0]
    rows = read_episodes(tmp_path / "evaluate" / "episodes.jsonl")
    assert [(row["candidate"], row["condition"], row["seed"], row["length"]) for row in rows] == [
        ("sft", condition, seed, 20) for condition in ("plain", "pushed") for seed in (0, 1)
    ]


def call(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 0


EYE = {"observation.images.eye": lambda row: picture_of(row, 32, 32)}


def foreign(setting: Config, folder: Path, **changes: Any) -> Config:
    """Fine-tuning on a dataset of another tool: degrees, millimetres, 12.5 rows a second."""
    made = write_foreign_dataset(folder, pictures=EYE, **changes)
    return replace(setting, dataset=(made,), cameras=("eye",), normalization="auto", out=folder.parent / "run")


def test_degrees_and_millimetres_train_and_act(setting: Config, tmp_path: Path) -> None:
    config = foreign(setting, tmp_path / "data")
    assert "actions from -200 to 280, normalised by quantile" in plan(config).steps[2]
    run(replace(config, sft=SFTConfig(steps=150, batch=17, learning_rate=3e-3)))
    policy = load_policy(config.out / "policy")
    assert policy.bodies[0].dt == 0.08
    chosen = np.array([0, 8, 15])  # actions begin at row * 30 - 200 millimetres
    seen = {"proprio": torch.from_numpy(state_of(chosen)), "first": torch.ones(3, dtype=torch.bool)}
    data = LeRobotDataset(config.dataset[0])
    pictures = torch.from_numpy(data.images("eye", chosen))[:, None]
    seen |= {"images": pictures, "instruction": ["push", "push", "pull"]}
    action = policy.act(seen, None, deterministic=True)[0].action[:, 0, 0]
    assert (action - torch.tensor([-200.0, 40.0, 250.0])).abs().max() < 60, action
    assert "normalised by identity" in plan(setting_of(config, "identity")).steps[2]  # what is given wins


def setting_of(config: Config, normalization: Any) -> Config:
    return replace(config, normalization=normalization)


def test_what_does_not_fit_is_told_by_the_plan(setting: Config, tmp_path: Path) -> None:
    one = foreign(setting, tmp_path / "one")
    for name, changes, expected in (
        ("robot", {"robot": "so101"}, "robot_type: expected other arm, as .*one has it, got 'so101'"),
        ("rate", {"fps": 10}, r"fps: expected 12.5, as .*one has it, got '10.0'"),
    ):
        other = foreign(setting, tmp_path / name, **changes)
        with pytest.raises(InputError, match=expected):
            plan(replace(one, dataset=one.dataset + other.dataset))
    depth = {"observation.images.eye": lambda row: np.full((16, 16), row, np.uint16)}
    write_foreign_dataset(tmp_path / "depth", pictures=depth)
    with pytest.raises(InputError, match=r"8-bit colours"):
        plan(replace(one, dataset=(tmp_path / "depth",)))
    with pytest.raises(InputError, match="cameras: expected one or more of the datasets'"):
        plan(replace(setting, cameras=()))
    with pytest.raises(InputError, match=r"dataset camera: expected a camera of .*got 'close'"):
        plan(replace(one, cameras=("close",)))
    run(setting_of(replace(setting, out=tmp_path / "toy", sft=SFTConfig(steps=1, batch=2)), "mean_std"))
    with pytest.raises(InputError, match=r"body: .*other arm"):
        plan(replace(one, init=str(tmp_path / "toy/policy")))
    toy = write_foreign_dataset(tmp_path / "toys", pictures=EYE, robot="toy")
    with pytest.raises(
        InputError, match=r"observation.state: expected 5 numbers, as body 'toy' of the policy has, got 3"
    ):
        plan(replace(one, dataset=(toy,), init=str(tmp_path / "toy/policy")))


def test_how_pictures_were_drawn_goes_into_the_policy(setting: Config, tmp_path: Path) -> None:
    shaded = RenderSettings(shadows=True, shadow_map=512).over(FAST)
    plain, dark, varied = (
        write_toy_dataset(tmp_path / name, seed=seed, **drawing)
        for seed, (name, drawing) in enumerate(
            {
                "plain": {"render": FAST},
                "dark": {"render": shaded},
                "varied": {"render": FAST, "variation": RenderVariation(shadows=0.5)},
            }.items()
        )
    )
    short = replace(setting, sft=SFTConfig(steps=1, batch=2), out=tmp_path / "run")
    with pytest.raises(InputError, match=r"dark: render.shadows: expected False, as .*plain has it, got True"):
        plan(replace(short, dataset=(plain, dark)))
    with pytest.raises(InputError, match=r"varied: variation.shadows: expected 0.0, .*--mix-renderings"):
        plan(replace(short, dataset=(plain, varied)))
    shown = plan(replace(short, dataset=(dark, plain, *setting.dataset), mix_renderings=True)).steps
    assert any(line.endswith("drawn with no shadows, no reflections, 0 samples a pixel") for line in shown)
    assert any(line.endswith("data were drawn is not known") for line in shown)
    for dataset, expected in ((dark, shaded), (setting.dataset[0], None)):  # of the last, nothing is known
        run(replace(short, dataset=(dataset,), out=tmp_path / f"run_{dataset.name}"))
        meta = read_policy(tmp_path / f"run_{dataset.name}")[2]
        assert Taught.of(meta) == Taught(size=(32, 32), render=expected)


def test_changed_copies_are_encoded_and_learned_from(setting: Config, tmp_path: Path) -> None:
    config = replace(setting, augment=PictureAugmentation(variants=2), out=tmp_path / "run", cache=tmp_path / "cache")
    assert "encode 36 pictures (2 of 3 changed)" in plan(config).steps[1]
    assert plan(config).seconds > plan(setting).seconds  # type: ignore[operator]
    run(replace(config, sft=SFTConfig(steps=2, batch=4)))
    assert [read_json(file)["count"] for file in (tmp_path / "cache").glob("*/progress.json")] == [36]


def test_clear_lines(setting: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toddle record"):
        plan(replace(setting, dataset=(tmp_path / "none",)))
    with pytest.raises(InputError, match=r"policy\.json"):
        plan(replace(setting, init=str(tmp_path / "none")))
    body = BodySpec(name="toy", proprio=2, action=1, dt=0.1)
    save_policy(tmp_path / "blind", GaussianPolicy(GaussianConfig(bodies=(body,), hidden=(8,))))
    with pytest.raises(InputError, match=r"init: expected a VLA, which sees pictures, got 'kind 'gaussian''"):
        plan(replace(setting, init=str(tmp_path / "blind")))
    with pytest.raises(InputError, match="dataset"):
        replace(setting, dataset=())


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("press " * 300, r"sentence 'press .*at most 256 tokens, got 30\d; .*--lossy-sentences"),
        (
            "нажми кнопку",
            r"sentence 'нажми кнопку': expected words that the backbone's vocabulary has, got '22 unknown",
        ),
        ("\U0001f534", "got '4 unknown tokens of 6'"),
        ("press the café's button!", ""),
        ("open the red drawer, then the window, and close the new button", ""),
        ("", ""),
    ],
)
def test_sentences_of_every_kind(sentence: str, expected: str, setting: Config, tmp_path: Path) -> None:
    """Read whole, or refused by the plan and by the run alike unless losing is allowed."""
    data = write_toy_dataset(tmp_path / "data", tasks=(sentence, "press the red button", sentence))
    config = replace(setting, dataset=(data,), out=tmp_path / "run", sft=SFTConfig(steps=1, batch=2))
    if expected:
        for command in (plan, run):
            with pytest.raises(InputError, match=expected) as told:
                command(config)
            assert "\n" not in str(told.value)
        config = replace(config, lossy_sentences=True)
    tokens = max(load_embedded(Path(setting.backbone.name)).reading(text).tokens for text in LeRobotDataset(data).tasks)
    assert f"2 sentences of at most {tokens} tokens" in plan(config).steps[0]
    run(config)
    assert load_policy(config.out / "policy").reading(sentence).tokens <= tokens


def test_a_pi0_makes_room_for_the_longest_sentence(setting: Config, tmp_path: Path) -> None:
    long = "press the button " * 30
    data = write_toy_dataset(tmp_path / "data", tasks=(long,) * 3)
    config = replace(setting, dataset=(data,), init=str(save_pi0(tmp_path / "pi0")))
    with pytest.raises(InputError, match=r"at most 48 tokens, got (\d+); .*--backbone.text-tokens \1") as told:
        plan(config)
    tokens = int(str(told.value).split("--backbone.text-tokens ")[1].split(",")[0])
    shown = plan(replace(config, backbone=replace(config.backbone, text_tokens=tokens)))
    assert f"at most {tokens} tokens" in shown.steps[0]


def test_names_are_compared_where_both_datasets_have_them(setting: Config, tmp_path: Path) -> None:
    """A data set that does not name its joints goes with any; two that name them differently do not go together."""
    names = (("a", "b", "c"), None, ("a", "c", "b"))
    features = [{"observation.state": Feature(size=5), "action": Feature(size=3, names=each)} for each in names]
    one, unnamed, other = (
        write_toy_dataset(tmp_path / str(number), features=each) for number, each in enumerate(features)
    )
    assert "read 6 episodes" in plan(replace(setting, dataset=(one, unnamed))).steps[0]
    with pytest.raises(
        InputError, match=r"action: names: expected \('a', 'b', 'c'\), as .*0 has it, got .*'a', 'c', 'b'"
    ):
        plan(replace(setting, dataset=(one, other)))


def test_29_97_rows_a_second_from_videos_to_an_evaluation(setting: Config, tmp_path: Path) -> None:
    """Through the commands on Meta-World's arm: written, read by its times, learned and acted on."""
    pytest.importorskip("metaworld", reason="metaworld is not installed")
    features = {"observation.state": Feature(size=17), "action": Feature(size=4)}
    changes: dict[str, Any] = {"robot_type": "sawyer", "images": "video", "features": features}
    data = write_toy_dataset(tmp_path / "data", fps=29.97, **changes)
    assert LeRobotDataset(data).fps == 29.97
    run(replace(setting, dataset=(data,), out=tmp_path / "sft", sft=SFTConfig(steps=2, batch=2)))
    assert load_policy(tmp_path / "sft/policy").bodies[0].dt == pytest.approx(1 / 29.97, abs=1e-12)
    few = ("--episodes", "1", "--num-envs", "1", "--max-episode-steps", "6", "--videos", "0")
    folder, out = str(tmp_path / "sft"), tmp_path / "evaluate"
    call("evaluate", "--policy", folder, "--env", "metaworld/handle-press-v3", *few, "--out", str(out))
    assert [row["length"] for row in read_episodes(out / "episodes.jsonl")] == [6]
