"""Write tiny folders of LeRobot's SmolVLA and pi0.5, and what LeRobot's own classes answer on them: data of the tests.

    <python with lerobot 0.6.1, transformers 5.5, torch 2.11, num2words> scripts/record_lerobot_answers.py

in an environment of its own (Python 3.12), with tests/ and src/ on PYTHONPATH.  Writes to
tests/policies/data/.  What is wired in there and replaced here: the sizes of the Gemmas and towers, the vocabulary, and
the configs and processors that SmolVLA fetches by name.  0.1 times normal noise is added to every weight.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
from lerobot.policies.pi_gemma import PaliGemmaForConditionalGenerationWithPiGemma, PiGemmaForCausalLM
from lerobot.policies.smolvla import smolvlm_with_expert
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline, UnnormalizerProcessorStep
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, SmolVLMConfig

from tiny_vlm import SENTENCES, save_tokenizer

DATA = Path(__file__).parent.parent / "tests/policies/data"
STATE, ACTION, CHUNK, STEPS, ROOM = 5, 3, 6, 4, 90
CAMERAS = ("image", "image2")


def features(side: tuple[int, int]) -> dict[str, Any]:
    """What goes in and comes out."""
    seen = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *side)) for name in CAMERAS}
    return {
        "input_features": seen | {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        "chunk_size": CHUNK,
        "n_action_steps": CHUNK,
        "max_state_dim": 10,
        "max_action_dim": 7,
        "device": "cpu",
    }


def stirred(policy: nn.Module) -> Any:
    """Random weights that are not ones and zeros anywhere."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in policy.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return policy.eval()


def smolvla() -> Any:
    """Build one: 16 patches shuffled by 2, words of width 32, two layers of two heads of 64."""
    text = CONFIG_MAPPING["llama"](
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        rope_theta=100_000.0,
    )
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = SmolVLMConfig(
        text_config=text.to_dict(), vision_config=vision | {"image_size": 32, "patch_size": 8}, scale_factor=2
    )
    special = SimpleNamespace(fake_image_token_id=3, global_image_token_id=4)
    smolvlm_with_expert.AutoConfig = SimpleNamespace(from_pretrained=lambda _: config)
    smolvlm_with_expert.AutoProcessor = SimpleNamespace(from_pretrained=lambda _: SimpleNamespace(tokenizer=special))
    settings = SmolVLAConfig(
        **features((24, 32)),
        resize_imgs_with_padding=(32, 32),
        num_vlm_layers=2,
        num_steps=STEPS,
        tokenizer_max_length=9,
    )
    return stirred(SmolVLAPolicy(settings))


class TinyPair(modeling_pi05.PaliGemmaWithExpertModel):
    """PaliGemma and expert of pi0.5 at sizes of our own."""

    def __init__(self, *_: Any, **__: Any) -> None:
        nn.Module.__init__(self)
        self.freeze_vision_encoder, self.train_expert_only = False, False
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 2}
        whole = {"vocab_size": 300, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0} | heads
        vision = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 16}
        vision |= {"image_size": 28, "patch_size": 14, "vision_use_head": False, "projection_dim": 16}
        config = CONFIG_MAPPING["paligemma"](
            vision_config=vision | {"model_type": "siglip_vision_model"},
            text_config=whole | {"model_type": "gemma", "hidden_size": 16, "intermediate_size": 24},
            projection_dim=16,
            image_token_id=300,
        )
        config.text_config.use_adarms, config.text_config.adarms_cond_dim = False, None
        expert = CONFIG_MAPPING["gemma"](hidden_size=12, intermediate_size=20, **whole)
        expert.use_adarms, expert.adarms_cond_dim = True, 12
        self.paligemma = PaliGemmaForConditionalGenerationWithPiGemma(config=config)
        self.gemma_expert = PiGemmaForCausalLM(config=expert)
        self.gemma_expert.model.embed_tokens = None
        self.gemma_expert.lm_head = nn.Linear(12, 300, bias=False)


def pi05() -> Any:
    """Build one."""
    modeling_pi05.PaliGemmaWithExpertModel = TinyPair
    modeling_pi05.get_gemma_config = lambda _: SimpleNamespace(width=12)
    settings = PI05Config(**features((28, 28)), image_resolution=(28, 28), num_inference_steps=STEPS)
    return stirred(modeling_pi05.PI05Policy(settings))


