"""Packing: a block of a matrix, copied into panels that the micro-kernel reads straight through.

A panel of rows of A holds MR of them, a panel of columns of B holds NR: panel[p·height + i] is element p of line i.
Which way a matrix lies in memory decides how a panel is filled: where rows of a panel are contiguous they are copied,
where lines are contiguous they are transposed in registers, and only what is left over moves element by element. Panels
are padded with zeros. Nothing outside the matrix is read, nothing outside the panels is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cllm_cli.kernels.jit import inner, twin
from cllm_cli.kernels.pointers import advance, compact, emit_prefetch, load, prefetch, store
from cllm_cli.kernels.simd import MR, TILE, as_function, columns, panel_width

Height = Callable[[int], int]  # lines in a panel, from the bytes of an element
AHEAD = 4  # vectors from what is read to what is asked for


def lanes(itemsize: int) -> int:
    """Elements in a vector."""
    return TILE.vector_bytes // itemsize


@twin(lambda place: lanes(place.dtype.itemsize))
@intrinsic
def vector_lanes(typingctx: Any, place: Any) -> Any:
    """vector_lanes(pointer): elements in a vector, a constant of the element type."""
    if not isinstance(place, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, lanes(place.dtype.bitwidth // 8))

    return types.intp(place), codegen


def _copier(height: Height) -> Any:
    def plain(into: Any, of: Any) -> None:
        count = height(into.dtype.itemsize)
        into[:count] = of[:count]

    @twin(plain)
    @intrinsic
    def copy(typingctx: Any, into: Any, of: Any) -> Any:
        """copy(into, of): a row of a whole panel."""
        if not isinstance(into, types.CPointer):
            return None
        itemsize = into.dtype.bitwidth // 8

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row = ir.VectorType(context.get_value_type(into.dtype), height(itemsize)).as_pointer()
            value = builder.load(builder.bitcast(args[1], row), align=itemsize)
            builder.store(value, builder.bitcast(args[0], row), align=itemsize)
            return context.get_dummy_value()

        return types.void(into, into), codegen

    return copy


def _partial_copier(height: Height) -> Any:
    def plain(into: Any, of: Any, count: int) -> None:
        into[:count] = of[:count]
        into[count : height(into.dtype.itemsize)] = 0

    @twin(plain)
    @intrinsic
    def copy(typingctx: Any, into: Any, of: Any, count: Any) -> Any:
        """copy(into, of, count): a row of a panel of fewer lines: `count` elements, and zeros."""
        if not isinstance(into, types.CPointer):
            return None
        itemsize = into.dtype.bitwidth // 8

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit_partial_copy(builder, context.get_value_type(into.dtype), itemsize, height(itemsize), args)
            return context.get_dummy_value()

        return types.void(into, into, types.intp), codegen

    return copy


def _transposer(height: Height) -> Any:
    def plain(into: Any, of: Any, stride: int, count: int) -> None:
        lines, deep = height(into.dtype.itemsize), lanes(into.dtype.itemsize)
        for i in range(lines):
            into[i : lines * deep : lines] = of[i * stride : i * stride + deep] if i < count else 0

    @twin(plain)
    @intrinsic
    def transpose(typingctx: Any, into: Any, of: Any, stride: Any, count: Any) -> Any:
        """transpose(into, of, stride, count): a vector's length of each of `count` lines, `stride` apart, and zeros."""
        if not isinstance(into, types.CPointer):
            return None
        lines = height(into.dtype.bitwidth // 8)
        emit = partial(emit_transpose, itemsize=into.dtype.bitwidth // 8, height=lines)
        return types.void(into, into, types.intp, types.intp), as_function(f"transpose_{lines}", into.dtype, emit)

    return transpose


def emit_partial_copy(builder: Any, real: Any, itemsize: int, height: int, args: Any) -> None:
    """The LLVM code of a partial copy: loads that leave out the lanes past the last element."""
    into, of, count = args
    width, number = lanes(itemsize), ir.IntType(32)
    vector, mask = ir.VectorType(real, width), ir.VectorType(ir.IntType(1), width)
    name = f"llvm.masked.load.v{width}f{8 * itemsize}.p0"
    shape = ir.FunctionType(vector, [of.type, number, mask, vector])
    load_some = cgutils.get_or_insert_function(builder.module, shape, name)
    for first in range(0, height, width):
        kept = min(width, height - first)
        wanted: Any = ir.Constant(mask, ir.Undefined)
        for lane in range(width):
            there = builder.icmp_signed("<", count.type(first + lane), count)
            wanted = builder.insert_element(wanted, there, number(lane))
        source = builder.gep(of, [count.type(first)])
        value = builder.call(load_some, [source, number(itemsize), wanted, ir.Constant(vector, None)])
        part = ir.VectorType(real, kept)
        value = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(number, kept), list(range(kept))))
        place = builder.gep(into, [count.type(first)])
        builder.store(value, builder.bitcast(place, part.as_pointer()), align=itemsize)


