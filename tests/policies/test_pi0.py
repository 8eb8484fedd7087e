"""pi0 of transformers on a tiny local checkpoint: loss, time's direction, sampling, SFT, saving."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny_vlm import SENTENCES, pi0_inputs, save_pi0
from torch.testing import assert_close

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.data.statistics import feature_statistics
from toddle.policies.foreign import expert_kind
from toddle.policies.pi0 import Pi0Config, Pi0Policy
from toddle.policies.store import load_policy, save_policy

BODY = BodySpec(name="toy", proprio=5, action=3, dt=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pi0(tmp_path_factory.mktemp("pi0"))


def make(folder: Path, **more: Any) -> Pi0Policy:
    return Pi0Policy.from_pretrained(Pi0Config(source=str(folder), body=BODY, executed=4, text_tokens=9, **more))


def batch(size: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (1, size, 1, 3, 24, 24), generator=generator, dtype=torch.uint8)
    return {
        "observation": {
            "proprio": torch.randn(1, size, 5, generator=generator),
            "images": images,
            "instruction": [SENTENCES[i % 3] for i in range(size)],
            "body": torch.zeros(1, size, dtype=torch.int64),
        },
        "action": torch.rand(size, 6, 3, generator=generator) * 2 - 1,
        "mask": torch.ones(size, 6, dtype=torch.bool),
    }


class Fixed:
    """The same few demonstrations again and again."""

    def __len__(self) -> int:
        return 3

    def batch(self, samples: Any) -> dict[str, Any]:
        whole, rows = batch(), torch.from_numpy(np.asarray(samples))
        observation = {
            key: [value[i] for i in rows] if isinstance(value, list) else value[:, rows]
            for key, value in whole["observation"].items()
        }
        return {"observation": observation, "action": whole["action"][rows], "mask": whole["mask"][rows]}


def test_our_loss_is_theirs_with_time_turned(folder: Path) -> None:
    """transformers' own forward with `actions` and t = 1 - tau gives the same mean squared error."""
    policy, data = make(folder).eval(), batch()
    now = data["observation"]
    loss, _ = policy.loss(data, torch.Generator().manual_seed(8))
    generator = torch.Generator().manual_seed(8)
    noise = torch.randn(3, 6, 7, generator=generator)
    uniform = torch.rand(3, generator=generator)
    t = (uniform.pow(2 / 3) / 0.999).clamp(max=1.0)  # Beta(1.5, 1) by inversion
    inputs = pi0_inputs(policy, now["proprio"][0], now["images"][0], now["instruction"])
    padded = torch.nn.functional.pad(data["action"], (0, 4))
    with torch.no_grad():
        theirs = policy.model(actions=padded, noise=noise, timestep=t, **inputs).loss
    assert loss.item() == pytest.approx(float(theirs), rel=1e-5)


def test_sampling_follows_the_velocity_from_noise_to_action(folder: Path) -> None:
    """An Euler loop over our velocity, in our direction, ends where transformers' sampler ends."""
    policy = make(folder, steps=4).eval()
    now: Any = {
        key: value[0] if isinstance(value, torch.Tensor) else value for key, value in batch()["observation"].items()
    }
    decision, _ = policy.act(now, None, generator=torch.Generator().manual_seed(3))
    assert decision.action.shape == (3, 4, 3) and decision.chain.shape == (3, 6, 7)
    inputs = pi0_inputs(policy, now["proprio"], now["images"], now["instruction"])
    theirs = policy.model.sample_actions(noise=decision.chain, num_steps=4, **inputs)
    assert_close(decision.action, theirs[:, :4, :3].clamp(-1, 1), rtol=0, atol=1e-5)
    velocity, x = policy.open_flow(now, None)[0], decision.chain
    for step in range(4):
        x = x + velocity(x[:, None], torch.full((3, 1), step / 4))[:, 0] / 4
    assert_close(decision.action, x[:, :4, :3].clamp(-1, 1), rtol=0, atol=1e-5)
    policy.action_scale.fill_(2.0)  # actions with units end nowhere
    scaled, _ = policy.act(now, None, generator=torch.Generator().manual_seed(3))
    assert_close(scaled.action, 2.0 * x[:, :4, :3], rtol=0, atol=2e-5)


