"""The collector: what it stores can be scored again, time limits get the final observation's value, resume is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tiny_env import EndlessEnv, ReachEnv
from toddle.core.types import BodySpec, Observation, sentences_of
from toddle.envs.dots import DotsEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.episodes import EpisodesConfig, GroupCollector
from toddle.experience.evaluate import evaluate
from toddle.experience.reward_scale import RewardScale
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

POINT = BodySpec(name="point", proprio=4, action=2, dt=0.1)


def gaussian(horizon: int = 1) -> GaussianPolicy:
    return GaussianPolicy(GaussianConfig(bodies=(POINT,), hidden=(8,), horizon=horizon))


def causal() -> CausalPolicy:
    trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=8)
    expert = ExpertConfig(trunk=trunk, bodies=(POINT,), horizon=3, executed=2, window=4, bank_hidden=8)
    return CausalPolicy(CausalConfig(expert=expert, goal_dropout=0.0))


def critic() -> ValueNet:
    return ValueNet(CriticConfig(inputs=(4,), hidden=(8,)))


class FirstNumber:
    """A critic whose value is the first number of the observation: it tells which observation it was given."""

    def value(self, observation: Observation) -> torch.Tensor:
        return observation["proprio"][..., 0]


@pytest.mark.parametrize("policy", [gaussian(), gaussian(3), causal()], ids=["mlp", "chunk", "causal"])
@pytest.mark.parametrize("rollouts", [1, 3])
def test_the_stored_segment_scores_as_it_was_drawn(policy: Any, rollouts: int) -> None:
    collector = Collector(ReachEnv(5, limit=7), CollectConfig(length=9), seed=0)
    for _ in range(rollouts):  # the memory is cleared between them
        rollout, _ = collector.collect(policy, critic())
    score = policy.score(rollout.observation, rollout.chain)
    assert (score.log_prob - rollout.log_prob).abs().max() < 1e-5


def test_without_the_segment_start_a_sequential_policy_scores_wrongly() -> None:
    """Control: the history matters, so pretending that the segment has no episode borders changes the score."""
    policy = causal()
    rollout, _ = Collector(ReachEnv(5, limit=7), CollectConfig(length=9), seed=0).collect(policy, critic())
    observation = {**rollout.observation, "first": torch.zeros_like(rollout.observation["first"])}
    assert (policy.score(observation, rollout.chain).log_prob - rollout.log_prob).abs().max() > 1e-4  # type: ignore[arg-type]


def test_next_value_is_that_of_the_final_observation_at_a_time_limit() -> None:
    env = ReachEnv(3, limit=4)
    finals: list[tuple[np.ndarray, np.ndarray]] = []
    inner = env.step_chunk

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        if result[4]["_final_obs"].any():
            finals.append((result[4]["final_obs"].copy(), result[0].copy()))
        return result

    env.step_chunk = spy  # type: ignore[method-assign]
    rollout, _ = Collector(env, CollectConfig(length=6), seed=0).collect(gaussian(), FirstNumber())
    assert rollout.truncated[3].all()
    assert int(rollout.truncated.sum()) == 3
    ((final, after),) = finals
    assert torch.allclose(rollout.next_value[3], torch.from_numpy(final[:, 0]).float())
    assert not np.allclose(final[:, 0], after[:, 0])  # the reset observation is another one
    ordinary = [t for t in range(5) if t != 3]
    assert torch.equal(rollout.next_value[ordinary], rollout.value[[t + 1 for t in ordinary]])


def test_first_and_previous_action() -> None:
    rollout, _ = Collector(ReachEnv(4, limit=3), CollectConfig(length=7), seed=0).collect(gaussian(), critic())
    first = rollout.observation["first"]
    assert first.any(1).tolist() == [True, False, False, True, False, False, True]
    previous = rollout.observation["previous_action"]
    assert float(previous[first].abs().max()) == 0.0
    executed = rollout.chain.clamp(-1, 1)
    assert torch.equal(previous[1:3], executed[:2])
    assert torch.equal(previous[4:6], executed[3:5])


def test_chunks_are_discounted_by_the_steps_they_took() -> None:
    # 5 steps an episode, chunks of 3: the second chunk of an episode is cut after 2 steps
    config = CollectConfig(length=4, discount=0.9, scale_rewards=False)
    env = EndlessEnv(2, limit=5)
    policy = GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), hidden=(8,), horizon=3))
    rollout, metrics = Collector(env, config, seed=0).collect(policy, ValueNet(CriticConfig(inputs=(2,), hidden=(4,))))
    assert rollout.discount[:, 0].tolist() == pytest.approx([0.729, 0.81, 0.729, 0.81])
    assert rollout.reward[:, 0].tolist() == pytest.approx([2.71, 1.9, 2.71, 1.9])
    assert metrics["rollout/total_steps"] == 20.0
    assert metrics["episode/return"] == 5.0
    assert metrics["episode/length"] == 5.0


def test_reward_scale_against_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    scale, history, sums = RewardScale(3), [], np.zeros(3)
    for _ in range(3):
        reward, ended = torch.randn(5, 3, generator=generator), torch.rand(5, 3, generator=generator) < 0.2
        deviation = scale.update(reward, ended, torch.full((5, 3), 0.9))
        for t in range(5):
            sums = 0.9 * sums + reward[t].numpy()
            history.append(sums.copy())
            sums = sums * ~ended[t].numpy()
    assert deviation == pytest.approx(float(np.std(history)), rel=1e-5)


def test_resume_gives_the_same_rollout() -> None:
    config = CollectConfig(length=9)
    policy, value = gaussian(), critic()
    one = Collector(ReachEnv(5, limit=7), config, seed=0)
    one.collect(policy, value)
    state = one.state_dict()
    state = {**state, "env": {**state["env"]}}
    after, metrics = one.collect(policy, value)
    two = Collector(ReachEnv(5, limit=7), config, seed=99)
    two.load_state_dict(state)
    again, same = two.collect(policy, value)
    for name in ("chain", "log_prob", "reward", "value", "next_value", "truncated"):
        assert torch.equal(getattr(after, name), getattr(again, name)), name
    assert metrics == same
    assert torch.equal(after.observation_and_last["proprio"], again.observation_and_last["proprio"])


class Seeing(GaussianPolicy):
    """Keeps a feature in place of what it was shown, as a policy with a frozen backbone does."""

    def encode(self, observation: Observation) -> Observation:
        kept: dict[str, Any] = {key: value for key, value in observation.items() if key != "images"}
        return Observation(**kept, context=observation["images"].float().mean((2, 3, 4)).half())


class PicturesEnv(ReachEnv):
    """Reach with a picture of the world's number, drawn when it is observed; counts its drawings."""

    def __init__(self, num_envs: int, **options: Any) -> None:
        self.drawn = 0
        super().__init__(num_envs, **options)
        self.instruction = [f"world {i}" for i in range(num_envs)]

    def _observe(self) -> Any:
        seen: dict[str, Any] = {"proprio": super()._observe()}
        if self.rendering:
            self.drawn += 1
            seen["images"] = np.full((self.num_envs, 1, 3, 2, 2), np.arange(self.num_envs)[:, None, None, None, None])
            seen["images"] = seen["images"].astype(np.uint8)
        return seen


