"""The score of a VLA that explores is the gradient of what it is paid: it predicts how the pay changes along itself."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import torch
from tests.policies.tiny_vla import ACTION, PROPRIO, tiny_backbone, tiny_diffusion_config, tiny_token_vla, tiny_vla
from tests.tiny_vlm import save_pi0
from torch import Tensor

from toddle.core.types import BodySpec, Observation
from toddle.policies.diffusion_vla import DiffusionVLA
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.pi0 import Pi0Config, Pi0Policy

BATCH, STEP = 2048, 0.02


class Slopes(NamedTuple):
    """How the mean pay changes along the score's gradient."""

    found: float  # by differences, with the same draws
    said: float  # by the score, on draws that did not make the direction
    shuffled: float  # by the score, with the pay of other decisions


def explorer_of(kind: str) -> Any:
    if kind == "tokens":
        policy: Any = tiny_token_vla()
    elif kind == "oft":
        policy = tiny_token_vla(decoding="parallel", head="laplace")
    elif kind == "diffusion":
        policy = DiffusionVLA(tiny_diffusion_config(), tiny_backbone())
    elif kind == "pi0":
        body = BodySpec(name="toy", proprio=PROPRIO, action=ACTION, dt=0.05)
        with TemporaryDirectory() as folder:  # all that flows is scored: no padding, the whole chunk
            save_pi0(Path(folder), chunk_size=2, max_action_dim=ACTION)
            policy = Pi0Policy.from_pretrained(Pi0Config(source=folder, body=body, executed=2))
        kind = "flow-noise"
    else:
        policy = tiny_vla()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # fresh decoders end in zeros, where many gradients vanish
        for value in policy.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    noise: Any = kind
    if kind == "diffusion":
        return policy.explorer(SamplerConfig(reduce="sum"))
    flows = kind not in ("tokens", "oft")
    return policy.explorer(SamplerConfig(noise=noise, reduce="sum") if flows else SamplerConfig())


def observed(seed: int, width: int) -> Any:
    draws = torch.Generator().manual_seed(seed)
    return Observation(
        proprio=torch.randn(BATCH, PROPRIO, generator=draws),
        context=torch.randn(BATCH, 6, width, generator=draws),
        context_mask=torch.ones(BATCH, 6, dtype=torch.bool),
    )


def play(policy: Any, seed: int, width: int) -> tuple[Any, Any, Tensor]:
    """Decide once; the pay is the first number of the first action."""
    seen = observed(seed, width)
    decision, _ = policy.act(seen, policy.initial_memory(BATCH), generator=torch.Generator().manual_seed(seed + 1))
    return seen, decision, decision.action[:, 0, 0]


def gradient(policy: Any, seed: int, width: int, *, shuffled: bool = False) -> Tensor:
    """Return the score's gradient of the mean pay, as one vector."""
    seen, decision, pay = play(policy, seed, width)
    advantage = pay - pay.mean()
    if shuffled:
        advantage = advantage[torch.randperm(BATCH, generator=torch.Generator().manual_seed(seed))]
    score = policy.score({name: value[None] for name, value in seen.items()}, decision.chain[None])
    parameters = [value for value in policy.parameters() if value.requires_grad]
    loss = (score.log_prob[0].sum(-1) * advantage).mean()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def slopes(kind: str) -> Slopes:
    policy = explorer_of(kind)
    width = 32 if kind == "pi0" else 16  # numbers of a context token
    way = gradient(policy, 10, width)
    way = way / way.norm()
    said, shuffled = float(gradient(policy, 20, width) @ way), float(gradient(policy, 20, width, shuffled=True) @ way)
    parameters = [value for value in policy.parameters() if value.requires_grad]
    start, pays = torch.nn.utils.parameters_to_vector(parameters).detach(), []
    for sign in (1.0, -1.0):
        torch.nn.utils.vector_to_parameters(start + sign * STEP * way, parameters)
        pays.append(float(play(policy, 30, width)[2].mean()))
    return Slopes((pays[0] - pays[1]) / (2 * STEP), said, shuffled)


LONG = pytest.param("diffusion", 1.0, marks=pytest.mark.slow)


# Flow-SDE scores one step of four, so its gradient is a quarter of the whole (a step size, not a direction).
@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("flow-sde", 0.25),
        ("flow-noise", 1.0),
        ("reinflow", 1.0),
        ("pi0", 1.0),
        ("tokens", 1.0),
        ("oft", 1.0),
        ("diffusion", 1.0),
    ],
)
def test_the_score_is_the_gradient_of_the_pay(kind: str, share: float) -> None:
    found, said, shuffled = slopes(kind)
    assert found > 0.0 and said / share == pytest.approx(found, rel=0.35)
    assert abs(shuffled) < said / 3, "the control: the pay of other decisions says next to nothing"


@pytest.mark.slow
def test_the_change_of_fpos_loss_leads_the_same_way() -> None:
    """It is no density, so its size says nothing."""
    found, said, shuffled = slopes("fpo")
    assert found > 0.0 and said > 0.0 and abs(shuffled) < said / 3
