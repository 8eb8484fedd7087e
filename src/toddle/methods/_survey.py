"""The systems of the survey of RL for vision-language-action models, each beside what of it is here.

The survey: "A Survey on Reinforcement Learning of Vision-Language-Action Models for Robotic Manipulation" (2025,
doi 10.36227/techrxiv.176531955.54563920), its table of systems, in its order.  `toddle methods --survey` prints the
page docs/survey.md from `survey.yaml` beside this; tests hold the two together and run every command on tiny inputs.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from toddle.core.config import config, from_dict
from toddle.core.reading import read_yaml

__all__ = ["PARADIGMS", "System", "page", "systems"]

Paradigm = Literal["offline", "online", "offline, then online", "test time", "exploration", "deployment"]
Measured = Literal["better", "worse", "not told apart", "not run", "not here"]
PARADIGMS: tuple[Paradigm, ...] = (
    "offline",
    "online",
    "offline, then online",
    "test time",
    "exploration",
    "deployment",
)


@config
class System:
    """A row of the survey's table, and what of it is here."""

    name: str
    paper: str
    """arXiv number."""
    paradigm: Paradigm
    actions: str
    """How its VLA acts: tokens, diffusion, flow."""
    reward: Literal["sparse", "dense"]
    algorithm: str
    modelled: bool = False
    """Whether it learns with a model of the environment."""
    command: str = ""
    """A command that runs what of it is here; none: nothing is."""
    measured: Measured
    """Against its own base, here."""
    note: str
    """What was measured, or why nothing was; what is not claimed."""


HEAD = """# The survey's systems, and what of them is here

["A Survey on Reinforcement Learning of Vision-Language-Action Models for Robotic
Manipulation"](https://doi.org/10.36227/techrxiv.176531955.54563920) (2025) has a table of systems. Here they are in
its order, and after them those that its text names for test time, exploration and deployment; {here} of {all} have
a command. A command runs a system's idea, or as much of it as is here, over toddle's own policies and environments: no
published weights, no robot and no benchmark of a paper was run, and none of a paper's numbers is claimed.

*Measured here* compares a method with the policy it starts from, or with the method it builds on, at a small scale:
better, worse, not told apart, not run (the code is here and tested), not here. `toddle methods` lists every method with
its settings, `toddle methods --survey` prints this page, and [PAPERS.md](../PAPERS.md) names every deviation."""


def systems() -> list[System]:
    """Return the rows in the survey's order."""
    rows = read_yaml(Path(str(resources.files("toddle.methods") / "survey.yaml")))
    return [from_dict(System, {"name": name, **row}, where="survey.yaml") for name, row in rows.items()]


def page() -> str:
    """Return docs/survey.md."""
    found = systems()
    here = sum(bool(system.command) for system in found)
    lines = [HEAD.format(here=here, all=len(found))]
    for paradigm in PARADIGMS:
        lines += [
            "",
            f"## {paradigm[0].upper()}{paradigm[1:]}",
            "",
            "| system | its actions | reward | algorithm | model | command | measured here | what that is |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(system) for system in found if system.paradigm == paradigm]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(system: System) -> str:
    cells = (
        f"[{system.name}](https://arxiv.org/abs/{system.paper})",
        system.actions,
        system.reward,
        system.algorithm,
        "learned" if system.modelled else "none",
        f"`{system.command}`" if system.command else "-",
        system.measured,
        system.note,
    )
    return f"| {' | '.join(cells)} |"
