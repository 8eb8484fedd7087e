"""How pictures are drawn: MuJoCo's own renderer is the oracle; variation changes what is seen and nothing else."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

pytest.importorskip("metaworld", reason="metaworld is not installed")

from toddle.core.errors import InputError
from toddle.core.rendering import FAST, MUJOCO, RenderSettings, RenderVariation
from toddle.envs import scene_renderer
from toddle.envs.metaworld import MetaWorldEnv
from toddle.envs.out_of_view import unseen
from toddle.envs.scene_renderer import Look, SceneRenderer

ALL = RenderVariation(light_angle=40, light_brightness=0.4, shadows=0.5, reflections=0.5, multisampling=0.5)


COARSE = RenderSettings(shadow_map=256)
"""A small shadow map, for speed."""

SCENE = """<mujoco><asset><material name="glossy" reflectance=".5" rgba=".5 .5 .5 1"/></asset><worldbody>
<light pos="1 0 3" dir="-.3 0 -1" directional="true"/><geom type="plane" size="2 2 .1" material="glossy"/>
<geom type="sphere" size=".3" pos="0 0 .5" rgba="1 0 0 1"/>
<camera name="side" pos="0 -2 1.5" xyaxes="1 0 0 0 .5 1"/></worldbody></mujoco>"""


def drawn(settings: RenderSettings, look: Look | None = None) -> np.ndarray[Any, Any]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = SceneRenderer(model, 48, 48, settings=settings)
    picture: np.ndarray[Any, Any] = renderer.render(model, data, "side", look)
    renderer.close()
    return picture


def test_mujocos_defaults_are_what_mujocos_own_renderer_draws() -> None:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 48, 48) as oracle:
        oracle.update_scene(data, camera="side")
        np.testing.assert_array_equal(drawn(MUJOCO), oracle.render())
    assert (drawn(FAST) != drawn(MUJOCO)).mean() > 0.05  # control: another drawing


@pytest.mark.parametrize("name", ["shadows", "reflections", "multisampling", "shadow_map"])
def test_each_setting_changes_the_picture_on_its_own(name: str) -> None:
    base = RenderSettings(shadows=name == "shadow_map", shadow_map=64).over(FAST)
    changed = RenderSettings(**{name: getattr(MUJOCO, name)}).over(base)
    assert (drawn(base) != drawn(changed)).any()


def test_lights_turn_and_dim() -> None:
    plain = drawn(FAST).astype(int)
    dim = drawn(FAST, Look(settings=FAST, brightness=0.5)).astype(int)
    assert (dim <= plain).all() and dim.mean() < plain.mean() - 5
    half_turn = np.diag([-1.0, -1.0, 1.0])  # about the vertical: what was bright on the right is so on the left
    turned = drawn(FAST, Look(settings=FAST, turn=half_turn)).astype(int)
    right_minus_left = [picture[:, 24:].mean() - picture[:, :24].mean() for picture in (plain, turned)]
    assert right_minus_left[0] > 0.2 and right_minus_left[1] < -0.2


def test_what_is_given_wins_over_what_lies_below() -> None:
    assert RenderSettings(shadows=True).over(FAST) == RenderSettings(
        shadows=True, reflections=False, multisampling=0, shadow_map=4096
    )
    assert FAST.over(MUJOCO) == FAST  # also where it says no
    for wrong in ({"multisampling": 64}, {"shadow_map": 0}, {"multisampling": -1}):
        with pytest.raises(InputError):
            RenderSettings(**wrong)  # type: ignore[arg-type]


def test_variation_changes_what_is_seen_and_nothing_else() -> None:
    plain = MetaWorldEnv("push-v3", 2, cameras=("close",), image_size=32)
    varied = MetaWorldEnv("push-v3", 2, cameras=("close",), image_size=32, variation=ALL, render=COARSE)
    seen = []
    for _ in range(2):  # episodes
        a, b = plain.reset()[0], varied.reset()[0]
        for _ in range(2):
            np.testing.assert_array_equal(a["proprio"], b["proprio"])
            assert (a["images"] != b["images"]).any()
            action = plain.expert_action()
            np.testing.assert_array_equal(action, varied.expert_action())
            a, reward, *_ = plain.step(action)
            b, other, *_ = varied.step(action)
            np.testing.assert_array_equal(reward, other)
        np.testing.assert_array_equal(plain._state, varied._state)
        for one, two in zip(plain._envs, varied._envs):
            for name in ("light_pos", "light_dir", "light_diffuse"):
                np.testing.assert_array_equal(getattr(one.model, name), getattr(two.model, name))
        seen += [varied._renderers.look(world).brightness for world in range(2)]
    assert len(set(seen)) == 4  # another look for every world and episode


def test_a_look_follows_from_seed_and_episode_and_survives_a_resume() -> None:
    env = MetaWorldEnv("reach-v3", 1, seed=9, cameras=("close",), image_size=32, variation=ALL, render=COARSE)
    again = MetaWorldEnv("reach-v3", 1, seed=0, cameras=("close",), image_size=32, variation=ALL, render=COARSE)
    env.reset()
    state, picture = env.state_dict(), env.current_observation()["images"]
    again.load_state_dict(state)
    np.testing.assert_array_equal(again.current_observation()["images"], picture)
    env.reset(seed=[9])
    again.reset(seed=[9])
    np.testing.assert_array_equal(again.current_observation()["images"], env.current_observation()["images"])
    assert (env.current_observation()["images"] != picture).any()  # control: the second episode looked otherwise


def test_looks_are_drawn_in_their_ranges() -> None:
    generator = np.random.default_rng(0)
    variation = RenderVariation(light_angle=30, light_brightness=0.5, shadows=1.0)
    looks = [Look.draw(FAST, variation, generator) for _ in range(200)]
    angles = [np.degrees(np.arccos((np.trace(look.turn) - 1) / 2)) for look in looks if look.turn is not None]
    assert len(angles) == 200 and 25 < max(angles) <= 30
    brightness = [look.brightness for look in looks]
    assert 0.5 <= min(brightness) < 0.6 and 1.4 < max(brightness) <= 1.5
    assert {(look.settings.shadows, look.settings.reflections, look.settings.multisampling) for look in looks} == {
        (True, False, 0)
    }
    calm = Look.draw(MUJOCO, RenderVariation(), generator)
    assert calm.settings == MUJOCO and calm.turn is None and calm.brightness == 1.0


def test_meshes_that_are_not_seen_are_left_out_and_no_pixel_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = MetaWorldEnv("reach-v3", 1, cameras=("close", "gripperPOV", "corner"), image_size=48, render=FAST)
    env.reset(seed=[0])
    model, data, left = env._envs[0].model, env._envs[0].data, list[int]()
    monkeypatch.setattr(scene_renderer, "unseen", lambda *given: (left.append(len(found := unseen(*given))), found)[1])
    generator, rest = np.random.default_rng(0), data.qpos.copy()
    with mujoco.Renderer(model, 48, 48) as oracle:
        for camera in ("close", "gripperPOV", "corner") * 2:
            data.qpos[:7] = rest[:7] + generator.normal(0, 0.3, 7)
            mujoco.mj_forward(model, data)
            picture = env._renderers.render(0, model, data, camera, 48, 48)
            oracle.update_scene(data, env._renderers.get(48, 48)._cameras[camera])
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                oracle.scene.flags[flag] = False
            turned = slice(None, None, -1 if camera in env._renderers.get(48, 48)._rotated else 1)
            assert np.array_equal(picture, oracle.render()[turned, turned]), camera
    assert min(left[::3]) >= 4 and max(left) <= 10, "the arm's base, and not its hand"
    monkeypatch.setattr(scene_renderer, "unseen", lambda model, data, geoms, *given: geoms)  # control
    assert (env._renderers.render(0, model, data, "corner", 48, 48) != picture).any()
    env.close()
