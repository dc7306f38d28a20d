"""The mistakes: each operator looks at one node of a syntax tree and gives what could stand there by mistake."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from copy import deepcopy

Operator = Callable[[ast.AST], Iterator[ast.AST | None]]
"""Gives a node's replacements: an expression, a statement, or None for a statement that is left out."""

OTHER_SIGN = {ast.Add: ast.Sub, ast.Sub: ast.Add}
OTHER_OPERATOR = {
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitXor: ast.BitOr,
}
OFF_BY_ONE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
OTHER_NAME = {"min": "max", "max": "min"}
RANGES = {"range", "prange"}


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with some fields of its own."""
    copy = deepcopy(node)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def moved(node: ast.expr, by: int) -> ast.expr:
    """node + by, as text would have it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return ast.Constant(node.value + by)
    return ast.BinOp(node, ast.Add() if by > 0 else ast.Sub(), ast.Constant(abs(by)))


def is_call(node: ast.AST, names: set[str] | dict[str, str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def drop_term(node: ast.AST) -> Iterator[ast.AST]:
    """a + b → a, b; a − b → a"""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield node.left
        if isinstance(node.op, ast.Add):
            yield node.right


def drop_factor(node: ast.AST) -> Iterator[ast.AST]:
    """a · b → a, b; a / b → a"""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        yield node.left
        if isinstance(node.op, ast.Mult):
            yield node.right


def sign(node: ast.AST) -> Iterator[ast.AST]:
    """a + b → a − b and the reverse, also of += and −=; −a → a"""
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OTHER_SIGN:
        yield changed(node, op=OTHER_SIGN[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node.operand


def operator(node: ast.AST) -> Iterator[ast.AST]:
    """· ↔ /, // ↔ %, << ↔ >>, ^ → |, min ↔ max, and ↔ or"""
    if isinstance(node, ast.BinOp) and type(node.op) in OTHER_OPERATOR:
        yield changed(node, op=OTHER_OPERATOR[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif is_call(node, OTHER_NAME):
        yield changed(node, func=ast.Name(OTHER_NAME[node.func.id]))


def swap(node: ast.AST) -> Iterator[ast.AST]:
    """Operands of −, /, //, % in the other order; neighbouring variables among the arguments of a call"""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod):
        yield changed(node, left=node.right, right=node.left)
    elif isinstance(node, ast.Call) and not is_call(node, OTHER_NAME):
        for at, (one, two) in enumerate(zip(node.args, node.args[1:], strict=False)):
            if isinstance(one, ast.Name) and isinstance(two, ast.Name):
                yield changed(node, args=[*node.args[:at], two, one, *node.args[at + 2 :]])


def index(node: ast.AST) -> Iterator[ast.AST]:
    """x[i] → x[i − 1] and x[0]; x[1] → x[0]; x[i, j] → x[j, i]"""
    if not isinstance(node, ast.Subscript) or isinstance(node.slice, ast.Slice):
        return
    several = isinstance(node.slice, ast.Tuple)
    indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for at, each in enumerate(indices):
        if isinstance(each, ast.Slice) or (isinstance(each, ast.Constant) and not isinstance(each.value, int)):
            continue
        others = [moved(each, -1 if not isinstance(each, ast.Constant) or each.value else 1)]
        if not isinstance(each, ast.Constant):
            others.append(ast.Constant(0))
        for other in others:
            new = [*indices[:at], other, *indices[at + 1 :]]
            yield changed(node, slice=ast.Tuple(new) if several else other)
    if several and len(indices) == 2 and ast.dump(indices[0]) != ast.dump(indices[1]):
        yield changed(node, slice=ast.Tuple(indices[::-1]))


def bound(node: ast.AST) -> Iterator[ast.AST]:
    """Loops and slices that begin one later or end one earlier"""
    if is_call(node, RANGES):
        first = [ast.Constant(1)] if len(node.args) == 1 else [moved(node.args[0], 1)]
        last = [node.args[0]] if len(node.args) == 1 else [node.args[1]]
        yield changed(node, args=[*first, *last, *node.args[2:]])
        yield changed(node, args=[*node.args[: len(node.args) > 1], moved(last[0], -1), *node.args[2:]])
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        if node.slice.lower:
            yield changed(node, slice=changed(node.slice, lower=moved(node.slice.lower, 1)))
        if node.slice.upper:
            yield changed(node, slice=changed(node.slice, upper=moved(node.slice.upper, -1)))


def constant(node: ast.AST) -> Iterator[ast.AST]:
    """n → n + 1; a real number a tenth larger; True ↔ False"""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield ast.Constant(node.value * 1.1 if node.value else 1.0)


def write(node: ast.AST) -> Iterator[ast.AST]:
    """What is added to is written: x += a → x = a; what is written is added to: x[i] = a → x[i] += a"""
    if isinstance(node, ast.AugAssign):
        yield ast.Assign([node.target], node.value, lineno=node.lineno)
    elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Subscript):
        yield ast.AugAssign(node.targets[0], ast.Add(), node.value)


def compare(node: ast.AST) -> Iterator[ast.AST]:
    """< ↔ <=, > ↔ >=, == ↔ !="""
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            if type(op) in OFF_BY_ONE:
                yield changed(node, ops=[*node.ops[:at], OFF_BY_ONE[type(op)](), *node.ops[at + 1 :]])


def branch(node: ast.AST) -> Iterator[ast.AST]:
    """a if condition else b → a, b"""
    if isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse


def leave_out(node: ast.AST) -> Iterator[ast.AST | None]:
    """A call for its effect, what is written to an array, or an argument by name is left out"""
    if isinstance(node, ast.Call):
        for at in range(len(node.keywords)):
            yield changed(node, keywords=[*node.keywords[:at], *node.keywords[at + 1 :]])
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    written = isinstance(node, ast.AugAssign) or (
        isinstance(node, ast.Assign) and not any(isinstance(name, ast.Name | ast.Tuple) for name in node.targets)
    )
    if called or written:
        yield None


OPERATORS: dict[str, Operator] = {
    "drop-term": drop_term,
    "drop-factor": drop_factor,
    "sign": sign,
    "operator": operator,
    "swap": swap,
    "index": index,
    "bound": bound,
    "constant": constant,
    "write": write,
    "compare": compare,
    "branch": branch,
    "leave-out": leave_out,
}
