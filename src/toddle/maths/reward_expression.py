"""A reward that somebody, or a language model, has written as a small file: interpreted over its syntax, never run.

    def compute_reward(tool, object, goal):              # the names that an environment gives (`Names`)
        near = exp(-5.0 * norm(tool - object))           # assignments to one name
        there = where(norm(object - goal) < 0.05, 1.0, 0.0)
        return near + there, {"near": near, "there": there}

is what Eureka (Ma et al. 2023, arXiv 2310.12931) and Reward Translator (Yu et al. 2023, arXiv 2306.08647) have language
models write.  They run it; here each node of the syntax tree is looked up in the tables below, and what is not in them
is refused with its line.  Imports, decorators, annotations and default values are not looked at, so nothing of them
happens.  No attribute of a value is ever read: `torch.norm` is looked up as a whole string.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from toddle.core.errors import InputError, problem

__all__ = ["CHARACTERS", "LARGEST", "NODES", "RewardExpression"]

CHARACTERS, NODES, LARGEST = 8000, 500, 100.0
"""Longest file, most nodes of its function, and the largest reward it may pay at a step."""
POWERS = (0.5, 2.0, 3.0)

Values = Mapping[str, Tensor]
Part = Callable[[Values], Tensor]
"""What gives a number (N, 1) or a vector (N, k) of the values of names."""


def _vector(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def _limit(x: Tensor, least: Tensor, most: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, least), most)


CALLS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "norm": (1, _vector),
    "sum": (1, lambda x: x.sum(-1, keepdim=True)),
    "dot": (2, lambda x, y: (x * y).sum(-1, keepdim=True)),
    "exp": (1, torch.exp),
    "tanh": (1, torch.tanh),
    "abs": (1, torch.abs),
    "min": (2, torch.minimum),
    "max": (2, torch.maximum),
    "clamp": (3, _limit),
    "where": (3, lambda c, a, b: torch.where(c > 0.5, a, b)),
}
"""Name -> how many values it takes, and what it does; norm, sum and dot are over the numbers of a vector."""
ALSO = {
    **{f"{package}.{name}": name for package in ("torch", "np") for name in CALLS},
    **{"torch.minimum": "min", "torch.maximum": "max", "np.minimum": "min", "np.maximum": "max"},
    **{"np.linalg.norm": "norm", "torch.linalg.norm": "norm", "np.clip": "clamp", "torch.clip": "clamp"},
}
"""What else they are called."""
KEYWORDS = {"norm": {"dim": -1.0, "axis": -1.0, "p": 2.0}, "sum": {"dim": -1.0, "axis": -1.0}}
"""Keywords that may be written, with the one value they may have."""
OPERATORS: dict[type[ast.operator], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.div,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Lt: torch.lt,
    ast.LtE: torch.le,
    ast.Gt: torch.gt,
    ast.GtE: torch.ge,
}
INSTEAD = {
    ast.If: "write where(condition, one, other)",
    ast.IfExp: "write where(condition, one, other)",
    ast.BoolOp: "multiply conditions for `and`, take max for `or`",
    ast.Subscript: "components have names, such as object_z",
    ast.AugAssign: "write x = x + y",
    ast.For: "write the sum out",
    ast.AnnAssign: "leave the annotation out",
}
"""What to write in place of what is refused."""


@dataclass(frozen=True)
class RewardExpression:
    """A reward file that was read and found to hold nothing but what is in the tables."""

    where: str
    names: tuple[str, ...]
    """The names of the environment that it asks for."""
    total: Part
    parts: dict[str, Part]
    """Its parts by name, none where it returns the reward alone."""

    @classmethod
    def read(cls, text: str, names: tuple[str, ...], where: str = "reward file") -> RewardExpression:
        """Return the reward of a file's text.  `names`: those it may ask for.

        Raises InputError, one line that names the line of the file, for whatever is not in the tables.
        """
        if len(text) > CHARACTERS:
            raise problem(where, f"at most {CHARACTERS} characters", len(text))
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"{where}: {getattr(error, 'msg', None) or type(error).__name__}") from None
        body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom) and not _said(node)]
        if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
            found = f"{len(body)}, the first a {type(body[0]).__name__}" if body else "nothing"
            raise problem(where, "one function, and imports (which are not made)", found)
        nodes = sum(isinstance(node, ast.expr) for node in ast.walk(body[0]))
        if nodes > NODES:
            raise problem(where, f"at most {NODES} nodes", nodes)
        try:
            return _Reader(where, names).function(body[0])
        except RecursionError:
            raise InputError(f"{where}: it is nested too deeply") from None

    def __call__(self, values: Values) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the reward (N,) and its parts (N,) of the values (N, k) of names.

        Raises InputError where a number is not finite, or the reward larger than LARGEST.
        """
        number = next(iter(values.values()))
        try:
            held = dict(values)
            found = {name: part(held) for name, part in {"": self.total, **self.parts}.items()}
        except (RuntimeError, IndexError) as error:  # vectors of different lengths
            raise InputError(f"{self.where}: {' '.join(str(error).split())[:160]}") from None
        flat = {name: self._flat(name, value, number) for name, value in found.items()}
        total = flat.pop("")
        if not (total.abs() <= LARGEST).all():
            raise problem(self.where, f"finite rewards of {LARGEST:g} at most", float(total.abs().max()))
        return total, flat

    def _flat(self, name: str, value: Tensor, like: Tensor) -> Tensor:
        if value.ndim and value.shape[-1] != 1:
            what = f"part '{name}'" if name else "reward"
            raise problem(f"{self.where}: {what}", "one number a world", f"{value.shape[-1]}", "take norm or sum of it")
        return value.to(like.dtype).expand(len(like), 1)[:, 0] if value.ndim < 2 else value[:, 0].to(like.dtype)


