"""What the tests of kernels call: thin functions around what only kernels can call, compiled with the package's flags.

They are cached beside the package's kernels, in a folder that is keyed by this file and by all that it imports.
"""

from __future__ import annotations

import hashlib
import math as libm
from pathlib import Path
from types import FunctionType

import numba
import numpy as np
from numba import prange

from cllm_cli.kernels import gemm, gemv, math, packing, pointers, reduce, simd
from cllm_cli.kernels.bits import order, scale, split_exponent, unorder
from cllm_cli.kernels.gemv import add_columns, add_row, add_rows
from cllm_cli.kernels.jit import FLAGS, KernelCacheLocator, cache_root, source_key
from cllm_cli.kernels.packing import (
    copy_columns,
    copy_row,
    copy_some_columns,
    copy_some_rows,
    pack_columns,
    pack_rows,
    transpose_columns,
    transpose_rows,
    vector_lanes,
)
from cllm_cli.kernels.pointers import advance, load, pointer, store
from cllm_cli.kernels.simd import microkernel, panel_width, thread_count


class Locator(KernelCacheLocator):
    """Numba finds this class by its name, `compiled.Locator`."""

    def __init__(self, path, function, root):
        keys = [
            Path(__file__).read_bytes(),
            *(source_key(Path(each.__file__)).encode() for each in (gemm, gemv, math, packing, pointers, reduce, simd)),
        ]
        self._py_file, self._line = str(path), function.__code__.co_firstlineno
        self._folder = root / f"tests-{hashlib.sha256(b''.join(keys)).hexdigest()[:24]}"

    @classmethod
    def from_function(cls, function, py_file):
        return cls(Path(py_file), function, cache_root())


def compiled(function, flags=FLAGS):
    before = numba.config.CACHE_LOCATOR_CLASSES
    numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{Locator.__name__}"
    try:
        return numba.njit(cache=cache_root() is not None, **flags)(function)
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = before


def judge(function):
    """What judges kernels is compiled without their freedom to reorder."""
    return compiled(function, FLAGS | {"fastmath": False, "parallel": "prange" in function.__code__.co_names})


def plain(dispatcher):
    """The same function in Python, with the plain twin of every intrinsic."""
    function = dispatcher.py_func
    twins = {name: value.plain for name, value in function.__globals__.items() if hasattr(value, "plain")}
    return FunctionType(function.__code__, function.__globals__ | twins)


FORMS = ("nn", "nt", "tn", "nn_bias")


@compiled
def multiply(form, c, a, b, bias, pack, accumulate):
    """A product of one of FORMS, by its number: all of them in one piece of code, which is compiled once."""
    if form == 0:
        gemm.gemm_nn(c, a, b, pack, accumulate)
    elif form == 1:
        gemm.gemm_nt(c, a, b, pack, accumulate)
    elif form == 2:
        gemm.gemm_tn(c, a, b, pack, accumulate)
    else:
        gemm.gemm_nn_bias(c, a, b, bias, pack)


@compiled
def exp_of(out, x):
    for i in range(x.shape[0]):
        out[i] = math.exp(x[i])


@compiled
def tanh_of(out, x):
    for i in range(x.shape[0]):
        out[i] = math.tanh(x[i])


@compiled
def log_of(out, x):
    for i in range(x.shape[0]):
        out[i] = math.log(x[i])


@compiled
def largest_of(out, x, count):
    """The largest of the first `count` elements of each row of x."""
    for n in range(x.shape[0]):
        out[n] = reduce.row_max(x[n], count)


@compiled
def column_sums(total, part, x):
    reduce.add_column_sums(total, part, x)


@compiled
def by_pointer(out, x, offset, by):
    """out[1] = x[offset + by + 2] and out[2] = the panel's width, all by pointer; x of any rank."""
    into = pointer(out, 1)
    store(into, 0, load(advance(pointer(x, offset), by), 2))
    store(into, np.int64(1), load(pointer(x, 0), 0) * 0 + panel_width(into))


