"""Small wrong changes of a module, one at a time: the mutants of `benchmarks/mutation.py`.

A mutant changes one node of the syntax tree: an operator, a comparison, a number, a text, a condition, a returned
value, an argument, a call that is made for its effect. What no test can or should notice is left alone: docstrings,
types, decorators, the wording of error messages, `assert`, `if TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "sqrt": "abs", "lower": "upper",
    "upper": "lower", "partition": "rpartition", "rpartition": "partition", "startswith": "endswith",
    "endswith": "startswith", "removeprefix": "removesuffix", "removesuffix": "removeprefix", "cos": "sin",
    "sum": "max", "sorted": "list", "float": "double", "rsqrt": "sqrt", "fullmatch": "search", "update": "clear",
}  # fmt: skip
"""Functions and methods that are mistaken for each other."""


@dataclass(frozen=True)
class Mutant:
    """One change. number: the changed node's place in the walk over the tree; variant: which of its changes, −1 none.

    function: the names on the way to the outermost function that it is in, () for code that runs at import.
    lines: the first and last line of the statement that it is in.
    """

    path: Path
    number: int
    variant: int
    function: tuple[str, ...]
    lines: tuple[int, int]
    change: str

    def tree(self) -> ast.Module:
        """The module's syntax tree with the change."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        if self.variant < 0:
            return tree
        node = list(ast.walk(tree))[self.number]
        new = changes(node)[self.variant][1]
        return ast.fix_missing_locations(_Replace(node, new).visit(tree))

    def __str__(self) -> str:
        return f"{self.path.name}:{self.lines[0]} {self.change}"


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """The node itself, or what takes its place."""
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of a module, in the order of the lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    numbers = {node: number for number, node in enumerate(ast.walk(tree))}
    found = []
    for node, function, statement in _walk(tree, (), False, tree.body[0]):
        lines = _lines(statement)
        for variant, (change, _) in enumerate(changes(node)):
            found.append(Mutant(path, numbers[node], variant, function, lines, change))
    return sorted(found, key=lambda mutant: mutant.lines)


def _lines(statement: ast.stmt) -> tuple[int, int]:
    """A statement's lines; of one that holds others its head alone."""
    last = statement.end_lineno or statement.lineno
    body = getattr(statement, "body", None)
    return statement.lineno, max(statement.lineno, min(last, body[0].lineno - 1)) if body else last


def _walk(
    node: ast.AST, names: tuple[str, ...], inside: bool, statement: ast.stmt
) -> Iterator[tuple[ast.AST, tuple[str, ...], ast.stmt]]:
    """(node, its outermost function, its statement) of all that may be changed below `node`."""
    for field, child in _children(node):
        if _left_alone(node, field, child):
            continue
        here = child if isinstance(child, ast.stmt) else statement
        runs = inside or (isinstance(node, ast.FunctionDef) and field == "body")
        defines = isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not runs
        below = (*names, child.name) if defines else names  # type: ignore[union-attr]
        yield child, (names if runs else ()), here
        yield from _walk(child, below, runs, here)


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield field, child


def _left_alone(node: ast.AST, field: str, child: ast.AST) -> bool:
    if field in ("annotation", "returns", "decorator_list", "bases"):
        return True
    if isinstance(child, (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True  # a docstring
    if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
        return True
    if isinstance(child, ast.AnnAssign):  # a type by another name
        return isinstance(child.annotation, ast.Name) and child.annotation.id == "TypeAlias"
    names = [target.id for target in getattr(child, "targets", ()) if isinstance(target, ast.Name)]
    return any(name in ("__all__", "T") for name in names)


Change = tuple[str, ast.AST]


def changes(node: ast.AST) -> list[Change]:
    """What may become of a node: (the change in words, the new node)."""
    return [(f"{_text(node)} → {_text(new)}", new) for new in _changed(node)]


def _text(node: ast.AST) -> str:
    """Its first line."""
    return ast.unparse(node).partition("\n")[0][:80]


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            if type(op) in COMPARE:
                ops = [*node.ops[:place], COMPARE[type(op)](), *node.ops[place + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        yield ast.BinOp(node.left, BINARY[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in BINARY:
        yield ast.AugAssign(node.target, BINARY[type(node.op)](), node.value)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node.value)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)
    elif isinstance(node, ast.Slice):
        if node.lower is not None:
            yield ast.Slice(None, node.upper, node.step)
        if node.upper is not None:
            yield ast.Slice(node.lower, None, node.step)
    else:
        yield from _other_statements(node)


def _other_constants(value: object) -> Iterator[ast.expr]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, (int, float)):
        yield ast.Constant(value + 1)
    elif isinstance(value, str):
        yield ast.Constant(value + "XX")


def _other_calls(node: ast.Call) -> Iterator[ast.expr]:
    name = node.func
    if isinstance(name, ast.Name) and name.id in NAMES:
        yield ast.Call(ast.Name(NAMES[name.id], ast.Load()), node.args, node.keywords)
    if isinstance(name, ast.Attribute) and name.attr in NAMES:
        yield ast.Call(ast.Attribute(name.value, NAMES[name.attr], ast.Load()), node.args, node.keywords)
    for place in range(len(node.keywords)):
        yield ast.Call(node.func, node.args, [*node.keywords[:place], *node.keywords[place + 1 :]])


def _other_statements(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(node.test, (ast.Compare, ast.BoolOp)):
        test = ast.UnaryOp(ast.Not(), node.test)
        rest = {name: value for name, value in ast.iter_fields(node) if name != "test"}
        if not (isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)):  # taken away elsewhere
            yield type(node)(test=test, **rest)
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.Continue):
        yield ast.Break()
