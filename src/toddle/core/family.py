"""What an environment family offers: its names, its options, what it needs; nobody has to know families by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from toddle.core.errors import InputError, nearest, problem

__all__ = ["Family"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of environments, `<name>/<member>`; one object a file in `envs/families`, found by its place there."""

    name: str
    what: str
    """In a few words, for lists."""
    members: Callable[[], list[str]]
    """Names within the family; needs none of the optional packages."""
    build: Callable[..., Any]
    """build(member, num_envs, *, seed, threads, **options) -> BatchedEnv; imports what is heavy when it is called."""
    options: tuple[str, ...] = ()
    """Options that `build` takes besides; others are refused by name."""
    only: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Option -> the members that take it, where others do not."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """Options that evaluation sets: held-out goals, the end at success."""
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    """Options with which RL improves a VLA here: success as the reward, the end at success."""
    modelled: bool = False
    """Whether it is a learned model, whose success says nothing unless the real one stands beside it."""
    remedies: Mapping[str, str] = field(default_factory=dict)
    """Optional package -> what installs it."""
    world_bytes: int = 2**19
    """Memory of one world without pictures, measured."""
    open_ended: Callable[[str], bool] | None = None
    """Whether a name beyond `members` exists, where there may be such."""

    def takes(self, option: str, environment: str) -> bool:
        """Whether its `environment` (`<name>/<member>`) has an option of this name."""
        member = environment.partition("/")[2]
        return option in self.options and member in self.only.get(option, (member,))

    def check(self, option: str, environment: str, value: Any, *, field: str | None = None) -> None:
        """Raise InputError, one line, where it has no such option; `field` is how the user knows it, if otherwise."""
        if not self.takes(option, environment):
            takes = f"it takes {', '.join(self.options) or 'no options'}"
            if option in self.options:
                takes = f"it is for {', '.join(self.only[option])}"
            raise problem(field or option, f"nothing with {environment}", value, takes)

    def make(self, member: str, num_envs: int, **options: Any) -> Any:
        """Build an environment.  Raises InputError for an unknown option and for a missing package."""
        for option in options:
            if option not in ("seed", "threads") and option not in self.options:
                takes = nearest(option, self.options) if self.options else "it takes none"
                which = self.name if member == self.name else f"{self.name}/"
                raise problem("environment option", f"an option of {which}", option, takes)
            if option in self.only and options[option]:
                self.check(option, f"{self.name}/{member}", options[option])
        try:
            return self.build(member, num_envs, **options)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package not in self.remedies:
                raise
            text = f"environment: '{self.name}/{member}' needs the package {package}; {self.remedies[package]}"
            raise InputError(text) from None
