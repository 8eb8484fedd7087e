"""VLAs that read their VLM layer by layer, as RL explores with them: tiny, with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_vlm import SENTENCES, save_pi0

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Observation
from toddle.models.sharded import check_shared_out
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.homogeneous_critic import HomogeneousCritic
from toddle.policies.store import classes_of, load_policy, read_policy, save_policy

KINDS = ("pi0", "pi05", "smolvla")
DATA = Path(__file__).parent / "data"
NOISES: Any = ("flow-sde", "flow-noise", "reinflow", "fpo")
BATCH, PROPRIO, ACTION = 3, 5, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pi0(tmp_path_factory.mktemp("pi0"))


def made(folder: Path, kind: str = "pi0", *, moved: bool = True, **more: Any) -> Any:
    body = BodySpec(name="toy", proprio=PROPRIO, action=ACTION, dt=0.05)
    policy_class, config_class = classes_of(kind)
    source = folder if kind == "pi0" else DATA / f"lerobot_{kind}"
    room = 90 if kind == "pi05" else 9
    settings = {"source": str(source), "tokenizer": str(folder), "body": body, "executed": 4, "text_tokens": room}
    policy = policy_class.from_pretrained(config_class(**settings, **more))
    if kind != "pi0":  # the statistics of its folder are of other numbers than those below
        policy._take_statistics({name: (torch.zeros(n), torch.ones(n)) for name, n in (("state", 5), ("action", 3))})
        return policy
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # fresh biases are zeros
        for value in policy.parameters() if moved else ():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return policy


def tower(policy: Any) -> Any:
    if policy.kind == "pi0":
        return policy.model.model.vlm.vision_tower
    return policy.model.vlm.vision_tower if policy.kind == "pi05" else policy.model.vlm.vision_model


def observed(seed: int, batch: int = BATCH) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    return Observation(
        proprio=torch.randn(batch, PROPRIO, generator=generator),
        images=torch.randint(0, 256, (batch, 1, 3, 24, 24), generator=generator, dtype=torch.uint8),
        instruction=[SENTENCES[(i + seed) % 3] for i in range(batch)],
        body=torch.zeros(batch, dtype=torch.int64),
    )


def stacked(seen: list[Observation]) -> Any:
    """(T, B, ...) as a rollout keeps it: sentences as a table."""
    found: Any = {key: torch.stack([step[key] for step in seen]) for key in seen[0] if key != "instruction"}  # type: ignore[literal-required]
    if "instruction" in seen[0]:
        found["instruction"] = SENTENCES
        found["task"] = torch.tensor([[SENTENCES.index(s) for s in step["instruction"]] for step in seen])
    return found


@pytest.mark.parametrize(("train", "keep"), [("expert", "features"), ("expert", "pictures"), ("all", "pictures")])
@pytest.mark.parametrize("noise", NOISES)
def test_scores_what_it_drew_and_reads_its_vlm_once_a_decision(folder: Path, noise: Any, train: str, keep: str) -> None:
    policy = made(folder, train=train)
    explorer, read = policy.explorer(SamplerConfig(noise=noise)), []
    tower(policy).register_forward_hook(lambda *_: read.append(1))
    generator, seen, drawn = torch.Generator().manual_seed(0), [], []
    for t in range(2):
        now = explorer.encode(observed(t)) if keep == "features" else observed(t)
        assert ("images" in now) is (keep == "pictures")
        seen.append(now)
        drawn.append(explorer.act(now, generator=generator)[0])
    again = 2 if train == "all" and noise in ("flow-noise", "reinflow") else 1  # the spread sees a VLM that learns anew
    assert len(read) == 2 * again
    score = explorer.score(stacked(seen), torch.stack([decision.chain for decision in drawn]))
    assert len(read) == 2 * again + again * (keep == "pictures")
    old = torch.stack([decision.log_prob for decision in drawn])
    assert old.std() > 0 and score.entropy.shape == (2, BATCH)
    torch.testing.assert_close(score.log_prob, old, atol=2e-5, rtol=2e-5)
    if score.mean is not None:
        assert score.mean.shape == (2, BATCH, 4, ACTION)
    score.log_prob.sum().backward()
    moved = {name for name, value in explorer.named_parameters() if value.grad is not None and value.grad.abs().sum()}
    assert any(name.startswith(f"vla.{policy.expert_names[0]}") for name in moved)
    assert any(".vlm." in name for name in moved) is (train == "all")


@pytest.mark.parametrize("kind", KINDS)
def test_many_chunks_of_a_decision_flow_as_each_alone(folder: Path, kind: str) -> None:
    policy, generator = made(folder, kind), torch.Generator().manual_seed(1)
    seen, links = policy.encode(observed(0)), 3
    x, tau = torch.randn(BATCH, links, 6, 7, generator=generator), torch.rand(BATCH, links, generator=generator)
    velocity, _ = policy.open_flow(seen, None)
    alone = torch.cat([velocity(x[:, i : i + 1], tau[:, i : i + 1]) for i in range(links)], 1)
    torch.testing.assert_close(velocity(x, tau), alone, rtol=1e-5, atol=1e-6)
    together = policy.velocities(stacked([seen]), x[None], tau[None])[0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert (alone[:, 0] - alone[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "tokens"), [("pi0", 25), ("pi05", 94), ("smolvla", 14)])
def test_kept_features_act_as_pictures_do(folder: Path, kind: str, tokens: int) -> None:
    """To the rounding of float16."""
    policy, seen = made(folder, kind), observed(0)
    kept = policy.encode(seen)
    assert kept["context"].dtype == torch.float16 and kept["context"].shape == (BATCH, tokens, policy.context_width)
    a, b = (policy.act(o, generator=torch.Generator().manual_seed(2))[0].action for o in (seen, kept))
    torch.testing.assert_close(a, b, atol=5e-3, rtol=0)
    other = policy.encode(observed(1))
    c = policy.act(other | {"proprio": seen["proprio"]}, generator=torch.Generator().manual_seed(2))[0].action
    assert (a - c).abs().max() > 0.05, "the control: other pictures give other actions"


@pytest.mark.parametrize("noise", NOISES)
def test_without_noise_it_is_the_vla(folder: Path, noise: Any) -> None:
    policy = made(folder)
    explorer, seen = policy.explorer(SamplerConfig(noise=noise, steps=3)), observed(0)
    found, own = (
        each.act(seen, generator=torch.Generator().manual_seed(2), deterministic=True)[0].action
        for each in (explorer, policy)
    )
    assert torch.equal(found, own) and (policy.config.steps, policy.config.start) == (3, "drawn")
    assert not torch.equal(
        own, policy.act(seen, generator=torch.Generator().manual_seed(3), deterministic=True)[0].action
    )


def test_a_frozen_copy_stays_and_shares_the_vlm(folder: Path) -> None:
    policy = made(folder)
    critic, seen = HomogeneousCritic(policy, seed=0), observed(0)
    kept = critic.copy.model.model
    assert kept.vlm.language_model.norm.weight is policy.model.model.vlm.language_model.norm.weight
    assert kept.dit.norm.weight is not policy.model.model.dit.norm.weight
    before = critic.value(seen)
    assert before.shape == (BATCH,) and before.std() > 0
    with torch.no_grad():
        policy.model.model.dit.norm.weight.add_(1.0)
    assert torch.equal(critic.value(seen), before)
    with pytest.raises(InputError, match="critic: expected homogeneous"):
        policy.frozen_copy(lora=True)


def action(policy: Any) -> torch.Tensor:
    found: torch.Tensor = policy.act(observed(1), generator=torch.Generator().manual_seed(4))[0].action
    return found


@pytest.mark.parametrize("kind", ["pi0", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_lora_learns_on_words_and_pictures_and_the_vlm_stays(folder: Path, tmp_path: Path, kind: str) -> None:
    """Both matrices of some layer of each tower; what is stored is what learns, and it acts alike again."""
    policy = made(folder, kind, train="lora", lora_rank=2, moved=False)
    kept = {name: value.clone() for name, value in policy.named_parameters() if not value.requires_grad}
    learned = [value for value in policy.parameters() if value.requires_grad]
    with pytest.raises(InputError, match="sharding: expected none where the backbone's own weights learn"):
        check_shared_out(policy)
    optimiser, explorer = torch.optim.Adam(learned, lr=1e-2), policy.explorer(SamplerConfig())
    assert "images" in explorer.encode(observed(0)), "what learns to see is shown pictures again"
    before, drawn = policy.state_dict(), explorer.act(observed(0), generator=torch.Generator().manual_seed(0))[0]
    before = {name: value.clone() for name, value in before.items()}
    for _ in range(2):
        optimiser.zero_grad()
        explorer.score(stacked([observed(0)]), drawn.chain[None]).log_prob.sum().backward()
        optimiser.step()
    now = policy.state_dict()
    moved = {name for name in now if not torch.equal(now[name], before[name])}
    for place in ("vision", "language_model" if "language_model" in str(now.keys()) else "text_model"):
        assert {part for name in moved if place in name for part in ("lora_A", "lora_B") if part in name} == {
            "lora_A",
            "lora_B",
        }
    assert all(torch.equal(value, kept[name]) for name, value in policy.named_parameters() if name in kept)
    assert now.keys().isdisjoint(kept) and {name for name, v in policy.named_parameters() if v.requires_grad} <= set(
        now
    )
    policy = policy.eval()
    acts, critic = [action(policy)], HomogeneousCritic(policy, seed=0)
    value = critic.value(observed(1)).detach()
    with policy.merged():
        acts.append(action(policy))
        assert torch.equal(critic.value(observed(1)), value), "its copy shares the weights that LoRA lies on"
    torch.testing.assert_close(acts[0], acts[1], rtol=0, atol=1e-5)
    assert torch.equal(action(policy), acts[0])
    assert all(torch.equal(value, kept[name]) for name, value in policy.named_parameters() if name in kept)
    save_policy(tmp_path / "kept", policy)
    assert torch.equal(action(load_policy(tmp_path / "kept")), acts[0])
    assert torch.equal(action(load_policy(tmp_path / "kept", acting=True)), acts[1])


def test_what_never_learns_is_not_stored_and_must_be_what_it_was(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "source")
    policy = made(tmp_path / "source", moved=False).eval()
    save_policy(tmp_path / "run", policy)
    assert not any(".vlm." in name for name in read_policy(tmp_path / "run")[3])
    (tmp_path / "run").rename(tmp_path / "moved")
    again = load_policy(tmp_path / "moved")
    assert torch.equal(action(again), action(policy))
    whole = {name: value.clone() for name, value in policy.named_parameters(remove_duplicate=False)}
    again.load_state_dict(policy.state_dict() | whole)  # as older folders have it
    weights = load_file(tmp_path / "source" / "model.safetensors")
    name = next(name for name in weights if "vision" in name)
    save_file(weights | {name: weights[name] + 1.0}, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"expected the weights of fingerprint [0-9a-f]{16}, which the policy was"):
        load_policy(tmp_path / "moved")
