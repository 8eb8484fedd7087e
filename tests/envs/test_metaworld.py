"""Meta-World behind BatchedEnv, against the bare package and against mujoco's own renderer."""

from __future__ import annotations

import warnings
from typing import Any

import mujoco
import numpy as np
import pytest

pytest.importorskip("metaworld", reason="metaworld is not installed")

from metaworld.env_dict import ENV_CLS_MAP
from metaworld.policies import ENV_POLICY_MAP

from toddle.core.errors import InputError
from toddle.envs.check_env import check_env
from toddle.envs.make import make_env
from toddle.envs.metaworld import TASKS, MetaWorldEnv
from toddle.envs.metaworld_sentences import SENTENCES


def bare_env(task: str, vector: np.ndarray[Any, Any]) -> Any:
    """The package's environment as its benchmarks set it up for one drawn vector."""
    env = ENV_CLS_MAP[task]()
    env._partially_observable, env._freeze_rand_vec, env._set_task_called = False, True, True
    del env.sawyer_observation_space
    env._last_rand_vec = vector
    return env


@pytest.mark.parametrize("task", ["reach-v3", "drawer-open-v3", "peg-insert-side-v3", "door-open-v3"])
def test_equal_to_the_bare_package(task: str) -> None:
    ours = MetaWorldEnv(task, 1, seed=5)
    bare = bare_env(task, ours._envs[0]._last_rand_vec)
    state, _ = bare.reset()
    expert = ENV_POLICY_MAP[task]()
    np.testing.assert_array_equal(ours._state[0], state)
    for _ in range(30):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action = np.asarray(expert.get_action(state))
        np.testing.assert_allclose(ours.expert_action()[0], np.clip(action, -1, 1), rtol=1e-6)
        clipped = ours.expert_action()[0]
        state, reward, _, _, info = bare.step(clipped.astype(np.float64))
        _, our_reward, _, _, our_info = ours.step(clipped[None])
        np.testing.assert_array_equal(ours._state[0], state)
        assert our_reward[0] == reward
        assert our_info["success_now"][0] == bool(info["success"])


def test_touching_is_what_the_package_says() -> None:
    """All along an episode in which the expert grasps, carries and lets be; in the bare package nothing is replaced."""
    env = MetaWorldEnv("pick-place-v3", 2, seed=3)
    own, bare = type(env._envs[0]), ENV_CLS_MAP["pick-place-v3"]
    assert own.touching_object is not bare.touching_object
    said = []
    for step in range(90):
        action = env.expert_action()
        action[1, 3] = -1.0  # the second never grasps
        env.step(action)
        for world in env._envs:
            geoms = [world._get_id_main_object(), step % world.model.ngeom]
            found = [world.touching_object(geom) for geom in geoms]
            assert found == [bare.touching_object(world, geom) for geom in geoms]
            said.append(found[0])
    assert 5 < sum(said[::2]) < 85 and not any(said[1::2])


@pytest.mark.parametrize("task", ["reach-v3", "faucet-open-v3"])
def test_an_episode_depends_on_its_seed_alone(task: str) -> None:
    fresh, used = MetaWorldEnv(task, 2, seed=0), MetaWorldEnv(task, 2, seed=77)
    for _ in range(9):
        used.step(used.expert_action())
    first, _ = fresh.reset(seed=[40, 41])
    again, _ = used.reset(seed=[40, 41])
    np.testing.assert_array_equal(fresh._state, used._state)
    np.testing.assert_array_equal(first["proprio"], again["proprio"])
    np.testing.assert_array_equal(fresh.render_worlds([0, 1], 64, 64), used.render_worlds([0, 1], 64, 64))
    goals = fresh.object_poses()["goal"]
    assert not np.allclose(goals[0], goals[1])  # control: another seed is another episode
    fresh.reset()
    assert not np.allclose(fresh.object_poses()["goal"], goals)  # and so is the next one of the same seed


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_resets_alike_and_experts_act(task: str) -> None:
    fresh, used = MetaWorldEnv(task, 1, seed=3), MetaWorldEnv(task, 3, seed=4)
    for _ in range(25):
        used.step(used.expert_action())
    fresh.reset(seed=11)
    used.reset(seed=[12, 12, 11])  # its third world is a copy of its first
    for _ in range(5):
        np.testing.assert_array_equal(fresh._state[0], used._state[2])
        np.testing.assert_array_equal(used._state[0], used._state[1])
        assert not np.array_equal(used._state[0], used._state[2])
        fresh.step(fresh.expert_action())
        used.step(used.expert_action())


