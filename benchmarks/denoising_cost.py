"""What denoising policies cost: DPPO's loop against Gaussian PPO's, acting and updating against the released way.

    python benchmarks/denoising_cost.py [--rounds 7]

Contenders run interleaved in one process on one thread; CPU seconds, medians over the rounds, and the spread.

The released way of DPPO is re-implemented here as it is published (irom-princeton/dppo): each denoising step goes
through the whole network with the observation encoded again; the frozen network is evaluated beside the tuned one at
every step (its result is overwritten where the tuned one answers); log-densities of a rollout come from a second pass;
an update scores shuffled (decision, step) pairs, the observation repeated for each.  float32, K = K' = 20.
Chains, log-densities and gradients of both ways are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.goal import GOAL_FEATURES
from toddle.core.types import BodySpec
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig, Collector
from toddle.maths.diffusion import ddpm_link, eps_to_x0
from toddle.maths.objectives import clipped_surrogate
from toddle.models.denoisers import MlpDenoiser, MlpDenoiserConfig, time_features
from toddle.models.denoising_trunk import TrunkDenoiserConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.links import DiffusionConfig, DiffusionLinks

OUT = Path(__file__).parent.parent / "docs/benchmarks"
BODY = BodySpec(name="arm", proprio=24, action=7, dt=0.05)
WORLDS, BATCH = 64, 256
WANTED = """Wanted: x 4 for both. An update through an MLP multiplies the same matrices in both ways, but for the frozen
network's pass, a quarter of the released way's. More is saved the more the network reads besides the chunk: that is
encoded once a decision here and once a link there."""
NETWORKS = {"mlp": 0, "trunk": 6, "trunk, 64 tokens": 64}
"""Name -> tokens of the goal or context that it attends to: 6 goal items; 64 as of one picture of SmolVLM2."""


class PlainMlp:
    """DPPO's network as published: time, chunk and observation joined at the input of one residual MLP."""

    def __init__(self, net: MlpDenoiser) -> None:
        self.net = net

    def __call__(self, features: Tensor, x: Tensor, time_: Tensor) -> Tensor:
        net = self.net
        weight = torch.cat([net.from_chunk.weight, net.from_time.weight, net.from_features.weight], 1)
        joined = torch.cat([x.flatten(1), time_features(time_), features], 1)
        h = F.linear(joined, weight, net.from_features.bias)
        for first, second in zip(net.layers[::2], net.layers[1::2], strict=True):
            h = h + second(F.mish(first(F.mish(h))))
        return net.out(F.mish(h)).view_as(x)


