"""The page on which a person watches a policy and takes over, and the person as the loop sees them.

Pictures are streamed as one endless answer of JPEGs (multipart/x-mixed-replace, which an <img> shows by itself), and
what the person does comes as small requests: both are plain HTTP, so that no package is needed.

A page that is closed, hidden or silent stops the world before its next control step, or leaves it to the policy
(`absent`); nothing is lost, and the next page goes on.  The newest page drives.
"""

from __future__ import annotations

import io
import math
import threading
import time
from typing import Any, Literal

import numpy as np
from PIL import Image

from toddle.core.config import config
from toddle.core.numbers import PictureSize, Port, Positive, Share
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.intervene import Mark, hand_of
from toddle.reporting._intervention_html import PAGE
from toddle.reporting.page_server import PageServer, Reply

__all__ = ["InterventionServer", "PagePerson", "ViewConfig"]

SILENT = 3.0
"""Seconds without a word from the page after which nobody is there; a page that drives speaks every 50 ms."""
RELEASED = 0.5
"""Seconds without a word after which no key counts as pressed any more."""
MARKS: tuple[Mark, ...] = ("success", "failure", "reset")
BOUNDARY = "picture"


@config
class ViewConfig:
    """The page: what it shows, and how fast the world goes while a person watches."""

    port: Port = 0
    """Port on 127.0.0.1; 0: any that is free."""
    rate: Positive = 20.0
    """Control steps a second, so that a person can follow, each with a picture; fewer where the machine is slower."""
    speed: Share = 0.5
    """What a pressed key asks for, as a share of the largest motion."""
    size: PictureSize = 320
    """Side of the pictures on the page, in pixels."""
    camera: str | None = None
    """Camera of the page, where an environment has several; by default the one that films."""
    absent: Literal["pause", "policy"] = "pause"
    """While no page is open, or it is hidden: wait, or let the policy go on."""


class InterventionServer(PageServer):
    """Streams pictures to the page and keeps what it says."""

    def __init__(self, settings: ViewConfig) -> None:
        """Raises InputError where the port is taken."""
        self.changed = threading.Condition()
        self.told: dict[str, Any] = {"episode": 0, "who": "paused"}  # what the page is told
        self.drive, self.toggles = np.zeros(6), 0
        self.taking, self.paused, self.mark = False, False, ""
        self.asked = 0.0  # when the person began to take over
        self.page_id, self.number, self.heard, self.ended = "", -1, -math.inf, threading.Event()
        self._picture, self._count, self._open = b"", 0, True
        super().__init__(PAGE, settings.port)

    def close(self) -> None:
        """End the stream and stop serving."""
        with self.changed:
            self._open = False
            self.changed.notify_all()
        super().close()

    @property
    def present(self) -> bool:
        """Whether somebody is there and has not asked for a pause."""
        return not self.paused and time.monotonic() - self.heard < SILENT

    def show(self, picture: Array) -> None:
        """Stream a picture (H, W, 3) uint8."""
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=85)
        with self.changed:
            self._picture, self._count = buffer.getvalue(), self._count + 1
            self.changed.notify_all()

    def begin(self, **told: Any) -> None:
        """Begin an episode: whatever was pressed counts no more."""
        with self.changed:
            self.told |= told
            self.taking, self.mark, self.drive = False, "", np.zeros(6)

    def get(self, place: str, reply: Reply) -> bool:
        """Answer with the stream, until it is closed on either side."""
        if place != "stream":
            return False
        reply.close_connection = True
        reply.begin(200, f"multipart/x-mixed-replace; boundary={BOUNDARY}", Connection="close")
        seen = 0
        while True:
            with self.changed:
                while self._open and self._count == seen:
                    self.changed.wait()
                if not self._open:
                    return True
                picture, seen = self._picture, self._count
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            try:
                reply.wfile.write(head.encode() + picture + b"\r\n")
            except OSError:  # the page is closed
                return True

    def post(self, place: str, content: Any, reply: Reply) -> bool:
        """Take what the person does, and answer with how things stand."""
        if place != "input":
            return False
        with self.changed:
            answer = self._take(content)
            self.changed.notify_all()
        reply.json(answer)
        if answer.get("done"):
            self.ended.set()
        return True

    def _take(self, content: dict[str, Any]) -> dict[str, Any]:
        page, number = str(content["page"]), int(content["number"])
        drive = np.array([float(each) for each in content["drive"]])
        if drive.shape != (6,) or not np.isfinite(drive).all() or content["mark"] not in ("", *MARKS):
            raise ValueError
        if content["new"]:
            self.page_id, self.number = page, -1
            self.taking, self.drive = False, np.zeros(6)  # whoever opens a page holds nothing yet
        if page != self.page_id:
            return {"elsewhere": True}
        if number > self.number:  # requests can overtake each other
            self.number, self.paused = number, bool(content["pause"])
            self.heard = -math.inf if content["gone"] else time.monotonic()
            if content["episode"] == self.told["episode"]:
                if content["take"] and not self.taking:
                    self.asked = time.monotonic()
                self.taking = bool(content["take"])
                self.drive = np.clip(drive, -1.0, 1.0) if self.taking else np.zeros(6)
                self.toggles, self.mark = int(content["gripper"]), content["mark"] or self.mark
        return self.told


