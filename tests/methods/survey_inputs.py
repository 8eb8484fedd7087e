"""What the survey's commands read, tiny: policies, data, critics, models, under the names that these give them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.policies.tiny_vla import tiny_backbone

from toddle.cli import main
from toddle.models.backbones.embedded import save_embedded

EYES = "--backbone.name eyes --cameras top --sft.steps 2 --sft.batch 4 --cache cache"
TRUNK = "--expert.trunk.width 16 --expert.trunk.depth 2 --expert.trunk.heads 2 --expert.trunk.context-width 16"
DECODER = (
    "--tokens.decoder.width 16 --tokens.decoder.depth 1 --tokens.decoder.heads 2 --tokens.decoder.context-width 16"
)
TOKENS = f"--kind tokens {DECODER} --tokens.horizon 4 --tokens.executed 4 --tokens.bins 16"
SEEN = "--cameras top --image-size 32 --images image"
PUSH = "tabletop/push-cube"
ORDER = "--model.cameras top --model.backbone.name eyes --model.width 16 --model.heads 2 --train.steps 2 --controls 0"
CRITIC = "--method iql --reward-shift -1 --updates 2"
CHUNKS = "--expert.horizon 4 --expert.executed 4"
MADE = f"""
record --env dots/one --episodes 4 {SEEN} --out runs/demos
record --env dots/one --episodes 4 {SEEN} --noise 0.3 --keep-failures --out runs/mixed
sft --dataset runs/demos {EYES} {TRUNK} {CHUNKS} --expert.steps 3 --out runs/sft
sft --dataset runs/demos {EYES} {TOKENS} --out runs/tokens
sft --dataset runs/demos {EYES} {TOKENS} --tokens.thought --out runs/thinking
prefer judge runs/demos --by length --answers 3 --out runs/answers.jsonl
reward train --dataset runs/demos {ORDER} --cache cache --model.says order --out runs/order
reward train --dataset runs/demos {ORDER} --cache cache --model.says steps-to-go --out runs/steps
offline --dataset runs/mixed --features runs/sft {CRITIC} --cache cache --out runs/vla_critic
record --env {PUSH} --episodes 4 --cameras --noise 0.3 --keep-failures --out runs/good
offline --dataset runs/good --method bc --updates 2 --out runs/imitation
offline --dataset runs/good {CRITIC} --out runs/critic
record --env {PUSH} --policy runs/imitation --no-deterministic --episodes 4 --keep-failures --cameras --out runs/own
pretrain --env {PUSH} --worlds 8 --steps 256 --mlp.hidden 16 --out runs/base
worldmodel record --env {PUSH} --policy runs/base --episodes 8 --batch 8 --out runs/recorded
worldmodel train --dataset runs/recorded --model.width 16 --model.depth 1 --train.steps 4 --out runs/world_model
record --env {PUSH} --episodes 2 --cameras close --image-size 32 --images image --out runs/pushes
sft --dataset runs/pushes {EYES.replace("top", "close")} {TRUNK} {CHUNKS} --out runs/pusher
record --env gutter/push --episodes 3 --cameras --out runs/pushed
"""
FILES = {
    "behind.yaml": "stages:\n  - {to: object, offset: [-0.08, 0.0, 0.0], above: 0.0, grip: shut}\n",
    "reward.py": "def reward(tool):\n    return 1 - norm(tool)\n",
}


def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make everything in `folder`, by the commands that make it."""
    monkeypatch.chdir(folder)
    save_embedded(folder / "eyes", tiny_backbone())
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for line in MADE.strip().splitlines():
        call(*line.split())
    return folder


def call(*words: str) -> None:
    """Run a command, which must end well."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 0, " ".join(words)
