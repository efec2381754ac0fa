"""Arithmetic in profiles: `${memory_kib // 100}`, `when = "cpus >= 8 and numa_nodes > 1"`.

The grammar is a small part of Python's, read by its parser and computed here: numbers, names,
`+ - * / // %`, comparisons, `and or not`, and calls of `min max clamp round`. Nothing else exists,
so a profile can compute and cannot do anything. Values are those of Python.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

Number = int | float

_MAX_LENGTH = 500
_LARGEST = 2**64
_PLACE = re.compile(r"\$\{([^{}]*)\}")
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class ExpressionError(ValueError):
    """The expression is wrong; the message states how, without a full stop."""


def _clamp(value: Number, low: Number, high: Number) -> Number:
    return max(low, min(value, high))


_FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "min": (min, 2, 8),
    "max": (max, 2, 8),
    "clamp": (_clamp, 3, 3),
    "round": (round, 1, 1),
}


def evaluate(text: str, variables: Mapping[str, Number]) -> Number:
    """Compute an expression; true is 1 and false 0. Raises `ExpressionError`."""
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"is longer than {_MAX_LENGTH} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = _value(tree.body, variables)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise ExpressionError(f"{text!r} is not an expression") from None
    except ZeroDivisionError:
        raise ExpressionError(f"{text!r} divides by zero") from None
    except OverflowError:
        raise ExpressionError(f"{text!r} is too large") from None
    return value


def fill(text: str, variables: Mapping[str, Number]) -> str:
    """Replace each `${…}` by what it comes to. Raises `ExpressionError`."""
    return _PLACE.sub(lambda match: _text(evaluate(match[1], variables)), text)


def _text(value: Number) -> str:
    # The kernel takes whole numbers; a fraction of a page or packet is none.
    return str(int(value))


def _value(node: ast.expr, variables: Mapping[str, Number]) -> Number:  # noqa: PLR0911
    match node:
        case ast.Constant(value=bool()):
            raise ExpressionError("true and false are not numbers; compare instead")
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.Name(id=name):
            if name not in variables:
                raise ExpressionError(
                    f"`{name}` is no variable; there are {', '.join(sorted(variables))}"
                )
            return variables[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, variables)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return int(not _value(operand, variables))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left, variables), _value(right, variables)))
        case ast.BoolOp():
            return _decide(node, variables)
        case ast.Compare():
            return int(_compare(node, variables))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            function, fewest, most = _FUNCTIONS[name]
            if not fewest <= len(arguments) <= most:
                raise ExpressionError(f"{name}() takes {fewest} to {most} values")
            return function(*[_value(argument, variables) for argument in arguments])
    raise ExpressionError(
        "only numbers, variables, + - * / // %, comparisons, and, or, not, and "
        f"{', '.join(f'{name}()' for name in _FUNCTIONS)} can be used"
    )


def _decide(node: ast.BoolOp, variables: Mapping[str, Number]) -> Number:
    """Return the operand that decides `and` or `or`; those after it are checked for mistakes."""
    operands = iter(node.values)
    value = _value(next(operands), variables)
    for operand in operands:
        if bool(value) != isinstance(node.op, ast.And):
            # What has been ruled out may not be computable: `cpus > 0 and 8 // cpus`.
            with suppress(ZeroDivisionError, OverflowError):
                _value(operand, variables)
        else:
            value = _value(operand, variables)
    return value


def _compare(node: ast.Compare, variables: Mapping[str, Number]) -> bool:
    left = _value(node.left, variables)
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        if type(op) not in _COMPARE:
            raise ExpressionError("numbers are compared with == != < <= > >=")
        right = _value(comparator, variables)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True


def _bounded(value: Number) -> Number:
    if abs(value) > _LARGEST:
        raise OverflowError
    return value