def emit_shuffle(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    """The LLVM code that takes lanes of two vectors in a given order."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


def emit_transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The LLVM code that turns a square of vectors over, by interleaving its halves log₂ lanes times.

    A vector's number and a lane's number, written one after the other in bits, move round by one bit each time.
    """
    width = len(rows)
    halves = [[half + k // 2 + k % 2 * width for k in range(width)] for half in (0, width // 2)]
    for _ in range(width.bit_length() - 1):
        pairs = zip(rows[: width // 2], rows[width // 2 :], strict=True)
        rows = [emit_shuffle(builder, a, b, half) for a, b in pairs for half in halves]
    return rows


def emit_transpose(builder: Any, real: Any, args: Any, itemsize: int, height: int) -> None:
    """The LLVM code of `transpose`, by squares of vectors.

    What a row's last vector has too much lies where the next row goes; only the last row is cut to its length.
    """
    into, of, stride, count = args
    width, size = lanes(itemsize), stride.type
    vector = ir.VectorType(real, width)
    squares = []
    for first in range(0, height, width):
        rows = []
        for i in range(first, min(height, first + width)):
            # A line that is not there is read where the first one lies, and forgotten.
            there = builder.icmp_signed("<", size(i), count)
            line = builder.gep(of, [builder.select(there, builder.mul(size(i), stride), size(0))])
            value = builder.load(builder.bitcast(line, vector.as_pointer()), align=itemsize)
            emit_prefetch(builder, line, size(AHEAD * width))
            rows.append(builder.select(there, value, ir.Constant(vector, None)))
        rows += [ir.Constant(vector, ir.Undefined)] * (width - len(rows))
        squares.append(emit_transposed(builder, rows))
    for p in range(width):
        for square, rows in enumerate(squares):
            kept = min(width, height - square * width) if p == width - 1 else width
            value = emit_shuffle(builder, rows[p], rows[p], list(range(kept)))
            place = builder.gep(into, [size(p * height + square * width)])
            builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=itemsize)


def _rows(itemsize: int) -> int:
    return MR


copy_row, copy_some_rows, transpose_rows = _copier(_rows), _partial_copier(_rows), _transposer(_rows)
copy_columns, copy_some_columns, transpose_columns = _copier(columns), _partial_copier(columns), _transposer(columns)


@inner
def pack_rows(panel, source, row_stride, column_stride, m, k):
    """Rows of A as panels of MR rows: panel[(q·k + p)·MR + i] = A[q·MR + i, p], zero where i is past m."""
    deep = vector_lanes(panel)
    for q in range((m + MR - 1) // MR):
        into = advance(panel, q * MR * k)
        of = advance(source, q * MR * row_stride)
        rows, done = min(MR, m - q * MR), np.int64(0)
        if row_stride == 1:
            done = k
            if rows == MR:
                for p in range(k):
                    copy_row(advance(into, p * MR), advance(of, p * column_stride))
            else:
                for p in range(k):
                    copy_some_rows(advance(into, p * MR), advance(of, p * column_stride), rows)
        elif column_stride == 1:
            done = k // deep * deep
            for p in range(0, done, deep):
                transpose_rows(advance(into, p * MR), advance(of, p), row_stride, rows)
        pack_elements(into, of, row_stride, column_stride, rows, MR, done, k)


@inner
def pack_columns(panel, source, row_stride, column_stride, n, k):
    """Columns of B as panels of NR columns: panel[(q·k + p)·NR + j] = B[p, q·NR + j], zero where j is past n."""
    nr = panel_width(panel)
    for q in range((n + nr - 1) // nr):
        into, of = advance(panel, q * nr * k), advance(source, q * nr * column_stride)
        pack_panel(into, of, row_stride, column_stride, min(nr, n - q * nr), k)


@inner
def pack_panel(panel, source, row_stride, column_stride, n, k):
    """One panel of `pack_columns`, of n ≤ NR columns."""
    nr, deep, done = panel_width(panel), vector_lanes(panel), np.int64(0)
    if column_stride == 1:
        done = k
        if n == nr:
            for p in range(k):
                copy_columns(advance(panel, p * nr), advance(source, p * row_stride))
        else:
            for p in range(k):
                copy_some_columns(advance(panel, p * nr), advance(source, p * row_stride), n)
    elif row_stride == 1:
        done = k // deep * deep
        for p in range(0, done, deep):
            transpose_columns(advance(panel, p * nr), advance(source, p), column_stride, n)
    pack_elements(panel, source, column_stride, row_stride, n, nr, done, k)


@inner
def pack_elements(panel, source, line_stride, stride, lines, height, first, k):
    """What is left of a panel of `height` lines: its rows from `first` to k, zero in the lines that are missing."""
    compact()
    for p in range(first, k):
        for i in range(lines):
            store(panel, p * height + i, load(source, i * line_stride + p * stride))
        for i in range(lines, height):
            store(panel, p * height + i, 0.0)


@inner
def fetch_panel(source, row_stride, column_stride, n, k, part, parts):
    """Asks for one of `parts` equal parts of what `pack_panel` is to read next."""
    compact()
    deep = vector_lanes(source)
    if column_stride == 1:
        for p in range(part * k // parts, (part + 1) * k // parts):
            for j in range(0, n, deep):
                prefetch(source, p * row_stride + j)
    else:
        for j in range(part * n // parts, (part + 1) * n // parts):
            for p in range(0, k, deep):
                prefetch(source, j * column_stride + p * row_stride)
