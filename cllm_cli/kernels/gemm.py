"""Matrix multiplication on our own micro-kernel: C = A B, C = A Bᵀ, C = Aᵀ B, each with C += and a bias.

Goto's scheme (Goto & van de Geijn 2008): blocks of A and B are packed into panels that the micro-kernel reads straight
through. C is cut into a grid of tasks, as even as it goes and no block of rows higher than the packing space allows.
A task shares nothing: it packs its block of A, and each panel of B just before the panel meets that block. So a product
is one parallel loop, without a barrier inside, and what is packed never leaves the core's own cache.

The three forms differ in the strides that packing reads with, and in nothing else; they and both flags reach one
compiled function: a literal argument would compile another, hence np.int64(1). A tile that reaches over the edge of C
is computed in a tile of its own, and what lies within is copied. Nothing outside an operand is read or written.

Each element of C is one sum over k in fixed order, whatever the grid and the threads: results never depend on either.
"""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, prange

from cllm_cli.kernels.gemv import multiply_row
from cllm_cli.kernels.jit import inner
from cllm_cli.kernels.packing import fetch_panel, pack_panel, pack_rows
from cllm_cli.kernels.pointers import advance, compact, load, pointer, store
from cllm_cli.kernels.simd import MR, block_bytes, columns, microkernel, panel_width, thread_count

KC = 512  # a panel of B, KC × NR, is at home between the first- and the second-level cache
STEP = 4  # blocks of rows are cut at multiples of it


