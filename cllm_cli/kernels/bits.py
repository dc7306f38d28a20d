"""The bits of floats, for which Numba has no words: powers of two, exponents, and their order as whole numbers.

Each intrinsic has a plain twin that serves when the JIT is off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cllm_cli.kernels.jit import twin

# Adding this to a small float leaves its nearest integer in the low bits of the sum: no conversion, so NaN is defined.
ROUND = {"float32": 1.5 * 2.0**23, "float64": 1.5 * 2.0**52}
EXPONENT = {"float32": (32, 127, 23), "float64": (64, 1023, 52)}  # bits, bias, bits of the fraction


def _plain_scale(value: Any, rounded: Any) -> Any:
    real = type(value)
    n = rounded - real(ROUND[real.__name__])
    return real(np.ldexp(value, int(n))) if n == n else n


@twin(_plain_scale)
@intrinsic
def scale(typingctx: Any, value: Any, rounded: Any) -> Any:
    """scale(value, rounded): value · 2ⁿ, rounded = n + ROUND; in two factors, to under- and overflow gently."""
    if value not in (types.float32, types.float64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width, bias, fraction = EXPONENT[value.name]
        whole = ir.IntType(width)
        magic = ir.Constant(args[0].type, ROUND[value.name]).bitcast(whole)
        n = builder.sub(builder.bitcast(args[1], whole), magic)
        half = builder.ashr(n, whole(1))
        result = args[0]
        for power in (half, builder.sub(n, half)):
            bits = builder.shl(builder.add(power, whole(bias)), whole(fraction))
            result = builder.fmul(result, builder.bitcast(bits, args[0].type))
        return result

    return value(value, value), codegen


def _plain_split(value: Any) -> Any:
    fraction, exponent = np.frexp(value)
    real = type(value)
    low = fraction < real(np.sqrt(0.5))
    return (real(fraction * 2), real(exponent - 1)) if low else (real(fraction), real(exponent))


@twin(_plain_split)
@intrinsic
def split_exponent(typingctx: Any, value: Any) -> Any:
    """split_exponent(value): (m, n) with value = m · 2ⁿ and √½ ≤ m < √2, for positive normal numbers; n is a float."""
    if value not in (types.float32, types.float64):
        return None
    pair = types.UniTuple(value, 2)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width, _, fraction = EXPONENT[value.name]
        real, whole = args[0].type, ir.IntType(width)
        # Subtracting the bits of √½ makes the exponent field count from there.
        root = ir.Constant(real, float(np.dtype(value.name).type(np.sqrt(0.5)))).bitcast(whole)
        offset = builder.sub(builder.bitcast(args[0], whole), root)
        n = builder.ashr(offset, whole(fraction))
        bits = builder.sub(builder.bitcast(args[0], whole), builder.shl(n, whole(fraction)))
        parts = [builder.bitcast(bits, real), builder.sitofp(n, real)]
        return context.make_tuple(builder, pair, parts)

    return pair(value), codegen


INTEGERS = {types.float32: types.int32, types.float64: types.int64}


def _emit_order(builder: Any, bits: Any) -> Any:
    """The order of bits as signed numbers to that of floats, and back: all bits but the sign's turn where it is set."""
    width = bits.type.width
    sign = builder.ashr(bits, bits.type(width - 1))
    return builder.xor(bits, builder.and_(sign, bits.type(2 ** (width - 1) - 1)))


def _plain_order(value: Any) -> int:
    bits = int(value.view(f"i{value.itemsize}"))
    return bits ^ (2 ** (8 * value.itemsize - 1) - 1) if bits < 0 else bits


@twin(_plain_order)
@intrinsic
def order(typingctx: Any, value: Any) -> Any:
    """order(value): a whole number as large among those of other floats as `value` is; a NaN is at either end."""
    if value not in INTEGERS:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_order(builder, builder.bitcast(args[0], context.get_value_type(INTEGERS[value])))

    return INTEGERS[value](value), codegen


def _plain_unorder(number: Any, like: Any) -> Any:
    size = like.itemsize
    bits = number ^ (2 ** (8 * size - 1) - 1) if number < 0 else number
    return np.array(bits, f"i{size}").view(type(like))[()]


@twin(_plain_unorder)
@intrinsic
def unorder(typingctx: Any, number: Any, like: Any) -> Any:
    """unorder(number, like): the float of which `number` is the order, of the type of `like`."""
    if like not in INTEGERS:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(_emit_order(builder, args[0]), args[1].type)

    return like(INTEGERS[like], like), codegen
