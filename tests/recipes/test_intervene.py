"""A person takes over from a policy: a scripted one, one who sends what the page sends, and one at a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reporting.browser import Browser, find_browser

from toddle.core.errors import InputError
from toddle.core.rendering import RenderSettings
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.make import make_env
from toddle.experience.demonstrations import Demonstration, demonstrate
from toddle.experience.intervene import ScriptedConfig, Team
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.recipes.intervene import Config, plan, run
from toddle.reporting.intervention_page import InterventionServer, PagePerson, ViewConfig

TASK = "metaworld-state/reach-v3"


def policy_of(env: Any) -> GaussianPolicy:
    torch.manual_seed(0)
    return GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), horizon=4, hidden=(16,)))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    save_policy(tmp_path / "policy", policy_of(make_env(TASK, 1)))
    return tmp_path / "policy"


def settings(stored: Path, out: Path, **more: Any) -> Config:
    given: dict[str, Any] = {"human": "scripted", "episodes": 3, "person": ScriptedConfig(tolerance=0.2)} | more
    return Config(policy=stored, env=TASK, out=out, max_episode_steps=60, **given)


def test_a_scripted_person_is_noted_step_by_step_and_a_killed_run_goes_on(stored: Path, tmp_path: Path) -> None:
    run(settings(stored, tmp_path / "whole", cost="contact"))
    dataset = LeRobotDataset(tmp_path / "whole")
    acted = dataset.column("intervention").astype(bool)
    rows = [json.loads(line) for line in (tmp_path / "whole/episodes.jsonl").read_text().splitlines()]
    assert 0.1 < acted.mean() < 1.0 and [row["seed"] for row in rows] == [3_000_000, 3_000_001, 3_000_002]
    for row, episode in zip(rows, dataset.episodes, strict=True):
        own = acted[episode.start : episode.stop]
        assert row["interventions"] == own.sum() and row["length"] == len(own) and row["cost"] == 0.0
        assert row["info"]["takeovers"] == (np.diff(own.astype(int), prepend=0) > 0).sum()
    (cell,) = json.loads((tmp_path / "whole/summary.json").read_text())["cells"]
    assert cell["deployment"]["intervention_rate"] == pytest.approx(acted.mean())
    env = make_env(TASK, 1, max_episode_steps=60)  # played again, the person's rows are the expert's, the others not
    env.reset(seed=[3_000_000])
    for row in range(dataset.episodes[0].length):
        same = np.array_equal(env.expert_action()[0], dataset.vector("action")[row])
        assert same == bool(acted[row])
        env.step(dataset.vector("action")[row][None])
    run(settings(stored, tmp_path / "parts", cost="contact", episodes=1))
    run(settings(stored, tmp_path / "parts", cost="contact"), resume=True)
    parts = LeRobotDataset(tmp_path / "parts")
    for name in ("action", "intervention", "observation.state"):
        assert np.array_equal(parts.column(name), dataset.column(name)), name


class Page:
    """What the page's script does, without a browser."""

    def __init__(self, server: InterventionServer) -> None:
        self.server, self.number, self.episode, self.fresh = server, 0, 0, True

    def say(self, drive: tuple[float, ...] = (0,) * 6, **more: Any) -> dict[str, Any]:
        content = {"page": "a", "number": self.number, "new": self.fresh, "episode": self.episode, "drive": drive}
        content |= {"take": False, "gripper": 0, "mark": "", "pause": False, "gone": False} | more
        self.number, self.fresh = self.number + 1, False
        body, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.server.url + "input", body, kind), timeout=20) as reply:
            told: dict[str, Any] = json.loads(reply.read())
        self.episode = told.get("episode", self.episode)
        return told

    def until(self, what: Any, **more: Any) -> dict[str, Any]:
        end = time.monotonic() + 30
        while not what(told := self.say(**more)):
            assert time.monotonic() < end, told
            time.sleep(0.01)
        return told


def test_a_page_that_is_opened_holds_nothing() -> None:
    """What an earlier page held is let go of, though the new one does not know the episode yet."""
    server = InterventionServer(ViewConfig())
    try:
        server.begin(episode=3, task="reach", seed=5)
        first = Page(server)
        first.say()
        first.say(take=True, drive=(1, 0, 0, 0, 0, 0))
        assert server.taking and server.drive[0] == 1.0
        Page(server).say()
        assert not server.taking and not server.drive.any()
    finally:
        server.close()


