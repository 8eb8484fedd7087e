"""Settings of commands whose policies only act."""

from __future__ import annotations

from toddle.core.config import config
from toddle.core.device import check_device_name
from toddle.core.errors import problem
from toddle.policies.hastened import Compile

__all__ = ["ActingSettings"]


@config
class ActingSettings:
    """How fast a policy decides that does not learn."""

    compile: Compile = "none"
    """How a VLA of a flow decides, equal to rounding: tables of all that depends on flow time alone; graph: these as
    one CUDA graph; inductor: these compiled, on CUDA as one graph too (docs/devices.md)."""
    bf16: bool = False
    """With compile: the action expert's weights in bfloat16."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if self.bf16 and self.compile == "none":
            raise problem("bf16", "nothing with compile none", "bf16")
        if self.compile == "graph" and self.device == "cpu":
            raise problem("compile", "none, tables or inductor with device cpu", self.compile)