def test_expert_succeeds_and_standing_still_does_not() -> None:
    env = MetaWorldEnv("reach-v3", 2, seed=1, terminate_on_success=True, max_episode_steps=100)
    ended = np.zeros(2, bool)
    for _ in range(100):
        _, _, terminated, truncated, info = env.step_chunk(
            env.expert_action()[:, None], active=~ended, reset_done=False
        )
        assert not truncated.any()
        ended |= terminated
        if ended.all():
            break
    assert ended.all()
    assert info["success"].any()
    still = MetaWorldEnv("reach-v3", 1, seed=1, max_episode_steps=20)
    _, _, terminated, truncated, info = still.step_chunk(np.zeros((1, 30, 4)), reset_done=False)
    assert truncated[0]
    assert not terminated[0]
    assert not info["success"][0]
    assert info["steps"][0] == 20


def test_pictures_are_those_of_mujoco_turned_upright() -> None:
    env = MetaWorldEnv("push-v3", 2, seed=2, cameras=("corner2", "topview", "close"), image_size=64)
    images = env.current_observation()["images"]
    assert images.shape == (2, 3, 3, 64, 64)
    assert images.dtype == np.uint8
    for world in (0, 1):
        inner = env._envs[world]
        inner.model.vis.quality.offsamples = inner.model.vis.quality.shadowsize = 0
        oracle = mujoco.Renderer(inner.model, 64, 64)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            oracle.scene.flags[flag] = 0
        for index, (camera, turned) in enumerate((("corner2", True), ("topview", False))):
            oracle.update_scene(inner.data, camera=camera)
            picture = oracle.render()
            expected = picture[::-1, ::-1] if turned else picture
            np.testing.assert_array_equal(images[world, index].transpose(1, 2, 0), expected)
        oracle.close()
    background = images[0, 0, :, 0, 0]  # the sky's colour is at the top, the tiled floor at the bottom
    assert (images[0, 0, :, :3] == background[:, None, None]).mean() > 0.9
    assert (images[0, 0, :, -3:] == background[:, None, None]).mean() < 0.1


def test_only_worlds_that_moved_are_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    env = MetaWorldEnv("reach-v3", 3, seed=2, cameras=("close",), image_size=32)
    before = env.current_observation()["images"]
    rendered = []
    renderer = env._renderers.get(32, 32)
    original = renderer.render
    monkeypatch.setattr(renderer, "render", lambda *args: rendered.append(1) or original(*args))
    active = np.array([False, True, False])
    actions = np.tile(np.array([1.0, 0, 0, 1]), (3, 6, 1))
    after = env.step_chunk(actions, active=active)[0]["images"]
    assert len(rendered) == 1  # once for the chunk, for the world that moved
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] != before[1]).any()
    rendered.clear()
    env.draw_ends, env._length[1] = "none", 0
    for world, limit in ((0, 1), (1, 9)):  # the first world's episode ends here, the second's goes on
        env._envs[world].curr_path_length = env.max_episode_steps - limit
    info = env.step_chunk(actions[:, :2], active=np.array([True, True, False]), reset_done=False)[4]
    assert info["_final_obs"].tolist() == [True, False, False] and len(rendered) == 1
    env.rendering = False
    assert "images" not in env.current_observation()


def test_contract_with_pictures() -> None:
    check_env(MetaWorldEnv("button-press-v3", 2, seed=4, max_episode_steps=6, cameras=("close",), image_size=16))


def test_poses_are_of_the_named_things() -> None:
    env = MetaWorldEnv("hammer-v3", 2, seed=6)
    poses = env.object_poses()
    assert set(poses) == {"hand", "object", "object_2", "goal"}
    for world, inner in enumerate(env._envs):
        np.testing.assert_allclose(poses["hand"][world], inner.data.body("hand").xpos, atol=1e-6)
        np.testing.assert_allclose(poses["object"][world], inner.data.body("hammer").xpos, atol=1e-6)
    assert "object_2" not in MetaWorldEnv("reach-v3", 1).object_poses()


def test_push_moves_the_hand_or_throws_the_object() -> None:
    generator = np.random.default_rng(0)
    for target, name, least in (("hand", "hand", 0.03), ("object", "object", 0.005)):  # friction stops the object
        calm = MetaWorldEnv("push-v3", 2, seed=8)
        pushed = MetaWorldEnv("push-v3", 2, seed=8, push_target=target)  # type: ignore[arg-type]
        pushed.push(np.array([False, True]), generator, strength=1.0)
        for env in (calm, pushed):
            env.step_chunk(np.tile(np.array([0, 0, 0, -1.0]), (2, 10, 1)))
        moved = np.linalg.norm(pushed.object_poses()[name] - calm.object_poses()[name], axis=1)
        assert moved[0] == 0.0
        assert moved[1] > least
    with pytest.raises(InputError, match=r"push_target.*drawer-open-v3"):
        MetaWorldEnv("drawer-open-v3", 1, push_target="object").push(np.array([True]), generator)