@pytest.mark.parametrize("keep", ["features", "pictures"])
def test_what_is_kept_of_a_picture_and_its_sentence(keep: Any) -> None:
    env = PicturesEnv(3, limit=50)
    policy = Seeing(GaussianConfig(bodies=(POINT,), hidden=(8,), horizon=3))
    rollout, _ = Collector(env, CollectConfig(length=4, keep=keep), seed=0).collect(policy, None)
    for part in rollout.minibatches(2, False, torch.Generator().manual_seed(0)):
        worlds = [int(sentence.removeprefix("world ")) for sentence in sentences_of(part.observation)]
        if keep == "features":
            assert "images" not in part.observation
            assert part.observation["context"].dtype == torch.float16
            assert part.observation["context"][0, :, 0].tolist() == worlds
        else:
            assert part.observation["images"][0, :, 0, 0, 0, 0].tolist() == worlds


def test_pictures_are_drawn_at_decisions_alone() -> None:
    """Four chunks of three control steps, no episode ending: the first observation and one after each chunk."""
    env = PicturesEnv(3, limit=50)
    policy = Seeing(GaussianConfig(bodies=(POINT,), hidden=(8,), horizon=3))
    Collector(env, CollectConfig(length=4), seed=0).collect(policy, None)
    assert env.drawn == 1 + 4


