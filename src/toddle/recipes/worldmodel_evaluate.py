"""`toddle worldmodel evaluate`: what a model of an environment is worth, beside controls that must be worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from toddle.algorithms.world_model_evaluation import agreement, errors
from toddle.core.config import config
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, Seed, Size
from toddle.core.plan import Plan
from toddle.core.tensors import load_tensors
from toddle.data.recordings import Recordings
from toddle.envs.imagined import BANK
from toddle.models.world_model import load_world_model, world_model_folder
from toddle.recipes._imagined import check_policies, line_of, play, told
from toddle.reporting.world_model import write_world_model_page
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]


@config
class Config:
    """Measure a model of an environment: errors over the horizon, doubt, and real against imagined episodes.

    Writes <out>/evaluation.json and the page index.html.
    Example: toddle worldmodel evaluate --model runs/world_model --policy base=runs/base
    """

    may_change: ClassVar[tuple[str, ...]] = ()

    model: Path
    """Folder of `toddle worldmodel train`."""
    policy: tuple[str, ...] = ()
    """Policies that are played in both from the same starts, `folder` or `name=folder`; none: recordings alone."""
    out: Path = Path("runs/world_model_evaluation")
    """Folder of results."""
    episodes: Count = 50
    """Episodes of each policy, real and imagined."""
    steps: Count = 500
    """Held-out steps from which recorded actions are rolled out, at most."""
    num_envs: Size = 50
    """Worlds at once."""
    deterministic: bool = False
    """Take a policy's most likely action instead of a draw."""
    seed: Seed = 0
    """Seed of the first episode, and of the steps that are drawn."""


def plan(config: Config) -> Plan:
    """Check model and policies, and say what will be measured."""
    _, meta = load_world_model(config.model)
    name = check_policies(config.model, config.policy) if config.policy else meta["env"]["name"]
    plays = [f"play {policy}: {config.episodes} episodes in {name} and in the model" for policy in config.policy]
    return Plan(
        steps=[
            f"roll recorded actions out from {config.steps} held-out steps, in the model and in its control",
            *plays,
            f"write {config.out / 'evaluation.json'} and {config.out / 'index.html'}",
        ],
        memory_bytes=10**9,
        seconds=10.0 + 0.1 * config.episodes * len(config.policy),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Measure, and write what came out; it is always made anew."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        found = _errors(config)
        played = []
        if config.policy:
            played = play(
                config.model,
                config.policy,
                seed=config.seed,
                episodes=config.episodes,
                worlds=config.num_envs,
                deterministic=config.deterministic,
            )
            found["policies"] = [told(one) for one in played]
            found["agreement"] = agreement([(one.real, one.imagined) for one in played])
        write_json_atomic(config.out / "evaluation.json", found)
        write_world_model_page(config.out / "index.html", found, played)
        folder.finish(1)
    for name in ("model", "control"):
        if name in found:
            lines = zip(found[name]["horizons"], found[name]["error_over_copy"])
            print(f"{name}: error / copy error " + ", ".join(f"{value:.2f} at {step}" for step, value in lines))
    for row in found.get("policies", ()):
        print(line_of(row))
    print(f"numbers: {config.out / 'evaluation.json'}; page: {config.out / 'index.html'}")


def _errors(config: Config) -> dict[str, Any]:
    """Return the numbers on held-out recordings, of the model and of the control beside it."""
    found: dict[str, Any] = {}
    place = world_model_folder(config.model)
    assert place is not None
    for name, folder in (("model", place), ("control", place.parent / "control")):
        if name == "control" and world_model_folder(folder) is None:
            continue
        model, meta = load_world_model(folder)
        data = Recordings(**load_tensors(folder / BANK, meta["recordings"]))
        things = {key: at for key, at, _, _ in meta["env"]["named"]}
        felt = data.state.shape[1] - meta["env"]["tokens"]["components"] if "tokens" in meta["env"] else None
        found[name] = errors(model, data, thing=things.get("object"), felt=felt, rows=config.steps, seed=config.seed)
        found[name]["levels"] = meta["levels"]
        if name == "model":
            found["environment"] = meta["env"]["name"]
            found["recorded"] = {
                "episodes": len(data.start),
                "successes": int(data.succeeded().sum()),
                "steps": len(data),
                "held_out": int(data.held.sum()),
            }
    return found