@compiled
def tile(c, a, b, start, k, ldc, ld_start, add, high):
    """One tile of the micro-kernel, from flat panels."""
    microkernel(k, pointer(a, 0), pointer(b, 0), pointer(c, 0), ldc, pointer(start, 0), ld_start, add, high)


@compiled
def ordered(numbers, back, x):
    for i in range(x.shape[0]):
        number = order(x[i])
        numbers[i] = number
        back[i] = unorder(number, x[i])


@compiled
def panel_pieces(rows, columns, x, stride, lines):
    """Rows of panels filled in each way, of all lines and of so many, and the lanes of a vector."""
    of, size, wide = pointer(x, 0), rows.shape[1], columns.shape[1]
    copy_row(pointer(rows, 0), of)
    copy_some_rows(pointer(rows, size), of, lines)
    transpose_rows(pointer(rows, 2 * size), of, stride, lines)
    copy_columns(pointer(columns, 0), of)
    copy_some_columns(pointer(columns, wide), of, lines)
    transpose_columns(pointer(columns, 2 * wide), of, stride, lines)
    rows[3, 0] = vector_lanes(of)


@compiled
def row_pieces(sums, x, b, ldb, n, k):
    """What a row times a matrix is made of: one row of b, some, and the columns of a panel, each added to sums."""
    factors, of = pointer(x, 0), pointer(b, 0)
    add_row(pointer(sums[0], 0), factors, of, ldb, n)
    add_rows(pointer(sums[1], 0), factors, of, ldb, n)
    add_columns(pointer(sums[2], 0), factors, of, ldb, k)


@compiled
def packed_rows(panels, x, row_stride, column_stride, m, k):
    pack_rows(pointer(panels, 0), pointer(x, 0), row_stride, column_stride, m, k)


@compiled
def packed_columns(panels, x, row_stride, column_stride, n, k):
    pack_columns(pointer(panels, 0), pointer(x, 0), row_stride, column_stride, n, k)


@compiled
def scaled(out, x, rounded):
    for i in range(x.shape[0]):
        out[i] = scale(x[i], rounded[i])


@compiled
def parts(mantissa, exponent, x):
    for i in range(x.shape[0]):
        m, n = split_exponent(x[i])
        mantissa[i] = m
        exponent[i] = n


@compiled
def threads():
    return thread_count()


CANARIES = 64


@compiled
def placed(flat, count, at_end):
    """`count` elements of a fenced array, flush with one of its fences; the rest of it is NaN."""
    return flat[flat.size - count :] if at_end else flat[:count]


@compiled
def alive(flat, count, at_end):
    """Whether the elements next to what `placed` gave are NaN as before."""
    for i in range(min(CANARIES, flat.size - count)):
        value = flat[flat.size - count - 1 - i] if at_end else flat[count + i]
        if value == value:
            return False
    return True


