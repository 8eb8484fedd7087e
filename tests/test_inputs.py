"""Every number of every command, tried with what it may not be: accepted where its range says so, else named."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
import re
import resource
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toddle.cli import COMMANDS, main, parse
from toddle.core import memory
from toddle.core.config import from_dict, to_dict
from toddle.core.errors import InputError
from toddle.core.numbers import Range
from toddle.methods._base import known_methods
from toddle.runs.run import RunFolder, check_run

TRIED = (math.nan, math.inf, -math.inf, -1, 0, 1.5, 2**62)
NEEDED: dict[str, dict[str, Any]] = {
    "transfer": {"source": "somewhere"},
    "record": {"env": ["goal/sawyer"], "out": "somewhere"},
    "explore": {"method": "sime", "policy": "somewhere", "env": "goal/sawyer"},
    "sft": {"dataset": ["somewhere"]},
    "reward label": {"dataset": ["somewhere"]},
    "reward train": {"dataset": ["somewhere"]},
    "reward evaluate": {"model": "somewhere"},
    "reward fit": {"dataset": ["somewhere"]},
    "reward plot": {"dataset": ["somewhere"]},
    "evaluate": {"policy": ["somewhere"], "env": ["goal/sawyer"]},
    "report": {"runs": ["somewhere"]},
    "quality": {"dataset": ["somewhere"]},
    "offline": {"dataset": ["somewhere"]},
    "identify": {"dataset": "somewhere"},
    "intervene": {"policy": "somewhere"},
    "compress": {"policy": "somewhere", "dataset": ["somewhere"]},
    "worldmodel record": {"env": "tabletop/push-cube", "policy": ["expert"]},
    "worldmodel train": {"dataset": ["somewhere"]},
    "worldmodel evaluate": {"model": "somewhere"},
    "worldmodel imagine": {"model": "somewhere", "policy": ["somewhere"]},
    "worldmodel improve": {"dataset": ["somewhere"]},
    "prefer ask": {"dataset": "somewhere"},
    "prefer judge": {"dataset": "somewhere"},
    "prefer train": {"policy": "somewhere", "dataset": "somewhere", "answers": "somewhere"},
    "study": {"name": "t0"},
}


def recipe_of(command: str) -> Any:
    """The module of a command, or of a command and the word that says what it does."""
    return importlib.import_module(f"toddle.recipes.{command.replace(' ', '_')}")


ACTIONS = {command: getattr(recipe_of(command), "ACTIONS", ()) for command in COMMANDS}
WORDS = [name for command, words in ACTIONS.items() for name in [f"{command} {word}" for word in words] or [command]]
"""Every command, `reward` once for each of its words."""


CHOSEN: dict[str, tuple[str, ...]] = {
    "pretrain": known_methods(),
    "jumpstart": ("vlajs", "jsrl"),  # the others have the settings of one of these
    "finetune": known_methods("finetune"),
}
"""Commands whose settings depend on a method, with the methods."""
NAMES = [name for word in WORDS for name in [f"{word} {method}" for method in CHOSEN.get(word, ())] or [word]]


@functools.cache
def case(name: str) -> tuple[type[Any], dict[str, Any]]:
    """The settings of a command (and a method), and values of them enough to build them."""
    command, _, method = name.partition(" ")
    if command in CHOSEN:
        recipe = recipe_of(command)
        return recipe.config_class(method), to_dict(recipe.configure(method=method))
    kind = recipe_of(name).Config
    return kind, to_dict(from_dict(kind, NEEDED.get(name, {})))


def numbers(
    kind: Any, path: tuple[str, ...] = (), wanted: Callable[[Any], bool] | None = None
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The dotted paths of all fields that hold numbers (or what is `wanted`), with their types."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if name not in {item.name for item in dataclasses.fields(kind)}:
            continue
        for part in _alternatives(hint):
            if dataclasses.is_dataclass(part):
                yield from numbers(part, (*path, name), wanted)
            elif (wanted or _bare)(part):
                yield (*path, name), hint
                break


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, type(int | None)) else (hint,)


def _bare(hint: Any) -> bool:
    """Whether it is a number or a tuple of numbers."""
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__origin__ in (int, float) or _bare(hint.__origin__)
    if typing.get_origin(hint) is tuple:
        return any(_bare(part) for part in typing.get_args(hint))
    return hint in (int, float)


def _ranged(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        return any(isinstance(item, Range) for item in hint.__metadata__) or _ranged(hint.__origin__)
    return any(_ranged(part) for part in typing.get_args(hint))


@functools.cache
def firsts() -> dict[tuple[type[Any], str], str]:
    """(class of settings, field) -> the first command that has it: a range belongs to the field, not to the command."""
    found: dict[tuple[type[Any], str], str] = {}
    for name in NAMES:
        for path, _ in numbers(case(name)[0]):
            found.setdefault(owner(case(name)[0], path), name)
    return found


def owner(kind: type[Any], path: tuple[str, ...]) -> tuple[type[Any], str]:
    """The class that declares the field at the end of a path, and the field."""
    for name in path[:-1]:
        parts = _alternatives(typing.get_type_hints(kind, include_extras=True)[name])
        kind = next(part for part in parts if dataclasses.is_dataclass(part))
    declared = (base for base in kind.__mro__ if path[-1] in inspect.get_annotations(base))
    return next(declared, kind), path[-1]


def test_the_walk_reaches_what_there_is() -> None:
    found = {name: {".".join(path) for path, _ in numbers(case(name)[0])} for name in NAMES}
    assert {"ppo.target_kl", "causal.trunk.heads", "mlp.hidden", "collect.discount", "seed"} <= found["pretrain ppo"]
    assert {"denoising.std", "denoising.trunk.trunk.mlp_ratio"} <= found["pretrain dppo"]
    assert {"sft.learning_rate", "expert.trunk.depth", "backbone.image_size"} <= found["sft"]
    assert {"pushes.strength", "episodes"} <= found["evaluate"]
    assert sum(map(len, found.values())) > 500


def test_every_number_states_its_range() -> None:
    kinds = {name: case(name)[0] for name in NAMES}
    bare = [(name, *path) for name, kind in kinds.items() for path, hint in numbers(kind) if not _ranged(hint)]
    assert bare == []


def _put(plain: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of plain settings with one field changed; by a number, in a tuple its first."""
    head, *rest = path
    inner = dict(plain or {})
    if isinstance(value, list) and not rest:
        inner[head] = value
    elif rest:
        inner[head] = _put(inner.get(head), tuple(rest), value)
    else:
        inner[head] = [value, *inner[head][1:]] if isinstance(inner.get(head), list) and inner[head] else value
        if isinstance(plain.get(head), list) and not plain[head]:
            inner[head] = [value]
    return inner