class PagePerson:
    """Who sits before the page: an Operator (`experience.intervene`) of one world."""

    def __init__(self, server: InterventionServer, settings: ViewConfig) -> None:
        self.server, self.settings = server, settings
        self.waits: list[float] = []  # seconds from taking over to the action that follows
        self._due, self._acted, self._held = 0.0, False, False

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Show the first picture.  Raises InputError where keys cannot move anything."""
        self.env, self._hand, self._acted = env, hand_of(env), False
        self._gripper, self._toggles, self._steps = -1.0, self.server.toggles, 0
        task = env.instruction[0] if env.instruction else env.name
        self.server.begin(episode=self.server.told["episode"] + 1, task=task, seed=seeds[0])

    def _show(self) -> None:
        settings = self.settings
        self.server.show(self.env.render_worlds([0], settings.size, settings.size, settings.camera)[0])

    def holds(self, deciding: bool) -> Array:
        """Show the world, wait until the next control step is due and somebody is there."""
        self._show()
        server = self.server
        server.told |= {"who": "person" if self._acted else "policy", "step": self._steps}
        with server.changed:
            while self.settings.absent == "pause" and not server.present:
                server.told |= {"who": "paused"}
                server.changed.wait(0.2)
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due, time.monotonic() - 1.0 / self.settings.rate) + 1.0 / self.settings.rate
        self._held = self._taking
        return np.array([self._held])

    @property
    def _taking(self) -> bool:
        return self.server.taking and time.monotonic() - self.server.heard < SILENT

    def step(self, env: BatchedEnv, proposed: Array) -> tuple[Array, Array]:
        """Act as the keys say, where the person has taken over."""
        server = self.server
        taking = self._held or self._taking  # what was proposed to held controls has no meaning
        self._steps += 1
        if not taking:
            self._gripper = float(np.sign(proposed[0, -1])) or self._gripper
            self._toggles, self._acted = server.toggles, False
            return np.zeros(1, bool), proposed
        with server.changed:
            drive, toggles = server.drive.copy(), server.toggles
            silent = time.monotonic() - server.heard > RELEASED
        if (toggles - self._toggles) % 2:
            self._gripper *= -1.0
        self._toggles = toggles
        if not self._acted:
            self.waits.append(time.monotonic() - server.asked)
        self._acted = True
        return np.ones(1, bool), self._action(np.zeros(6) if silent else drive)[None]

    def _action(self, drive: Array) -> Array:
        """Return the action (A,) of [right, away, up] and turns about these: of one who stands before the robot, which
        looks along x, so that right is y and away is -x."""
        right, away, up, tilt, roll, turn = self.settings.speed * drive
        action = np.zeros(self.env.body_spec.action)
        position, rotation = self._hand
        action[position] = [-away, right, up]
        if rotation is not None:
            action[rotation] = [-roll, tilt, turn]
        action[-1] = self._gripper
        return np.clip(action, self.env.single_action_space.low, self.env.single_action_space.high)

    def marks(self) -> list[Mark]:
        """Return how the person ends the episode."""
        with self.server.changed:
            mark, self.server.mark = self.server.mark, ""
        return [mark]  # type: ignore[list-item]
