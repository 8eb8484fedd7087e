"""Terms of a composed reward on rollouts of real environments: sums that telescope, bonuses, resuming."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pretend_device import PRETEND
from torch import Tensor

from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.algorithms.rewards.compose import Around, ComposedReward, Wanted, make_terms, parse_reward
from toddle.algorithms.rewards.counts import CountTerm
from toddle.algorithms.rewards.pbrs import WrittenPotential
from toddle.algorithms.rewards.rnd import NoveltyTerm
from toddle.algorithms.rewards.steps import Seen, Steps, steps_of
from toddle.core.device import device_of
from toddle.core.errors import InputError
from toddle.core.types import Named
from toddle.envs.dots import DotsEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.rollout import Rollout
from toddle.maths.potentials import potential_reward
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

NAMED = {"tool": Named((0, 1))}
POTENTIAL = "def potential(tool_x, tool_y):\n    return 3.0 + tool_x * tool_y + 2.0 * tool_x\n"


def steps(features: Tensor, **given: Any) -> Steps:
    """Steps of one long episode through features (T + 1, B, F)."""
    count = features.shape[:2]
    false, first = torch.zeros(count[0] - 1, count[1], dtype=torch.bool), torch.zeros(count[0] - 1, count[1]).bool()
    first[0] = True
    facts = dict.fromkeys(("terminated", "truncated", "success"), false) | {
        "first": first,
        "now": Seen(features[:-1], features[:-1]),
        "following": Seen(features[1:], features[1:]),
        "discount": torch.full(false.shape, 0.9),
        "environment": torch.zeros(false.shape),
        "real": ~false,
    }
    return Steps(**(facts | given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sparse", Wanted("sparse", 1.0, ())),
        ("sparse+0.5*pbrs+rnd", Wanted("sparse", 1.0, (("pbrs", "", 0.5), ("rnd", "", 1.0)))),
        ("-1e-2*counts", Wanted(None, 0.0, (("counts", "", -0.01),))),
        ("2*own+file:a*b/c.py", Wanted("own", 2.0, (("file", "a*b/c.py", 1.0),))),
        ("0.1*file:c.py", Wanted(None, 0.0, (("file", "c.py", 0.1),))),
    ],
)
def test_a_reward_is_read(text: str, wanted: Wanted) -> None:
    assert parse_reward(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "+", "sparse+", "what", "x*pbrs", "nan*pbrs", "rnd+rnd", "own+dense", "file", "rnd:x", "sparse:x", "*"]
)
def test_what_is_no_reward_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="reward"):
        parse_reward(text)


class Kept(ComposedReward):
    """It keeps what it has seen and paid of each rollout."""

    def reward(self, rollout: Rollout) -> Tensor:
        seen = copy.deepcopy(replace(steps_of(rollout, 0, torch.zeros(rollout.worlds).bool()), rollout=None))
        self.rollouts = [*getattr(self, "rollouts", []), seen]
        added = super().reward(rollout)
        self.added = [*getattr(self, "added", []), added * rollout.reward_scale]
        return added


def learner(term: ComposedReward, tasks: int = 1) -> PPO:
    env = DotsEnv("one", 6, seed=1, max_episode_steps=9)
    policy = GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), horizon=2, hidden=(8,), log_std=0.5))
    critic = ValueNet(CriticConfig(inputs=(2,), hidden=(8,)))
    source = Collector(env, CollectConfig(length=7, discount=0.9), seed=3)
    return PPO(policy, critic, [source], PPOConfig(epochs=1, minibatches=2), iterations=9, seed=0, rewards=[term])


def test_shaping_telescopes_over_chunks_rollouts_ends_and_cuts(tmp_path: Path) -> None:
    (tmp_path / "potential.py").write_text(POTENTIAL)
    potential = WrittenPotential(tmp_path / "potential.py", NAMED)
    term = Kept([(potential, 0.5)])
    ppo = learner(term)
    for _ in range(8):
        ppo.step()
    by_hand = lambda at: 0.5 * (3.0 + at[0] * at[1] + 2.0 * at[0])  # noqa: E731
    kinds = set()
    for world in range(6):
        total, factor, start = 0.0, 1.0, None
        for part, added in zip(term.rollouts, term.added, strict=True):
            for t in range(7):
                if start is None:
                    start = float(by_hand(part.now.state[t, world]))
                total, factor = total + factor * float(added[t, world]), factor * float(part.discount[t, world])
                over, cut = bool(part.terminated[t, world]), bool(part.truncated[t, world])
                if over or cut:
                    end = 0.0 if over else factor * float(by_hand(part.following.state[t, world]))
                    assert total == pytest.approx(end - start, abs=2e-5)
                    total, factor, start = 0.0, 1.0, None
                    kinds.add("over" if over else "cut")
    assert kinds == {"over", "cut"}


def test_back_and_forth_pays_nothing_with_the_right_gamma_and_what_the_wrong_forms_pay() -> None:
    now = torch.tensor([0.0, 1.0] * 500)
    following, never = 1.0 - now, torch.zeros(1000, dtype=torch.bool)
    gamma = torch.full((1000,), 0.99)
    discounts = 0.99 ** torch.arange(1000)
    right = potential_reward(now, following, never, never, gamma, shaping=True)
    assert float((discounts * right).sum()) == pytest.approx(0.0, abs=1e-4)  # gamma^1000 Phi(s_1000) - Phi(s_0)
    wrong = potential_reward(now, following, never, never, gamma, shaping=False)
    assert float((discounts * wrong).sum()) == pytest.approx(0.5025, abs=1e-4)
    assert float((discounts * wrong.clamp(min=0)).sum()) == pytest.approx(50.25, abs=1e-2)


def test_counts_count_in_order_and_only_afterwards() -> None:
    term = CountTerm(seed=0)
    walk = torch.tensor([[[0.0, 1.0]], [[5.0, -3.0]], [[5.0, -3.0]], [[0.5, -9.0]]])
    seen = steps(walk)
    assert term.paid(seen)[:, 0].tolist() == pytest.approx([1.0, 2**-0.5, 1.0])
    assert term.paid(seen)[0, 0] == 1.0
    term.fit(seen)
    assert term.paid(seen)[:, 0].tolist() == pytest.approx([3**-0.5, 4**-0.5, 2**-0.5])
    again = CountTerm(seed=0)
    again.load_state_dict(term.state_dict())
    assert torch.equal(again.paid(seen), term.paid(seen))


def test_rnd_falls_where_it_was_trained_and_stays_where_it_was_not() -> None:
    draw = torch.Generator().manual_seed(0)
    term = NoveltyTerm(seed=0)
    seen = steps(torch.randn(33, 8, 4, generator=draw))
    term.paid(seen)
    assert term.network is not None
    with torch.no_grad():
        before = float(term.network.novelty(seen.following.features).mean())
    for _ in range(125):  # 500 steps of the predictor
        term.fit(seen)
    with torch.no_grad():
        known, new = (float(term.network.novelty(at + seen.following.features).mean()) for at in (0.0, 5.0))
    assert known < before / 10 < before / 2 < new


def test_rnd_goes_on_where_the_features_are() -> None:
    """A checkpoint is restored before the term has seen any."""
    seen = steps(torch.randn(9, 4, 4, generator=torch.Generator().manual_seed(0)))
    term, again = NoveltyTerm(seed=0), NoveltyTerm(seed=1)
    term.fit(seen)
    again.load_state_dict(term.state_dict())
    network = again._built(4, PRETEND)
    assert device_of(network) == PRETEND and term.network is not None and again.optimiser is not None
    for name, value in term.network.state_dict().items():
        assert torch.equal(network.state_dict()[name].cpu(), value), name
    before = network.loss(seen.following.features[seen.real].to(PRETEND))
    before.backward()
    again.optimiser.step()
    after = network.loss(seen.following.features[seen.real].to(PRETEND))
    assert float(after.detach().cpu()) < float(before.detach().cpu())


def test_a_run_with_terms_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    wanted = parse_reward("success+rnd+0.5*counts")
    made = [learner(ComposedReward(make_terms(wanted, Around(named=NAMED)))) for _ in range(2)]
    for _ in range(3):
        made[0].step()
    made[1].load_state_dict(made[0].state_dict())
    first, second = made[0].step(), made[1].step()
    assert first == second and first["reward/counts"] > 0.0
    shares = [first[f"reward/{name}/share"] for name in ("environment", "rnd", "counts")]
    assert sum(shares) == pytest.approx(1.0)


def test_the_environments_reward_may_be_left_out() -> None:
    term = ComposedReward([], own_weight=0.0)
    ppo = learner(term)
    for _ in range(4):
        ppo.step()
    assert all(not source.rollout.reward.any() for source in ppo.sources)  # type: ignore[attr-defined]
