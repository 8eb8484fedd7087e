"""SFT: it learns, it learns from the context, regimes, EMA, bitwise resume, NaN."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from tests.policies.tiny_vla import ToyDemonstrations, tiny_vla

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.algorithms.sft_memory import forecast
from toddle.core.errors import InputError, NaNError
from toddle.core.live_memory import LiveBytes, bytes_of
from toddle.maths.similarity import linear_cka

QUICK = SFTConfig(steps=150, batch=24, learning_rate=6e-3, ema=0.9)


@torch.no_grad()
def error_of(policy: Any, data: ToyDemonstrations) -> float:
    """Mean distance of sampled chunks to the demonstrated ones (the executed part)."""
    policy.eval()
    batch = data.batch(range(len(data)))
    now = {key: value[0] for key, value in batch["observation"].items()}
    action = policy.act(now, None, deterministic=True)[0].action
    return float((action - batch["action"][:, : action.shape[1]]).abs().mean())


def train(data: ToyDemonstrations, config: SFTConfig = QUICK, **more: Any) -> SFT:
    learner = SFT(tiny_vla(**more), data, config)
    for _ in range(config.steps):
        learner.step()
    learner.use_average()
    return learner


def test_it_fits_demonstrations_and_needs_their_context() -> None:
    """Trained on true pairs it reproduces them; trained on shuffled contexts it cannot answer the true ones."""
    data, control = ToyDemonstrations(), ToyDemonstrations(shuffled=True)
    right = error_of(train(data, head="endpoint").policy, data)
    wrong = error_of(train(control, head="endpoint").policy, data)
    spread = float((data.action[:, :2] - data.action[:, :2].mean(0)).abs().mean())
    assert right < 0.35 * spread, (right, spread)
    assert wrong > 2.5 * right, (wrong, right)


def test_the_velocity_head_learns_too() -> None:
    data = ToyDemonstrations()
    spread = float((data.action[:, :2] - data.action[:, :2].mean(0)).abs().mean())
    assert error_of(train(data, head="velocity").policy, data) < 0.7 * spread


def test_adapter_first_keeps_the_trunk_bitwise_then_lets_it_in() -> None:
    config = replace(QUICK, steps=40, regime="adapter_first", adapter_share=0.25, weight_decay=0.1)
    learner = SFT(tiny_vla(), ToyDemonstrations(), config)
    before = {name: value.detach().clone() for name, value in learner.weights.items()}
    for _ in range(10):
        metrics = learner.step()
    assert metrics["sft/trunk_drift"] == 0.0
    assert all(torch.equal(learner.weights[name], before[name]) for name in learner.trunk)
    for name in ("adapter.1.weight", "expert.out.mlps.toy.0.weight"):
        assert not torch.equal(learner.weights[name], before[name]), name
    assert learner.trunk_share(10) == pytest.approx(0.1) and learner.trunk_share(20) == 1.0
    metrics = learner.step()
    assert metrics["sft/trunk_drift"] > 0.0
    joint = SFT(tiny_vla(), ToyDemonstrations(), replace(config, regime="joint"))
    assert joint.step()["sft/trunk_drift"] > 0.0


def test_the_adapter_has_a_rate_of_its_own() -> None:
    """Adam's first step moves a weight by about its rate: at ten times the rate, the adapter moves ten times as far."""
    moved = {}
    for factor in (1.0, 10.0):
        learner = SFT(
            tiny_vla(), ToyDemonstrations(), replace(QUICK, adapter_factor=factor, learning_rate=1e-4, weight_decay=0.0)
        )
        before = {name: value.detach().clone() for name, value in learner.weights.items()}
        learner.step()
        moved[factor] = {k: float((v.detach() - before[k]).abs().max()) for k, v in learner.weights.items()}
    for name in ("adapter.1.weight", "expert.out.mlps.toy.0.weight"):
        expected = 10.0 if name.startswith("adapter") else 1.0
        assert moved[10.0][name] / moved[1.0][name] == pytest.approx(expected, rel=1e-2), name


def test_the_trunk_is_what_rl_pretrains() -> None:
    policy = tiny_vla()
    trunk = policy.trunk_parameters()
    assert any(".cross." in name for name in trunk) and any(".attention." in name for name in trunk)
    assert not any("modulation" in name or "adapter" in name or "tokens" in name for name in trunk)