@pytest.mark.parametrize("name", NAMES)
def test_a_number_is_accepted_or_named_in_one_line(name: str) -> None:
    """All of TRIED in the first command that has the setting; NaN, and so how it is named, in every one."""
    kind, plain = case(name)
    for path, _ in numbers(kind):
        dotted = ".".join(path)
        for value in TRIED if firsts()[owner(kind, path)] == name else TRIED[:1]:
            try:
                made = from_dict(kind, _put(plain, path, value), where=f"toddle {name}")
            except InputError as error:
                lines = str(error).splitlines()
                assert any(dotted in line or path[-1] in line or path[-2:][0] in line for line in lines), (
                    dotted,
                    lines,
                )
                assert all(len(line) < 400 for line in lines), (dotted, lines)
            else:
                found: Any = made
                for part in path:
                    found = getattr(found, part)
                assert math.isfinite(value), f"{dotted} took {value}"
                assert found is not None


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_named_twice_in_a_list(name: str) -> None:
    kind, plain = case(name)
    for path, _ in numbers(kind, wanted=lambda part: part in (tuple[str, ...], tuple[Path, ...])):
        with pytest.raises(InputError, match=rf"{re.escape('.'.join(path))}: expected different ones, got 'x x'"):
            from_dict(kind, _put(plain, path, ["x", "x"]), where=f"toddle {name}")


FILES = {"report", "prefer ask", "prefer judge"}
"""Commands whose --out is a file."""
WRITING = [name for name in WORDS if name not in {"study", "doctor", "methods"} | FILES]


PLACES = [(command, "file") for command in WRITING] + [("pretrain", "file/below"), ("sft", "link")]


