"""`toddle pretrain --method ...`: every method learns, resumes bitwise, and starts from demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.tiny_vla import tiny_vla

from tiny_env import ReachEnv
from toddle.algorithms.ppo import PPO
from toddle.cli import parse
from toddle.core.config import from_dict, merged, to_dict
from toddle.core.errors import InputError, NaNError
from toddle.core.types import BodySpec
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_writer import DatasetWriter
from toddle.envs.fork import ForkEnv
from toddle.methods._base import Start, known_methods, load_method
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.chunk import ChunkPolicy
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.links import DiffusionConfig, FlowConfig
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy
from toddle.policies.store import load_policy, save_policy
from toddle.policies.tokens import TokenConfig, TokenPolicy
from toddle.recipes import methods as listing
from toddle.recipes import pretrain
from toddle.recipes.pretrain import build, config_class, configure, plan, run
from toddle.runs.checkpoint import states_equal
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder

DENOISING = ("dppo", "reinflow", "flow-sde", "flow-noise", "fpo")
SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("reinflow", "flow-noise")]
SMALL: dict[str, Any] = {
    "network": "mlp",
    "mlp": {"width": 16},
    "horizon": 2,
    "trunk": {
        "trunk": {"width": 16, "depth": 2, "heads": 2, "context_width": 8, "modulation": "residual"},
        "bank_hidden": 16,
    },
}
DDIFFPG = {
    "warm_up": 2,
    "regroup_every": 3,
    "batch": 8,
    "updates": 1,
    "capacity": 30,
    "hidden": [16],
    "ascent_steps": 2,
    "steps": 30,
}


def settings(method: str, out: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "out": str(out),
        "method": method,
        "env": ["fork/point"],
        "worlds": 4,
        "steps": 480,
        "checkpoint_every": 2,
    }
    if method == "ddiffpg":
        values["ddiffpg"] = DDIFFPG
    else:
        values |= {"collect": {"length": 8}, "critic_hidden": [16]}
        values |= {"denoising": SMALL} if method in DENOISING else {}
    return configure(merged(values, to_dict(changes)))


@pytest.mark.parametrize("network", ["mlp", "unet", "trunk"])
@pytest.mark.parametrize("method", ["dppo", "reinflow"])
def test_from_scratch_actions_begin_near_zero_unless_told_otherwise(method: str, network: str, tmp_path: Path) -> None:
    """Random weights shrink the noise they begin with; with contract False they do not."""
    g = torch.Generator().manual_seed(0)
    noise, observation = torch.randn(64, 2, 2, generator=g), {"proprio": torch.randn(64, 4, generator=g)}
    unet = {"channels": [8, 16], "condition": 16, "groups": 4}

    def spread(**own: Any) -> float:
        config = settings(method, tmp_path, denoising={"network": network, "unet": unet, network: own})
        policy: Any = build(config).policy
        return float(policy.integrate(observation, 0.3 * noise).std()) / 0.3

    assert spread() < 0.7 * spread(contract=False)


@pytest.mark.parametrize("method", ["dppo", "flow-sde", "fpo", "ddiffpg", *SLOWLY])
def test_two_halves_with_a_new_process_between_are_the_whole(method: str, tmp_path: Path) -> None:
    """Bitwise resume, through the files: 4 iterations = 2, stop, 2."""
    config = settings(method, tmp_path / "whole")
    whole = build(config).learner
    for _ in range(4):
        last = whole.step()
    parts = settings(method, tmp_path / "parts")
    for until in (2, 4):
        learner = build(parts).learner
        with RunFolder.open(tmp_path / "parts", parts, resume=until == 4) as folder:
            if until == 2:
                with pytest.raises(KeyboardInterrupt):
                    run_loop(_Stopping(learner, 2), folder, 4, checkpoint_every=1)
            else:
                run_loop(learner, folder, 4, checkpoint_every=1)
    assert states_equal(learner.state_dict(), whole.state_dict())
    assert np.isfinite(list(last.values())).all()


class _Stopping:
    """A learner whose process is asked to stop in its n-th step."""

    def __init__(self, learner: Any, after: int) -> None:
        self.learner, self.left = learner, after
        self.state_dict, self.load_state_dict = learner.state_dict, learner.load_state_dict

    def step(self) -> dict[str, float]:
        import os
        import signal

        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.learner.step()


@pytest.mark.parametrize("method", ["dppo", "fpo", *SLOWLY])
def test_the_policy_is_kept_and_acts(method: str, tmp_path: Path) -> None:
    config = settings(method, tmp_path, denoising={"network": "trunk"}, steps=128)
    assert f"by {method}" in "".join(plan(config).steps)
    run(config)
    policy = load_policy(tmp_path / "policy")
    assert isinstance(policy, ChunkPolicy) and policy.trunk is not None
    action = policy.act({"proprio": torch.zeros(3, 4)}, generator=torch.Generator())[0].action
    assert action.shape == (3, 2, 2)


@pytest.mark.parametrize("method", ["dppo", "flow-sde", "fpo", "ddiffpg", *SLOWLY])
def test_a_number_that_is_not_finite_stops_the_run(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of warnings where it runs
    changes = {"ddiffpg": {"warm_up": 0}} if method == "ddiffpg" else {}
    made = build(settings(method, tmp_path, **changes))
    learner, policy = made.learner, made.policy
    learner.step()
    learner.step()
    with torch.no_grad():
        next(p for p in policy.parameters() if p.requires_grad).fill_(torch.nan)
    with pytest.raises((NaNError, InputError), match=r"finite|NaN|nan"):
        _steps(learner, 3)


def test_critic_warm_up_leaves_the_policy_bitwise_unchanged(tmp_path: Path) -> None:
    made = build(settings("dppo", tmp_path, ppo={"critic_warm_up": 2}))
    learner, policy = made.learner, made.policy
    assert isinstance(learner, PPO)
    before, critic = _copy(policy), _copy(learner.modules["critic"])
    for _ in range(2):
        metrics = learner.step()
        assert metrics["ppo/policy_loss"] == 0 and metrics["ppo/value_loss"] > 0
    assert states_equal(before, _copy(policy))
    assert not states_equal(critic, _copy(learner.modules["critic"]))
    learner.step()
    assert not states_equal(before, _copy(policy))


def test_after_warm_up_adam_starts_afresh(tmp_path: Path) -> None:
    """Without that, moments of zero gradients would let the first steps be several times the learning rate."""
    rate = 1e-3
    ppo = {"critic_warm_up": 3, "learning_rate": rate, "epochs": 1, "minibatches": 1, "schedule": "constant"}
    made = build(settings("reinflow", tmp_path, ppo=ppo))
    learner, policy = made.learner, made.policy
    for _ in range(3):
        learner.step()
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters()])
    learner.step()
    moved = torch.cat([p.detach().flatten() for p in policy.parameters()]) - before
    assert moved.abs().max() <= rate * 1.01  # Adam's first step is at most the rate
    assert moved.abs().max() > rate / 2


def _steps(learner: Any, count: int) -> None:
    for _ in range(count):
        learner.step()


def _copy(module: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Straight walks to the right: action (1, 0.5) whatever is seen."""
    folder = tmp_path_factory.mktemp("demos") / "data"
    features = {"observation.state": Feature(size=4), "action": Feature(size=2)}
    features["next.success"] = Feature(size=1, dtype="bool")
    spec = DatasetSpec(fps=10, features=features, robot_type="point", cameras={})
    random = np.random.default_rng(0)
    with DatasetWriter(folder, spec) as writer:
        for number in range(3):
            columns = {
                "observation.state": random.normal(size=(20, 4)).astype(np.float32),
                "action": np.tile(np.array([0.9, 0.5], np.float32), (20, 1)),
                "next.success": np.arange(20) == 19,
            }
            writer.add_episode(columns, {}, "go", {"seed": number})
    return folder