def test_the_backbone_is_bitwise_unchanged() -> None:
    learner = SFT(tiny_vla(), ToyDemonstrations(), QUICK)
    before = learner.policy.backbone.fingerprint()
    for _ in range(3):
        learner.step()
    assert learner.policy.backbone.fingerprint() == before


def test_average_is_the_exponential_mean() -> None:
    """Two steps by hand: decays min(0.5, 2/11) and min(0.5, 3/12)."""
    learner = SFT(tiny_vla(), ToyDemonstrations(), replace(QUICK, ema=0.5))
    name = "adapter.1.weight"
    w0 = learner.weights[name].detach().clone()
    learner.step()
    w1 = learner.weights[name].detach().clone()
    learner.step()
    w2 = learner.weights[name].detach().clone()
    first = w0 * (2 / 11) + w1 * (9 / 11)
    torch.testing.assert_close(learner.averaged[name], first * 0.25 + w2 * 0.75, rtol=1e-5, atol=1e-7)
    learner.use_average()
    assert torch.equal(learner.weights[name], learner.averaged[name])


def test_rate_rises_and_falls() -> None:
    learner = SFT(
        tiny_vla(), ToyDemonstrations(), replace(QUICK, steps=100, warm_up=0.1, learning_rate=1.0, final_rate=0.2)
    )
    assert learner.rate_at(0) == pytest.approx(0.1) and learner.rate_at(9) == pytest.approx(1.0)
    assert learner.rate_at(55) == pytest.approx(0.6) and learner.rate_at(100) == pytest.approx(0.2)


def test_l2_sp_holds_the_trunk() -> None:
    drift = []
    for weight in (0.0, 1.0):
        learner = SFT(tiny_vla(), ToyDemonstrations(), replace(QUICK, l2_sp=weight))
        for _ in range(30):
            metrics = learner.step()
        drift.append(metrics["sft/trunk_drift"])
    assert drift[1] < 0.5 * drift[0]


def test_muon_turns_matrices_and_leaves_the_rest_to_adamw() -> None:
    """The first step, from singular values in float64: torch iterates s -> a s + b s^3 + c s^5 five times
    on the gradient's singular values, and scales the update to AdamW's 0.2; elsewhere Adam's first step is the sign."""
    rate, decay = 1e-3, 0.1
    config = replace(
        QUICK, optimiser="muon", learning_rate=rate, weight_decay=decay, warm_up=0.0, clip=1e9, final_rate=1.0
    )
    learner = SFT(tiny_vla(), ToyDemonstrations(), config)
    before = {name: value.detach().clone() for name, value in learner.weights.items()}
    learner.step()
    turned, signed = 0, 0
    for name, value in learner.weights.items():
        gradient, old, new = value.grad, before[name], value.detach()
        if gradient is None or float(gradient.abs().max()) < 1e-5:
            continue
        if value.ndim == 2:
            u, s, v = torch.linalg.svd(gradient.double(), full_matrices=False)
            s = s / s.square().sum().sqrt()
            main = s > 0.2  # small ones drown in the rounding of bfloat16, in which torch iterates
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            moved = (old.double() * (1 - rate * decay) - new.double()) / rate
            found = torch.einsum("ik,ij,kj->k", u, moved, v)
            torch.testing.assert_close(found[main], 0.2 * max(value.shape) ** 0.5 * s[main], rtol=0.03, atol=0.0)
            turned += 1
        else:
            large = gradient.abs() > 1e-5
            old = old * (1 - rate * decay) if value.ndim > 1 else old
            torch.testing.assert_close(new[large], (old - rate * gradient.sign())[large], rtol=0.0, atol=0.02 * rate)
            signed += 1
    assert turned > 5 and signed > 5


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_resume_is_bitwise(optimiser: Literal["adamw", "muon"]) -> None:
    """Four steps equal two, a new learner with the state, and two more; epochs are crossed on the way."""
    config = replace(QUICK, optimiser=optimiser, steps=4, batch=20, regime="adapter_first", adapter_share=0.5)
    whole = SFT(tiny_vla(), ToyDemonstrations(), config)
    metrics = [whole.step() for _ in range(4)]
    half = SFT(tiny_vla(), ToyDemonstrations(), config)
    for _ in range(2):
        half.step()
    state = half.state_dict()
    again = SFT(tiny_vla(), ToyDemonstrations(), config)
    again.load_state_dict({key: _copy(value) for key, value in state.items()})
    assert [again.step() for _ in range(2)] == metrics[2:]
    for name, value in whole.weights.items():
        assert torch.equal(value, again.weights[name]), name
        assert torch.equal(whole.averaged[name], again.averaged[name]), name


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_a_nan_stops() -> None:
    data = ToyDemonstrations()
    data.action[:] = float("nan")
    with pytest.raises(NaNError, match="loss"):
        SFT(tiny_vla(), data, QUICK).step()


