"""`toddle prefer` from a dataset to answers to a policy; a stop loses nothing; bad input in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.test_preferences import write

from toddle.algorithms.preference import Preference
from toddle.cli import main
from toddle.core.types import BodySpec
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.links import FlowConfig
from toddle.policies.store import meta_of, save_policy

BODY = BodySpec(name="point", proprio=2, action=1, dt=0.1)


def done(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["prefer", *arguments])
    return int(end.value.code or 0)


def weights(folder: Path) -> bytes:
    return next((folder / "policy").glob("*.safetensors")).read_bytes()


def test_answers_become_a_policy_and_a_stop_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, answers = write(tmp_path / "d"), tmp_path / "answers.jsonl"
    gaussian = GaussianPolicy(GaussianConfig(bodies=(BODY,), hidden=(8,)))
    save_policy(tmp_path / "gaussian", gaussian, {"noted": 1})
    small = MlpDenoiserConfig(width=16)
    flow = DenoisingConfig(body=BODY, horizon=4, executed=2, process=FlowConfig(), network=small)
    save_policy(tmp_path / "flow", DenoisingPolicy(flow))
    asked = ("judge", str(data), "--by", "return", "--answers", "9", "--error", "0.1", "--out", str(answers))
    assert done(*asked, "--dry-run") == 0 and not answers.exists()
    assert done(*asked) == 0
    assert done("judge", str(data), "--by", "success", "--out", str(answers)) == 2
    assert "with which it was begun" in capsys.readouterr().err
    given = ("train", "--dataset", str(data), "--answers", str(answers), "--checkpoint-every", "1")
    given = (*given, "--preference.updates", "4", "--preference.batch", "4")
    step = Preference.step

    def stopping(self: Preference) -> dict[str, float]:
        if self.done == 2:
            raise KeyboardInterrupt
        return step(self)

    for kind, method in (("gaussian", "tpo"), ("flow", "flow-dpo")):
        one = (*given, "--policy", str(tmp_path / kind), "--method", method)
        whole, parts = tmp_path / f"{kind}-whole", tmp_path / f"{kind}-parts"
        assert done(*one, "--out", str(whole)) == 0
        if kind == "flow":  # its resuming is the learner's test
            continue
        with monkeypatch.context() as patch:
            patch.setattr(Preference, "step", stopping)
            assert done(*one, "--out", str(parts)) == 130
        assert done(*one, "--out", str(parts), "--resume") == 0
        assert weights(whole) == weights(parts)
    capsys.readouterr()
    for rate, weight, fallen in (("1e-9", "0", False), ("0.1", "0", True), ("0.1", "1", False)):
        more = (
            "--preference.learning-rate",
            rate,
            "--preference.imitate",
            weight,
            "--out",
            str(tmp_path / rate / weight),
        )
        assert done(*given, "--policy", str(tmp_path / "gaussian"), *more) == 0
        assert ("winners became less likely too" in capsys.readouterr().err) is fallen
    meta = meta_of(tmp_path / "gaussian-whole")
    assert (meta["noted"], meta["method"]) == (1, "tpo")


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, answers = write(tmp_path / "d"), tmp_path / "answers.jsonl"
    wide = BodySpec(name="wide", proprio=3, action=1, dt=0.1)
    save_policy(tmp_path / "wide", GaussianPolicy(GaussianConfig(bodies=(wide,))))
    save_policy(tmp_path / "long", GaussianPolicy(GaussianConfig(bodies=(BODY,), horizon=20)))
    assert done("judge", str(data), "--out", str(answers), "--answers", "3", "--by", "length") == 0
    capsys.readouterr()
    dry = ("--out", str(tmp_path / "run"), "--dry-run")
    for policy, more, said in (
        ("wide", (), "policy: expected one of 2 numbers and actions of 1"),
        ("long", (), "expected pieces of at least 20 rows, a decision of the policy, got 5"),
        ("wide", ("--answers", str(tmp_path / "none")), "answers: expected a file of answers"),
        ("wide", ("--preference.beta", "0"), "preference.beta: expected a number above 0"),
        ("wide", ("--preference.smoothing", "0.5"), "preference.smoothing: expected below 0.5"),
    ):
        given = ("train", "--dataset", str(data), "--answers", str(answers), "--policy", str(tmp_path / policy))
        assert done(*given, *more, *dry) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1, told
    (tmp_path / "notes.txt").write_text("{}\n")
    for place, said in (
        (tmp_path, "expected a file, got 'a folder'"),
        (tmp_path / "notes.txt", "expected the keys by"),
    ):
        assert done("judge", str(data), "--by", "length", "--out", str(place), "--dry-run") == 2
        assert said in capsys.readouterr().err
    assert done("judge", str(data), "--by", "cost-file", *dry) == 2
    assert "costs: expected a file with --by cost-file or grape" in capsys.readouterr().err
    for more, said in (
        ((), "reference: expected a dataset with --by distance"),
        (("--reference", str(data)), "pairs.rows: expected above 0 with --by distance"),
        (("--reference", str(tmp_path / "none"), "--pairs.rows", "2"), str(tmp_path / "none")),
    ):
        assert done("judge", str(data), "--by", "distance", *more, *dry) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1, told
    assert done("judge", str(data), "--by", "distance", "--reference", str(data), "--pairs.rows", "2", *dry) == 0
    assert done("judge", str(data), "--pairs.rows", "99", *dry) == 2
    assert "two episodes of one task of at least 99 rows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