@pytest.mark.parametrize("method", ["dppo", pytest.param("flow-sde", marks=pytest.mark.slow)])
def test_warm_start_imitates_then_learns(method: str, tmp_path: Path, demonstrations: Path) -> None:
    config = settings(
        method,
        tmp_path,
        warm_start=demonstrations,
        imitation={"steps": 800, "batch": 128},
        steps=192,
        denoising={"mlp": {"width": 32}},
    )
    run(config)
    begun, done = load_policy(tmp_path / "warm_start"), load_policy(tmp_path / "policy")
    seen = {"proprio": torch.randn(64, 4, generator=torch.Generator().manual_seed(1))}
    action = begun.act(seen, generator=torch.Generator(), deterministic=True)[0].action
    assert (action.mean((0, 1)) - torch.tensor([0.9, 0.5])).abs().max() < 0.3
    assert torch.equal(begun.features.scale.mean, done.features.scale.mean)  # a warm start's statistics are fixed
    changed = {name for name, value in done.state_dict().items() if not torch.equal(value, begun.state_dict()[name])}
    assert any(name.startswith("tuned.") for name in changed)
    assert not any(name.startswith("base.") for name in changed)
    if method == "dppo":
        base = {n[5:]: v for n, v in begun.state_dict().items() if n.startswith("base.")}
        assert all(torch.equal(value, begun.state_dict()[f"tuned.{name}"]) for name, value in base.items()) and base


