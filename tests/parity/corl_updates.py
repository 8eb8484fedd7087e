"""Makes `tests/algorithms/data/corl_updates.json`: the losses of CORL's own classes over 100 updates each.

    python tests/parity/corl_updates.py FOLDER      which holds CORL's algorithms/offline/{iql,td3_bc,awac}.py and
                                                    algorithms/finetune/cal_ql.py

CORL (Tarasov et al. 2022, arXiv 2210.07105) is not a part of toddle: its files are read from a folder of yours.  They
import gym, d4rl, pyrallis and wandb at module level only, so empty modules stand in for these.  Weights, data and the
order of batches follow from `given`, which the test calls too; noise is drawn from one generator in the order in
which the updates ask for it.  Cal-QL is run in float64, narrower and with smaller batches: its push at weight 5 makes a
rounding of float32 grow a thousandfold in a hundred updates.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

UPDATES, ROWS, BATCH, OBSERVATION, ACTION, HIDDEN = 100, 500, 64, 5, 2, 256
LAYERS = {"iql": 2, "td3_bc": 2, "awac": 3, "cal_ql": 3, "cal_ql_lagrange": 3}
SAMPLES, NARROW, FEW = 4, 64, 16
"""Cal-QL's: actions a state of each kind (its own: 10), widths of hidden layers, rows of a batch."""
CONSERVATIVE: dict[str, dict[str, Any]] = {
    "cal_ql": {},
    "cal_ql_lagrange": {
        "cql_lagrange": True,
        "cql_target_action_gap": 0.8,
        "cql_max_target_backup": True,
        "cql_clip_diff_min": 3.5,
    },
}
OUT = Path(__file__).parent.parent / "algorithms/data/corl_updates.json"


def given(
    layers: int, width: int = HIDDEN
) -> tuple[dict[str, list[Tensor]], dict[str, Tensor], Tensor, torch.Generator]:
    """Return weights (W, b, W, b, ... of each network), data, batches (UPDATES, BATCH) and the generator of noise."""
    g, later = torch.Generator().manual_seed(7), torch.Generator().manual_seed(13)

    def network(inputs: int, outputs: int, g: torch.Generator = g) -> list[Tensor]:
        sizes = [inputs, *[width] * layers, outputs]
        found = []
        for a, b in pairwise(sizes):
            found += [(2 * torch.rand(b, a, generator=g) - 1) / a**0.5, (2 * torch.rand(b, generator=g) - 1) / a**0.5]
        return found

    both = OBSERVATION + ACTION
    weights = {"actor": network(OBSERVATION, ACTION), "q1": network(both, 1), "q2": network(both, 1)}
    weights["v"] = network(OBSERVATION, 1)
    state = torch.randn(ROWS + 1, OBSERVATION, generator=g)
    data = {
        "observation": state[:-1],
        "action": torch.rand(ROWS, ACTION, generator=g) * 2 - 1,
        "reward": torch.randn(ROWS, generator=g),
        "following": state[1:],
        "terminal": (torch.rand(ROWS, generator=g) < 0.1).float(),
    }
    weights["squashed"], data["returns"] = network(OBSERVATION, 2 * ACTION, later), torch.randn(ROWS, generator=later)
    return weights, data, torch.randint(ROWS, (UPDATES, BATCH), generator=g), torch.Generator().manual_seed(11)


def put(module: nn.Module, weights: list[Tensor]) -> nn.Module:
    """Set the weights of all linear layers of a module."""
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    for layer, weight, bias in zip(linear, weights[::2], weights[1::2], strict=True):
        layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return module


