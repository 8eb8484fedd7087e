"""`toddle worldmodel improve`: offline RL, a gate in a model, new episodes, again; then online RL (RL-100's loop).

<out>/imitation                 the policy that the first candidate has to beat, where none is given
<out>/round_1/candidate         offline RL on all episodes so far
<out>/round_1/model             a model of the environment, of the same episodes
<out>/round_1/gate.json         whether the candidate gains in it on the policy so far, and what both are really
<out>/round_1/episodes          of whichever was taken, added to the data
<out>/online                    PPO in the environment, from the policy of the last round
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

from toddle.algorithms.offline import OfflineConfig
from toddle.algorithms.world_model_training import WorldModelTrainingConfig
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, Finite, NonNegative, Seed, Size, Whole
from toddle.core.plan import Plan
from toddle.core.reading import read_json
from toddle.models.world_model import WorldModelConfig, world_model_folder
from toddle.policies.store import load_policy, meta_of, save_policy
from toddle.recipes import offline, pretrain, worldmodel_record, worldmodel_train
from toddle.recipes._imagined import gate_line, gated, play, told
from toddle.recipes.worldmodel import opened, recorded_in
from toddle.recipes.worldmodel_train import ImagineConfig
from toddle.reporting.gates import write_gates_page
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

Method = Literal["iql", "cql", "cal-ql", "td3-bc", "awac"]
APART = 1_000_000
"""Seeds between the episodes of two rounds."""


@config
class Config:
    """Improve a policy of states by RL-100's loop: offline RL on all episodes so far, taken over where it gains in a
    learned model, then new episodes of it; at last online RL.

    Example: toddle worldmodel improve --dataset runs/good --rounds 3 --online-steps 20000 --out runs/improved
    """

    may_change: ClassVar[tuple[str, ...]] = ()

    dataset: tuple[Path, ...]
    """Datasets to begin with, of one environment, failures too."""
    out: Path = Path("runs/improved")
    """Folder of the run; the last policy is in its `policy/`, and index.html says what each gate did."""
    policy: Path | None = None
    """Folder of the policy that the first candidate has to beat; None: one that imitates the data."""
    rounds: Count = 3
    """Rounds of offline RL, gate and new episodes."""
    method: Method = "iql"
    """Offline RL: how candidates are learned."""
    updates: Count | None = None
    """Its updates; None: as `toddle offline` has it."""
    reward: Literal["success", "recorded"] = "success"
    """What pays in it, as in `toddle offline`."""
    reward_shift: Finite = -1.0
    """Added to each of its rewards."""
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    """Its settings."""
    gate: NonNegative = 0.05
    """A candidate is taken where it gains more than this share of the present policy's return in the model."""
    gate_in: Literal["model", "control"] = "model"
    """control: ask a model that was shown shuffled actions, which should know nothing of who is better."""
    gate_episodes: Count = 50
    """Episodes of each at a gate, imagined, and from the same starts real, which decide nothing."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """Sizes of the model."""
    train: WorldModelTrainingConfig = field(default_factory=WorldModelTrainingConfig)
    """How it is trained."""
    imagine: ImagineConfig = field(default_factory=ImagineConfig)
    """How episodes go in it; its penalty for doubt counts at the gate."""
    episodes: Count = 100
    """New episodes of a round, drawn from the policy."""
    batch: Size = 50
    """Worlds at once."""
    online_steps: Whole = 0
    """Control steps of PPO in the environment at the end; 0: none."""
    seed: Seed = 0
    """Seed of everything; gates play seeds from 0."""

    def __post_init__(self) -> None:
        if not self.dataset:
            raise problem("dataset", "at least one folder", "none")


def _offline(
    config: Config, datasets: list[Path], out: Path, method: Method | Literal["bc"], seed: int
) -> offline.Config:
    """Return the settings of a run of offline RL, or of imitation."""
    rewards: dict[str, Any] = {"reward": config.reward, "reward_shift": config.reward_shift, "offline": config.offline}
    return offline.Config(
        dataset=tuple(datasets),
        out=out,
        method=method,
        updates=config.updates,
        seed=seed,
        **({} if method == "bc" else rewards),
    )


def _model(config: Config, datasets: list[Path], out: Path, seed: int) -> worldmodel_train.Config:
    """Return the settings of a model's training."""
    return worldmodel_train.Config(
        dataset=tuple(datasets),
        out=out,
        model=config.model,
        train=config.train,
        imagine=config.imagine,
        control=config.gate_in == "control",
        seed=seed,
    )


