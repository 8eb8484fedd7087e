"""The page of `toddle prefer ask`: what it serves and refuses, and a person at a real browser."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import pytest
from tests.reporting.browser import Browser, find_browser
from tests.tiny_dataset import write_toy_dataset

from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.preferences import AnswerFile, PairConfig, pairs, read_answers
from toddle.reporting.preference_page import AskServer


@pytest.fixture
def dataset(tmp_path: Path) -> LeRobotDataset:
    return LeRobotDataset(write_toy_dataset(tmp_path / "d"))


class Asked:
    """A server, and requests to it."""

    def __init__(self, dataset: LeRobotDataset, path: Path, answers: int = 3) -> None:
        self.file = AnswerFile(path, dataset, PairConfig(), "a person")
        self.server = AskServer(dataset, self.file, PairConfig(), answers=answers)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.close()
        self.file.close()

    def get(self, place: str, **headers: str) -> tuple[int, bytes, Any]:
        request = urllib.request.Request(self.server.url + place, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, reply.read(), reply.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def post(self, content: Any, kind: str = "application/json", place: str = "answer") -> tuple[int, Any]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(self.server.url + place, data=body, headers={"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            found = error.read()
            return error.code, json.loads(found) if found else None


def test_questions_answers_and_videos(dataset: LeRobotDataset, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Asked(dataset, path) as asked:
        status, page, headers = asked.get("")
        assert (
            status == 200 and b"Which is better?" in page and "default-src 'none'" in headers["Content-Security-Policy"]
        )
        found = json.loads(asked.get("question")[1])
        assert found == {"answered": 0, "wanted": 3, "done": False, "number": 0, "task": "open the drawer"}
        status, video, headers = asked.get("video/0/1.mp4")
        assert (status, headers["Content-Type"], headers["Accept-Ranges"]) == (200, "video/mp4", "bytes")
        for given, (low, high) in {
            "bytes=10-19": (10, 20),
            "bytes=100-": (100, len(video)),
            "bytes=-7": (len(video) - 7, len(video)),
        }.items():
            status, part, headers = asked.get("video/0/1.mp4", Range=given)
            assert (status, part) == (206, video[low:high])
            assert headers["Content-Range"] == f"bytes {low}-{high - 1}/{len(video)}"
        assert asked.get("video/0/1.mp4", Range=f"bytes={len(video)}-")[0] == 416
        (tmp_path / "clip.mp4").write_bytes(video)
        first, _ = next(pairs(dataset, PairConfig()))
        with av.open(str(tmp_path / "clip.mp4")) as container:
            frames = list(container.decode(video=0))
            assert container.streams.video[0].pix_fmt == "yuv420p"  # which browsers play
        assert len(frames) == -(-(first.stop - first.start) // 2)  # a picture every two rows
        assert asked.post({"number": 0, "answer": 2}) == (200, found | {"answered": 1, "number": 1})
        assert asked.post({"number": 0, "answer": 2})[0] == 409  # a second click is no second answer
        assert not asked.server.finished.is_set()
    with Asked(dataset, path) as asked:  # the next day
        assert asked.post({"number": 1, "answer": 0})[0] == 200
        status, last = asked.post({"number": 2, "answer": 1})
        assert status == 200 and last["done"] and asked.server.finished.wait(20)
        assert asked.post({"number": 3, "answer": 1})[0] == 409
    assert [each.answer for each in read_answers(path, dataset)] == [2, 0, 1]


def test_nothing_else_is_served_or_taken(dataset: LeRobotDataset, tmp_path: Path) -> None:
    with Asked(dataset, tmp_path / "answers.jsonl") as asked:
        url = urlsplit(asked.server.url)
        assert url.hostname == "127.0.0.1" and asked.server._server.server_address[0] == "127.0.0.1"

        def status(path: str, host: str | None = None) -> int:
            line = http.client.HTTPConnection("127.0.0.1", url.port or 0, timeout=20)
            line.request("GET", path, headers={"Host": host or url.netloc})
            found = line.getresponse().status
            line.close()
            return found

        token = url.path
        assert status(token) == 200
        for path in (
            "/",
            "/question",
            "/wrong/",
            "/wrong/question",
            token[:-1],
            token[:-2] + "/question",
        ):
            assert status(path) == 404, path
        for place in (
            "../meta/info.json",
            "video/../../d/meta/info.json",
            "video/0/3.mp4",
            "video/1/1.mp4",
            "video/0/1.mp4/..",
            "video/%30/1.mp4",
            "video/-1/1.mp4",
            "video/99999999999/1.mp4",
            "answer",
        ):
            assert status(token + place) == 404, place
        assert status(token, host="evil.example") == 404  # a name that was made to point here
        for content in (b"", b"{", b"[]", b'"x"', b"{}", b"[" * 3000):
            assert asked.post(content)[0] == 400, content
        for content in ({"number": 0, "answer": 3}, {"number": 0, "answer": True}, {"number": "0", "answer": 1}):
            assert asked.post(content)[0] == 409, content
        assert asked.post({"number": 0, "answer": 1}, kind="text/plain")[0] == 400  # what a form elsewhere can send
        assert asked.post({"number": 0, "answer": 1}, place="question")[0] == 400
        assert asked.post(b" " * 5000)[0] == 400
        assert asked.file.answers == []


@pytest.mark.slow
def test_a_person_answers_by_keys_closes_the_browser_and_goes_on(dataset: LeRobotDataset, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine (chromium, chromium-browser, google-chrome)")
    path = tmp_path / "answers.jsonl"
    with Asked(dataset, path, answers=4) as asked:
        for keys in ("12", "02"):  # two visits
            browser = Browser(program)
            try:
                browser.call("Page.navigate", url=asked.server.url)
                for key in keys:
                    seen = len(asked.file.answers)
                    browser.wait(f"document.getElementById('count')?.textContent === '{seen} of 4'")
                    for side in (1, 2):  # both videos of this question play
                        browser.wait(f"document.getElementById('v{side}').currentSrc.endsWith('/{seen}/{side}.mp4')")
                        browser.wait(f"document.getElementById('v{side}').readyState >= 2")
                        browser.wait(f"document.getElementById('v{side}').currentTime > 0")
                        assert browser.value(f"document.getElementById('v{side}').videoWidth") == 32
                    assert browser.value("document.getElementById('task').textContent") == "open the drawer"
                    browser.press(key)
                    browser.wait(f"document.getElementById('bar').value === {seen + 1}")
            finally:
                browser.close()
        assert asked.server.finished.is_set()
    assert [each.answer for each in read_answers(path, dataset)] == [1, 2, 0, 2]