@pytest.mark.parametrize(("command", "place"), PLACES)
def test_a_folder_that_cannot_be_made_is_told_by_the_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, place: str
) -> None:
    """Before anything else is looked at that takes long: one line, exit code 2, nothing written."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    given = {"quality": "x", "transfer": "--source x", "sft": "--dataset x", "evaluate": "--policy x --env goal/sawyer"}
    given |= {"reward label": "--dataset x", "reward train": "--dataset x", "reward evaluate": "--model x"}
    given |= {"reward fit": "--dataset x", "reward plot": "--dataset x"}
    given |= {"explore": "--method sime --policy x --env goal/sawyer"}
    given |= {"intervene": "--policy x", "compress": "--policy x --dataset x"}
    given |= {"worldmodel record": "--env x --policy x", "worldmodel train": "--dataset x"}
    given |= {"worldmodel evaluate": "--model x", "worldmodel imagine": "--model x --policy x"}
    given |= {"worldmodel improve": "--dataset x"}
    given |= {"identify": "x", "offline": "--dataset x", "prefer train": "--policy x --dataset x --answers x"}
    for more in (["--dry-run"], []) if command == "pretrain" else (["--dry-run"],):  # looked at before either
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), *given.get(command, "").split(), "--out", str(tmp_path / place), *more])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and said.startswith(f"error: out: expected a folder at {tmp_path}"), said
        assert said.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


RUNS = {
    "demo": "--seed 1",
    "pretrain": "",
    "transfer": "--source x",
    "record": "",
    "explore": "--method sime --policy x --env goal/sawyer",
    "sft": "--dataset x",
    "evaluate": "--policy x --env goal/sawyer",
    "study": "t0 --scale medium",
    "backbone": "",
    "finetune": "",
    "reward label": "--dataset x",
    "quality": "x",
    "factory": "",
    "identify": "x",
    "intervene": "--policy x",
    "compress": "--policy x --dataset x",
    "jumpstart": "",
    "offline": "--dataset x",
    "prefer train": "--policy x --dataset x --answers x",
    "reward train": "--dataset x",
    "reward evaluate": "--model x",
    "reward fit": "--dataset x",
    "reward plot": "--dataset x",
    "worldmodel record": "--env x --policy x",
    "worldmodel train": "--dataset x",
    "worldmodel evaluate": "--model x",
    "worldmodel imagine": "--model x --policy x",
    "worldmodel improve": "--dataset x",
}


def test_no_command_that_writes_a_run_is_left_out() -> None:
    assert set(RUNS) == set(WORDS) - {"methods", "doctor"} - FILES


@pytest.mark.parametrize("command", RUNS)
def test_a_dry_run_refuses_a_folder_that_holds_a_run_as_the_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """It says what opening the run's folder says, and leaves what is there; demo and study look at the settings."""
    again, studies = command in ("demo", "study"), command == "study"
    folder = tmp_path / "t0/medium" if studies else tmp_path
    recipe = recipe_of(command)
    arguments = [*RUNS[command].split(), "--runs" if studies else "--out", str(tmp_path)]
    _, settings = parse(command, recipe.Config, arguments, choose=getattr(recipe, "configure", None))
    RunFolder.open(folder, settings).close()
    (folder / "metrics.jsonl").write_text("{}\n")  # it has done something
    if again:
        (folder / "config.yaml").write_text("device: auto\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="begun with another config" if again else "already holds a run") as real:
        RunFolder.open(folder, settings, resume=again)
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), *arguments, "--dry-run"])
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.err.endswith(f"error: {real.value}\n") and said.out == ""
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with RunFolder.open(folder / "live", settings), pytest.raises(InputError, match="in use by a run"):
        check_run(folder / "live", settings)


CHEETAH = "pretrain --env gymnasium/HalfCheetah-v5 --steps 1000"
TOO_LARGE = {
    "weights no machine has": f"{CHEETAH} --policy mlp --mlp.hidden 1048576 1048576",
    "a layer that would fit alone": f"{CHEETAH} --policy mlp --mlp.hidden 65536 32768",
    "a critic": f"{CHEETAH} --policy mlp --critic-hidden 1048576 1048576",
    "a deep transformer": "pretrain --causal.trunk.width 2048 --causal.trunk.depth 1048576",
    "a denoiser": f"{CHEETAH} --method dppo --denoising.network mlp --denoising.mlp.width 1048576",
    "a U-Net": f"{CHEETAH} --method dppo --denoising.network unet --denoising.unet.channels 65536 65536",
    "a rollout": "pretrain --env goal/sawyer --collect.length 1048576",
    "worlds": "pretrain --env goal/sawyer --worlds 1048576",
    "worlds with pictures": "record --env metaworld/reach-v3 --batch 1048576",
    "groups of worlds": f"{CHEETAH} --method grpo --worlds 1048576",
    "a memory of trajectories": f"{CHEETAH} --method ddiffpg --ddiffpg.capacity 1048576",
    "a replay": f"{CHEETAH} --method sac --replay.capacity 1000000000",
    "pictures of an episode": "record --env metaworld/reach-v3 --image-size 4096 --batch 16 --image-stride 1",
    "frames": "backbone --render.size 4096 --render.episodes 1000",
    "an encoder": "backbone --sizes.width 65536 --sizes.heads 1",
}


REALLY = ("a critic", "groups of worlds", "a memory of trajectories", "worlds with pictures", "frames")
"""What is tried without --dry-run too: one for each place that asks for memory."""


@pytest.mark.parametrize(("what", "dry"), [*((name, True) for name in TOO_LARGE), *((name, False) for name in REALLY)])
def test_what_no_memory_holds_is_one_line_before_it_is_allocated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str, dry: bool
) -> None:
    """On a machine with 1 GiB left, whatever this one has."""
    monkeypatch.setattr(memory, "free_memory", lambda device=None: 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SystemExit) as stopped:
        main([*TOO_LARGE[what].split(), "--out", str(tmp_path / "run"), *(["--dry-run"] if dry else [])])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("error: memory: ") and said.count("\n") == 1, said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "KiB"
    assert not list((tmp_path / "run").glob("checkpoints/*")) and not (dry and (tmp_path / "run").exists())