class ReleasedWay:
    """The released code's way through the same weights."""

    def __init__(self, policy: DenoisingPolicy) -> None:
        self.policy, self.tuned = policy, policy.tuned
        self.frozen = copy.deepcopy(policy.tuned).requires_grad_(False)
        assert isinstance(policy.links, DiffusionLinks)
        self.links = policy.links

    def mean_std(self, observation: Any, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread for chunks x (N, H, A) at steps index (N,), observation (N, ...): both networks, whole."""
        time_ = self.links.times[index][:, None]
        features = self.policy._features(observation)
        with torch.no_grad():
            self.predict(self.frozen, observation, features, x, time_)
        eps = self.predict(self.tuned, observation, features, x, time_)
        now, after = (table[index][:, None, None] for table in (self.links.now, self.links.after))
        mean, std = ddpm_link(x, eps_to_x0(x, eps, now), now, after)
        return mean, std.clamp(min=0.1).expand_as(mean)

    def predict(self, network: Any, observation: Any, features: Tensor, x: Tensor, time_: Tensor) -> Tensor:
        """Run the whole network for chunks x (N, H, A)."""
        if isinstance(network.denoiser, MlpDenoiser):
            return PlainMlp(network.denoiser)(features, x, time_[:, 0])
        return network.predict(network.encode(observation, features, None), x[:, None], time_)[:, 0]

    def log_prob(self, observation: Any, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Averaged log-density of chunks y (N, H, A) after x."""
        mean, std = self.mean_std(observation, x, index)
        density = torch.distributions.Normal(mean, std).log_prob(y)
        return density.clamp(-5, 2).flatten(1).mean(1)

    @torch.no_grad()
    def act(self, observation: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw chains (B, K + 1, H, A), then their log-densities (B, K) in a second pass."""
        x = torch.randn(WORLDS, 4, BODY.action, generator=generator)
        chain = [x]
        for i in range(self.links.steps):
            mean, std = self.mean_std(observation, x, torch.full((WORLDS,), i))
            noise = torch.randn(WORLDS, 1, 4, BODY.action, generator=generator)[:, 0].clamp(-3, 3)
            x = mean + std * noise
            chain.append(x)
        states = torch.stack(chain, 1)
        steps = self.links.steps
        repeated = {key: value.repeat_interleave(steps, 0) for key, value in observation.items()}
        index = torch.arange(steps).repeat(WORLDS)
        log_prob = self.log_prob(repeated, states[:, :-1].flatten(0, 1), states[:, 1:].flatten(0, 1), index)
        return states, log_prob.view(WORLDS, steps)


def make(network: str) -> DenoisingPolicy:
    """DPPO's sizes: an MLP of 512 channels; or our trunk, with goals."""
    goals = 64 if NETWORKS[network] else 0
    trunk = TrunkConfig(width=96, depth=4, heads=4, context_width=64, modulation="residual")
    own: Any = (
        TrunkDenoiserConfig(trunk=trunk, goal_dropout=0.0)
        if goals
        else MlpDenoiserConfig(width=512, blocks=1, activation="mish")
    )
    return DenoisingPolicy(
        DenoisingConfig(body=BODY, process=DiffusionConfig(train_steps=20), network=own, goal_width=goals)
    )


def observe(rows: int, network: str) -> Any:
    """Random observations."""
    g = torch.Generator().manual_seed(0)
    seen = {"proprio": torch.randn(rows, BODY.proprio, generator=g)}
    if items := NETWORKS[network]:
        goal = torch.randn(rows, items, GOAL_FEATURES, generator=g)
        goal[..., 0] = torch.randint(9, (rows, items), generator=g)
        seen |= {"goal": goal, "goal_mask": torch.ones(rows, items, dtype=torch.bool)}
    return seen


def contenders(network: str) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """Functions to time, and how far the two ways' results are apart."""
    policy = make(network)
    released = ReleasedWay(policy)
    seen, batch = observe(WORLDS, network), observe(BATCH, network)
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(1))
    states, log_prob = released.act(seen, torch.Generator().manual_seed(1))
    apart = {
        "chain": float((decision.chain - states.flatten(1)).abs().max()),
        "log_prob": float((decision.log_prob - log_prob).abs().max()),
    }
    drawn, _ = policy.act(batch, generator=torch.Generator().manual_seed(2))
    advantage = torch.randn(BATCH, generator=torch.Generator().manual_seed(3))
    weights = list(policy.tuned.parameters())
    one_row = {key: value[None] for key, value in batch.items()}
    chains = drawn.chain.view(BATCH, 21, 4, BODY.action)
    pairs = torch.randperm(BATCH * 20, generator=torch.Generator().manual_seed(4))
    rows, steps = pairs // 20, pairs % 20
    repeated = {key: value[rows] for key, value in batch.items()}

    def ours() -> list[Tensor]:
        score = policy.score(one_row, drawn.chain[None]).log_prob[0]
        loss, _ = clipped_surrogate(score - drawn.log_prob, advantage, 0.1, 0.1)
        return list(torch.autograd.grad(loss, weights, allow_unused=True))

    def theirs() -> list[Tensor]:
        score = released.log_prob(repeated, chains[rows, steps], chains[rows, steps + 1], steps)
        ratio = (score - drawn.log_prob[rows, steps]).exp()
        gain = advantage[rows]
        loss = -torch.minimum(ratio * gain, ratio.clamp(0.9, 1.1) * gain).mean()
        return list(torch.autograd.grad(loss, weights, allow_unused=True))

    both = [(a, b) for a, b in zip(ours(), theirs(), strict=True) if a is not None]
    scale = max(float(b.abs().max()) for _, b in both)
    apart["gradient, relative"] = max(float((a - b).abs().max()) for a, b in both) / scale
    g = torch.Generator().manual_seed(5)
    return {
        f"{network} act, toddle": lambda: policy.act(seen, generator=g),
        f"{network} act, released way": lambda: released.act(seen, g),
        f"{network} update, toddle": ours,
        f"{network} update, released way": theirs,
    }, apart


def loops() -> dict[str, PPO]:
    """Whole loops on HalfCheetah-v5 with the same actor size: two hidden layers of 256."""
    made: dict[str, PPO] = {}
    for name, horizon in (("Gaussian PPO", 1), ("DPPO, K 10, chunk 4", 4), ("DPPO, K 10, chunk 1", 1)):
        env = make_env("gymnasium/HalfCheetah-v5", WORLDS, seed=0)
        spec = env.body_spec
        critic = ValueNet(CriticConfig(inputs=(spec.proprio,)))
        settings: dict[str, Any] = {"epochs": 5, "minibatches": 4, "target_kl": None}
        policy: Any = GaussianPolicy(GaussianConfig(bodies=(spec,), hidden=(256, 256)))
        if "DPPO" in name:
            process = DiffusionConfig(train_steps=10)
            policy = DenoisingPolicy(DenoisingConfig(body=spec, horizon=horizon, executed=horizon, process=process))
            settings |= {"ratio": "per_link", "clip_low": 0.1, "clip_high": 0.1}
        collect = CollectConfig(length=32 // horizon)
        collector = Collector(env, collect, seed=0)
        made[name] = PPO(policy, critic, [collector], PPOConfig(**settings), iterations=100, seed=0)
    return made


def measure(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each function in each round, interleaved."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.process_time()
            function()
            times[name].append(time.process_time() - began)
    return times


def main() -> None:
    """Measure and write docs/benchmarks/denoising_cost.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    functions: dict[str, Callable[[], Any]] = {name: ppo.step for name, ppo in loops().items()}
    steps = 32 * WORLDS
    apart: dict[str, dict[str, float]] = {}
    for network in NETWORKS:
        more, apart[network] = contenders(network)
        functions |= more
    for network, found in apart.items():
        assert max(found.values()) < 1e-5, f"{network}: the two ways differ: {found}"
    load = os.getloadavg()[0]
    times = measure(functions, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: medians[name] / medians["Gaussian PPO"] for name in medians if name.startswith("DPPO")} | {
        f"{network} {what}": medians[f"{network} {what}, released way"] / medians[f"{network} {what}, toddle"]
        for network in NETWORKS
        for what in ("act", "update")
    }
    record = {
        "rounds": rounds,
        "load": load,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_seconds": times,
        "medians": medians,
        "ratios": ratios,
        "apart": apart,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "denoising_cost.json").write_text(json.dumps(record, indent=1))
    (OUT / "denoising_cost.md").write_text(page(record, steps))
    print(json.dumps(ratios, indent=1))


def page(record: dict[str, Any], steps: int) -> str:
    """Return the page in Markdown."""
    median, ratio = record["medians"], record["ratios"]
    spread = {name: f"{min(v) * 1e3:.0f} to {max(v) * 1e3:.0f}" for name, v in record["cpu_seconds"].items()}
    lines = [
        "# What denoising policies cost",
        "",
        f"`python benchmarks/denoising_cost.py`: {record['rounds']} interleaved rounds, one thread, CPU seconds, "
        "medians;"
        f" Python {record['python']}, torch {record['torch']}; load average {record['load']:.1f} at the start.",
        "",
        "## The whole loop, HalfCheetah-v5, 64 worlds, actors of two hidden layers of 256",
        "",
        "| | CPU us an environment step | against Gaussian PPO | range of a round, ms |",
        "|---|---|---|---|",
    ]
    for name in ("Gaussian PPO", "DPPO, K 10, chunk 4", "DPPO, K 10, chunk 1"):
        lines.append(f"| {name} | {median[name] / steps * 1e6:.0f} | x {ratio.get(name, 1.0):.2f} | {spread[name]} |")
    lines += [
        "",
        "Both make 5 epochs of 4 minibatches over each rollout of 32 control steps.",
        "",
        "## Against the released way of DPPO, K = K' = 20, chunk 4",
        "",
        __doc__.split("\n\n")[3].strip(),
        "",
        "| | toddle, ms | released way, ms | toddle is faster |",
        "|---|---|---|---|",
    ]
    for network, tokens in NETWORKS.items():
        label = f"trunk of 96 x 4 blocks, {tokens} tokens to attend to" if tokens else "MLP of 512"
        for what, how in (("act", "64 worlds act"), ("update", f"update of {BATCH} decisions x 20 links")):
            mine, other = median[f"{network} {what}, toddle"], median[f"{network} {what}, released way"]
            lines.append(f"| {label}: {how} | {mine * 1e3:.1f} | {other * 1e3:.1f} | x {other / mine:.2f} |")
    lines += ["", WANTED]
    differ = "; ".join(f"{n}: " + ", ".join(f"{k} {v:.1e}" for k, v in a.items()) for n, a in record["apart"].items())
    return "\n".join([*lines, "", f"Largest differences between the two ways' results: {differ}.", ""])


if __name__ == "__main__":
    main()