@compiled
def products(sizes, spaces, form, ends, c_flat, a_flat, b_flat, bias_flat, pack_flat, values):
    """Two products of each size (m, n, k) in one of FORMS: one written, then one added to, with a bias both written.
    Operands of the first lie flush with the fence after them where `ends` says so, otherwise with the one before;
    those of the second with the other fence.

    Gives the number of the first size whose product is wrong or that was written beside an operand, −1 for none; and
    how many products there were. An element may be off by k + 2 roundings of the magnitudes of its terms, and as much
    again.
    """
    unit = 2.0**-53 if c_flat.itemsize == 8 else 2.0**-24
    wanted, terms = np.empty(c_flat.size), np.empty(c_flat.size)
    calls, drawn = 0, 0
    for number in range(sizes.shape[0]):
        m, n, k = sizes[number, 0], sizes[number, 1], sizes[number, 2]
        drawn = (drawn + 101) % 997
        first, second = values[drawn : drawn + m * k], values[drawn + m * k : drawn + m * k + k * n]
        a_row, a_column = (1, m) if form == 2 else (k, 1)
        b_row, b_column = (1, k) if form == 1 else (n, 1)
        for i in range(m):
            for j in range(n):
                total, magnitude = 0.0, 0.0
                for p in range(k):
                    term = np.float64(first[i * a_row + p * a_column]) * np.float64(second[p * b_row + j * b_column])
                    total += term
                    magnitude += abs(term)
                wanted[i * n + j], terms[i * n + j] = total, magnitude
        for again in (False, True):
            at_end, accumulate = ends[number] ^ again, again and form < 3
            a, b = placed(a_flat, m * k, at_end), placed(b_flat, k * n, at_end)
            c, bias = placed(c_flat, m * n, at_end), placed(bias_flat, n, at_end)
            pack = placed(pack_flat, spaces[number], at_end)
            a[:], b[:], bias[:] = first, second, values[:n]
            if accumulate:
                c[:] = values[: m * n]
            out = c.reshape(m, n)
            if form == 0:
                gemm.gemm_nn(out, a.reshape(m, k), b.reshape(k, n), pack, accumulate)
            elif form == 1:
                gemm.gemm_nt(out, a.reshape(m, k), b.reshape(n, k), pack, accumulate)
            elif form == 2:
                gemm.gemm_tn(out, a.reshape(k, m), b.reshape(k, n), pack, accumulate)
            else:
                gemm.gemm_nn_bias(out, a.reshape(m, k), b.reshape(k, n), bias, pack)
            calls += 1
            for i in range(m):
                for j in range(n):
                    start = 0.0
                    if form == 3:
                        start = np.float64(bias[j])
                    elif accumulate:
                        start = np.float64(values[i * n + j])
                    allowed = 2 * (k + 2) * unit * (terms[i * n + j] + abs(start))
                    if not abs(out[i, j] - (wanted[i * n + j] + start)) <= allowed:
                        return number, calls
            for flat, count in ((a_flat, m * k), (b_flat, k * n), (c_flat, m * n), (bias_flat, n)):
                if not alive(flat, count, at_end):
                    return number, calls
                placed(flat, count, at_end)[:] = np.nan
            if not alive(pack_flat, spaces[number], at_end):
                return number, calls
            pack[:] = np.nan
    return -1, calls


@judge
def exact(name, x):
    """exp, tanh, log or GELU of x in double: libm's, whose own error is a 2⁻²⁹ of what is measured."""
    if name == 0:
        return np.inf if x > 89 else 0.0 if x < -104 else libm.exp(x)
    if name == 1:
        y = abs(x)
        y = 1.0 if y > 10 else y - y * y * y / 3 if y < 2.0**-12 else libm.tanh(y)
        return -y if x < 0 else y
    if name == 2:
        return libm.log(x)
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x if u > 40 else -0.0 if u < -400 else x / (1.0 + libm.exp(-2 * u))


@judge
def ulp(value):
    """The distance between neighbouring float32 about a double, from 2⁻¹⁴⁹ to 2¹⁰⁴."""
    exponent = ((np.float64(value).view(np.int64) >> 52) & 0x7FF) - 1023
    return np.int64((min(max(exponent, -126), 127) - 23 + 1023) << 52).view(np.float64)


@judge
def error_of(name, x, out):
    """How far `out` is off, in ulp; of GELU below 0 in ulp of x. Overflow is the next number after the largest.

    A NaN that is lost or made is an infinite error; log below 0 and GELU of −∞ are NaN.
    """
    if x != x or (name == 2 and x < 0) or (name == 3 and x == -np.inf):
        return np.inf if out == out else 0.0
    if out != out:
        return np.inf
    most = 2.0**128
    wanted = min(max(exact(name, x), -most), most)
    got = min(max(out, -most), most)
    return abs(got - wanted) / ulp(x if name == 3 and x < 0 else wanted)


@judge
def worst_error(name, x, out):
    """For each of 16 chunks of x the largest error of out, and its place."""
    chunks = 16
    errors, places = np.zeros(chunks), np.zeros(chunks, np.int64)
    for chunk in prange(chunks):
        for i in range(chunk * x.size // chunks, (chunk + 1) * x.size // chunks):
            error = error_of(name, np.float64(x[i]), np.float64(out[i]))
            if error > errors[chunk]:
                errors[chunk], places[chunk] = error, i
    return errors, places