class Watched(Seeing):
    """Sees through the camera of dots; counts the observations that it encodes."""

    cameras = ("top",)  # type: ignore[assignment]

    def __init__(self, *, chunk: int = 3) -> None:
        dot = BodySpec(name="dot", proprio=2, action=2, dt=0.1)
        super().__init__(GaussianConfig(bodies=(dot,), hidden=(8,), horizon=chunk))
        self.encoded = 0

    def encode(self, observation: Observation) -> Observation:
        self.encoded += len(observation["images"])
        return super().encode(observation)


def dots(worlds: int, monkeypatch: pytest.MonkeyPatch) -> tuple[DotsEnv, list[int]]:
    """Worlds of dots/one whose episodes end within chunks, and the list that their pictures are counted in."""
    env = DotsEnv("one", worlds, cameras=("top",), image_size=8, max_episode_steps=11)
    monkeypatch.setattr("toddle.envs.dots.REACHED", 0.6)  # so that one who knows nothing succeeds at times
    drawn, picture = list[int](), env._picture
    monkeypatch.setattr(env, "_picture", lambda world: drawn.append(world) or picture(world))
    return env, drawn


@pytest.mark.parametrize("critic_sees", [True, False])
def test_a_picture_is_drawn_and_read_for_each_decision_alone(critic_sees: bool, monkeypatch: Any) -> None:
    """And for a critic that sees, of what a time limit cut; not of what success ended in."""
    env, drawn = dots(6, monkeypatch)
    collector, policy = Collector(env, CollectConfig(length=20), seed=0, critic_sees=critic_sees), Watched()
    value = ValueNet(CriticConfig(inputs=(2,), hidden=(4,)))
    cuts = wins = 0
    for _ in range(2):
        rollout, _ = collector.collect(policy, value)
        cuts, wins = cuts + int(rollout.truncated.sum()), wins + int(rollout.terminated.sum())
    assert cuts and wins
    expected = (2 * 20 + 1) * 6 + critic_sees * cuts  # the last observation is the next rollout's first
    assert len(drawn) == policy.encoded == expected


def test_of_whole_episodes_no_picture_is_drawn_after_their_end(monkeypatch: Any) -> None:
    env, drawn = dots(6, monkeypatch)
    policy = Watched()
    rollout, _ = GroupCollector(env, EpisodesConfig(group=2), seed=0).collect(policy, None)
    assert rollout.mask is not None
    assert 6 * 4 > len(drawn) == int(rollout.mask.sum()) and rollout.terminated.any()
    assert policy.encoded <= len(drawn) + 6  # and the one after the last decision


def test_of_an_evaluation_no_picture_is_drawn_after_the_end(monkeypatch: Any) -> None:
    env, drawn = dots(3, monkeypatch)
    results = evaluate(Watched(), env, seeds=range(6))
    assert len(drawn) == sum(-(-result.length // 3) for result in results) and env.draw_ends == "all"
    env.reset(seed=0)
    drawn.clear()
    env.step_chunk(np.zeros((3, 12, 2)))
    assert len(drawn) == 6, "a plain caller sees what every episode ended in"


class CostlyEnv(ReachEnv):
    """Costs 1 at every control step to the right of 0."""

    def _infos(self) -> dict[str, Any]:
        return super()._infos() | {"cost": (self.x[:, 0] > 0).astype(float)}


def test_costs_are_summed_over_a_chunk_and_over_an_episode() -> None:
    env = CostlyEnv(4, limit=6)
    collector = Collector(env, CollectConfig(length=4), seed=0)
    rollout, metrics = collector.collect(gaussian(3), critic())
    cost = rollout.columns["cost"]
    assert cost.shape == (4, 4) and set(cost.flatten().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert metrics["episode/cost"] == pytest.approx(float(cost.view(2, 2, 4).sum(1).mean()))  # two chunks an episode