def test_sentences_cover_the_tasks_and_tell_them_apart() -> None:
    assert set(SENTENCES) == set(TASKS)
    assert all(len(set(sentences)) >= 3 for sentences in SENTENCES.values())
    every = [sentence for sentences in SENTENCES.values() for sentence in sentences]
    assert len(set(every)) == len(every)
    env = MetaWorldEnv("reach-v3", 4, seed=0, paraphrases=True)
    assert env.instruction is not None
    assert set(env.instruction) <= set(SENTENCES["reach-v3"])
    drawn = set()
    for _ in range(4):
        env.reset()
        drawn |= set(env.instruction)
    assert drawn == set(SENTENCES["reach-v3"])
    assert MetaWorldEnv("reach-v3", 1).instruction == [SENTENCES["reach-v3"][0]]


def test_wrong_names_are_one_line_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"task: .*'drawer-opn-v3'; did you mean 'drawer-open-v3'"):
        MetaWorldEnv("drawer-opn-v3")
    with pytest.raises(InputError, match=r"camera: .*'corner9'"):
        MetaWorldEnv("reach-v3", cameras=("corner9",))
    with pytest.raises(InputError, match="num_envs"):
        MetaWorldEnv("reach-v3", 0)


def test_state_holds_the_objects_and_the_goal_and_success_is_the_reward() -> None:
    """From state the task can be solved: hand, object and goal are the package's own numbers, in its own order."""
    env, arm = make_env("metaworld-state/reach-v3", 2, seed=3), make_env("metaworld/reach-v3", 2, seed=3)
    assert (env.name, env.body, env.body_spec.proprio) == ("metaworld-state/reach-v3", "sawyer_state", 34)
    seen, poses = env.current_observation()["proprio"], env.object_poses()
    np.testing.assert_array_equal(seen[:, :17], arm.current_observation()["proprio"])  # the same episodes
    np.testing.assert_array_equal(seen[:, 17:20], poses["object"])
    np.testing.assert_array_equal(seen[:, 31:], poses["goal"])
    assert not np.allclose(seen[0, 31:], seen[1, 31:])
    total, ended = np.zeros(2), np.zeros(2, bool)
    while not ended.all():
        _, reward, terminated, _, info = env.step_chunk(env.expert_action()[:, None], active=~ended, reset_done=False)
        total += np.where(ended, 0.0, reward)
        assert ((reward == 1.0) == info["success_now"])[~ended].all()
        ended |= terminated
    np.testing.assert_array_equal(total, [1.0, 1.0])
    _, reward, *_ = arm.step(np.zeros((2, 4)))
    assert (reward > 0).all()  # control: the dense reward pays for being near
    with pytest.raises(InputError, match="observation: expected 'arm' or 'state'"):
        MetaWorldEnv("reach-v3", 1, observation="everything")  # type: ignore[arg-type]


def test_privileged_numbers_are_those_of_the_state_task() -> None:
    """The critic of a policy that sees pictures reads what `metaworld-state` shows; the policy's own numbers stay."""
    with_critic = make_env("metaworld/push-v3", 2, seed=3, privileged=True)
    plain, state = make_env("metaworld/push-v3", 2, seed=3), make_env("metaworld-state/push-v3", 2, seed=3)
    seen, own, full = (env.reset(seed=3)[0] for env in (with_critic, plain, state))
    assert seen["critic"].shape == (2, 34) and np.array_equal(seen["critic"], full["proprio"])
    assert np.array_equal(seen["proprio"], own["proprio"]) and "critic" not in own


def test_more_worlds_are_made_without_compiling_their_model_again(monkeypatch: pytest.MonkeyPatch) -> None:
    MetaWorldEnv("push-v3").close()  # the first world of a task compiles it

    def compiled(path: str) -> None:
        raise AssertionError(f"{path} is compiled again")

    monkeypatch.setattr("mujoco.MjModel.from_xml_path", compiled)
    env = MetaWorldEnv("push-v3", 3)
    bodies = [each.model.body_pos for each in env._envs]
    assert not np.shares_memory(bodies[0], bodies[1]) and not np.shares_memory(bodies[1], bodies[2])
    env.close()