def load(folder: Path, name: str) -> Any:
    """Import a file of CORL with stand-ins for what only its scripts need."""
    for missing in ("d4rl", "gym", "pyrallis", "wandb"):
        sys.modules[missing] = types.ModuleType(missing)
    gym: Any = sys.modules["gym"]
    gym.Env = gym.Wrapper = object
    sys.modules["pyrallis"].wrap = lambda: lambda function: function  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(f"corl_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def adam(*modules: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam([p for module in modules for p in module.parameters()], lr=3e-4)


def build(corl: Any, name: str, weights: dict[str, list[Tensor]]) -> Any:
    """Return CORL's learner with its own defaults, but Cal-QL's as `CONSERVATIVE` says."""
    if name in CONSERVATIVE:
        actor = corl.TanhGaussianPolicy(OBSERVATION, ACTION, 1.0, log_std_offset=0.0)
        put(actor, weights["squashed"])
        q1, q2 = (corl.FullyConnectedQFunction(OBSERVATION, ACTION, n_hidden_layers=3) for _ in range(2))
        put(q1, weights["q1"]), put(q2, weights["q2"])
        own = torch.optim.Adam(actor.base_network.parameters(), lr=1e-4)  # the spread's two scalars are held
        optional = CONSERVATIVE[name] | {"policy_lr": 1e-4, "bc_steps": 0, "cql_n_actions": SAMPLES}
        return corl.CalQL(q1, adam(q1), q2, adam(q2), actor, own, -ACTION, **optional)
    if name == "iql":
        actor, q, v = corl.GaussianPolicy(OBSERVATION, ACTION, 1.0), corl.TwinQ(OBSERVATION, ACTION), None
        v = put(corl.ValueFunction(OBSERVATION), weights["v"])
        put(q.q1, weights["q1"]), put(q.q2, weights["q2"]), put(actor, weights["actor"])
        return corl.ImplicitQLearning(1.0, actor, adam(actor), q, adam(q), v, adam(v), max_steps=UPDATES)
    sizes = (OBSERVATION, ACTION) if name == "td3_bc" else (OBSERVATION, ACTION, HIDDEN)
    actor = put(corl.Actor(*sizes, 1.0) if name == "td3_bc" else corl.Actor(*sizes), weights["actor"])
    q1, q2 = (put(corl.Critic(*sizes), weights[key]) for key in ("q1", "q2"))
    parts = (actor, adam(actor), q1, adam(q1), q2, adam(q2))
    if name == "td3_bc":
        return corl.TD3_BC(1.0, *parts)
    return corl.AdvantageWeightedActorCritic(*parts, awac_lambda=1 / 3)


def shown(name: str, losses: dict[str, float]) -> dict[str, float]:
    """Return what is compared: of Cal-QL's many numbers some, of both critics and kinds of action together."""
    if name not in CONSERVATIVE:
        return losses
    rates = [value for key, value in losses.items() if key.startswith("bound_rate")]
    found = {key: losses[key] for key in ("policy_loss", "alpha", "alpha_prime")}
    found["q_loss"] = losses["qf1_loss"] + losses["qf2_loss"]
    found["gap"] = (losses["cql_qf1_diff"] + losses["cql_qf2_diff"]) / 2
    return found | {"entropy": -losses["log_pi"], "bound_rate": sum(rates) / len(rates)}


def main(folder: Path) -> None:
    """Run all and write their losses."""
    found: dict[str, list[dict[str, float]]] = {}
    uniform = Tensor.uniform_
    for name, layers in LAYERS.items():
        torch.set_default_dtype(torch.float64 if name in CONSERVATIVE else torch.float32)
        weights, data, batches, noise = given(layers, NARROW if name in CONSERVATIVE else HIDDEN)
        learner = build(load(folder, "cal_ql" if name in CONSERVATIVE else name), name, copy.deepcopy(weights))
        torch.randn_like = lambda x, noise=noise: torch.randn(x.shape, generator=noise)

        def drawn(
            self: torch.distributions.Normal, shape: torch.Size | None = None, noise: torch.Generator = noise
        ) -> Tensor:
            return self.loc + torch.randn(self.loc.shape, generator=noise) * self.scale

        def evenly(self: Tensor, low: float, high: float, noise: torch.Generator = noise, **settings: Any) -> Tensor:
            if self.ndim < 3:  # initial weights
                return uniform(self, low, high, **settings)
            return self.copy_(torch.rand(self.shape, generator=noise) * (high - low) + low)

        torch.distributions.Normal.rsample = drawn  # type: ignore[method-assign, assignment]
        Tensor.uniform_ = evenly  # type: ignore[method-assign, assignment]
        update = learner.update if name == "awac" else learner.train
        columns = ("observation", "action", "reward", "following", "terminal")
        found[name] = []
        for rows in batches[:, :FEW] if name in CONSERVATIVE else batches:
            batch = [data[column][rows] for column in (*columns, *(["returns"] if name in CONSERVATIVE else []))]
            batch[2], batch[4] = batch[2][:, None], batch[4][:, None]
            found[name].append(shown(name, update(batch)))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
