"""A headless Chromium, driven over a pipe by its own protocol: no package is needed for it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0


def find_browser() -> str | None:
    """Return the path of a Chromium on this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a Chromium of its own."""

    def __init__(self, program: str, width: int = 1000, height: int = 760) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        (read, self.out), (self.inn, write) = os.pipe(), os.pipe()
        self.number, self.rest = 0, b""
        flags = f"--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --window-size={width},{height}"
        flags += f" --autoplay-policy=no-user-gesture-required --no-first-run --user-data-dir={self.folder.name}"
        script = f'exec "$0" {flags} 3<&{read} 4>&{write}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, program],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **given: Any) -> Any:
        """Return the result of a method of the protocol."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": given}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                part = os.read(self.inn, 2**16)
                assert part, "the browser has ended"
                self.rest += part
            one, _, self.rest = self.rest.partition(b"\0")
            found = json.loads(one)
            if found.get("id") == self.number:
                assert "error" not in found, found["error"]
                return found["result"]

    def value(self, expression: str) -> Any:
        """Return what an expression comes to in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" and len(key) == 1 else ""
            )

    def picture(self, path: Path) -> None:
        """Save a picture of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self.session = None
        self.call("Browser.close")
        self.process.wait(SECONDS)
        for handle in (self.out, self.inn):
            os.close(handle)
        self.folder.cleanup()
