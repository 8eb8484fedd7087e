"""A reward from a file is interpreted: the sample of Eureka's form, and every string that must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toddle.core.errors import InputError
from toddle.maths.reward_expression import RewardExpression

NAMES = ("tool", "object", "goal", "object_z", "success")
EUREKA = '''
import torch
from torch import Tensor

@torch.jit.script
def compute_reward(object: torch.Tensor, goal: torch.Tensor = open("made_by_a_default", "w")):
    """Reward for bringing the object to the goal."""
    temperature = 5.0
    distance = torch.norm(object - goal, p=2, dim=-1)
    near = torch.exp(-temperature * distance)
    bonus = torch.where(distance < 0.02, 1.0, 0.0)
    return near + bonus, {"near": near, "bonus": bonus}
'''
REFUSED = {
    "attribute of a value": "object.__class__",
    "attribute of a literal": "().__class__",
    "comprehension": "sum([x for x in object])",
    "generator": "sum(x for x in object)",
    "torch.load": "torch.load(object)",
    "os": "os.system(object)",
    "import by name": "__import__(object)",
    "eval": "eval(object)",
    "open": "open(object)",
    "getattr": "getattr(object, goal)",
    "nested powers": "9**9**9",
    "power of a power": "(object_z**3)**3",
    "other power": "object_z**7",
    "power of a name": "2.0**object_z",
    "f-string": "f'{object}'",
    "string": "'text'",
    "subscript": "object[0]",
    "lambda": "(lambda: 1.0)()",
    "walrus": "(y := 1.0)",
    "call of a value": "norm(object)(goal)",
    "method": "object.sum()",
    "if expression": "1.0 if object_z > 0.0 else 0.0",
    "and": "object_z > 0.0 and object_z < 1.0",
    "two comparisons": "0.0 < object_z < 1.0",
    "unknown name": "secret",
    "star": "norm(*object)",
    "wrong number": "norm(object, goal)",
    "other axis": "torch.norm(object, dim=0)",
    "await": "(yield object)",
    "dict": "{}",
    "list": "[object]",
    "complex": "1j",
    "shift": "1 << 40",
    "floor division": "object_z // 2",
    "modulo": "'%s' % object",
    "matrix product": "object @ goal",
    "not": "not object_z",
    "too large": "1" + "0" * 400,
}
STATEMENTS = {
    "while": "    while True:\n        pass\n    return 1.0",
    "for": "    for x in object:\n        pass\n    return 1.0",
    "if": "    if object_z > 0.0:\n        return 1.0\n    return 0.0",
    "bare call": "    print(object)\n    return 1.0",
    "inner import": "    import os\n    return 1.0",
    "inner function": "    def f():\n        pass\n    return 1.0",
    "global": "    global tool\n    return 1.0",
    "delete": "    del tool\n    return 1.0",
    "raise": "    raise tool",
    "assert": "    assert tool\n    return 1.0",
    "with": "    with tool:\n        pass\n    return 1.0",
    "two targets": "    a, b = tool, goal\n    return 1.0",
    "attribute target": "    tool.x = 1.0\n    return 1.0",
    "item target": "    tool[0] = 1.0\n    return 1.0",
    "in place": "    tool += 1.0\n    return 1.0",
    "no return": "    a = 1.0",
    "part without a name": "    return 1.0, {object: 1.0}",
    "three results": "    return 1.0, 1.0, 1.0",
}
FILES = {
    "two functions": "def a(tool):\n    return 1.0\ndef b(tool):\n    return 1.0",
    "nothing": "",
    "a call beside it": "open('made')\ndef a(tool):\n    return 1.0",
    "a class": "class A:\n    pass",
    "async": "async def a(tool):\n    return 1.0",
    "arguments after a star": "def a(*tool):\n    return 1.0",
    "unknown argument": "def a(robot):\n    return 1.0",
    "no Python": "def a(:",
    "null byte": "def a(tool):\n    return 1.0\0",
    "too long": "#" * 8001,
    "too deep": "def a(tool):\n    return " + "(" * 3000 + "1.0" + ")" * 3000,
    "too many nodes": "def a(tool):\n    return " + " + ".join(["1.0"] * 400),
}


def values(distance: list[float]) -> dict[str, torch.Tensor]:
    far = torch.zeros(len(distance), 3)
    far[:, 0] = torch.tensor(distance)
    return {"object": far, "goal": torch.zeros(len(distance), 3)}


def test_eurekas_form_is_worth_what_the_facts_say_and_nothing_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    total, parts = RewardExpression.read(EUREKA, NAMES)(values([0.0, 0.1]))
    assert total.tolist() == pytest.approx([2.0, 0.6065], abs=1e-4)
    assert parts["bonus"].tolist() == [1.0, 0.0]
    assert list(tmp_path.iterdir()) == []  # the default's file was not opened


def test_it_is_bitwise_the_function_written_by_hand() -> None:
    draw = torch.Generator().manual_seed(0)
    seen = {name: torch.randn(50, 3, generator=draw) for name in ("object", "goal")}
    d = (seen["object"] - seen["goal"]).norm(dim=-1)
    by_hand = torch.exp(-5.0 * d) + torch.where(d < 0.02, 1.0, 0.0)
    assert torch.equal(RewardExpression.read(EUREKA, NAMES)(seen)[0], by_hand)


@pytest.mark.parametrize("expression", REFUSED.values(), ids=REFUSED)
def test_an_expression_is_refused(expression: str) -> None:
    with pytest.raises(InputError, match="line 2"):
        RewardExpression.read(f"def f(tool):\n    return {expression}", NAMES)


@pytest.mark.parametrize("body", STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_is_refused(body: str) -> None:
    with pytest.raises(InputError, match=r"line \d"):
        RewardExpression.read(f"def f(tool):\n{body}", NAMES)


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        RewardExpression.read(text, NAMES)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("expression", ["1.0 / (norm(object) - norm(object))", "1e9 * norm(object)", "object"])
def test_what_it_pays_must_be_a_finite_number_a_world(expression: str) -> None:
    reward = RewardExpression.read(f"def f(object):\n    return {expression}", NAMES)
    with pytest.raises(InputError):
        reward(values([0.1, 0.2]))


def test_the_remedy_says_what_to_write() -> None:
    with pytest.raises(InputError, match="where"):
        RewardExpression.read("def f(tool):\n    if tool:\n        x = 1.0\n    return 1.0", NAMES)