def test_a_state_that_hardly_moved_cannot_be_blown_up(folder: Path) -> None:
    """A gripper rested at 0 with 2e-5 of noise in all demonstrations; now it is 0.04 away, thousands of deviations."""
    policy = make(folder).eval()
    rest = 2e-5 * torch.randn(500, policy.config.body.proprio, generator=torch.Generator().manual_seed(1))
    actions = feature_statistics(np.random.default_rng(2).uniform(-1, 1, (500, policy.config.body.action)))
    policy.fit_normalization(rest, actions, "identity", 0)
    seen = batch()["observation"]
    pictures, sentences = seen["images"][0], seen["instruction"]
    far = torch.full((len(pictures), policy.config.body.proprio), 0.04)
    assert ((far - policy.state_offset) / policy.state_scale).min() > 1000  # what it would be
    for proprio, low, high in ((far, 10.0, 10.0), (rest[: len(pictures)], 0.0, 5.0)):
        state = policy._see({"proprio": proprio, "images": pictures, "instruction": sentences}).state
        assert low <= state.abs().max() <= high


def test_sft_lowers_the_loss_and_spares_the_vlm(folder: Path) -> None:
    policy = make(folder)
    vlm = {name: value.detach().clone() for name, value in policy.model.model.vlm.named_parameters()}
    learner = SFT(policy, Fixed(), SFTConfig(steps=60, batch=12, learning_rate=6e-3, warm_up=0.1))
    losses = [learner.step()["sft/loss"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(torch.equal(value, vlm[name]) for name, value in policy.model.model.vlm.named_parameters())


def test_save_and_load(folder: Path, tmp_path: Path) -> None:
    policy = make(folder).eval()
    policy.fit_normalization(
        torch.randn(20, 5), feature_statistics(np.random.default_rng(0).normal(size=(30, 3))), "mean_std", 0
    )
    save_policy(tmp_path, policy)
    again = load_policy(tmp_path)
    now = {key: value[0] if isinstance(value, torch.Tensor) else value for key, value in batch()["observation"].items()}
    a, b = (p.act(now, None, deterministic=True)[0].action for p in (policy, again))
    assert torch.equal(a, b)


def test_clear_lines(folder: Path, tmp_path: Path) -> None:
    assert expert_kind(folder) == "pi0" and expert_kind(tmp_path) is None
    with pytest.raises(InputError, match="pi0 source"):
        Pi0Policy.from_pretrained(Pi0Config(source=str(tmp_path / "no"), body=BODY))
    with pytest.raises(InputError, match="executed: expected a whole number from 1"):
        Pi0Config(source=str(folder), body=BODY, executed=0)


@pytest.mark.parametrize(
    ("body", "executed", "line"),
    [
        ({"proprio": 17, "action": 4}, 4, "max_state_dim: expected at least 17, for the proprioception of body 'arm'"),
        ({"proprio": 5, "action": 9}, 4, "max_action_dim: expected at least 9, for the actions of body 'arm', got 7"),
        ({"proprio": 5, "action": 4}, 8, "chunk_size: expected at least 8, for the actions executed of a chunk, got 6"),
    ],
)
def test_a_checkpoint_that_is_too_small_is_refused_before_its_weights_are_read(
    folder: Path, tmp_path: Path, body: dict[str, int], executed: int, line: str
) -> None:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / file, tmp_path)
    settings = Pi0Config(source=str(tmp_path), body=BodySpec(name="arm", dt=0.05, **body), executed=executed)
    with pytest.raises(InputError) as error:
        Pi0Policy.from_pretrained(settings)
    assert f"pi0 {tmp_path}: {line}" in str(error.value) and "\n" not in str(error.value)
    fits = Pi0Config(source=str(tmp_path), body=BODY, executed=4)
    with pytest.raises(InputError, match="cannot be loaded"):  # now the weights are looked for
        Pi0Policy.from_pretrained(fits)