def test_later_slots_open_slowly() -> None:
    learner = SFT(tiny_vla(slot_mask="bidirectional"), ToyDemonstrations(), replace(QUICK, steps=100))
    seen = []
    for _ in range(12):
        learner.step()
        seen.append(float(learner.policy.expert.future_bias))
    assert seen[0] == -40.0 and seen[5] == pytest.approx(-20.0) and seen[11] == 0.0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="warm_up"):
        SFTConfig(warm_up=1.5)
    with pytest.raises(InputError, match="batch"):
        SFTConfig(batch=0)


def test_cka_is_measured_against_the_start_and_survives_a_checkpoint() -> None:
    """It is 1 until the weights move, falls as they do, and a resumed run goes on with the first run's reference."""
    config = replace(QUICK, steps=20, cka_every=5)
    data = ToyDemonstrations()
    learner = SFT(tiny_vla(), data, config)
    assert linear_cka(learner._tokens(), learner.tokens) == pytest.approx(1.0, abs=1e-9)
    plain = SFT(tiny_vla(), data, replace(config, cka_every=0))
    seen = [learner.step() for _ in range(10)]
    assert [index for index, metrics in enumerate(seen) if "sft/cka" in metrics] == [4, 9]
    assert seen[9]["sft/cka"] < 0.999
    losses = [plain.step()["sft/loss"] for _ in range(10)]
    assert losses == [metrics["sft/loss"] for metrics in seen]  # looking changes nothing
    again = SFT(tiny_vla(), data, config)
    again.load_state_dict(copy.deepcopy(learner.state_dict()))  # as from a file
    later = [[run.step() for _ in range(5)][-1]["sft/cka"] for run in (learner, again)]
    assert later[0] == later[1]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="adamw"),
        pytest.param({"optimiser": "muon"}, id="muon", marks=pytest.mark.slow),
        pytest.param({"accumulate": 2}, id="parts", marks=pytest.mark.slow),
    ],
)
def test_the_forecast_of_memory_is_what_the_learner_then_holds(changes: dict[str, Any]) -> None:
    data, config = ToyDemonstrations(), SFTConfig(steps=4, batch=8, **changes)
    policy = tiny_vla().eval()
    found = forecast(policy, lambda rows: data.batch(range(rows)), config)
    assert all(value.grad is None for value in policy.parameters()) and not policy.training
    learner = SFT(policy, data, config)
    learner.step()
    with LiveBytes() as live:
        learner.step()
    state = learner.state_dict()
    moments = bytes_of([state[name] for name in learner.optimisers])
    moved = [value for value in learner.weights.values() if value.grad is not None]
    beside = 16 * max(value.numel() for value in moved if value.ndim == 2) if "optimiser" in changes else 0
    assert 0 <= moments - (found.optimiser - beside) < 1000  # the counts of steps
    assert found.kept + found.trunk == bytes_of([state["averaged"], state["start"]])
    assert found.gradients == bytes_of([value.grad for value in moved]) < found.kept
    assert max(live.timeline) == pytest.approx(max(found.step, found.gradients + found.trunk), rel=0.1)


def test_batches_made_ahead_change_nothing() -> None:
    """Weights and metrics are the same bit by bit, and a state that is taken on the way goes on alike, with and without
    batches that are made ahead."""

    def made(on: bool) -> SFT:
        return SFT(tiny_vla(), ToyDemonstrations(), SFTConfig(steps=6, batch=20, prefetch=on))

    plain, ahead, kept = made(False), made(True), dict[str, Any]()
    for index in range(6):
        assert ahead.step() == plain.step()
        kept = copy.deepcopy(ahead.state_dict()) if index == 2 else kept
    for on in (False, True):
        again = made(on)
        again.load_state_dict(copy.deepcopy(kept))
        for _ in range(3):
            again.step()
        for name, value in plain.weights.items():
            assert torch.equal(again.weights[name], value) and torch.equal(ahead.weights[name], value)
