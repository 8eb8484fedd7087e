"""`toddle methods`: what `--method` can be, where each comes from, and the settings it begins from."""

from __future__ import annotations

from typing import Annotated

import tyro

from toddle.core.config import changes, config, to_dict
from toddle.core.plan import Plan
from toddle.methods._base import Method, known_methods, load_method

__all__ = ["Config", "plan", "run"]


@config
class Config:
    """List the methods of RL; with a name, everything about one.  Example: toddle methods dppo"""

    name: Annotated[str, tyro.conf.Positional] = ""
    """The method to explain; none: a line for each."""


def plan(config: Config) -> Plan:
    """Say what would be listed."""
    names = [config.name] if config.name else list(known_methods())
    return Plan(steps=[f"explain {load_method(name).name}" for name in names], seconds=0.0)


def run(config: Config, *, resume: bool = False) -> None:
    """Print the list, or one method."""
    if config.name:
        _explain(load_method(config.name))
        return
    methods = [load_method(name) for name in known_methods()]
    width = max(len(method.name) for method in methods)
    for method in methods:
        presets = ", ".join(preset.name for preset in method.presets)
        print(f"{method.name:<{width}}  {method.what}")
        print(f"{'':<{width}}  {method.paper}; trains {method.policies}; presets: {presets}")
    print("\ntoddle methods NAME explains one; toddle pretrain --method NAME --help shows its settings.")


def _explain(method: Method) -> None:
    print(f"{method.name}: {method.what}\n{method.paper}\ntrains: {method.policies}")
    for deviation in method.deviations:
        print(f"deviation: {deviation}")
    plain = to_dict(type(method.presets[0].settings)())
    for preset in method.presets:
        where = " and ".join(f"{family}/" for family in preset.families) or "any environment"
        when = {None: "", True: ", a policy that has learned already", False: ", from scratch"}[preset.started]
        print(f"\npreset {preset.name} ({where}{when}): {preset.source}")
        for name, _, value in changes(plain, to_dict(preset.settings)):
            print(f"  {name} = {value}")
