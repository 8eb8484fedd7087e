"""The other ways of steering: gradients, seldom choices, memories, retrials; each with its identity, bit for bit.

Expected values from outside: the flow of N(0, 1) to N(0, 1) has the velocity x (2 tau - 1) / ((1 - tau)^2 + tau^2), and
a constant push of w in it moves the end by sqrt(2) asinh(1) w; a robot that stands still is slower than promised by
H steps a decision.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.policies.test_exploring import denoising
from tests.policies.test_guided import BODY, critic, observation
from tests.policies.test_guided import policy as gaussian
from tests.policies.test_vla import awake
from tests.policies.test_vla import observation as glimpse
from tests.policies.tiny_vla import ACTION, PROPRIO, tiny_token_vla, tiny_vla

from toddle.core.errors import InputError
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.flow_access import OpenFlow, integrate, open_flow, shifted
from toddle.policies.guided import GuidanceConfig, GuidedPolicy, state_of
from toddle.policies.links import FlowConfig
from toddle.policies.recalling import RecallConfig, RecallingPolicy, Remembered
from toddle.policies.retrying import RetryConfig, RetryingPolicy, shortfall, steps_left


def flow_of_states(horizon: int = 4) -> DenoisingPolicy:
    settings: dict[str, Any] = {"horizon": horizon, "executed": 1, "network": MlpDenoiserConfig(width=16)}
    made = DenoisingPolicy(DenoisingConfig(body=BODY, process=FlowConfig(steps=5), **settings)).train(False)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    return made


def vla_critic(vla: Any, slope: float = 1.0) -> QEnsemble:
    """Return critics that value the first number of a VLA's first action."""
    wide = PROPRIO + vla.context_width
    made = QEnsemble(wide, ACTION, hidden=(), count=2, seed=0)
    with torch.no_grad():
        made.weights[0].zero_()
        made.biases[0].zero_()
        made.weights[0][:, wide] = slope
    return made


def acted(policy: Any, seen: Any, memory: Any = None, **options: Any) -> torch.Tensor:
    return policy.act(seen, memory, generator=torch.Generator().manual_seed(7), **options)[0].action


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("make", [lambda: awake(tiny_vla()), tiny_token_vla], ids=["flow", "tokens"])
def test_one_candidate_of_a_vla_is_the_vla_and_ten_are_better(make: Any, deterministic: bool) -> None:
    vla, seen = make(), glimpse(6)
    before = {name: value.clone() for name, value in vla.state_dict().items()}
    one, ten = (GuidedPolicy(vla, vla_critic(vla), GuidanceConfig(candidates=k, temperature=0.0)) for k in (1, 10))
    memory = vla.initial_memory(6)
    own = vla.act(vla.encode(seen), memory, generator=torch.Generator().manual_seed(7), deterministic=deterministic)
    assert torch.equal(acted(one, seen, deterministic=deterministic), own[0].action)
    gained = acted(ten, seen, deterministic=deterministic)[:, 0, 0] - own[0].action[:, 0, 0]
    assert gained.mean() > 0.0 and (not deterministic or gained.min() > -1e-5)
    assert all(torch.equal(value, before[name]) for name, value in vla.state_dict().items())


def test_all_candidates_of_a_flow_are_those_that_it_makes_one_by_one() -> None:
    vla, seen = awake(tiny_vla()), glimpse(3)
    kept = vla.encode(seen)
    flow = open_flow(vla, kept)
    noise = torch.randn(3, 4, *flow.shape, generator=torch.Generator().manual_seed(0))
    together = flow.executed(integrate(flow, noise, torch.zeros(3, 4)))
    for index in range(4):
        alone, _ = vla.chunk_from(kept, noise[:, index])
        assert torch.allclose(together[:, index], alone, atol=1e-5)


