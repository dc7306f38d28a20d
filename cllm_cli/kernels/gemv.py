"""A row times a matrix, as generation does it, a token at a time: each number of the matrix is used once.

So nothing is packed, and the speed is that of memory: each thread lets its share of the columns stream past, asking for
what comes next. The sums wait in the first-level cache (rows of B lie whole) or in registers (columns do).

An element is summed exactly as the tiles of `kernels.gemm` sum it, so its bits do not tell how many rows it came with.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cllm_cli.kernels.jit import inner, twin
from cllm_cli.kernels.packing import emit_transposed, vector_lanes
from cllm_cli.kernels.pointers import advance, compact, emit_prefetch, load, store
from cllm_cli.kernels.simd import TILE, Vectors, as_function, panel_width

LINE = 64  # bytes of a cache line
ROWS = 4  # of B that meet the sums at once: each sum is loaded and stored once for so many terms
AHEAD = 16  # rows from what is read to what is asked for


def _row_adder(rows: int) -> Any:
    def plain(sums: Any, x: Any, b: Any, ldb: int, n: int) -> None:
        for r in range(rows):
            sums[:n] += x[r] * b[r * ldb : r * ldb + n]

    @twin(plain)
    @intrinsic
    def add(typingctx: Any, sums: Any, x: Any, b: Any, ldb: Any, n: Any) -> Any:
        """add(sums, x, b, ldb, n): sums[j] += x[r]·b[r·ldb + j] for each of some rows r in turn; n is whole panels."""
        if not isinstance(sums, types.CPointer):
            return None
        emit = partial(emit_row_sums, rows=rows)
        shape = types.void(sums, sums, sums, types.intp, types.intp)
        return shape, as_function(f"add_{rows}_rows", sums.dtype, emit)

    return add


add_row, add_rows = _row_adder(1), _row_adder(ROWS)


def _plain_add_columns(sums: Any, x: Any, b: Any, ldb: int, k: int) -> None:
    for j in range(TILE.vectors * TILE.vector_bytes // sums.dtype.itemsize):
        for p in range(k):
            sums[j] += x[p] * b[j * ldb + p]


@twin(_plain_add_columns)
@intrinsic
def add_columns(typingctx: Any, sums: Any, x: Any, b: Any, ldb: Any, k: Any) -> Any:
    """add_columns(sums, x, b, ldb, k): sums[j] += x[p]·b[j·ldb + p] for p < k in turn, j < NR; k is whole vectors."""
    if not isinstance(sums, types.CPointer):
        return None
    shape = types.void(sums, sums, sums, types.intp, types.intp)
    return shape, as_function("add_columns", sums.dtype, emit_column_sums)


def emit_row_sums(builder: Any, real: Any, args: Any, rows: int) -> None:
    """The LLVM code of `add_rows`: a panel's width of sums at a time; of each row the same place is asked for ahead."""
    sums, x, b, ldb, n = args
    code, size = Vectors(builder, real), n.type
    width, line = TILE.vectors * code.lanes, LINE // code.itemsize
    factors = [code.spread(builder.load(builder.gep(x, [size(r)]))) for r in range(rows)]
    lines = [builder.gep(b, [builder.mul(size(r), ldb)]) for r in range(rows)]
    ahead = builder.mul(size(AHEAD), ldb)
    with cgutils.for_range_slice(builder, size(0), n, size(width)) as (first, _):
        for row in lines:
            for part in range(0, width, line):
                emit_prefetch(builder, row, builder.add(ahead, builder.add(first, size(part))))
        for v in range(0, width, code.lanes):
            at = builder.add(first, size(v))
            total = code.load(sums, at)
            for factor, row in zip(factors, lines, strict=True):
                total = code.fma(factor, code.load(row, at), total)
            code.store(total, sums, at)


def emit_column_sums(builder: Any, real: Any, args: Any) -> None:
    """The LLVM code of `add_columns`: squares of vectors are transposed in registers, as when a panel is packed."""
    sums, x, b, ldb, k = args
    code, size = Vectors(builder, real), k.type
    lanes, width = code.lanes, TILE.vectors * code.lanes
    totals = [cgutils.alloca_once_value(builder, code.load(sums, size(j))) for j in range(0, width, lanes)]
    lines = [builder.gep(b, [builder.mul(size(j), ldb)]) for j in range(width)]
    ahead = builder.mul(size(width), ldb)  # the same place in the columns that come next
    with cgutils.for_range_slice(builder, size(0), k, size(lanes)) as (at, _):
        factors = [code.spread(builder.load(builder.gep(x, [builder.add(at, size(p))]))) for p in range(lanes)]
        for square, place in enumerate(totals):
            rows = []
            for line in lines[square * lanes : (square + 1) * lanes]:
                rows.append(code.load(line, at))
                emit_prefetch(builder, line, builder.add(ahead, at))
            total = builder.load(place)
            for factor, row in zip(factors, emit_transposed(builder, rows), strict=True):
                total = code.fma(factor, row, total)
            builder.store(total, place)
    for square, place in enumerate(totals):
        code.store(builder.load(place), sums, size(square * lanes))


@inner
def sum_rows(sums, x, b, ldb, n, k):
    """sums[j] = Σ_p x[p]·b[p·ldb + j] for j < n, whole panels, p < k in order."""
    for j in range(n):
        store(sums, j, 0.0)
    whole = k // ROWS * ROWS
    for p in range(0, whole, ROWS):
        add_rows(sums, advance(x, p), advance(b, p * ldb), ldb, n)
    for p in range(whole, k):
        add_row(sums, advance(x, p), advance(b, p * ldb), ldb, n)


@inner
def sum_columns(sums, x, b, ldb, n, k):
    """sums[j] = Σ_p x[p]·b[j·ldb + p] for j < n, whole panels, p < k in order."""
    nr, deep = panel_width(sums), vector_lanes(sums)
    for j in range(n):
        store(sums, j, 0.0)
    for j in range(0, n, nr):
        panel, whole = advance(b, j * ldb), k // deep * deep
        add_columns(advance(sums, j), x, panel, ldb, whole)
        add_elements(advance(sums, j), x, panel, ldb, whole, k)


@inner
def add_elements(sums, x, b, ldb, first, k):
    """`add_columns` for what no whole vectors are left of: p from `first` to k."""
    compact()
    for p in range(first, k):
        for i in range(panel_width(sums)):
            store(sums, i, load(sums, i) + load(x, p) * load(b, i * ldb + p))


@inner
def multiply_row(n, k, passes, x, b, b_row, b_column, c, start, add, sums, space):
    """c[j] = [start[j] +] Σ_p x[p] B[p, j], in so many passes over p; `sums` has space for `space` ≥ NR elements.

    Gives how many columns it did; fewer than a panel are left.
    """
    nr = panel_width(c)
    whole, most = n // nr * nr, space // nr * nr
    for first in range(0, whole, most):
        wide = min(most, whole - first)
        into, begin = advance(c, first), advance(start, first)
        for turn in range(passes):
            at = turn * k // passes
            depth = (turn + 1) * k // passes - at
            of, factors = advance(b, at * b_row + first * b_column), advance(x, at)
            if b_column == 1:
                sum_rows(sums, factors, of, b_row, wide, depth)
            else:
                sum_columns(sums, factors, of, b_column, wide, depth)
            for j in range(wide):
                value = load(sums, j)
                if turn > 0:
                    value += load(into, j)
                elif add:
                    value += load(begin, j)
                store(into, j, value)
    return whole