def test_one_at_the_page_takes_over_leaves_comes_back_and_marks() -> None:
    view = ViewConfig(rate=500.0, size=32)
    server, played = InterventionServer(view), list[Demonstration]()
    person = PagePerson(server, view)

    def play() -> None:
        env = make_env(TASK, 1, max_episode_steps=10**6)
        team = Team(policy_of(env), person)
        played.extend(demonstrate(env, team, [5], after_success=10**6, witness=team))
        marked.extend(team.marked)
        env.close()  # in the thread that drew

    marked: list[str] = []
    thread = threading.Thread(target=play)
    thread.start()
    try:
        stream = urllib.request.urlopen(server.url + "stream", timeout=20)
        assert stream.headers["Content-Type"].startswith("multipart/x-mixed-replace")
        assert stream.readline() == b"--picture\r\n"
        time.sleep(0.1)
        assert person._steps == 0  # nobody is there, so nothing moves
        page = Page(server)
        page.until(lambda told: told.get("step", 0) > 5)
        page.until(lambda told: told["who"] == "person", drive=(1, 0, 0, 0, 0, 0), take=True, gripper=1)
        begun = person._steps
        page.until(lambda told: told["step"] > begun + 5, drive=(1, 0, 0, 0, 0, 0), take=True, gripper=1)
        page.say(gone=True, take=True, drive=(1, 0, 0, 0, 0, 0), gripper=1)  # the browser is closed
        page.until(lambda told: told["who"] == "paused", gone=True, take=True, gripper=1)
        stopped = person._steps
        time.sleep(0.1)
        assert person._steps == stopped and thread.is_alive()
        again = Page(server)  # and opened again: the policy acts until somebody takes over
        again.until(lambda told: told["who"] == "policy" and told["step"] > stopped + 5)
        again.until(lambda told: not thread.is_alive() or told["who"] == "person", mark="success")
        thread.join(20)
    finally:
        last = Page(server)
        while thread.is_alive():
            last.say(mark="failure")
        server.close()
    (one,) = played
    acted = one.columns["intervention"]
    assert marked == ["success"] and len(person.waits) == 1 and (np.diff(acted.astype(int)) == 1).sum() == 1
    said = one.columns["action"][acted]
    moving = said[said[:, 1] > 0]
    assert len(moving) > 5 and np.allclose(moving[:, :3], [0.0, view.speed, 0.0])  # to the right, seen from in front
    assert len(np.unique(said[:, 3])) == 1 and not acted[-1] and not acted[0]


def test_what_no_page_says_is_refused() -> None:
    server = InterventionServer(ViewConfig())
    try:
        page = Page(server)
        bad: list[dict[str, Any]] = [
            {"drive": (1, 2)},
            {"drive": (float("nan"),) * 6},
            {"mark": "win"},
            {"number": "x"},
        ]
        for content in bad:
            with pytest.raises(urllib.error.HTTPError, match="400"):
                page.say(**content)
        page.fresh = True
        assert page.say()["episode"] == 0 and server.present
        assert Page(server).say()["episode"] == 0
        assert page.say(page="b") == {"elsewhere": True} and not server.taking
    finally:
        server.close()


def test_wrong_input_is_one_line(stored: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"env": "gymnasium/Pusher-v5"}, "expert: expected an environment with a scripted expert"),
        ({"env": "gymnasium/Pusher-v5", "human": "browser"}, "env: expected an environment whose actions move a hand"),
        ({"env": "gymnasium/CartPole-v1"}, "expert: expected an environment with a scripted expert"),
        (
            {"env": "gymnasium/CartPole-v1", "render": RenderSettings(shadows=True)},
            "render: expected nothing with gymn",
        ),
        ({"human": "browser", "batch": 2}, "batch: expected 1"),
        ({"human": "browser", "person": ScriptedConfig(hold=3)}, "person: expected its defaults"),
        ({"view": ViewConfig(rate=5.0)}, "view: expected its defaults"),
    ]
    for given, said in cases:
        with pytest.raises(InputError, match=said) as error:
            plan(Config(**({"policy": stored, "env": TASK, "out": tmp_path, "human": "scripted"} | given)))
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_person_at_a_browser_takes_over_closes_it_and_goes_on(stored: Path, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine (chromium, chromium-browser, google-chrome)")
    out = tmp_path / "hil"
    command = f"intervene --policy {stored} --env {TASK} --episodes 2 --max-episode-steps 5000 --out {out}"
    process = subprocess.Popen([sys.executable, "-m", "toddle", *command.split()], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[1]
    try:
        for _ in range(2):
            browser = Browser(program)
            try:
                browser.call("Page.navigate", url=url)
                browser.wait("document.getElementById('who')?.textContent === 'the policy acts'")
                browser.wait("document.getElementById('view').naturalWidth === 320")
                browser.call("Input.dispatchKeyEvent", type="keyDown", key="d", text="d")
                browser.wait("document.getElementById('who').textContent === 'you act'")
                browser.call("Input.dispatchKeyEvent", type="keyUp", key="d")
                browser.press("g")
                browser.wait("document.getElementById('who').textContent === 'the policy acts'")
                kept = browser.value("document.getElementById('count').textContent")
                browser.press("Enter")
                browser.wait(f"document.getElementById('count').textContent !== '{kept}'")
            finally:
                browser.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [(row["success"], row["info"]["mark"], row["info"]["takeovers"]) for row in rows] == [
        (True, "success", 1)
    ] * 2
    acted = LeRobotDataset(out).column("intervention").astype(bool)
    assert 0 < acted.sum() < len(acted)