def normal_flow(steps: int) -> OpenFlow:
    def velocity(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        tau = tau[..., None, None]
        return x * (2 * tau - 1) / ((1 - tau) ** 2 + tau**2)

    return OpenFlow(velocity, (1, 1), steps, True, lambda x: x)


def test_a_push_moves_the_end_as_far_as_the_closed_form_says() -> None:
    end = integrate(normal_flow(400), torch.zeros(1, 1, 1, 1), torch.zeros(1, 1), push=lambda x, tau: torch.ones(()))
    assert float(end) == pytest.approx(math.sqrt(2) * math.asinh(1.0), abs=6e-3)  # of 399 steps
    drawn = torch.randn(1, 4000, 1, 1, generator=torch.Generator().manual_seed(0))
    plain = integrate(normal_flow(100), drawn, torch.zeros(1, 4000))
    assert plain.std() == pytest.approx(1.0, abs=0.04)  # as it began


@pytest.mark.parametrize("kind", ["states", "vla"])
def test_a_gradient_raises_the_value_and_strength_zero_or_a_flat_critic_changes_nothing(kind: str) -> None:
    base: Any = flow_of_states() if kind == "states" else awake(tiny_vla())
    seen: Any = observation(40) if kind == "states" else glimpse(6)

    def of(slope: float, **options: Any) -> torch.Tensor:
        judge = critic(slope) if kind == "states" else vla_critic(base, slope)
        return acted(GuidedPolicy(base, judge, GuidanceConfig(method="guidance", candidates=1, **options)), seen)

    kept, plain = base.encode(seen), of(0.0, strength=0.2)
    own = acted(base, kept, base.initial_memory(len(kept["proprio"])))
    up, down = ((of(slope, strength=0.2) - plain)[:, 0, 0].mean() for slope in (1.0, -1.0))
    assert up > 0.01 and down < -0.01 and torch.equal(of(1.0, strength=0.0), own)
    lost = [of(slope, strength=0.2, control="shuffled") for slope in (1.0, -1.0)]
    assert torch.equal(*lost) and (lost[0] - plain).abs().max() > 1e-3  # moved, whatever the critic says
    assert kind == "states" or torch.allclose(plain, own, atol=1e-5)  # that of states has noise on its way
    with pytest.raises(InputError, match="a policy that flows from noise, for guidance"):
        GuidedPolicy(gaussian(), critic(), GuidanceConfig(method="guidance"))
    with pytest.raises(InputError, match="a policy that flows from noise, for hume"):
        GuidedPolicy(denoising(), critic(), GuidanceConfig(method="hume"))


def test_hume_executes_the_rest_of_what_it_chose_until_it_is_used_up() -> None:
    base, seen = flow_of_states(4), observation(8)
    hume = GuidedPolicy(base, critic(), GuidanceConfig(method="hume", candidates=6, period=3, refine=0.0))
    memory, generator, ages = hume.initial_memory(8), torch.Generator().manual_seed(0), []
    for step in range(7):
        seen["first"] = torch.full((8,), step == 0)
        seen["first"][0] = step in (0, 2)  # its second episode begins there
        decision, memory = hume.act(seen, memory, generator=generator, deterministic=True)
        chunk, age = memory
        assert torch.equal(decision.action[:, 0], chunk[torch.arange(8), age])  # a .. a + 1
        ages.append(age.clone())
    assert torch.stack(ages)[:, 1].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.stack(ages)[:, 0].tolist() == [0, 1, 0, 1, 2, 0, 1]
    with pytest.raises(InputError, match=r"steering\.period: expected at most 4"):
        GuidedPolicy(base, critic(), GuidanceConfig(method="hume", period=5))
    alone = GuidedPolicy(base, critic(), GuidanceConfig(method="hume", candidates=1, period=3))
    assert torch.equal(acted(alone, seen), acted(base, seen))
    rest = shifted(torch.arange(5.0)[None, :, None].expand(2, 5, 1), torch.tensor([0, 3]))
    assert rest[..., 0].tolist() == [[0, 1, 2, 3, 4], [3, 4, 4, 4, 4]]


def memory_of(states: torch.Tensor, chunk: torch.Tensor, worth: torch.Tensor | None = None) -> Remembered:
    begins = torch.zeros(len(states), dtype=torch.bool)
    begins[::10] = True
    return Remembered(states, chunk, begins, torch.ones(len(states)) if worth is None else worth)


@pytest.mark.parametrize("warped", [True, False])
def test_a_memory_has_its_share_where_it_is_near_and_none_far_off(warped: bool) -> None:
    base, seen = gaussian(), observation(20)
    own = acted(base, seen)
    rows = torch.cat([seen["proprio"], torch.randn(20, 3, generator=torch.Generator().manual_seed(3)) + 1.0])
    chunk = torch.full((40, 1, 1), 5.0)

    def of(states: torch.Tensor, **options: Any) -> torch.Tensor:
        settings = RecallConfig(**{"neighbours": 1, "radius": 1.0} | options)
        return acted(RecallingPolicy(base, memory_of(states, chunk[: len(states)]), settings, warped=warped), seen)

    assert torch.allclose(of(rows, share=0.4), 0.6 * own + 0.4 * 5.0, atol=1e-5)
    assert torch.equal(of(rows, share=0.0), own) and torch.equal(of(rows[:0]), own)
    assert torch.equal(of(rows + 100.0), own)
    with pytest.raises(InputError, match=r"steering\.memory: expected rows of 3 numbers"):
        of(torch.randn(5, 4))


def test_of_equally_near_moments_the_worthless_have_no_say() -> None:
    base, seen = gaussian(), observation(1)
    other = torch.randn(38, 3, generator=torch.Generator().manual_seed(3))
    rows = torch.cat([seen["proprio"], seen["proprio"], other])
    chunk, worth = torch.tensor([1.0, -1.0] + [0.0] * 38)[:, None, None], torch.tensor([1.0, 0.0] + [1.0] * 38)
    policy = RecallingPolicy(
        base, memory_of(rows, chunk, worth), RecallConfig(share=1.0, neighbours=2, radius=1e-3), warped=False
    )
    own = acted(base, seen)
    assert torch.allclose(acted(policy, seen), 0.5 * own + 0.5, atol=1e-5)


def test_steps_left_undo_the_discounted_sum_and_shortfalls_are_those_of_the_closed_form() -> None:
    n = torch.tensor([0.0, 1.0, 40.0, 100.0])
    assert torch.allclose(steps_left(-(1 - 0.98**n) / 0.02, 0.98), n, atol=1e-3)
    expert, stuck = torch.zeros(1), torch.zeros(1)
    for step in range(10):
        expert = shortfall(expert, torch.tensor([98.0 - 2 * step]), torch.tensor([100.0 - 2 * step]), 2, 0.0)
        stuck = shortfall(stuck, torch.tensor([50.0]), torch.tensor([50.0]), 2, 0.2)
    assert float(expert) == 0.0 and float(stuck) == pytest.approx(10 * 0.8 * 2)


def retrying(**options: Any) -> RetryingPolicy:
    settings = {"threshold": 3.0, "slack": 0.0, "back": 2, "most": 1, "held": 0} | options
    return RetryingPolicy(gaussian(), critic(0.0), 0.99, RetryConfig(**settings), candidates=5)


def test_a_robot_that_stands_still_goes_back_the_way_it_came_and_tries_something_else() -> None:
    policy, seen = retrying(), observation(3)
    memory, generator, made = policy.initial_memory(3), torch.Generator().manual_seed(0), []
    for step in range(9):
        seen["first"] = torch.full((3,), step == 0)
        decision, memory = policy.act(seen, memory, generator=generator, deterministic=True)
        made.append(decision.action)
    # shortfalls 0, 1, 2, 3, 4: the alarm is at the fifth decision, which undoes the fourth, the next one the third
    assert policy.alarms == 3 and torch.equal(made[4], -made[3]) and torch.equal(made[5], -made[2])
    assert not torch.equal(made[6], made[2])  # drawn, and unlike what failed
    assert torch.equal(made[7], made[0]) and torch.equal(made[8], made[0])  # one retrial is the most


def test_a_retrial_that_fails_sooner_than_it_may_go_back_goes_back_to_where_it_began() -> None:
    """Four decisions, undone; four more, undone: what was undone once is not undone again, so the sum is nothing."""
    policy, seen = retrying(back=6, most=2), observation(3)
    memory, generator, made = policy.initial_memory(3), torch.Generator().manual_seed(0), []
    for step in range(17):
        seen["first"] = torch.full((3,), step == 0)
        decision, memory = policy.act(seen, memory, generator=generator, deterministic=True)
        made.append(decision.action)
    assert policy.alarms == 6
    for begin in (0, 8):
        assert all(torch.equal(made[begin + 4 + step], -made[begin + 3 - step]) for step in range(4))
    assert torch.stack(made[:16]).sum(0).abs().max() < 1e-6 and (memory[2][:, 1] == made[8]).all()  # what failed


def test_with_no_retrial_it_is_the_policy_and_grippers_are_held() -> None:
    seen = observation(3)
    assert torch.equal(acted(retrying(most=0), seen), acted(gaussian(), seen))
    policy = retrying(held=1, back=1)
    made = torch.tensor([[[[0.7]]]])
    assert torch.equal(policy._undone(made, torch.zeros(1)), made[0])
    with pytest.raises(InputError, match=r"steering\.held"):
        retrying(held=2)


def test_critics_of_a_vla_see_its_state_and_the_mean_of_its_tokens() -> None:
    vla = tiny_vla()
    kept = vla.encode(glimpse(2))
    kept["context"][1, 0] = torch.nan
    kept["context_mask"][1, 0] = False
    kept["context"] = torch.where(kept["context"].isnan(), 0.0, kept["context"])
    found = state_of(kept)
    assert found.shape == (2, PROPRIO + vla.context_width)
    expected = kept["context"][1, kept["context_mask"][1]].float().mean(0)
    assert torch.allclose(found[1, PROPRIO:], expected, atol=1e-3)
    with pytest.raises(InputError, match=r"steering\.critic: expected one of"):
        GuidedPolicy(vla, critic(), GuidanceConfig())