def _said(node: ast.stmt) -> bool:
    """Whether it is a sentence (a docstring)."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class _Reader:
    """Turns nodes into parts, or refuses them."""

    def __init__(self, where: str, names: tuple[str, ...]) -> None:
        self.where, self.known = where, names
        self.asked: dict[str, None] = {}
        self.own: dict[str, Part] = {}

    def refuse(self, node: ast.AST, expected: str, got: str, remedy: str = "") -> InputError:
        return problem(f"{self.where}, line {getattr(node, 'lineno', 1)}", expected, got, remedy)

    def function(self, node: ast.FunctionDef) -> RewardExpression:
        """Return the reward of the one function."""
        arguments = node.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            raise self.refuse(node, "plain arguments", "* or / among them")
        for argument in arguments.args:
            self.name(argument, argument.arg)
        for statement in node.body[:-1]:
            if _said(statement):
                continue
            if not isinstance(statement, ast.Assign):
                raise self.unknown(statement)
            target = statement.targets[0]
            if len(statement.targets) > 1 or not isinstance(target, ast.Name):
                raise self.refuse(statement, "an assignment to one name", ast.unparse(statement)[:60])
            self.own[target.id] = self.part(statement.value)
        last = node.body[-1]
        if not isinstance(last, ast.Return) or last.value is None:
            raise self.refuse(last, "return at the end", type(last).__name__)
        total, parts = last.value, dict[str, Part]()
        if isinstance(total, ast.Tuple):
            if len(total.elts) != 2 or not isinstance(total.elts[1], ast.Dict):
                raise self.refuse(last, "return reward, or return reward, {part: ...}", ast.unparse(last)[:60])
            total, named = total.elts
            assert isinstance(named, ast.Dict)
            for key, value in zip(named.keys, named.values, strict=True):
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str) or not key.value.isidentifier():
                    raise self.refuse(named, "parts with names", "" if key is None else ast.unparse(key)[:60])
                parts[key.value] = self.part(value)
        return RewardExpression(self.where, tuple(self.asked), self.part(total), parts)

    def name(self, node: ast.AST, name: str) -> Part:
        """Return the value of a name: of an assignment before, or of the environment."""
        if name in self.own:
            return self.own[name]
        if name not in self.known:
            raise self.refuse(node, f"a name assigned before, or {', '.join(self.known)}", name)
        self.asked[name] = None
        return lambda values: values[name]

    def part(self, node: ast.expr) -> Part:
        """Return what an expression gives."""
        match node:
            case ast.Constant(value=bool() | int() | float()):
                return self.constant(node, node.value)  # type: ignore[arg-type]
            case ast.Name():
                return self.name(node, node.id)
            case ast.Attribute() if (name := _dotted(node)) in self.known:
                return self.name(node, str(name))
            case ast.UnaryOp(op=ast.USub()):
                inner = self.part(node.operand)
                return lambda values: -inner(values)
            case ast.BinOp(op=ast.Pow()):
                return self.power(node)
            case ast.BinOp() if type(node.op) in OPERATORS:
                return self.apply(OPERATORS[type(node.op)], [node.left, node.right])
            case ast.Compare(ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                compare = COMPARISONS[type(op)]
                return self.apply(lambda a, b: compare(a, b).to(torch.float32), [node.left, right])
            case ast.Call():
                return self.call(node)
        raise self.unknown(node)

    def constant(self, node: ast.AST, value: float) -> Part:
        try:
            number = torch.tensor(float(value))
        except OverflowError:
            raise self.refuse(node, "a number", "one too large") from None
        return lambda values: number

    def apply(self, do: Callable[..., Tensor], inner: list[ast.expr]) -> Part:
        parts = [self.part(one) for one in inner]
        return lambda values: do(*(part(values) for part in parts))

    def power(self, node: ast.BinOp) -> Part:
        exponent = node.right.value if isinstance(node.right, ast.Constant) else None
        nested = isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Pow)
        if exponent not in POWERS or nested:
            raise self.refuse(node, "a power of 0.5, 2 or 3, not of a power", ast.unparse(node)[:60])
        return self.apply(lambda x, y: x**y, [node.left, node.right])

    def call(self, node: ast.Call) -> Part:
        said = _dotted(node.func) or type(node.func).__name__
        name = ALSO.get(said, said)
        if name not in CALLS:
            raise self.refuse(node, f"a call of {', '.join(CALLS)}", said)
        count, do = CALLS[name]
        given = list(node.args)
        for keyword in node.keywords:
            if name == "clamp" and keyword.arg == ("min", "max")[min(len(given), 2) - 1]:
                given.append(keyword.value)
            elif keyword.arg not in KEYWORDS.get(name, {}) or ast.unparse(keyword.value) != _written(name, keyword.arg):
                raise self.refuse(node, f"{name} of {count} values", f"{keyword.arg}={ast.unparse(keyword.value)[:40]}")
        if len(given) != count or any(isinstance(one, ast.Starred) for one in given):
            raise self.refuse(node, f"{name} of {count} values", str(len(given)))
        return self.apply(do, given)

    def unknown(self, node: ast.AST) -> InputError:
        """Return what to raise for a node that is in no table."""
        words = "numbers, names, + - * /, one comparison, calls of the table, assignments and a return"
        return self.refuse(node, words, type(node).__name__, INSTEAD.get(type(node), ""))


def _written(name: str, keyword: str | None) -> str:
    return f"{KEYWORDS[name][keyword or '']:g}"


def _dotted(node: ast.expr) -> str | None:
    """Return a name with its dots as one string, None where it is an attribute of something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := _dotted(node.value)) is not None:
        return f"{left}.{node.attr}"
    return None
