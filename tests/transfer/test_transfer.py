"""Conversion, growth and graft keep the RL function as docs/conversion.md says, and nothing new is dead."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.maths import flow
from toddle.maths.masks import annealed_bias
from toddle.models.expert import ActionExpert, ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy
from toddle.transfer.convert import Conversion, ConvertConfig, convert
from toddle.transfer.graft import graft
from toddle.transfer.grow import enlarge
from toddle.transfer.lesion import draw_observation, lesion_scores, rank_blocks
from toddle.transfer.levels import measure_levels
from toddle.transfer.stock import stock_form
from toddle.transfer.table import conversion_record

ARM = BodySpec(name="arm", proprio=5, action=3, dt=0.02)
ANT = BodySpec(name="ant", proprio=7, action=2, dt=0.05)
VLM = 20


def make_policy(cross_every: int = 2, depth: int = 4, **sizes: Any) -> CausalPolicy:
    """A policy whose every weight is away from its initial value, as training leaves it."""
    trunk = TrunkConfig(width=32, depth=depth, heads=2, context_width=12, cross_every=cross_every)
    expert = ExpertConfig(trunk=trunk, bodies=(ARM, ANT), **({"horizon": 5, "executed": 2, "window": 4} | sizes))
    policy = CausalPolicy(CausalConfig(expert=expert)).eval()
    g = torch.Generator().manual_seed(7)
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    for body, spec in enumerate((ARM, ANT)):
        policy.update_normaliser(
            Observation(
                proprio=torch.randn(200, spec.proprio, generator=g) * 3 + 1,
                body=torch.full((200,), body),
                previous_action=torch.rand(200, 2 * spec.action, generator=g),
            )
        )
    return policy


def levels_of(policy: CausalPolicy, made: Conversion) -> dict[str, float]:
    return {f"{level.name} {level.what}": level.deviation for level in measure_levels(policy, made)}


def by_name(policy: CausalPolicy, made: Conversion, name: str) -> float:
    return max(level.deviation for level in measure_levels(policy, made) if level.name == name)


def batch_of(made: Conversion, length: int = 5, batch: int = 3, seed: int = 0) -> dict[str, Any]:
    g, body = torch.Generator().manual_seed(seed), made.config.bodies[0]
    shape = (length, batch, made.config.horizon, made.config.action_width)
    action, noise = torch.rand(shape, generator=g) * 2 - 1, torch.randn(shape, generator=g)
    tau = torch.rand(shape[:2], generator=g)
    raw = torch.randn(length, batch, 6, VLM, generator=g)
    observation = Observation(
        proprio=torch.randn(length, batch, body.proprio, generator=g) * 3,
        previous_action=torch.rand(length, batch, body.action * made.config.executed, generator=g),
        body=torch.zeros(length, batch, dtype=torch.int64),
    )
    return {"observation": observation, "action": action, "noise": noise, "tau": tau, "raw": raw}


def loss_of(expert: ActionExpert, adapter: nn.Module, data: dict[str, Any]) -> Tensor:
    noisy = flow.interpolate(data["noise"], data["action"], data["tau"])
    mask = torch.ones(data["raw"].shape[:3], dtype=torch.bool)
    raw = expert(data["observation"], adapter(data["raw"]), mask, noisy, data["tau"])
    velocity = expert.as_velocity(raw, noisy, data["tau"])
    return (velocity - flow.target_velocity(data["noise"], data["action"])).square().mean()


def dead_after_two_steps(made: Conversion, expert: ActionExpert | None = None) -> set[str]:
    """Return the new tensors without gradient in two steps of SGD (the second sees what the first set free)."""
    expert = expert or made.expert
    module = nn.ModuleDict({"expert": expert, "adapter": made.adapter})
    alive: set[str] = set()
    for step in range(2):
        module.zero_grad()
        loss_of(expert, made.adapter, batch_of(made, seed=step)).backward()
        alive |= {name for name, p in module.named_parameters() if p.grad is not None and p.grad.norm() > 0}
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p -= 0.05 * p.grad
    return {name for name, _ in module.named_parameters()} - alive


UNUSED = {f"expert.{bank}.mlps.ant" for bank in ("tokens.observation_in", "tokens.past_in", "tokens.action_in", "out")}


def unexpected(dead: set[str]) -> set[str]:
    """Without the banks of the body that is not in the batch."""
    return {name for name in dead if not name.startswith(tuple(UNUSED))}


def test_residual_conversion_keeps_a_b_and_c() -> None:
    policy = make_policy()
    made = convert(policy, ConvertConfig(), VLM)
    assert by_name(policy, made, "A") == 0.0
    assert by_name(policy, made, "tau") == 0.0
    assert by_name(policy, made, "C") < 1e-5
    assert levels_of(policy, made)["B history tokens under other noisy actions"] == 0.0
    assert levels_of(policy, made)["B history tokens against the RL policy's"] < 5e-6
    assert all(level.kept for level in measure_levels(policy, made))


@pytest.mark.parametrize("steps", [1, 4, 10, 30])
def test_level_c_holds_for_any_number_of_euler_steps(steps: int) -> None:
    policy = make_policy()
    made = convert(policy, ConvertConfig(), VLM)
    assert [level.deviation for level in measure_levels(policy, made, steps=steps)][-1] < 1e-5


def test_level_c_needs_the_zero_last_layer() -> None:
    """The negative control: with a live W_in the first sample is another chunk."""
    policy = make_policy()
    made = convert(policy, ConvertConfig(), VLM)
    assert made.expert.tokens.action_in is not None
    for layer in made.expert.tokens.action_in.last_layers():
        nn.init.normal_(layer.weight, std=0.2)
    assert by_name(policy, made, "C") > 1e-3


def test_groot_keeps_the_function_and_dit_literal_erases_it() -> None:
    policy = make_policy()
    groot = convert(policy, ConvertConfig(modulation="groot"), VLM)
    assert by_name(policy, groot, "A") == 0.0 and by_name(policy, groot, "C") < 1e-5
    literal = convert(policy, ConvertConfig(modulation="dit_literal"), VLM)
    assert by_name(policy, literal, "A") > 0.1 and by_name(policy, literal, "C") > 1e-2
    x, context = torch.randn(2, 6, 32), torch.randn(2, 3, 12)
    y = literal.expert.trunk(x, torch.zeros(2, 6), None, context, tau=torch.rand(2))
    assert torch.equal(y, literal.expert.trunk.norm(x))  # every block is the identity
    y.square().sum().backward()
    block = literal.expert.trunk.layers()[1]
    assert block.attention.qkv.weight.grad.abs().max() == 0  # and its pretrained weights get no gradient
    assert block.modulation is not None and block.modulation.linear.weight.grad.abs().max() > 0


def test_the_stock_dit_form_is_the_same_to_rounding() -> None:
    made = convert(make_policy(), ConvertConfig(), VLM)
    trunk = made.expert.trunk
    x, context = torch.randn(2, 6, 32), torch.randn(2, 3, 12)
    times, tau = torch.rand(2, 6), torch.rand(2)
    stock = stock_form(trunk)
    assert (stock(x, times, None, context, tau=tau) - trunk(x, times, None, context, tau=tau)).abs().max() < 5e-6
    assert all(bool((block.norm1.weight == 1).all()) for block in stock.layers())


@pytest.mark.parametrize("cross_every", [0, 2])
def test_insert_is_an_exact_no_op(cross_every: int) -> None:
    policy = make_policy(cross_every=cross_every)
    made = convert(policy, ConvertConfig(context_mode="insert"), VLM)
    assert by_name(policy, made, "A") == 0.0 and by_name(policy, made, "C") < 1e-5
    assert unexpected(dead_after_two_steps(made)) == set()


def test_modulating_all_tokens_is_exact_at_first_too() -> None:
    policy = make_policy(window=1)
    made = convert(policy, ConvertConfig(modulate="all"), VLM)
    assert all(level.kept for level in measure_levels(policy, made))
    with pytest.raises(InputError, match="modulate"):
        convert(make_policy(), ConvertConfig(modulate="all"), VLM)


def test_two_zeros_in_series_give_no_gradient_and_one_does() -> None:
    policy = make_policy(cross_every=0)
    made = convert(policy, ConvertConfig(context_mode="insert"), VLM)
    for block in made.expert.trunk.layers():
        nn.init.zeros_(block.insert.kv.weight)
        nn.init.zeros_(block.insert.kv.bias)
    dead = {name for name in dead_after_two_steps(made) if ".insert." in name}
    assert {name.split(".insert.")[1] for name in dead} >= {"kv.weight", "q.weight", "out.weight"}


def test_replace_starts_silent_and_takes_the_least_needed_block() -> None:
    policy = make_policy()
    scores = lesion_scores(policy, draw_observation(policy, 12, 8, torch.Generator().manual_seed(0)))
    assert set(scores) == {1, 3} and all(score > 0 for score in scores.values())
    ranking = rank_blocks(scores)
    made = convert(policy, ConvertConfig(context_mode="replace"), VLM, ranking=ranking)
    assert made.config.trunk.kinds[ranking[0]] == "cross"
    parts = ("qkv.weight", "qkv.bias", "out.weight", "out.bias")
    assert set(made.removed) == {f"trunk.blocks.{ranking[0]}.attention.{part}" for part in parts}
    levels = {level.name: level for level in measure_levels(policy, made)}
    assert levels["A"].deviation > 1e-3 and levels["A"].tolerance is None  # not exact, and not said to be
    context = torch.randn(2, 3, 12)
    keys = made.expert.trunk.layers()[ranking[0]].context_keys(context)
    assert keys is not None and keys[1].abs().max() == 0  # the VLM's part is silent
    assert unexpected(dead_after_two_steps(made)) == set()


def test_a_source_without_cross_attention_cannot_keep_it() -> None:
    with pytest.raises(InputError, match="context_mode"):
        convert(make_policy(cross_every=0), ConvertConfig(), VLM)
    with pytest.raises(InputError, match="replace_blocks"):
        convert(make_policy(), ConvertConfig(context_mode="replace", replace_blocks=3), VLM)
    with pytest.raises(InputError, match="horizon"):
        convert(make_policy(), ConvertConfig(horizon=6), VLM)


@pytest.mark.parametrize("mode", ["pretrained", "insert"])
@pytest.mark.parametrize("head", ["endpoint", "velocity"])
@pytest.mark.parametrize("modulation", ["residual", "groot"])
def test_every_new_tensor_has_a_gradient_within_two_steps(mode: Any, head: Any, modulation: Any) -> None:
    made = convert(make_policy(), ConvertConfig(context_mode=mode, head=head, modulation=modulation), VLM)
    assert unexpected(dead_after_two_steps(made)) == set()


def test_the_null_goal_is_what_the_adapter_says() -> None:
    policy = make_policy()
    made = convert(policy, ConvertConfig(), VLM)
    assert torch.equal(made.adapter(torch.randn(3, VLM)), policy.goals.null.expand(3, -1))


def test_fresh_encoders_match_the_moments_of_the_rl_tokens() -> None:
    policy = make_policy()
    policy.expert.tokens.moments.mean[1] += 3.0
    policy.expert.tokens.moments.std[1] *= 5.0
    made = convert(policy, ConvertConfig(fresh_inputs=True, head="velocity"), VLM)
    plain = convert(policy, ConvertConfig(fresh_inputs=True, head="velocity", moment_match=False), VLM)
    x = torch.randn(5000, 5, generator=torch.Generator().manual_seed(9))

    def gap(conversion: Conversion) -> float:
        tokens = conversion.expert.tokens
        y = tokens.observation_in(x, 0)
        shift, spread = y.mean(0) - tokens.moments.mean[1], y.std(0) / tokens.moments.std[1] - 1
        return shift.abs().max().item() + spread.abs().max().item()

    assert gap(made) < 0.3 < gap(plain)
    assert by_name(policy, made, "A") == 0.0


def test_a_new_body_gets_banks_and_the_old_one_keeps_level_c() -> None:
    policy = make_policy()
    new = BodySpec(name="sawyer", proprio=9, action=4, dt=0.0125)
    made = convert(policy, ConvertConfig(bodies=(ARM, new)), VLM)
    old = convert(policy, ConvertConfig(bodies=(ARM,)), VLM)
    data = batch_of(old)
    mask = torch.ones(data["raw"].shape[:3], dtype=torch.bool)
    a = old.expert(data["observation"], old.adapter(data["raw"]), mask, data["noise"], data["tau"])
    wide = nn.functional.pad(data["noise"], (0, 1))
    b = made.expert(data["observation"], made.adapter(data["raw"]), mask, wide, data["tau"])
    assert (a - b[..., :3]).abs().max() < 1e-6
    assert made.status["tokens.observation_in.mlps.sawyer.2.weight"] == "new: moments matched"
    assert made.status["out.mlps.arm.0.weight"] == "kept"
    assert by_name(policy, old, "C") < 1e-5


def test_a_bidirectional_mask_comes_in_without_a_jump() -> None:
    policy = make_policy()
    made = convert(policy, ConvertConfig(slot_mask="bidirectional"), VLM)
    assert by_name(policy, made, "C") < 1e-5
    changes = []
    for progress in (0.0, 0.05, 0.1):
        made.expert.set_future_bias(annealed_bias(progress))
        changes.append(by_name(policy, made, "C"))
    assert changes[0] < 1e-5 and changes[1] < 1e-5 < changes[2]  # -40, -20, 0


GROWTHS = [(2, 1, None), (1, 2, None), (1, 4, None), (1, 1, 4.0), (2, 2, 3.0)]


@pytest.mark.parametrize(("depth", "width", "ratio"), GROWTHS)
def test_growth_keeps_the_function_and_trains(depth: int, width: int, ratio: float | None) -> None:
    policy = make_policy(depth=2)
    made = enlarge(convert(policy, ConvertConfig(), VLM), depth=depth, width=width, mlp_ratio=ratio)
    trunk = made.config.trunk
    assert (trunk.depth, trunk.width, trunk.heads) == (2 * depth, 32 * width, 2 * width)
    assert by_name(policy, made, "A") < 1e-5
    assert by_name(policy, made, "C") < 1e-5
    fresh = {f"expert.trunk.blocks.{i}." for i in trunk.fresh}
    dead = unexpected(dead_after_two_steps(made))
    assert not {name for name in dead if not name.startswith(tuple(fresh) or ("-",))}
    gates = {name for name in dead if name.endswith(".gates")}
    assert not gates  # the gate is alive at once, what stands behind it from the second step on
    assert not dead


def test_growth_in_steps_reaches_64_128_256_and_2_4_8() -> None:
    policy = make_policy(depth=2)
    made = convert(policy, ConvertConfig(), VLM)
    for _ in range(2):
        made = enlarge(made, depth=2, width=2)
    assert (made.config.trunk.width, made.config.trunk.depth) == (128, 8)
    assert by_name(policy, made, "C") < 1e-5


def test_copies_do_not_stay_copies() -> None:
    made = enlarge(convert(make_policy(depth=2), ConvertConfig(), VLM), width=2)
    loss_of(made.expert, made.adapter, batch_of(made)).backward()
    grad = made.expert.trunk.layers()[1].mlp_in.weight.grad
    a, b = grad.chunk(2, dim=0)
    assert (a - b).norm() / a.norm() > 0.05


@pytest.mark.parametrize(("width", "heads"), [(20, 2), (48, 4)])
def test_a_graft_of_any_width_is_exact_and_alive(width: int, heads: int) -> None:
    policy = make_policy()
    made = convert(policy, ConvertConfig(), VLM)
    grafted, new = graft(made.expert, width, 2, heads)
    before = by_name(policy, made, "C")
    made.expert = grafted.eval()
    assert by_name(policy, made, "C") == before < 1e-5
    dead = unexpected(dead_after_two_steps(made))
    assert not dead
    assert all(name.startswith("sidecar.") for name in new)
    with pytest.raises(InputError, match="sidecar"):
        graft(grafted, width, 2, heads)


def test_the_record_says_what_was_kept() -> None:
    policy = make_policy()
    made = convert(policy, ConvertConfig(), VLM)
    record = conversion_record(policy, made, measure_levels(policy, made))
    parts = {row["part"]: row for row in record["parts"]}
    assert parts["trunk.blocks.1.attention"]["status"] == "kept" and parts["trunk.blocks.1.attention"]["distance"] == 0
    assert parts["trunk.blocks.1.modulation"]["status"] == "new: 0"
    assert parts["out.mlps.arm"]["distance"] == 0
    assert (
        record["numbers"]["kept"]
        + sum(value.numel() for name, value in made.expert.state_dict().items() if made.status[name].startswith("new"))
        == record["numbers"]["expert"]
    )
    assert {level["level"] for level in record["levels"]} == {"A", "B", "C", "tau"}


def test_a_fresh_adapter_and_decoder_give_level_c_up_and_say_so() -> None:
    policy = make_policy()
    for settings, new in (
        (ConvertConfig(fresh_adapter=True), "adapter.1.weight"),
        (ConvertConfig(fresh_decoder=True), "out.mlps.arm.2.weight"),
    ):
        made = convert(policy, settings, VLM)
        assert made.status[new] == "new"
        levels = measure_levels(policy, made)
        level = next(level for level in levels if level.name == "C")
        assert level.tolerance is None and level.deviation > 1e-3
        history = next(level for level in levels if "history tokens against" in level.what)
        assert history.kept if settings.fresh_decoder else history.tolerance is None and history.deviation > 1e-3
        assert by_name(policy, made, "A") == 0.0
        assert unexpected(dead_after_two_steps(made)) == set()