def test_a_dataset_of_another_body_is_refused(tmp_path: Path, demonstrations: Path) -> None:
    config = settings("dppo", tmp_path, warm_start=demonstrations, env=["gymnasium/Hopper-v5"])
    with pytest.raises(InputError, match=r"observation.state: expected 11 numbers"):
        run(config)
    with pytest.raises(InputError, match=r"observation.state: expected 11 numbers"):
        plan(config)
    with pytest.raises(InputError, match="warm_start: expected nothing with the causal policy"):
        build(settings("ppo", tmp_path, warm_start=demonstrations, policy="causal"))


def test_demonstrations_in_other_units_are_refused_in_the_plan(tmp_path: Path) -> None:
    spec = DatasetSpec(
        fps=10,
        features={"observation.state": Feature(size=4), "action": Feature(size=2)},
        robot_type="point",
        cameras={},
    )
    for name, unit in (("metres", 1.0), ("millimetres", 1000.0)):
        with DatasetWriter(tmp_path / name, spec) as writer:
            action = np.tile(np.array([0.1, -1.0]), (20, 1)) * [1.0, unit]
            writer.add_episode({"observation.state": np.zeros((20, 4)), "action": action}, {}, "go", {})
    plan(settings("dppo", tmp_path / "run", warm_start=tmp_path / "metres"))
    with pytest.raises(
        InputError, match=r"action: number 1: expected -1 to 1, as the environment takes.*-1000 to -1000"
    ):
        plan(settings("dppo", tmp_path / "run", warm_start=tmp_path / "millimetres"))


def test_a_gaussian_policy_imitates_then_learns(tmp_path: Path, demonstrations: Path) -> None:
    """S1's Gaussian source: after imitation the mean action is the demonstrations'; RL goes on from there."""
    config = settings("ppo", tmp_path, warm_start=demonstrations, mlp={"hidden": [16], "horizon": 2}, steps=192)
    assert config.preset == "started"
    run(config)
    begun, done = load_policy(tmp_path / "warm_start"), load_policy(tmp_path / "policy")
    seen = {"proprio": torch.randn(64, 4, generator=torch.Generator().manual_seed(1))}
    action = begun.act(seen, deterministic=True)[0].action
    assert (action - torch.tensor([0.9, 0.5])).abs().max() < 0.1
    assert not torch.equal(begun.nets[0].mlp.weight_0, done.nets[0].mlp.weight_0)
    assert torch.equal(begun.nets[0].features.scale.mean, done.nets[0].features.scale.mean)


@pytest.mark.parametrize("method", ["ppo", "dppo", "fpo"])
def test_rl_goes_on_from_a_stored_policy(method: str, tmp_path: Path) -> None:
    first = settings(method, tmp_path / "first", steps=64)
    run(first)
    made = build(settings(method, tmp_path / "second", init=tmp_path / "first"))
    stored = load_policy(tmp_path / "first")
    assert states_equal(_copy(made.policy), _copy(stored))
    made.learner.step()
    for _ in range(3):
        made.learner.step()
    assert not states_equal(_copy(made.policy), _copy(stored))
    other = "dppo" if method == "ppo" else "ppo"
    with pytest.raises(InputError, match="init: expected a policy of kind"):
        build(settings(other, tmp_path / "third", init=tmp_path / "first"))
    with pytest.raises(InputError, match="a bank for the body 'hopper'"):
        build(settings(method, tmp_path / "third", init=tmp_path / "first", env=["gymnasium/Hopper-v5"]))


