"""`toddle methods`: what `--method` can be, where each comes from, and the settings it begins from."""

from __future__ import annotations

import importlib
from typing import Annotated, get_args, get_type_hints

import tyro

from toddle.core.config import changes, config, to_dict
from toddle.core.errors import nearest, problem
from toddle.core.plan import Plan
from toddle.methods._base import PREFIX, Method, known_methods, load_method
from toddle.methods._survey import page, systems

__all__ = ["Config", "plan", "run"]

ELSEWHERE = {"offline": "docs/offline.md", "prefer_train": "docs/preferences.md"}
"""Recipes whose methods have no presets, and where they are explained."""


@config
class Config:
    """List the methods of RL; with a name, everything about one.  Example: toddle methods dppo"""

    name: Annotated[str, tyro.conf.Positional] = ""
    """The method to explain; none: a line for each."""
    survey: bool = False
    """Print the page docs/survey.md instead: the systems of the survey, and what of each is here."""

    def __post_init__(self) -> None:
        if self.survey and self.name:
            raise problem("name", "none with --survey", self.name)


def plan(config: Config) -> Plan:
    """Say what would be listed."""
    if config.survey:
        return Plan(steps=[f"print {len(systems())} systems of the survey"], seconds=0.0)
    chosen = [_named(config.name)] if config.name else [method for _, method in _all()]
    return Plan(steps=[f"explain {method.name}" for method in chosen], seconds=0.0)


def run(config: Config, *, resume: bool = False) -> None:
    """Print the list, one method, or the survey's page."""
    if config.survey:
        print(page(), end="")
        return
    if config.name:
        _explain(_named(config.name))
        return
    width = max(len(method.name) for _, method in _all())
    for command in PREFIX:
        print(f"toddle {command} --method ...")
        for method in (method for own, method in _all() if own == command):
            presets = ", ".join(preset.name for preset in method.presets)
            name = method.name.removeprefix(PREFIX[command])
            print(f"  {name:<{width}}  {method.what}")
            print(f"  {'':<{width}}  {method.paper}; trains {method.policies}; presets: {presets}")
    for command, page_of in ELSEWHERE.items():
        settings = importlib.import_module(f"toddle.recipes.{command}").Config
        names = get_args(get_type_hints(settings)["method"])
        print(f"toddle {command.replace('_', ' ')} --method {'|'.join(names)}   ({page_of})")
    print("\ntoddle methods NAME explains one (vla-NAME: that of finetune); toddle COMMAND --method NAME --help")
    print("shows its settings.")


def _all() -> list[tuple[str, Method]]:
    return [(command, load_method(name, command)) for command in PREFIX for name in known_methods(command)]


def _named(name: str) -> Method:
    """Return a method by its full name.  Raises InputError for an unknown one, with the nearest."""
    found = {method.name: method for _, method in _all()}
    if name not in found:
        raise problem("method", "a known method", name, nearest(name, found))
    return found[name]


def _explain(method: Method) -> None:
    print(f"{method.name}: {method.what}\n{method.paper}\ntrains: {method.policies}")
    for deviation in method.deviations:
        print(f"deviation: {deviation}")
    plain = to_dict(method.settings())
    for preset in method.presets:
        where = " and ".join(f"{family}/" for family in preset.families) or "any environment"
        when = {None: "", True: ", a policy that has learned already", False: ", from scratch"}[preset.started]
        print(f"\npreset {preset.name} ({where}{when}): {preset.source}")
        for name, _, value in changes(plain, to_dict(preset.settings)):
            print(f"  {name} = {value}")
