"""`toddle finetune` end to end on dots: before, RL from pictures by every method, after; and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import tiny_backbone
from tests.tiny_vlm import save_pi0

from toddle.algorithms.sft import SFTConfig
from toddle.cli import main
from toddle.core.errors import InputError
from toddle.core.memory import peak_memory
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.backbones.load import load_backbone
from toddle.models.fast import FastSettings
from toddle.models.token_decoder import DecoderConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.process_reward import RewardModel, RewardModelConfig, save_reward_model
from toddle.policies.steered import SteeredConfig, SteeredPolicy
from toddle.policies.store import load_policy, meta_of, read_policy, save_policy
from toddle.policies.vla import FlowVLA
from toddle.recipes import finetune, record, sft
from toddle.reporting.episode_log import read_episodes
from toddle.runs.checkpoint import copy_tree
from toddle.runs.metrics import read_metrics


def taught(root: Path, **kind: Any) -> Path:
    """A VLA on the tiny backbone of `root`, taught a few steps on the demonstrations there."""
    settings = sft.Config(
        dataset=(root / "data",),
        out=root / str(kind.pop("name", kind.get("kind", "flow"))),
        cache=root / "cache",
        backbone=BackboneConfig(name=str(root / "eyes")),
        cameras=("top",),
        sft=SFTConfig(steps=5, batch=8),
        **kind,
    )
    sft.run(settings)
    return settings.out


@pytest.fixture(scope="module")
def tokens(vla: Path) -> Path:
    """The same by tokens."""
    decoder = DecoderConfig(width=16, depth=1, heads=2, context_width=16)
    fresh = sft.FreshTokens(decoder=decoder, horizon=4, executed=4, bins=16)
    return taught(vla.parent, kind="tokens", tokens=fresh)


@pytest.fixture(scope="module")
def fast(vla: Path) -> Path:
    """The same by tokens of frequencies."""
    decoder = DecoderConfig(width=16, depth=1, heads=2, context_width=16)
    code = FastSettings(scale=4.0, vocabulary=64)
    return taught(vla.parent, kind="fast", tokens=sft.FreshTokens(decoder=decoder, horizon=4, executed=4, fast=code))


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VLA on an untrained tiny backbone, taught a few steps on demonstrations of dots/one."""
    root = tmp_path_factory.mktemp("vla")
    save_embedded(root / "eyes", tiny_backbone())
    shown: Any = {"cameras": ("top",), "image_size": 32, "images": "image"}
    record.run(record.Config(out=root / "data", env=("dots/one",), episodes=3, **shown), resume=False)
    trunk = TrunkConfig(width=32, depth=2, heads=2, context_width=16, modulation="residual")
    return taught(root, expert=sft.FreshExpert(trunk=trunk, horizon=4, executed=4, steps=3))


@pytest.fixture(scope="module")
def lora(vla: Path) -> Path:
    """The VLA with LoRA on its backbone."""
    plain = load_policy(vla)
    backbone = replace(plain.config.backbone, lora_rank=2)
    policy = FlowVLA.from_config(replace(plain.config, backbone=backbone))
    policy.load_state_dict(plain.state_dict() | {name: w for name, w in policy.state_dict().items() if "lora." in name})
    save_policy(vla.parent / "lora", policy, meta_of(vla))
    return vla.parent / "lora"


@pytest.fixture(scope="module")
def reward(vla: Path) -> Path:
    """An untrained process reward model on the VLA's backbone."""
    backbone = BackboneConfig(name=str(vla.parent / "eyes"))
    config = RewardModelConfig(backbone=backbone, cameras=("top",), width=16, heads=2)
    save_reward_model(vla.parent / "reward", RewardModel(config, load_backbone(backbone)))
    return vla.parent / "reward"


@pytest.fixture(scope="module")
def pi0(vla: Path) -> Path:
    """A tiny pi0 of random weights, taught the same."""
    save_pi0(vla.parent / "pi0")
    settings = sft.Config(
        dataset=(vla.parent / "data",),
        out=vla.parent / "pi0_taught",
        init=str(vla.parent / "pi0"),
        cameras=("top",),
        expert=sft.FreshExpert(executed=4),
        sft=SFTConfig(steps=5, batch=8),
    )
    sft.run(settings)
    return settings.out