ARM = BodySpec(name="point", proprio=4, action=2, dt=0.05)
CHUNK: dict[str, Any] = {"body": ARM, "network": MlpDenoiserConfig(width=8), "executed": 2}
STORED: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: GaussianPolicy(GaussianConfig(bodies=(ARM,), hidden=(8,))),
    "squashed_gaussian": lambda: SquashedGaussianPolicy(SquashedGaussianConfig(body=ARM, hidden=(8,))),
    "tokens": lambda: TokenPolicy(TokenConfig(body=ARM, bins=5)),
    "causal": lambda: CausalPolicy(
        CausalConfig(
            expert=ExpertConfig(trunk=TrunkConfig(width=16, depth=2, heads=2), bodies=(ARM,), horizon=1, executed=1)
        )
    ),
    "fpo": lambda: FPOPolicy(FPOConfig(**CHUNK, steps=2)),
    "diffusion": lambda: DenoisingPolicy(DenoisingConfig(**CHUNK, process=DiffusionConfig(train_steps=3))),
    **{
        noise: lambda noise=noise: DenoisingPolicy(DenoisingConfig(**CHUNK, process=FlowConfig(noise=noise)))
        for noise in ("reinflow", "flow_sde", "flow_noise")
    },
    "flow_vla": tiny_vla,
}
PLAIN = {"gaussian", "tokens", "causal"}
WITHOUT_CLIP = ("sequence", "ddiffpg", "clone", "sac", "rlpd", "cal-ql", "conrft", "recovery-rl", "medal", "paint")
TRAINS = {
    **dict.fromkeys(("ppo", "grpo", "rloo", "rcpo", "rpd"), PLAIN),
    "clone": set[str](),
    "sequence": set[str](),
    "ddiffpg": set[str](),
    "sac": {"squashed_gaussian"},
    "rlpd": {"squashed_gaussian"},
    "medal": {"squashed_gaussian"},
    "paint": set[str](),
    "recovery-rl": set[str](),
    "cal-ql": set[str](),  # of `toddle offline`, with its critics: tests/recipes/test_off_policy.py
    "conrft": set[str](),
    "dppo": {"diffusion"},
    "fpo": {"fpo"},
    "reinflow": {"reinflow"},
    "flow-sde": {"flow_sde"},
    "flow-noise": {"flow_noise"},
}


@pytest.mark.parametrize("method", known_methods())
def test_a_stored_policy_that_the_method_does_not_train_is_refused_in_one_line(
    method: str, tmp_path: Path, demonstrations: Path
) -> None:
    teacher = {"teacher": tmp_path} if method in ("clone", "sequence", "rpd") else {}
    teacher |= {"demonstrations": [demonstrations]} if method in ("rlpd", "medal", "paint") else {}  # type: ignore[dict-item]
    save_policy(tmp_path, STORED["gaussian"]())
    asked = configure(method=method, preset=load_method(method).presets[-1].name, **teacher)
    for name, make in STORED.items():
        start = Start(envs=[ForkEnv(16)], steps=1000, init=make())
        if name in TRAINS[method]:
            asked.build(start)
        else:
            with pytest.raises(InputError, match=r"\A(init|demonstrations|env): expected [^\n]+\Z"):
                asked.build(start)


# ---- presets, and what the user gives ------------------------------------------------------------------------------
def from_command(*arguments: str) -> Any:
    return parse("pretrain", pretrain.Config, list(arguments), choose=configure, choosing=pretrain.CHOOSING)[1]


@pytest.mark.parametrize("method", known_methods())
def test_every_method_has_sources_and_its_settings_round_trip(method: str, tmp_path: Path) -> None:
    found = load_method(method)
    assert found.name == method and found.paper and found.what and found.policies
    assert all(preset.source for preset in found.presets)
    config = from_command("--method", method, "--env", "fork/point", "--out", str(tmp_path))
    assert from_dict(config_class(method), to_dict(config)) == config == configure(to_dict(config))


@pytest.mark.parametrize("method", [name for name in known_methods() if name not in WITHOUT_CLIP])
def test_what_is_given_wins_whatever_its_value(method: str, tmp_path: Path) -> None:
    """0.2 is PPO's general clip: typed, it must not be taken for "not given".  So from a file, and flags over it."""
    for env in ("gymnasium/HalfCheetah-v5", "goal/sawyer", "fork/point"):
        assert from_command("--method", method, "--env", env, "--ppo.clip-high", "0.2").ppo.clip_high == 0.2
        assert from_command("--method", method, "--env", env, "--ppo.epochs", "5").ppo.epochs == 5
        if method not in ("grpo", "rloo"):
            found = from_command("--method", method, "--env", env, "--collect.discount", "0.95")
            assert found.collect.discount == 0.95
    file = tmp_path / "settings.yaml"
    file.write_text(f"method: {method}\nenv: [fork/point]\nppo: {{clip_low: 0.2, lam: 0.5}}\n")
    assert from_command("--config", str(file)).ppo.clip_low == 0.2
    both = from_command("--config", str(file), "--ppo.lam", "0.95")
    assert (both.ppo.clip_low, both.ppo.lam, both.env) == (0.2, 0.95, ("fork/point",))
    own = load_method(method).preset(["fork/point"], started=False).settings
    assert both.ppo.learning_rate == own.ppo.learning_rate  # type: ignore[attr-defined]
    assert configure(method=method, ppo={"clip_low": 0.2}).ppo.clip_low == 0.2


