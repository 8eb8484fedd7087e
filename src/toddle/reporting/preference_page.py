"""The page on which a person says which of two videos is better, and what its server answers.

No address names a file: a video is asked for by question and side, and is made of the dataset's pictures when it is
asked for first.  An answer is on disk before the page hears of it, so that a closed browser, or a kill, loses nothing.
"""

from __future__ import annotations

import re
import tempfile
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from toddle.core.errors import problem
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.preferences import Answer, AnswerFile, PairConfig, Segment
from toddle.data.queries import questions
from toddle.data.video import write_video
from toddle.reporting.page_server import PageServer, Reply

__all__ = ["AskServer"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which is better?</title><style>
:root { --ink: #1c2430; --faint: #667085; --line: #e4e7ee; --ground: #f6f7f9; --mark: #00734f; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 28px 20px; }
header { display: flex; justify-content: space-between; align-items: baseline; gap: 20px; }
h1 { font-size: 22px; margin: 0; } #count { color: var(--faint); white-space: nowrap; }
#task { margin: 4px 0 16px; color: var(--faint); min-height: 1.5em; }
progress { width: 100%; height: 6px; accent-color: var(--mark); }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; margin-top: 18px; }
figure { margin: 0; background: #fff; border: 2px solid var(--line); border-radius: 12px; padding: 12px; }
figure.chosen { border-color: var(--mark); }
video { width: 100%; aspect-ratio: 1; max-height: 55vh; object-fit: contain;
  background: #10151d; border-radius: 8px; display: block; }
button { font: inherit; width: 100%; margin-top: 10px; padding: 9px; border: 1px solid var(--line); border-radius: 8px;
  background: #fff; color: var(--ink); cursor: pointer; } button:hover, button:focus { border-color: var(--mark); }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 6px; background: var(--ground); }
#said { color: var(--faint); margin-top: 14px; min-height: 1.5em; }
</style></head><body><main>
<header><h1>Which is better?</h1><span id="count"></span></header>
<p id="task"></p><progress id="bar" value="0" max="1"></progress>
<div class="two">
<figure><video id="v1" muted playsinline></video><button id="b1">this one <kbd>1</kbd></button></figure>
<figure><video id="v2" muted playsinline></video><button id="b2">this one <kbd>2</kbd></button></figure>
</div><button id="b0">neither, or not to be told <kbd>0</kbd></button>
<p id="said">Keys: <kbd>1</kbd> left, <kbd>2</kbd> right, <kbd>0</kbd> neither, <kbd>space</kbd> from the beginning.
Each answer is stored at once; close the page whenever you like.</p>
</main><script>
"use strict";
const $ = id => document.getElementById(id), videos = [$("v1"), $("v2")];
let number = null, busy = false;
function say(text) { $("said").textContent = text; }
function replay() { for (const v of videos) { v.currentTime = 0; v.play().catch(() => {}); } }
function show(found) {
  $("count").textContent = found.answered + " of " + found.wanted;
  $("bar").max = found.wanted; $("bar").value = found.answered;
  number = found.done ? null : found.number;
  if (found.done) { for (const v of videos) v.removeAttribute("src"); $("task").textContent = "";
    say("Done: all answers are stored. You can close this page."); return; }
  $("task").textContent = found.task;
  videos.forEach((v, side) => { v.src = "video/" + number + "/" + (side + 1) + ".mp4"; v.load(); });
  replay();
}
for (const v of videos) v.addEventListener("ended", () => { if (videos.every(w => w.ended)) setTimeout(replay, 700); });
async function ask(path, options) {
  const reply = await fetch(path, options);
  if (!reply.ok && reply.status !== 409) throw new Error("status " + reply.status);
  show(await reply.json());
}
async function answer(choice) {
  if (busy || number === null) return;
  busy = true;
  for (const side of [1, 2]) $("v" + side).parentElement.classList.toggle("chosen", side === choice);
  try {
    await ask("answer", { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ number: number, answer: choice }) });
  } catch (error) { say("Not stored (" + error.message + "): is toddle still running?"); }
  for (const v of videos) v.parentElement.classList.remove("chosen");
  busy = false;
}
for (const choice of [0, 1, 2]) $("b" + choice).addEventListener("click", () => answer(choice));
document.addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === " ") { event.preventDefault(); replay(); }
  else if (["0", "1", "2"].includes(event.key)) answer(Number(event.key));
});
ask("question").catch(error => say("No question (" + error.message + ")"));
</script></body></html>
"""


class AskServer(PageServer):
    """Serves the page; `url` is its address, `finished` is set when all answers are given.  Close it."""

    def __init__(
        self,
        dataset: LeRobotDataset,
        file: AnswerFile,
        settings: PairConfig,
        *,
        answers: int,
        camera: str | None = None,
        port: int = 0,
    ) -> None:
        """Ask until `file`, begun with `settings`, holds `answers`.  port 0: any that is free.

        Raises InputError where the dataset has no such camera, or the port is taken.
        """
        if not dataset.cameras:
            remedy = "play it again with pictures (toddle record --replay), or use toddle prefer judge"
            raise problem(f"dataset: {dataset.path}", "a camera", "none", remedy)
        self.dataset, self.file, self.wanted = dataset, file, answers
        self.camera = camera or dataset.cameras[0]
        dataset.picture_size(self.camera)
        self.questions = list[tuple[Segment, Segment]]()
        self._following = questions(dataset, settings, lambda: file.answers[: len(self.questions)])
        self.finished, self._lock = threading.Event(), threading.Lock()
        self._clips = tempfile.TemporaryDirectory(prefix="toddle-ask-")
        try:
            super().__init__(PAGE, port)
        except BaseException:
            self._clips.cleanup()
            raise
        self.look()

    def close(self) -> None:
        """Stop serving; what was answered is in the file."""
        super().close()
        self._clips.cleanup()

    def look(self) -> None:
        """Say whether all is answered."""
        if len(self.file.answers) >= self.wanted:
            self.finished.set()

    def question(self, number: int) -> tuple[Segment, Segment]:
        """Return question `number`, counted from 0."""
        while len(self.questions) <= number:
            self.questions.append(next(self._following))
        return self.questions[number]

    def state(self) -> dict[str, Any]:
        """Return what is asked now, as the page hears it."""
        answered = len(self.file.answers)
        found: dict[str, Any] = {
            "answered": answered,
            "wanted": self.wanted,
            "done": answered >= self.wanted,
            "number": answered,
        }
        if not found["done"]:
            first, _ = self.question(answered)
            found["task"] = self.dataset.task_of(self._rows(first)[0])
        return found

    def take(self, number: Any, answer: Any) -> bool:
        """Store an answer; False where it is none to the question that is asked now (a second click, an old page)."""
        with self._lock:
            asked = len(self.file.answers) if len(self.file.answers) < self.wanted else None
            if type(number) is not int or number != asked or type(answer) is not int or answer not in (0, 1, 2):
                return False
            self.file.append(Answer(*self.question(number), answer))
            return True

    def clip(self, number: int, side: int) -> Path | None:
        """Return the video of a question's piece, made where it is not there yet; None for one that is not asked."""
        with self._lock:
            if number > len(self.file.answers) or number >= self.wanted:
                return None
            path = Path(self._clips.name) / f"{number}_{side}.mp4"
            if not path.exists():
                start, stop = self._rows(self.question(number)[side - 1])
                rows = np.arange(start, stop, self.dataset.image_stride)
                frames = self.dataset.images(self.camera, rows)
                even = frames[:, :, : frames.shape[2] // 2 * 2, : frames.shape[3] // 2 * 2]
                write_video(path, even, self.dataset.fps / self.dataset.image_stride, pixels="yuv420p")
            return path

    def _rows(self, segment: Segment) -> tuple[int, int]:
        start = next(episode.start for episode in self.dataset.episodes if episode.index == segment.episode)
        return start + segment.start, start + segment.stop

    def get(self, place: str, reply: Reply) -> bool:
        """Answer with the question, or a video."""
        if place == "question":
            reply.json(self.state())
        elif found := re.fullmatch(r"video/(\d{1,9})/([12])\.mp4", place):
            _video(reply, self.clip(int(found[1]), int(found[2])))
        else:
            return False
        return True

    def post(self, place: str, content: Any, reply: Reply) -> bool:
        """Take an answer."""
        if place != "answer":
            return False
        taken = self.take(content["number"], content["answer"])
        reply.json(self.state(), HTTPStatus.OK if taken else HTTPStatus.CONFLICT)
        self.look()  # when the page has heard that it was the last
        return True


def _video(reply: Reply, path: Path | None) -> None:
    """Answer with a video, or the part of it that is asked for (so that browsers can seek)."""
    if path is None:
        reply.send(HTTPStatus.NOT_FOUND, b"")
        return
    whole = path.read_bytes()
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", reply.headers.get("Range", ""))
    if found is None or found[0] == "bytes=-":
        reply.send(HTTPStatus.OK, whole, "video/mp4", Accept_Ranges="bytes")
        return
    size = len(whole)
    start = int(found[1]) if found[1] else max(0, size - int(found[2]))
    stop = min(size, int(found[2]) + 1) if found[1] and found[2] else size
    if start >= stop:
        reply.send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", Content_Range=f"bytes */{size}")
        return
    what = f"bytes {start}-{stop - 1}/{size}"
    reply.send(HTTPStatus.PARTIAL_CONTENT, whole[start:stop], "video/mp4", Accept_Ranges="bytes", Content_Range=what)
