"""What `toddle pretrain` and `toddle finetune` share: settings put together from the command's and the method's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from toddle.core.config import changes, config, from_dict, merged, to_dict
from toddle.methods._base import Preset, load_method
from toddle.recipes._domain import DomainSettings
from toddle.recipes._safety import LimitSettings

__all__ = ["preset_lines", "settings_class", "with_preset"]

SHARED = (LimitSettings, DomainSettings)
MORE: dict[str, tuple[type[Any], ...]] = {"pretrain": SHARED, "finetune": SHARED}
"""What commands share."""


@functools.cache
def settings_class(base: Any, command: str, method: str) -> type[Any]:
    """Return the settings of `toddle <command> --method <method>`: the command's (`base`) and the method's own."""
    settings = load_method(method, command).settings
    fields: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__, "__annotations__": {}}
    made: type[Any] = config(type("Config", (settings, *MORE.get(command, ()), base), fields))
    return made


def with_preset(base: type[Any], command: str, method: str, preset: Preset, given: dict[str, Any]) -> Any:
    """Return full settings: the preset's, and in its fields what is given (plain).

    Raises InputError for what is unknown or has a wrong value.
    """
    plain = to_dict(preset.settings) | dict(preset.common) | {"method": method, "preset": preset.name}
    kind: Any = base  # as a class it is hashable, which mypy does not see
    return from_dict(settings_class(kind, command, method), merged(plain, given), where=f"toddle {command}")


def preset_lines(config: Any, preset: Preset) -> list[str]:
    """Say for a plan which preset was taken, where it comes from, and what was changed."""
    settings, now = to_dict(preset.settings), to_dict(config)
    changed = changes(settings, {name: now[name] for name in settings})
    for name, wanted in preset.common.items():  # of the command's settings a preset says a part
        own = {key: now[name][key] for key in wanted} if isinstance(wanted, Mapping) else now[name]
        changed += changes({name: wanted}, {name: own})
    given = ", ".join(f"{name} {value!r} (preset: {was!r})" for name, was, value in changed)
    lines = [f"take preset '{preset.name}' of {config.method} ({preset.source})"]
    return [*lines, f"change {given}"] if given else lines
