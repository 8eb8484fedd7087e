"""The page of `toddle intervene`, as a browser gets it."""

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>toddle intervene</title><style>
:root { --ink: #1c2430; --faint: #667085; --line: #e4e7ee; --ground: #f6f7f9; --mark: #00734f; --warn: #b54708; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 24px 20px; display: grid; gap: 20px;
  grid-template-columns: minmax(0, 3fr) minmax(240px, 2fr); }
header { grid-column: 1 / -1; display: flex; justify-content: space-between; align-items: baseline; gap: 20px; }
h1 { font-size: 20px; margin: 0; } #count { color: var(--faint); white-space: nowrap; }
img { width: 100%; border-radius: 10px; background: #10151d; display: block; border: 4px solid var(--line); }
img.person { border-color: var(--warn); } img.policy { border-color: var(--mark); }
#who { font-weight: 600; font-size: 18px; margin: 0 0 8px; } #said, #pad { color: var(--faint); min-height: 1.5em; }
button { font: inherit; width: 100%; margin: 0 0 8px; padding: 8px; border: 1px solid var(--line); border-radius: 8px;
  background: #fff; color: var(--ink); cursor: pointer; text-align: left; }
button:hover, button:focus-visible { border-color: var(--mark); }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 6px; background: var(--ground); }
table { border-collapse: collapse; width: 100%; font-size: 14px; } td { padding: 2px 0; color: var(--faint); }
</style></head><body><main>
<header><h1 id="task">toddle intervene</h1><span id="count"></span></header>
<div><img id="view" src="stream" alt="the world as it is now"></div>
<div><p id="who">waiting</p>
<button id="take">take over <kbd>T</kbd> (any motion does)</button>
<button id="give">give back <kbd>G</kbd></button>
<button id="success">success <kbd>Enter</kbd></button>
<button id="failure">failure <kbd>F</kbd></button>
<button id="reset">give up and begin the next <kbd>R</kbd></button>
<button id="pause">pause <kbd>P</kbd></button>
<table><tr><td><kbd>W</kbd> <kbd>S</kbd> away, near</td><td><kbd>I</kbd> <kbd>K</kbd> tilt</td></tr>
<tr><td><kbd>A</kbd> <kbd>D</kbd> left, right</td><td><kbd>U</kbd> <kbd>O</kbd> roll</td></tr>
<tr><td><kbd>E</kbd> <kbd>Q</kbd> up, down</td><td><kbd>J</kbd> <kbd>L</kbd> turn</td></tr>
<tr><td colspan="2"><kbd>space</kbd> opens or closes the gripper</td></tr></table>
<p id="pad">Gamepad: left stick moves, right stick up and turns; A gripper, B gives back, Y success, X failure.</p>
<p id="said"></p></div></main><script>
"use strict";
const $ = id => document.getElementById(id);
const AXES = { d: [0, 1], a: [0, -1], w: [1, 1], s: [1, -1], e: [2, 1], q: [2, -1],
  i: [3, 1], k: [3, -1], u: [4, 1], o: [4, -1], j: [5, 1], l: [5, -1] };
const page = crypto.getRandomValues(new Uint32Array(4)).join("-"), pressed = new Set();
let number = 0, episode = 0, taking = false, paused = false, mark = "", toggles = 0, fresh = true, over = false;
let busy = false, dirty = true, last = 0, buttons = [];
function stick() {
  const found = [0, 0, 0, 0, 0, 0], dead = x => Math.abs(x) < 0.15 ? 0 : x;
  for (const pad of (navigator.getGamepads ? navigator.getGamepads() : [])) {
    if (!pad) continue;
    const [x, y, turn, up] = [0, 1, 2, 3].map(i => dead(pad.axes[i] || 0));
    found[0] += x; found[1] -= y; found[2] -= up; found[5] -= turn;
    const now = pad.buttons.map(b => b.pressed), went = i => now[i] && !buttons[i];
    if (went(0)) { take(); toggles++; } if (went(1)) give(); if (went(2)) say("failure"); if (went(3)) say("success");
    buttons = now;
  }
  return found;
}
function drive() {
  const found = stick();
  for (const key of pressed) found[AXES[key][0]] += AXES[key][1];
  if (found.some(x => x !== 0)) take();
  return found;
}
function take() { if (!taking) { taking = true; dirty = true; } }
function give() { pressed.clear(); taking = false; dirty = true; }
function say(what) { mark = what; dirty = true; }
function body(gone) {
  const content = { page, number: number++, new: fresh, episode, drive: drive(), take: taking, gripper: toggles,
    mark, pause: paused, gone };
  return JSON.stringify(content);
}
async function tell() {
  if (busy || over) return;
  busy = true; dirty = false; last = performance.now();
  try {
    const sent = body(document.hidden), said = mark;
    const reply = await fetch("input", { method: "POST", headers: { "Content-Type": "application/json" }, body: sent });
    if (!reply.ok) throw new Error("status " + reply.status);
    fresh = false;
    if (mark === said) mark = "";
    show(await reply.json());
  } catch (error) { $("who").textContent = "no answer: is toddle still running?"; last += 500; }
  busy = false;
}
function show(found) {
  if (found.elsewhere) { over = true; $("who").textContent = "another page has taken the controls; reload to take them";
    $("view").removeAttribute("src"); return; }
  if (found.episode !== episode) { episode = found.episode; taking = false; pressed.clear(); }
  const who = paused ? "paused" : found.who;
  $("who").textContent = { policy: "the policy acts", person: "you act", paused: "paused" }[who] || "waiting";
  $("view").className = who || "";
  $("task").textContent = found.task || "toddle intervene";
  $("count").textContent = (found.kept || 0) + " of " + (found.wanted || 0) + " episodes";
  $("said").textContent = found.said || "";
  if (found.done) { over = true; $("who").textContent = "Done: everything is stored. You can close this page."; }
}
document.addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.toLowerCase();
  if (key in AXES) { pressed.add(key); take(); dirty = true; }
  else if (key === " ") { take(); toggles++; dirty = true; }
  else if (key === "t") take(); else if (key === "g") give(); else if (key === "enter") say("success");
  else if (key === "f") say("failure"); else if (key === "r") say("reset");
  else if (key === "p") { paused = !paused; dirty = true; }
  else return;
  event.preventDefault();
  tell();
});
document.addEventListener("keyup", event => {
  if (pressed.delete(event.key.toLowerCase())) { dirty = true; tell(); }
});
window.addEventListener("blur", () => { pressed.clear(); dirty = true; });
for (const [id, act] of Object.entries({ take, give, success: () => say("success"), failure: () => say("failure"),
  reset: () => say("reset"), pause: () => { paused = !paused; dirty = true; } }))
  $(id).addEventListener("click", event => { act(); event.target.blur(); tell(); });
document.addEventListener("visibilitychange", () => { dirty = true; tell(); });
window.addEventListener("pagehide", () => {
  if (!over) fetch("input", { method: "POST", headers: { "Content-Type": "application/json" }, body: body(true),
    keepalive: true }); });
setInterval(() => {
  stick();
  if (dirty || performance.now() - last > (taking ? 50 : 250)) tell(); }, 25);
tell();
</script></body></html>
"""
