"""The mutants of the package: found by walking syntax trees, named by place and operator, chosen by hash.

A mutant's name is that of its module, of the function (or the module's own level), of the operator, and its number
among the operator's mutants there: layers/gelu.py:gelu_forward:drop-term#2. It survives changes elsewhere. Chosen are
the first of each operator in turn, by a hash of the names: so the choice is spread, and an edit changes it little.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .modules import ADVICE, DECLARATIONS, MODULES, TUNED_ARGUMENTS, TUNING
from .operators import OPERATORS

PACKAGE = Path(__file__).parents[2] / "cllm_cli"
SHARE = 0.1  # of a module's mutants that are chosen
LEAST, MOST = 5, 24  # of a module
BINDING = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)


@dataclass(frozen=True)
class Mutant:
    """A mutant: where in the module's bytes, what stood there and what stands there now."""

    name: str
    module: str
    operator: str
    line: int
    start: int
    was: str
    now: str

    def source(self, package: Path = PACKAGE) -> str:
        """The module with the mistake in it."""
        before = (package / self.module).read_bytes()
        stop = self.start + len(self.was.encode())
        return (before[: self.start] + self.now.encode() + before[stop:]).decode()


def mutants_of(module: str, package: Path = PACKAGE) -> list[Mutant]:
    """Every mutant of a module, in the order of the text."""
    source = (package / module).read_bytes()
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    numbers: Counter[str] = Counter()
    seen: set[tuple[int, str, str]] = set()
    found = []
    for scope, node, parent in _places(ast.parse(source), TUNING.get(module, set())):
        start = lines[node.lineno - 1] + node.col_offset
        was = source[start : lines[node.end_lineno - 1] + node.end_col_offset].decode()
        for name, operator in OPERATORS.items():
            for new in operator(node):
                now = "pass" if new is None else ast.unparse(ast.fix_missing_locations(new))
                if isinstance(new, BINDING) and isinstance(parent, (*BINDING, ast.Attribute, ast.Subscript)):
                    now = f"({now})"
                if now == was or (start, was, now) in seen:
                    continue
                seen.add((start, was, now))
                prefix = f"{module}:{scope}:{name}"
                numbers[prefix] += 1
                found.append(Mutant(f"{prefix}#{numbers[prefix]}", module, name, node.lineno, start, was, now))
    return found


def chosen(module: str, mutants: list[Mutant]) -> list[Mutant]:
    """The mutants of a module that are run when none are named."""
    queues: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(mutants, key=_hash):
        queues[mutant.operator].append(mutant)
    turns = [(turn, _hash(mutant), mutant) for queue in queues.values() for turn, mutant in enumerate(queue)]
    count = min(MOST, max(LEAST, round(SHARE * len(mutants))))
    return [mutant for _, _, mutant in sorted(turns, key=lambda each: each[:2])[:count]]


def all_mutants() -> dict[str, list[Mutant]]:
    """Every mutant by module."""
    return {module: mutants_of(module) for module in MODULES}


def _hash(mutant: Mutant) -> str:
    return hashlib.sha256(mutant.name.encode()).hexdigest()


def _places(tree: ast.Module, tuning: set[str]) -> Iterator[tuple[str, Any, ast.AST]]:
    """The nodes that may be mutated, each with the name of its function and its parent."""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield from _within(statement, statement.name, tuning)
        elif isinstance(statement, ast.Assign) and not _declares(statement.value):
            yield from _inside(statement, statement, "module", tuning)


def _within(definition: ast.FunctionDef | ast.ClassDef, scope: str, tuning: set[str]) -> Iterator[Any]:
    if definition.name in tuning:
        return
    for statement in definition.body:
        if isinstance(statement, ast.FunctionDef):
            name = statement.name if isinstance(definition, ast.FunctionDef) else f"{scope}.{statement.name}"
            yield from _within(statement, name, tuning)
        elif not _is_text(statement):
            yield from _inside(statement, definition, scope, tuning)


def _inside(node: ast.AST, parent: ast.AST, scope: str, tuning: set[str]) -> Iterator[Any]:
    """A node and all within it, but messages, types, imports and what only tunes."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.ImportFrom | ast.Import):
        return
    if isinstance(node, ast.keyword) and node.arg in TUNED_ARGUMENTS:
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _called(node.value) in ADVICE:
        return
    if isinstance(node, ast.Assign) and any(_named(target) & tuning for target in node.targets):
        return
    if isinstance(node, ast.expr | ast.stmt) and not isinstance(node, ast.Slice):
        yield scope, node, parent
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_text(child):
                yield from _inside(child, node, scope, tuning)


def _called(call: ast.Call) -> str:
    return ".".join(ast.unparse(call.func).split(".")[-2:])


def _named(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _declares(value: ast.expr) -> bool:
    """Whether a module's own statement declares a layer or a registry, or is a table."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in DECLARATIONS
    return isinstance(value, ast.List | ast.Dict | ast.Set)