def plan(config: Config) -> Plan:
    """Check data and policy, and say what will be done."""
    found = opened(config.dataset)
    name, datasets = recorded_in(found), [dataset.path for dataset in found]
    first = offline.plan(_offline(config, datasets, config.out / "candidate", config.method, config.seed))
    model = worldmodel_train.plan(_model(config, datasets, config.out / "model", config.seed))
    if config.policy is not None:
        worldmodel_record.plan(_episodes(config, name, str(config.policy), config.out / "episodes", 1))
    begin = f"begin with {config.policy}" if config.policy else "imitate the data, to begin with"
    steps = [
        begin,
        f"{config.rounds} times: {config.method} on all episodes so far; a model of {name} from the same; take what "
        f"gains more than {100 * config.gate:g} % in its {config.gate_in}; add {config.episodes} episodes of it",
    ]
    if config.online_steps:
        pretrain.plan(_online(config, name, config.policy))
        steps.append(f"PPO in {name} for {config.online_steps:,} control steps, from what was taken")
    return Plan(
        steps=[*steps, f"write {config.out / 'policy'} and {config.out / 'index.html'}"],
        memory_bytes=max(first.memory_bytes, model.memory_bytes),
        seconds=config.rounds * ((first.seconds or 0.0) + (model.seconds or 0.0) + 0.1 * config.episodes)
        + 0.001 * config.online_steps,
    )


def _episodes(config: Config, name: str, policy: str, out: Path, number: int) -> worldmodel_record.Config:
    """Return the settings of a round's new episodes."""
    return worldmodel_record.Config(
        env=name,
        policy=(policy,),
        out=out,
        episodes=config.episodes,
        batch=config.batch,
        seed=worldmodel_record.Config.seed + APART * number,
    )


def _online(config: Config, name: str, policy: Path | None) -> Any:
    """Return the settings of PPO in the environment."""
    more = {} if policy is None else {"init": str(policy)}
    steps, out = config.online_steps, str(config.out / "online")
    return pretrain.configure(env=[name], steps=steps, seed=config.seed, out=out, **more)


def run(config: Config, *, resume: bool = False) -> None:
    """Go round; what was done before a kill is not done again."""
    plan(config)
    found = opened(config.dataset)
    name, datasets = recorded_in(found), [dataset.path for dataset in found]
    with RunFolder.open(config.out, config, resume=resume) as folder:
        now = config.policy or config.out / "imitation"
        if config.policy is None:
            _once(now, lambda: offline.run(_offline(config, datasets, now, "bc", config.seed), resume=True))
        rows = list[dict[str, Any]]()
        for number in range(1, config.rounds + 1):
            row = _round(config, name, number, now, datasets)
            rows.append(row)
            now = config.out / f"round_{number}" / "candidate" if row["accepted"] else now
            print(f"round {number}: {gate_line(row)}", flush=True)
            datasets += [dataset.path for dataset in opened([config.out / f"round_{number}" / "episodes"])]
            write_json_atomic(config.out / "improve.json", {"environment": name, "rounds": rows})
            write_gates_page(config.out / "index.html", name, rows)
        if config.online_steps:
            online = _online(config, name, now)
            _once(config.out / "online", lambda: pretrain.run(online, resume=True))
            now = config.out / "online"
        save_policy(config.out / "policy", load_policy(now), meta_of(now))
        write_json_atomic(config.out / "improve.json", {"environment": name, "rounds": rows, "policy": str(now)})
        folder.finish(config.rounds)
    print(f"policy: {config.out / 'policy'}, that of {now}; page: {config.out / 'index.html'}")


def _once(folder: Path, call: Callable[[], None]) -> None:
    """Do what has not left its policy in a folder yet."""
    if not (folder / "policy" / "policy.json").exists():
        call()


def _round(config: Config, name: str, number: int, now: Path, datasets: list[Path]) -> dict[str, Any]:
    """Go one round; return what its gate found."""
    place, seed = config.out / f"round_{number}", config.seed + number
    candidate = place / "candidate"
    _once(candidate, lambda: offline.run(_offline(config, datasets, candidate, config.method, seed), resume=True))
    gate = place / "gate.json"
    if not gate.exists():
        if world_model_folder(place / "model" / config.gate_in) is None:
            worldmodel_train.run(_model(config, datasets, place / "model", seed), resume=True)
        played = play(
            place / "model" / config.gate_in,
            [f"now={now}", f"round_{number}={candidate}"],
            seed=0,
            episodes=config.gate_episodes,
            worlds=config.batch,
            deterministic=False,
        )
        write_json_atomic(gate, gated(played, config.gate)[0] | {"played": [told(one) for one in played]})
    row = read_json(gate)
    taken = candidate if row["accepted"] else now
    worldmodel_record.run(_episodes(config, name, str(taken), place / "episodes", number), resume=True)
    return row