SMALL: dict[str, Any] = {"env": ("dots/one",), "worlds": 4, "steps": 160, "max_episode_steps": 20}
SMALL |= {"evaluation": {"episodes": 3, "videos": 0}}
"""Two iterations, of five decisions of four steps in each world or of an episode of twenty steps there."""


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("ppo", {"collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 1}}),
        (
            "ppo",
            {
                "collect": {"length": 5, "keep": "pictures"},
                "sampler": {"noise": "fpo"},
                "ppo": {"minibatches": 2, "dual_clip": 3.0},
            },
        ),
        (
            "grpo",
            {
                "episodes": {"group": 2},
                "sampler": {"noise": "reinflow"},
                "reward": "dense",
                "reference": {"weight": 0.1, "refresh": 1},
            },
        ),
        ("rloo", {"episodes": {"group": 4, "starts": 3, "curriculum": {"kind": "frontier"}}, "reward": "dense"}),
        ("tgrpo", {"episodes": {"group": 4}, "reward": "dense"}),
        ("reinforce", {"sampler": {"noise": "flow-noise"}, "reward": "dense"}),
        pytest.param(
            "ppo",
            {
                "collect": {"length": 5},
                "ppo": {"minibatches": 2, "accumulate": 2, "checkpointing": True},
                "overlap": True,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "flare",
            {"collect": {"length": 5}, "ppo": {"critic_warm_up": 1}, "reward": "dense"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_method_runs(vla: Path, tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    finetune.run(finetune.configure(SMALL | more | {"policy": vla, "out": tmp_path / "run", "method": method}))
    rows = read_episodes(tmp_path / "run" / "episodes.jsonl")
    assert sorted({row["candidate"] for row in rows}) == ["after", "before"] and len(rows) == 6
    kind, config, meta, state = read_policy(tmp_path / "run")
    assert kind == "flow_vla" and config.steps == 4 and meta["algorithm"] == method and meta["image_size"] == 32
    before = load_policy(vla).state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in state)
    assert all(torch.equal(state[n], before[n]) for n in state if n.startswith("expert.tokens.norm"))
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(metrics) >= 2 and all(("reference/kl" in row) == ("reference" in more) for row in metrics)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("ppo", {"collect": {"length": 5}, "critic": "context"}),
        ("ppo", {"collect": {"length": 5, "keep": "pictures"}, "critic": "homogeneous", "sampler": {"noise": "fpo"}}),
        ("grpo", {"episodes": {"group": 2, "keep": "pictures"}, "sampler": {"noise": "reinflow"}, "reward": "dense"}),
    ],
)
def test_pi0_learns_by_the_same_methods(pi0: Path, tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    """Its expert does, its VLM stays."""
    given = SMALL | more | {"policy": pi0, "method": method, "ppo": {"minibatches": 2, "critic_warm_up": 0}}
    given |= {"evaluation": {"episodes": 1, "videos": 0}}
    settings = finetune.configure(given | {"out": tmp_path / "run"})
    assert settings.preset is None or settings.preset == "flow"
    finetune.run(settings)
    kind, config, _, state = read_policy(tmp_path / "run")
    assert kind == "pi0" and (config.steps, config.start) == (4, "drawn")
    before = load_policy(pi0).state_dict()
    moved = {name for name in state if not torch.equal(state[name], before[name])}
    assert any(".dit." in name for name in moved) and not any(".vlm." in name for name in state)


def test_a_killed_pi0_goes_on_to_the_same_weights(pi0: Path, tmp_path: Path) -> None:
    given = SMALL | {"policy": pi0, "collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}
    least = 4 * sum(value.numel() for value in load_policy(pi0).parameters())
    assert finetune.plan(finetune.configure(given)).memory_bytes > 700 * 2**20 + least
    learners = [finetune.build(finetune.configure(given | {"reward": "dense"}))[0].learner for _ in range(2)]
    learners[0].step()
    learners[1].load_state_dict(copy_tree(learners[0].state_dict()))
    states = []
    for learner in learners:
        learner.step()
        states.append(learner.state_dict()["policy"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not any(".vlm." in name for name in states[0])  # which stays, and is where the run began


@pytest.mark.slow
@pytest.mark.parametrize("train", ["lora", "all"])
def test_a_pi0_s_vlm_learns_too(pi0: Path, tmp_path: Path, train: Any) -> None:
    """From the command's settings through SFT to an iteration of PPO."""
    settings = sft.Config(
        dataset=(pi0.parent / "data",),
        out=tmp_path / "taught",
        init=str(pi0.parent / "pi0"),
        vlm=sft.VLMStart(train=train, lora_rank=2),
        cameras=("top",),
        expert=sft.FreshExpert(executed=4),
        sft=SFTConfig(steps=2, batch=4),
    )
    sft.run(settings)
    alone = sft.plan(replace(settings, vlm=sft.VLMStart(), out=tmp_path / "other"))
    mine = sft.plan(replace(settings, out=tmp_path / "other"))
    assert "that stay" in alone.steps[3] and mine.memory_bytes > alone.memory_bytes
    given = SMALL | {"policy": settings.out, "collect": {"length": 3}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}
    made, _ = finetune.build(finetune.configure(given | {"reward": "dense"}))
    before = copy_tree(made.policy.state_dict())
    made.learner.step()
    after = made.policy.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert any(".vlm." in name and ("lora_" in name) == (train == "lora") for name in moved)
    with pytest.raises(InputError, match="vlm: expected nothing but with the folder"):
        sft.plan(replace(settings, init=str(pi0), out=tmp_path / "third"))


@pytest.mark.parametrize("kind", ["pi05", "smolvla"])
def test_lerobots_other_vlas_learn_too(vla: Path, pi0: Path, tmp_path: Path, kind: str) -> None:
    """From a folder that LeRobot wrote, by SFT and one iteration of PPO; pi0's folder has the tokenizer."""
    settings = sft.Config(
        dataset=(vla.parent / "data",),
        out=tmp_path / "taught",
        init=str(Path(__file__).parents[1] / f"policies/data/lerobot_{kind}"),
        tokenizer=str(vla.parent / "pi0"),
        cameras=("top",),
        expert=sft.FreshExpert(executed=4),
        sft=SFTConfig(steps=2, batch=4),
    )
    sft.run(settings)
    given = SMALL | {"policy": settings.out, "collect": {"length": 3}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}
    made, _ = finetune.build(finetune.configure(given | {"reward": "dense"}))
    before = copy_tree(made.policy.state_dict())
    made.learner.step()
    moved = {name for name, value in made.policy.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("model.expert.layers") for name in moved)
    assert not any(name.startswith("model.vlm.") for name in moved)


def test_a_process_reward_of_a_pi0_needs_pictures(pi0: Path, reward: Path) -> None:
    settings = finetune.configure(SMALL | {"policy": pi0, "process_reward": {"model": reward}})
    with pytest.raises(InputError, match=r"expected rollouts that keep pictures .* with a pi0"):
        finetune.plan(settings)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("ppo", {"collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}),
        ("grpo", {"episodes": {"group": 2}, "reward": "dense", "reference": {"weight": 0.1}}),
    ],
)
def test_tokens_take_the_preset_of_tokens(tokens: Path, tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    settings = finetune.configure(SMALL | more | {"policy": tokens, "out": tmp_path / "run", "method": method})
    assert settings.preset == "tokens" and settings.ppo.ratio == "per_link"
    finetune.run(settings)
    kind, config, _, state = read_policy(tmp_path / "run")
    assert kind == "token_vla" and config.temperature == settings.sampler.temperature
    before = load_policy(tokens).state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in state)


@pytest.mark.parametrize(
    ("method", "more", "per"),
    [
        ("ppo", {"collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}, "chunk"),
        pytest.param(
            "grpo",
            {"episodes": {"group": 2}, "reward": "dense", "reference": {"weight": 0.1}},
            "token",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_sentences_of_any_length_learn(fast: Path, tmp_path: Path, method: str, more: Any, per: str) -> None:
    """FAST's tokens by the presets as they are: a ratio of a token, or of a decision where one of an action is said."""
    settings = finetune.configure(SMALL | more | {"policy": fast, "out": tmp_path / "run", "method": method})
    finetune.run(settings)
    kind, config, _, state = read_policy(tmp_path / "run")
    assert kind == "fast_vla" and config.ratio_per == per
    before = load_policy(fast).state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in state)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum(row["ppo/updates"] for row in rows) > 0 and all(row["ppo/entropy"] > 0 for row in rows)


@pytest.mark.parametrize(
    "more",
    [
        {"collect": {"length": 5}, "ppo": {"minibatches": 2}},
        {"collect": {"length": 5, "keep": "pictures"}, "ppo": {"minibatches": 2}},
        {"method": "grpo", "episodes": {"group": 2}},
    ],
)
def test_a_process_reward_is_paid(vla: Path, reward: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    paid = {"model": reward, "answer": "probability", "cap": 0.01}
    settings = finetune.configure(SMALL | more | {"policy": vla, "out": tmp_path / "run", "process_reward": paid})
    assert any(f"process reward of {reward}, 0.01 a decision" in step for step in finetune.plan(settings).steps)
    finetune.run(settings)
    found = [row["reward/process"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(found) >= 2 and all(0.0 < value <= 0.01 for value in found)


@pytest.mark.parametrize("kind", [pytest.param("vla", marks=pytest.mark.slow), "tokens"])
def test_own_successes_alone_teach(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    known = {"weight": 1.0, "dataset": (folder.parent / "data",), "cache": folder.parent / "cache", "batch": 8}
    alone = {"minibatches": 2, "critic_warm_up": 0, "policy_weight": 0.0}
    small = SMALL | {"policy": folder, "collect": {"length": 5}, "ppo": alone}
    finetune.run(finetune.configure(small | {"out": tmp_path / "none", "imitation": {"weight": 0.0}}))
    state, before = read_policy(tmp_path / "none")[3], load_policy(folder).state_dict()
    assert all(torch.equal(state[name], before[name]) for name in state)  # the surrogate weighs nothing
    settings = finetune.configure(small | {"out": tmp_path / "run", "imitation": known})
    assert any("imitate own successes and 3 demonstrated episodes" in step for step in finetune.plan(settings).steps)
    finetune.run(settings)
    state, rows = read_policy(tmp_path / "run")[3], read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert any(not torch.equal(state[name], before[name]) for name in state)
    assert all(row["imitation/loss"] > 0.0 and "imitation/held" in row for row in rows)


def test_the_presets_imitate_and_say_so(vla: Path, tokens: Path) -> None:
    said = finetune.configure(SMALL | {"policy": tokens})
    assert said.preset == "tokens" and said.imitation.weight == 1.0 and said.ppo.target_kl is None
    alone = finetune.configure(SMALL | {"policy": tokens, "preset": "tokens-alone"})
    assert alone.imitation.weight == 0.0 and alone.ppo.schedule == "adaptive"
    settings = finetune.configure(SMALL | {"policy": vla})
    assert settings.preset == "flow" and settings.imitation.weight == 1.0 and settings.imitation.choose == "shorter"
    assert finetune.configure(SMALL | {"policy": vla, "preset": "pi-rl"}).imitation.weight == 0.0
    changed = finetune.configure(SMALL | {"policy": vla, "imitation": {"weight": 0.5}, "collect": {"length": 5}})
    assert any("imitation.weight 0.5 (preset: 1.0)" in step for step in finetune.plan(changed).steps)


@pytest.mark.parametrize(
    "method",
    ["ire-vla", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ac-ppo", "srpo", "robust-vla"))],
)
def test_presets_of_papers_run(vla: Path, tokens: Path, tmp_path: Path, method: str) -> None:
    """Imitation in turns moves the policy, though the surrogate weighs nothing, every second iteration."""
    shown = {"dataset": (vla.parent / "data",), "cache": vla.parent / "cache", "batch": 8}
    more: dict[str, Any] = {"collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}
    if method == "ire-vla":
        more |= {"imitation": shown | {"turns": 2, "updates": 3}}
        more["ppo"]["policy_weight"] = 0.0
    if method == "srpo":
        more = {"episodes": {"group": 2, "success_return": False}, "reward": "dense", "drop": "return"}
    settings = finetune.configure(SMALL | more | {"policy": vla, "out": tmp_path / "run", "method": method})
    assert finetune.configure(SMALL | {"policy": tokens, "method": method}).preset == "tokens"
    finetune.run(settings)
    rows, state = read_metrics(tmp_path / "run" / "metrics.jsonl"), read_policy(tmp_path / "run")[3]
    before = load_policy(vla).state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in state)
    if method == "ire-vla":
        assert [row.get("imitation/updates") for row in rows][:4] == [None, 3.0, None, 3.0][: len(rows)]
    if method == "ac-ppo":
        assert all(0.1 <= row["imitation/weight"] <= 1.1 for row in rows)
    if method == "srpo":
        assert all("reward/reference" in row for row in rows)
    if method == "robust-vla":
        assert settings.noise.action == 0.1 and settings.reference.refresh == 1
        assert all(row["robust/sensitivity"] > 0.0 and "reference/kl" in row for row in rows)


@pytest.mark.slow
def test_thoughts_are_paid_for_saying_where_actions_go(vla: Path, tokens: Path, tmp_path: Path) -> None:
    decoder = DecoderConfig(width=16, depth=1, heads=2, context_width=16)
    fresh = sft.FreshTokens(decoder=decoder, horizon=4, executed=4, bins=16, thought=True)
    thinking = taught(vla.parent, name="thinking", kind="tokens", tokens=fresh)
    more: dict[str, Any] = {"method": "thinkact", "episodes": {"group": 2}, "out": tmp_path / "run"}
    finetune.run(finetune.configure(SMALL | more | {"policy": thinking}))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows and all(0.0 < row["reward/plan_goal"] <= 1.0 and 0.0 < row["reward/plan_path"] <= 1.0 for row in rows)
    with pytest.raises(InputError, match="says a thought first"):
        finetune.plan(finetune.configure(SMALL | more | {"policy": tokens}))


def progress_model(vla: Path, says: Any) -> Path:
    """An untrained model of progress on the VLA's backbone."""
    backbone, folder = BackboneConfig(name=str(vla.parent / "eyes")), vla.parent / says
    config = RewardModelConfig(backbone=backbone, cameras=("top",), width=16, heads=2, says=says)
    save_reward_model(folder, RewardModel(config, load_backbone(backbone)))
    return folder


@pytest.mark.parametrize(
    ("method", "says", "more"),
    [
        ("rftf", "order", {"collect": {"length": 5}, "ppo": {"minibatches": 2}}),
        pytest.param("vlac", "order", {"collect": {"length": 5}, "ppo": {"minibatches": 2}}, marks=pytest.mark.slow),
        pytest.param("generalist", "steps-to-go", {"episodes": {"group": 1}}, marks=pytest.mark.slow),
    ],
)
def test_progress_is_paid(vla: Path, tmp_path: Path, method: str, says: str, more: dict[str, Any]) -> None:
    """Features of the frozen backbone are what the model reads, where episodes are cut too."""
    paid = {"model": progress_model(vla, says), "form": "shaping" if method == "rftf" else "difference"}
    given = SMALL | more | {"policy": vla, "out": tmp_path / "run", "method": method, "max_episode_steps": 12}
    with pytest.raises(InputError, match=r"process_reward\.model: expected a model of .*toddle reward train"):
        finetune.build(finetune.configure(given))
    with pytest.raises(InputError, match=r"process_reward\.cap: expected nothing with a model that says"):
        finetune.build(finetune.configure(given | {"process_reward": paid | {"cap": 0.2}}))
    if method == "rftf":
        with pytest.raises(InputError, match=r"process_reward\.form: expected difference .* got 'shaping'"):
            finetune.build(finetune.configure(given | {"process_reward": paid, "method": "vlac"}))
    finetune.run(finetune.configure(given | {"process_reward": paid}))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) >= 2 and all(abs(row["reward/potential"]) > 0.0 for row in rows)
    state, before = read_policy(tmp_path / "run")[3], load_policy(vla).state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in state)


def test_imitation_that_has_no_effect_is_refused(vla: Path) -> None:
    with pytest.raises(
        InputError, match=r"imitation\.weight: expected above 0, got 0\.0; imitation\.batch has no effect"
    ):
        finetune.configure({"policy": vla, "imitation": {"weight": 0.0, "batch": 3}})
    with pytest.raises(InputError, match=r"dataset"):
        finetune.plan(
            finetune.configure(SMALL | {"policy": vla, "imitation": {"weight": 1.0, "dataset": ("nowhere",)}})
        )


def test_a_process_reward_that_does_not_fit_is_refused(vla: Path, reward: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"process_reward\.model: expected a folder .*; weight is of a model"):
        finetune.configure({"policy": vla, "process_reward": {"weight": 2.0}})
    save_embedded(tmp_path / "eyes", tiny_backbone(1))
    backbone = BackboneConfig(name=str(tmp_path / "eyes"))
    for folder, cameras in (("other", ("top",)), ("blind", ("side",))):
        config = RewardModelConfig(backbone=backbone, cameras=cameras, width=16, heads=2)
        save_reward_model(tmp_path / folder, RewardModel(config, load_backbone(backbone)))
    wrong = {"other": "the policy's backbone", "blind": "a policy that sees side", "no": "reward.json"}
    for folder, said in wrong.items():
        settings = finetune.configure(SMALL | {"policy": vla, "process_reward": {"model": tmp_path / folder}})
        with pytest.raises(InputError, match=said) as error:
            finetune.plan(settings)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "critic"),
    [
        ("flow", "homogeneous"),
        ("tokens", "homogeneous"),
        pytest.param("lora", "homogeneous", marks=pytest.mark.slow),
        ("lora", "homogeneous-lora"),
        ("flow", "homogeneous-all"),
        pytest.param("tokens", "homogeneous-all", marks=pytest.mark.slow),
    ],
)
def test_a_homogeneous_critic_learns_beside_the_policy(
    vla: Path, tokens: Path, lora: Path, kind: str, critic: str
) -> None:
    """The copy stays what the VLA was; in warm-up so does the policy; a restored run goes on bitwise the same."""
    given: dict[str, Any] = SMALL | {"policy": {"flow": vla, "tokens": tokens, "lora": lora}[kind], "critic": critic}
    given |= {"collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 1}, "reward": "dense"}
    settings = finetune.configure(given)

    def made() -> Any:
        return finetune.build(settings)[0].learner

    first, again = made(), made()
    before = copy_tree(first.state_dict())
    metrics = first.step()
    warm = copy_tree(first.state_dict())
    assert metrics["ppo/critic_gradient_norm"] > 0.0
    assert all(torch.equal(value, before["policy"][name]) for name, value in warm["policy"].items())
    first.step()
    after = first.state_dict()
    assert any(not torch.equal(value, warm["policy"][name]) for name, value in after["policy"].items())
    moved = {n for n, value in after["critic"].items() if not torch.equal(value, before["critic"][n])}
    heads = {"head.0.weight", "head.2.weight", "head.4.weight"}
    beside = {n.removeprefix("copy.") for n in moved - heads}
    own = {n.removeprefix("vla.") for n, w in first.policy.named_parameters() if w.requires_grad}
    learns = {"homogeneous": not beside, "homogeneous-lora": beside and all("lora" in n for n in beside)}
    assert heads <= moved and (learns | {"homogeneous-all": beside and beside <= own})[critic], beside
    again.load_state_dict(warm)
    again.step()
    for part in ("policy", "critic"):
        assert all(torch.equal(value, again.state_dict()[part][name]) for name, value in after[part].items())


@pytest.mark.parametrize("method", ["ppo", "grpo"])
@pytest.mark.parametrize("kind", ["flow", "tokens"])
def test_the_first_ratio_is_one_though_chunks_are_cut(vla: Path, tokens: Path, kind: str, method: str) -> None:
    """Episodes of 6 steps in chunks of 4: the second is cut, and its densities are taken again for what was done."""
    given: dict[str, Any] = SMALL | {"policy": {"flow": vla, "tokens": tokens}[kind], "method": method}
    given |= {"max_episode_steps": 6, "reward": "dense"}
    given["ppo"] = {"epochs": 1, "minibatches": 1, "critic_warm_up": 0, "aggregate": "trajectory"}
    given |= {"collect": {"length": 5}} if method == "ppo" else {"episodes": {"group": 2}}
    made = finetune.build(finetune.configure(given))[0]
    metrics = made.learner.step()
    rollout: Any = made.sources[0].rollout  # type: ignore[attr-defined]
    assert {2, 4} <= set(rollout.steps.unique().tolist()), "some chunks were cut and some were not"
    assert abs(metrics["ppo/kl"]) < 1e-8 and metrics["ppo/clipped"] == 0.0
    seen, chain = rollout.observation, rollout.chain
    acted = made.acting.score(seen, chain).log_prob if made.acting is not None else None  # type: ignore[attr-defined]
    assert acted is not None and not torch.allclose(acted, rollout.log_prob, atol=1e-2), "of whole chunks it is another"


@pytest.mark.parametrize(("per", "critic"), [("action", "auto"), ("token", "homogeneous")])
def test_every_action_has_a_value_of_its_own(tokens: Path, per: str, critic: str) -> None:
    """Of a chunk that was cut only the actions that were made count; by hand for one world."""
    given: dict[str, Any] = SMALL | {"policy": tokens, "value_per": "action", "max_episode_steps": 6, "reward": "dense"}
    given |= {"critic": critic, "sampler": {"ratio_per": per}, "collect": {"length": 5, "scale_rewards": False}}
    given |= {"ppo": {"epochs": 1, "minibatches": 2, "critic_warm_up": 0}}
    made = finetune.build(finetune.configure(given))[0]
    learner: Any = made.learner
    before = copy_tree(learner.critic.state_dict())
    metrics = learner.step()
    rollout = learner.sources[0].rollout
    assert rollout.value.shape == rollout.advantage.shape == (5, 4, 4)
    assert rollout.made.sum(-1).unique().tolist() == [2, 4] and torch.equal(rollout.made.sum(-1), rollout.steps)
    whole = (rollout.gained * 0.98 ** torch.arange(4)).sum(-1)  # a decision's reward is its actions', discounted
    torch.testing.assert_close(whole, rollout.reward)
    running, later = torch.zeros(4), None
    for t in (1, 0):  # the first episode of every world: four actions and two
        for h in reversed(range(4)):
            value, done = rollout.value[t, :, h], rollout.made[t, :, h]
            after = rollout.next_value[t] if later is None else later
            delta = rollout.gained[t, :, h] + 0.98 * after - value
            if done.all():
                running, later = delta + 0.98 * 0.95 * running, value
                torch.testing.assert_close(rollout.advantage[t, :, h], running)
                torch.testing.assert_close(rollout.target[t, :, h], running + value)
            else:
                assert not done.any() and not rollout.advantage[t, :, h].any()
    assert metrics["ppo/kl"] < 1e-3 and any(
        not torch.equal(value, before[name]) for name, value in learner.critic.state_dict().items()
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sampler": {"ratio_per": "chunk"}}, "ratio_per: expected action or token"),
        ({"ppo": {"aggregate": "decision"}}, "aggregate: expected link"),
    ],
)
def test_values_of_actions_want_ratios_of_actions(tokens: Path, vla: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        finetune.build(finetune.configure(SMALL | {"policy": tokens, "value_per": "action"} | more))
    with pytest.raises(InputError, match="value_per: expected chunk, or a policy of kind token_vla"):
        finetune.build(finetune.configure(SMALL | {"policy": vla, "value_per": "action"}))


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("ppo", {"collect": {"length": 12}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}),
        pytest.param("grpo", {"episodes": {"group": 2, "starts": 3}, "reward": "dense"}, marks=pytest.mark.slow),
    ],
)
def test_tasks_share_the_worlds_by_a_curriculum(vla: Path, tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    """Both tasks are evaluated as ever, one source gathers in both, and what each is drawn is logged."""
    given: dict[str, Any] = SMALL | more | {"policy": vla, "out": tmp_path / "run", "method": method}
    given |= {"env": ("dots/one", "dots/reach"), "steps": 480, "tasks": {"kind": "literal"}}
    settings = finetune.configure(given)
    before, plan = peak_memory(), finetune.plan(settings)
    assert any("step 4 worlds that all share, tasks drawn literal" in step for step in plan.steps)
    assert plan.memory_bytes >= before > 2**26, "it has made two iterations: so much is taken"
    finetune.run(settings)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    for row in rows:
        assert row["curriculum/share/dots-one"] + row["curriculum/share/dots-reach"] == pytest.approx(1.0)
        assert min(row["curriculum/share/dots-one"], row["curriculum/share/dots-reach"]) >= 0.05
    assert len({row["curriculum/success/dots-reach"] for row in rows}) > 1
    episodes = read_episodes(tmp_path / "run" / "episodes.jsonl")
    assert {(row["candidate"], row["env"]) for row in episodes} == {
        (when, env) for when in ("before", "after") for env in given["env"]
    }


def test_a_method_takes_its_own_kinds_alone(tokens: Path, vla: Path, tmp_path: Path) -> None:
    """Tokens have no noise to say; a policy that is steered already has no chain for PPO."""
    with pytest.raises(InputError, match=r"policy: expected flow_vla, .*, with method dsrl, got .*token_vla"):
        finetune.build(finetune.configure(SMALL | {"policy": tokens, "method": "dsrl", "preset": "small"}))
    save_policy(tmp_path, SteeredPolicy(SteeredConfig(hidden=(8,)), load_policy(vla)))
    with pytest.raises(InputError, match=r"with method reinforce, got .*steered"):
        finetune.build(finetune.configure(SMALL | {"policy": tmp_path, "method": "reinforce"}))
    with pytest.raises(InputError, match="policy: expected one steered with the same settings"):
        finetune.build(finetune.configure(SMALL | {"policy": tmp_path, "method": "pld"}))
    plan = finetune.plan(steered(tmp_path, tmp_path / "run", "dsrl", steered={"hidden": (8,), "steps": 0}))
    assert any("an actor says the noise it begins at" in step for step in plan.steps)
    assert any("200,000 decisions" in step for step in plan.steps) and plan.memory_bytes > 0


def test_tokens_refuse_what_only_flows_heed(tokens: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = SMALL | {"policy": tokens, "sampler": {"noise": "fpo"}, "out": tmp_path / "run"}
    with pytest.raises(InputError, match=r"sampler\.noise: expected nothing with a VLA that acts by tokens"):
        finetune.run(finetune.configure(given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("start", ["vla", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_weights(
    start: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; with LoRA, whose weights move, acting with LoRA merged."""
    policy: Path = request.getfixturevalue(start)
    given: dict[str, Any] = SMALL | {"policy": policy, "collect": {"length": 5}, "ppo": {"minibatches": 2}}
    given |= {"checkpoint_every": 1, "reward": "dense", "reference": {"weight": 0.1, "refresh": 2}, "steps": 320}
    finetune.run(finetune.configure(given | {"out": tmp_path / "whole"}))
    from toddle.algorithms.ppo import PPO

    step, left = PPO.step, [3]

    def killed(self: PPO) -> dict[str, float]:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(PPO, "step", killed)
    broken = finetune.configure(given | {"out": tmp_path / "broken"})
    with pytest.raises(KeyboardInterrupt):
        finetune.run(broken)
    monkeypatch.setattr(PPO, "step", step)
    finetune.run(replace(broken, evaluation_worlds=1), resume=True)  # which may be chosen anew
    states = [read_policy(tmp_path / name)[3] for name in ("whole", "broken")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    before = load_policy(policy).state_dict()
    moved = [name for name in states[0] if not torch.equal(states[0][name], before[name])]
    assert (start == "lora") == any("lora_B" in name for name in moved) and any("expert" in name for name in moved)


STEERED: dict[str, Any] = {
    "steered": {"hidden": (16,)},
    "sac": {"rounds": 5, "learn_after": 16, "batch": 16, "critic_hidden": (16,)},
    "checkpoint_every": 1,
    "steps": 320,
    "max_episode_steps": None,
}


def steered(vla: Path, out: Path, method: str, **more: Any) -> Any:
    """A short run that steers the VLA; a PLD whose actor has its say in every second decision at the end."""
    ramp = {"steering": {"ramp": 640}} if method == "pld" else {}
    return finetune.configure(SMALL | STEERED | ramp | {"policy": vla, "out": out, "method": method} | more)


@pytest.mark.parametrize(
    "method", ["dsrl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pld", "dsrl-na"))]
)
def test_a_frozen_vla_is_steered_and_stays_as_it_is(vla: Path, tmp_path: Path, method: str) -> None:
    finetune.run(steered(vla, tmp_path / "run", method))
    kind, _, meta, state = read_policy(tmp_path / "run")
    assert kind == "steered" and meta["algorithm"] == method and meta["image_size"] == 32
    share = float(state["share"])  # of the last decision, before whose end 304 of 640 steps were made, or few less
    assert 0.4 < share <= 304 / 640 if method == "pld" else share == 1.0
    inside = tmp_path / "run" / "policy" / "base"
    for name in ("policy.safetensors", "policy.json"):
        assert (inside / name).read_bytes() == (vla / "policy" / name).read_bytes()
    rows = read_episodes(tmp_path / "run" / "episodes.jsonl")
    assert sorted(row["candidate"] for row in rows) == ["after"] * 3 + ["before"] * 3
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert metrics[-1]["sac/updates"] > 20 and metrics[-1]["rollout/total_steps"] > 160
    played = ["--policy", str(tmp_path / "run"), "--env", "dots/one", "--episodes", "2", "--out"]
    for command in (["evaluate", *played, str(tmp_path / "evaluation")], ["record", *played, "x", "--dry-run"]):
        with pytest.raises(SystemExit) as end:
            main([*command, *(["--cameras", "top", "--image-size", "32"] if command[0] == "record" else [])])
        assert end.value.code == 0
    assert len(read_episodes(tmp_path / "evaluation" / "episodes.jsonl")) == 2


@pytest.mark.slow
def test_a_killed_steering_goes_on_to_the_same_weights(
    vla: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune.run(steered(vla, tmp_path / "whole", "pld"))
    from toddle.algorithms.steering import Steering

    step, left = Steering.step, [3]

    def killed(self: Steering) -> dict[str, float]:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Steering, "step", killed)
    broken = steered(vla, tmp_path / "broken", "pld")
    with pytest.raises(KeyboardInterrupt):
        finetune.run(broken)
    monkeypatch.setattr(Steering, "step", step)
    finetune.run(broken, resume=True)
    states = [read_policy(tmp_path / name)[3] for name in ("whole", "broken")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_start_unlike_its_record_is_refused(vla: Path, tmp_path: Path) -> None:
    """The record says 30 of 30; the VLA that has hardly learned hardly succeeds here."""
    row = '{"candidate": "flow", "env": "dots/one", "condition": "plain", "seed": %d, "success": true, '
    row += '"episode_return": 1.0, "length": 9, "seconds": 1.0, "seconds_per_decision": 0.1, "info": {}}\n'
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "episodes.jsonl").write_text("".join(row % seed for seed in range(30)))
    given: dict[str, Any] = SMALL | {"policy": vla, "out": tmp_path / "run", "collect": {"length": 5}}
    given |= {"evaluation": {"episodes": 8, "videos": 0, "recorded": tmp_path / "record"}}
    with pytest.raises(InputError, match=r"100 % of 30, as recorded in .*got '[0-9]+ % of 8 episodes here'"):
        finetune.run(finetune.configure(given))
    given["evaluation"] = {"recorded": tmp_path}
    with pytest.raises(InputError, match="recorded"):
        finetune.plan(finetune.configure(given))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--method gropo", "method: expected a known method, got 'gropo'; did you mean 'grpo'"),
        ("--env gymnasium/HalfCheetah-v5", "cameras: expected nothing with gymnasium/HalfCheetah-v5"),
        ("--env dots/one dots/one", "env: expected different ones"),
        ("--worlds 6 --method grpo", "worlds: expected a multiple of the group's 8, got 6"),
        ("--method grpo --episodes.group 1", "episodes.group: expected at least 2"),
        ("--method grpo --episodes.curriculum.kind frontier", "episodes.starts: expected 1 to 1,000,000, for a"),
        ("--method rloo --episodes.curriculum.tau 0", "episodes.curriculum.tau: expected a number above 0"),
        ("--reference.refresh 2", "reference.refresh: expected 0 where reference.weight is 0, got 2"),
        ("--reference.weight -1", "reference.weight: expected a number"),
        ("--tasks.kind frontier", "tasks.kind: expected several environments, for a curriculum over tasks"),
        ("--tasks.floor 2", "tasks.floor: expected"),
        ("--ppo.dual-clip 1", "dual_clip: expected a number above 1, got 1.0"),
        ("--ppo.aggregate tokens", "invalid choice 'tokens' for argument '--ppo.aggregate'"),
        ("--critic homogeneous-lora", "critic: expected homogeneous, or a VLA with LoRA on its backbone"),
        ("--collect.keep pictures --critic context", "critic: expected state"),
        ("--sampler.level nan", "sampler.level: expected a number above 0"),
        ("--sampler.temperature 2", "sampler.temperature: expected nothing with a VLA that acts by a flow"),
        ("--sampler.log-prob-bounds 1 -1", "log_prob_bounds: expected low <= high"),
        ("--method thinkact", "policy: expected one of kind token_vla, for this method, got 'flow_vla'"),
        ("--method dsrl --imitation.weight 1", "imitation.weight: expected nothing with a method that learns off"),
        ("--method pld --critic privileged", "critic: expected an environment that gives a critic the simulator's"),
        ("--method pld --steered.scale -1", "steered.scale: expected a number"),
        ("--method dsrl --sac.subset 3", "subset: expected at most the 2 critics, got 3"),
        ("--env metaworld/push-v3 --cameras close", "a bank for the body 'sawyer'"),
    ],
)
def test_bad_input_is_one_line(
    vla: Path, tmp_path: Path, arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["finetune", "--policy", str(vla), "--out", str(tmp_path / "run"), "--dry-run"]
    given = arguments.split() if "--env" in arguments else ["--env", "dots/one", *arguments.split()]
    with pytest.raises(SystemExit) as end:
        main([*first, *given])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2 and said in error and len(error.splitlines()) == 1, error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_in_a_model_of_what_it_sees(
    vla: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded with pictures, foreseen as tokens, acted in by PPO and GRPO: the real success beside the imagined one,
    and a killed run goes on to the same weights."""
    monkeypatch.chdir(tmp_path)

    def toddle(line: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(line.split())
        captured = capsys.readouterr()
        assert end.value.code == status, captured.err
        return captured.out + captured.err

    made = "worldmodel record --env dots/one --episodes 6 --batch 6"
    toddle(f"{made} --policy expert --out data")
    small = "--held-out 0.5 --components 5 --model.width 16 --model.depth 1 --model.members 2 --train.steps 6"
    trained = f"worldmodel train --features {vla} --cache cache --train.batch 8 {small}"
    assert "expected pictures of top" in toddle(f"{trained} --dataset data --out wm --dry-run", 2)
    toddle(f"{made} --policy {vla} expert --cameras top --out seen")
    said = toddle(f"{trained} --dataset seen --out wm --dry-run")
    assert "keep 5 components of their tokens" in said and not (tmp_path / "cache").exists()
    toddle(f"{trained} --dataset seen --out wm")
    toddle(f"worldmodel evaluate --model wm --policy vla={vla} --episodes 4 --num-envs 4 --out measured")
    page = (tmp_path / "measured/index.html").read_text()
    assert "1, of what is seen" in page and "1, of proprioception" in page
    given: dict[str, Any] = SMALL | {"env": ("imagined/wm",), "policy": vla, "checkpoint_every": 1}
    given |= {"steps": 320, "max_episode_steps": None}
    ppo: dict[str, Any] = {"collect": {"length": 5}, "ppo": {"minibatches": 2, "critic_warm_up": 0}}
    finetune.run(finetune.configure(given | ppo | {"out": tmp_path / "whole"}))
    rows = read_episodes(tmp_path / "whole/episodes.jsonl")
    found = {(row["candidate"], row["env"]) for row in rows}
    assert found == {(when, env) for when in ("before", "after") for env in ("dots/one", "imagined/wm")}
    from toddle.algorithms.ppo import PPO

    step, left = PPO.step, [3]

    def killed(self: PPO) -> dict[str, float]:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(PPO, "step", killed)
    broken = finetune.configure(given | ppo | {"out": tmp_path / "broken"})
    with pytest.raises(KeyboardInterrupt):
        finetune.run(broken)
    monkeypatch.setattr(PPO, "step", step)
    finetune.run(broken, resume=True)
    states = [read_policy(tmp_path / name)[3] for name in ("whole", "broken")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, load_policy(vla).state_dict()[name]) for name, value in states[0].items())
    group: dict[str, Any] = {"method": "grpo", "reward": "reference", "max_episode_steps": 6, "episodes": {"group": 2}}
    finetune.run(finetune.configure(given | group | {"out": tmp_path / "rft"}))
    run = f"finetune --policy {vla} --worlds 2 --out no --dry-run"
    assert "of dots/one, which imagined/wm/control is a model of" in toddle(f"{run} --env imagined/wm/control")
    for more, wrong in (
        ("--env imagined/wm --cameras top", "cameras: expected nothing with imagined/wm"),
        ("--env imagined/wm --reward dense", "reward: expected own, success or reference, got 'dense'"),
        ("--env dots/one --reward reference", "reward: expected"),
        ("--env imagined/nowhere", "world model: expected a folder with world_model.json"),
    ):
        line = toddle(f"{run} {more}", 2)
        assert wrong in line and len(line.strip().splitlines()) == 1, line
