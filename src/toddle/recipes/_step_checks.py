"""What a demo or a study checks of its steps before the first of them runs, at a dry run as at the real one."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from toddle.core.config import from_dict
from toddle.core.errors import InputError
from toddle.envs.make import family_of
from toddle.runs.steps import Step

__all__ = ["check_toddle_steps"]


def check_toddle_steps(steps: Sequence[Step], folder: Path) -> None:
    """Build the settings of every step that is a toddle command, and look its environments up.

    Raises InputError naming the step and the field of a setting that its command would refuse.
    """
    for step in steps:
        arguments, settings = step.filled(folder)
        if "toddle" not in arguments:
            continue
        words = itertools.takewhile(lambda word: not word.startswith("-"), arguments[arguments.index("toddle") + 1 :])
        recipe = importlib.import_module(f"toddle.recipes.{'_'.join(words)}")
        configure = getattr(recipe, "configure", None)
        try:
            made = configure(settings) if configure else from_dict(recipe.Config, settings, where="settings")
            for name in getattr(made, "env", ()):
                family_of(name)
        except InputError as error:
            raise InputError(f"step {step.name}: {error}") from None