def test_every_family_has_its_preset() -> None:
    cheetah = from_command("--env", "gymnasium/HalfCheetah-v5", "--policy", "mlp")
    assert (cheetah.collect.discount, cheetah.ppo.lam) == (0.99, 0.95)
    goals = from_command("--env", "goal/sawyer", "goal/ant")
    assert (goals.collect.discount, goals.ppo.lam, goals.preset) == (0.95, 0.8, "goals")
    assert from_command("--preset", "tasks").ppo.lam == 0.95
    with pytest.raises(InputError, match="preset: expected a preset of ppo, got 'task'; did you mean 'tasks'"):
        from_command("--preset", "task")


def test_the_plan_says_preset_and_changes(tmp_path: Path) -> None:
    said = "\n".join(plan(settings("dppo", tmp_path, ppo={"clip_low": 0.2})).steps)
    assert "take preset 'scratch' of dppo (DPPO, from scratch: K = K' = 10, clip 0.1" in said
    assert "ppo.clip_low 0.2 (preset: 0.1)" in said and "denoising.network 'mlp' (preset: 'trunk')" in said
    assert "clip_high" not in said


def test_the_presets_hold_the_numbers_of_their_sources() -> None:
    """Written down by hand from the papers that PAPERS.md names."""
    warm: Any = load_method("dppo").preset(["fork/point"], started=True).settings
    assert (warm.denoising.steps, warm.denoising.tuned_steps, warm.collect.discount) == (20, 10, 0.999)
    assert (warm.ppo.link_discount, warm.ppo.critic_learning_rate, warm.ppo.critic_warm_up) == (0.99, 1e-3, 2)
    assert (warm.ppo.link_clip_first, warm.ppo.clip_high, warm.ppo.learning_rate) == (0.005, 0.05, 3e-4)  # ours
    sde: Any = load_method("flow-sde").preset(["fork/point"], started=True).settings
    assert sde.denoising.one_random_step and sde.denoising.level == 0.5
    fpo: Any = load_method("fpo").preset(["fork/point"], started=False).settings
    assert (fpo.ppo.clip_high, fpo.denoising.samples, fpo.denoising.steps) == (0.05, 8, 10)
    goals: Any = load_method("reinflow").preset(["goal/ant"], started=False).settings
    assert (goals.reduce, goals.ppo.ratio, goals.ppo.lam) == ("sum", "sum", 0.8)


def test_a_setting_of_another_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key 'denoising\.level'"):
        settings("dppo", tmp_path, denoising={"level": 0.3})
    with pytest.raises(InputError, match=r"Unrecognized options: --denoising\.level"):
        from_command("--method", "dppo", "--denoising.level", "0.3")
    with pytest.raises(InputError, match="method: expected a known method, got 'dpo'; did you mean 'dppo'"):
        from_command("--method", "dpo")
    with pytest.raises(InputError, match="one body with this method"):
        build(settings("dppo", tmp_path, env=["fork/point", "gymnasium/Hopper-v5"]))


NEW = """
from toddle.core.config import config
from toddle.methods._base import Method, Preset, Run
from toddle.methods.ppo import PPOSettings

@config
class Greedy(PPOSettings):
    pass

METHOD = Method(name="greedy", what="ppo, renamed", paper="none", policies="gaussian",
                presets=(Preset(name="any", source="ours", settings=Greedy(policy="mlp")),))
"""


def test_a_new_method_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A file in the folder of methods, and nothing else: it is listed, it has options, it learns."""
    from toddle import methods

    (tmp_path / "greedy.py").write_text(NEW)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    known_methods.cache_clear()
    try:
        assert "greedy" in known_methods()
        listing.run(listing.Config())
        assert "greedy" in capsys.readouterr().out
        config = from_command("--method", "greedy", "--env", "fork/point", "--mlp.hidden", "8", "--worlds", "4")
        made = load_method("greedy").settings.build(config, Start(envs=[ReachEnv(4)], steps=100))
        assert isinstance(made.policy, GaussianPolicy) and isinstance(made.learner, PPO)
        made.learner.step()
    finally:
        known_methods.cache_clear()