def block_rows(depth: int, itemsize: int) -> int:
    """The most rows in a block of A, so many columns deep."""
    return max(MR, block_bytes() // (itemsize * max(1, depth)) // MR * MR)


def pack_size(m: int, n: int, k: int, threads: int, itemsize: int) -> int:
    """Elements of packing space for a product of m × k by k × n on `threads` threads; with less it goes wrong.

    Kernels make blocks of A as high as the space allows that each thread is given: how large caches are is not compiled
    in. With more threads than these, it would be too small.
    """
    nr, depth = columns(itemsize), min(k, KC)
    height = min(-(-m // MR) * MR, block_rows(depth, itemsize))
    return threads * (-(-depth * (height + nr) // nr) * nr + MR * nr)


@inner
def grid(m, panels, most, threads):
    """How C, m rows by so many panels of NR columns, is cut: the numbers of blocks of rows and of columns.

    A block has `most` rows at most. The least cost of the busiest thread, where an element of a tile costs 4, packing
    one of A 1 and one of B 2.
    """
    compact()
    blocks, shares, least = np.int64(1), np.int64(1), np.int64(2**62)
    steps = (m + STEP - 1) // STEP
    for s in range(1, min(panels, threads) + 1):
        b = (steps + most // STEP - 1) // (most // STEP)
        while b < steps and b * s % threads:
            b += 1
        high, wide = (steps + b - 1) // b * STEP, (panels + s - 1) // s
        cost = (b * s + threads - 1) // threads * (4 * high * wide + high + 2 * wide * MR)
        if cost < least:
            blocks, shares, least = b, s, cost
    return blocks, shares


@inner
def multiply_tile(c, ldc, high, wide, k, a, b, start, start_rows, add, edge):
    """A tile of C, high ≤ MR by wide ≤ NR, from a panel of A and one of B; `edge` has space for one tile.

    With `add`, the sum of element (i, j) starts from start[i·start_rows + j].
    """
    nr = panel_width(c)
    if wide == nr:
        microkernel(k, a, b, c, ldc, start, start_rows, add, high)
    else:
        microkernel(k, a, b, edge, nr, edge, 0, False, high)
        copy_tile(c, ldc, high, wide, edge, start, start_rows, add)


@inner
def copy_tile(c, ldc, high, wide, edge, start, start_rows, add):
    """What lies within C of a tile over its edge."""
    compact()
    nr = panel_width(c)
    for y in range(high):
        for x in range(wide):
            value = load(edge, y * nr + x)
            if add:
                value += load(start, y * start_rows + x)
            store(c, y * ldc + x, value)


@inner
def multiply_panels(c, ldc, m, n, k, rows, cols, cols_depth, start, start_rows, add, edge):
    """C (m × n) from packed panels of A (`rows`) and of B (`cols`), a tile at a time: see `multiply_tile`.

    The panels of B may be deeper than k: `cols_depth` is the depth that they were packed with.
    """
    nr = panel_width(c)
    for j in range(0, n, nr):
        for i in range(0, m, MR):
            into, first = advance(c, i * ldc + j), advance(start, i * start_rows + j)
            a, b = advance(rows, i * k), advance(cols, j * cols_depth)
            multiply_tile(into, ldc, min(MR, m - i), min(nr, n - j), k, a, b, first, start_rows, add, edge)


@inner
def gemm(m, n, k, a, a_row, a_column, b, b_row, b_column, c, ldc, start, start_rows, add, pack, room):
    """C (m × n) = [start +] A (m × k) B (k × n), all by pointer and stride; `pack` has room ≥ `pack_size` elements."""
    nr = panel_width(c)
    panels, steps = (n + nr - 1) // nr, (m + STEP - 1) // STEP
    passes, deepest = (k + KC - 1) // KC, min(k, KC)
    space = room // thread_count() // nr * nr
    most = ((space - MR * nr) // max(1, deepest) - nr) // MR * MR
    height = min((m + MR - 1) // MR * MR, most)
    blocks, shares = grid(m, panels, most, thread_count())
    for task in prange(blocks * shares):
        block, share = task // shares, task % shares
        top, bottom = block * steps // blocks * STEP, min(m, (block + 1) * steps // blocks * STEP)
        left, last = share * panels // shares * nr, min(n, (share + 1) * panels // shares * nr)
        rows = advance(pack, get_thread_id() * space)
        cols = advance(rows, deepest * height)
        edge = advance(cols, deepest * nr)
        if m == 1 and a_column == 1:
            of, into, begin = advance(b, left * b_column), advance(c, left), advance(start, left)
            left += multiply_row(last - left, k, passes, a, of, b_row, b_column, into, begin, add, rows, space)
        for turn in range(passes if left < last else 0):
            at = turn * k // passes
            depth = (turn + 1) * k // passes - at
            pack_rows(rows, advance(a, top * a_row + at * a_column), a_row, a_column, bottom - top, depth)
            for j in range(left, last, nr):
                panel, wide = advance(b, at * b_row + j * b_column), min(nr, last - j)
                after, soon = advance(panel, nr * b_column), min(nr, last - j - wide)
                pack_panel(cols, panel, b_row, b_column, wide, depth)
                for i in range(top, bottom, MR):
                    fetch_panel(after, b_row, b_column, soon, depth, (i - top) // MR, (bottom - top + MR - 1) // MR)
                    into = advance(c, i * ldc + j)
                    first, first_rows = advance(start, i * start_rows + j), start_rows
                    if turn > 0:
                        first, first_rows = into, ldc
                    strip, high = advance(rows, (i - top) * depth), min(MR, bottom - i)
                    multiply_tile(into, ldc, high, wide, depth, strip, cols, first, first_rows, add or turn > 0, edge)


@inner
def gemm_nn(c, a, b, pack, accumulate):
    """C (M, N) = A (M, K) B (K, N), or C += with `accumulate`."""
    (m, k), n, one = a.shape, b.shape[1], np.int64(1)
    to = pointer(c, 0)
    add = np.bool_(accumulate)
    gemm(m, n, k, pointer(a, 0), k, one, pointer(b, 0), n, one, to, n, to, n, add, pointer(pack, 0), pack.size)


@inner
def gemm_nn_bias(c, a, b, bias, pack):
    """C (M, N) = A (M, K) B (K, N) + bias (N), row by row."""
    (m, k), n, one = a.shape, b.shape[1], np.int64(1)
    to, row = pointer(c, 0), pointer(bias, 0)
    add = np.bool_(True)
    gemm(m, n, k, pointer(a, 0), k, one, pointer(b, 0), n, one, to, n, row, one - one, add, pointer(pack, 0), pack.size)


@inner
def gemm_nt(c, a, b, pack, accumulate):
    """C (M, N) = A (M, K) Bᵀ with B (N, K), or C += with `accumulate`."""
    (m, k), n, one = a.shape, b.shape[0], np.int64(1)
    to = pointer(c, 0)
    add = np.bool_(accumulate)
    gemm(m, n, k, pointer(a, 0), k, one, pointer(b, 0), one, k, to, n, to, n, add, pointer(pack, 0), pack.size)


@inner
def gemm_tn(c, a, b, pack, accumulate):
    """C (M, N) = Aᵀ B with A (K, M) and B (K, N), or C += with `accumulate`."""
    (k, m), n, one = a.shape, b.shape[1], np.int64(1)
    to = pointer(c, 0)
    add = np.bool_(accumulate)
    gemm(m, n, k, pointer(a, 0), one, m, pointer(b, 0), n, one, to, n, to, n, add, pointer(pack, 0), pack.size)