def statistics(mode: str) -> dict[str, dict[str, Tensor]]:
    """Made up, of the body's own numbers."""
    state = torch.tensor([[0.5, -1.0, 2.0, 0.0, 3.0], [0.5, 1.0, 2.0, 4.0, 0.1]])
    action = torch.tensor([[0.1, -0.2, 0.3], [0.5, 2.0, 0.01]])
    if mode == "MEAN_STD":
        return {n: {"mean": v[0], "std": v[1]} for n, v in (("observation.state", state), ("action", action))}
    return {
        n: {"q01": v[0] - 1.5 * v[1], "q99": v[0] + 1.7 * v[1]}
        for n, v in (("observation.state", state), ("action", action))
    }


def record(name: str, policy: Any, mode: str, side: tuple[int, int]) -> None:
    """Write the folder, and the answer to two observations."""
    folder = DATA / f"lerobot_{name}"
    policy.save_pretrained(folder)
    every = policy.config.input_features | policy.config.output_features
    modes = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    modes = {FeatureType(key): NormalizationMode(value) for key, value in modes.items()}
    stats = statistics(mode)
    before = NormalizerProcessorStep(features=every, norm_map=modes, stats=stats)
    after = UnnormalizerProcessorStep(features=policy.config.output_features, norm_map=modes, stats=stats)
    PolicyProcessorPipeline(steps=[before], name="policy_preprocessor").save_pretrained(folder)
    PolicyProcessorPipeline(steps=[after], name="policy_postprocessor").save_pretrained(folder)

    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (2, 2, 3, *side), generator=generator, dtype=torch.uint8)
    low, high = (torch.tensor(x) for x in ([0.0, -2.0, 0.0, -4.0, 2.9], [1.0, 0.0, 4.0, 4.0, 3.1]))
    proprio = low + (high - low) * torch.rand(2, STATE, generator=generator)
    if name == "pi05":
        proprio[0, 0], proprio[1, 1] = 9.0, -9.0  # far outside what the statistics saw: the last bin, and "-1"
    transition = {TransitionKey.OBSERVATION: {"observation.state": proprio}, TransitionKey.ACTION: None}
    state = before(transition)[TransitionKey.OBSERVATION]["observation.state"]
    prompts, room = [sentence + "\n" for sentence in SENTENCES[:2]], 9
    with tempfile.TemporaryDirectory() as words:
        tokenizer = save_tokenizer(Path(words))
    start: list[int] = []
    if name == "pi05":
        step = Pi05PrepareStateTokenizerProcessorStep(max_state_dim=10)
        given = {TransitionKey.OBSERVATION: {"observation.state": state}}
        given[TransitionKey.COMPLEMENTARY_DATA] = {"task": list(SENTENCES[:2])}
        prompts, room = step(given)[TransitionKey.COMPLEMENTARY_DATA]["task"], ROOM
        start = [tokenizer.bos_token_id]
    rows = [(start + tokenizer(prompt)["input_ids"])[:room] for prompt in prompts]
    ids = torch.tensor([row + [0] * (room - len(row)) for row in rows])
    batch = {f"observation.images.{camera}": images[:, i].float() / 255 for i, camera in enumerate(CAMERAS)}
    batch |= {
        "observation.state": state,
        "observation.language.tokens": ids,
        "observation.language.attention_mask": torch.tensor([[i < len(row) for i in range(room)] for row in rows]),
    }
    noise = torch.randn(2, CHUNK, 7, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        chunk = policy.predict_action_chunk(batch, noise=noise)
        flat = after({TransitionKey.ACTION: chunk.flatten(0, 1)})[TransitionKey.ACTION]
    answer = {"proprio": proprio, "images": images, "action": flat.view(chunk.shape), "ids": ids}
    save_file(answer, DATA / f"lerobot_{name}_answer.safetensors")
    print(name, [len(row) for row in rows], chunk.std(), sum(p.numel() for p in policy.parameters()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record("smolvla", smolvla(), "MEAN_STD", (24, 32))
    record("pi05", pi05(), "QUANTILES", (28, 28))
