"""Matrix multiplication on our own micro-kernel: C = A B, C = A Bᵀ, C = Aᵀ B, each with C += and a bias.

Goto's scheme (Goto & van de Geijn 2008): blocks of k columns of A and k rows of B are packed into panels that the
micro-kernel reads straight through, B once for everyone, A once for each block of rows. The three forms differ in the
strides that packing reads with, and in nothing else. Panels are padded with zeros; a tile that reaches over the edge of
C is computed in a tile of its own, and what lies within is copied. Nothing outside an operand is read or written.

The three forms and both flags reach one compiled function: a literal argument would compile another, hence np.int64(1).

Each element of C is one sum over k in fixed order, whatever the blocks and the threads: results never depend on either.
"""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, prange

from cllm_cli.kernels.jit import inner
from cllm_cli.kernels.packing import pack_panel, pack_rows
from cllm_cli.kernels.pointers import advance, load, pointer, store
from cllm_cli.kernels.simd import MR, columns, microkernel, panel_width, thread_count

KC = 512  # a panel of B, KC × NR, is at home between the first- and the second-level cache
MC = 20 * MR  # a block of A, MC × KC, stays in the second-level cache
NC = 4032  # a block of B, KC × NC, stays in the last-level cache; a multiple of every tile's NR


def pack_size(m: int, n: int, k: int, threads: int, itemsize: int) -> int:
    """Elements of packing space that a product of m × k by k × n needs on `threads` threads."""
    nr = columns(itemsize)
    depth = min(k, KC)
    width = min(-(-n // nr) * nr, NC)
    height = min(-(-m // MR) * MR, MC)
    return depth * width + threads * (height * depth + MR * nr)


@inner
def multiply_panels(c, ldc, m, n, k, rows, cols, cols_depth, start, start_rows, add, edge):
    """C (m × n) from packed panels of A (`rows`) and of B (`cols`); `edge` has space for one tile.

    The panels of B may be deeper than k: `cols_depth` is the depth that they were packed with. With `add`, the sum of
    element (i, j) starts from start[i·start_rows + j].
    """
    nr = panel_width(c)
    for q in range((n + nr - 1) // nr):
        j = q * nr
        wide = min(nr, n - j)
        for r in range((m + MR - 1) // MR):
            i = r * MR
            high = min(MR, m - i)
            a = advance(rows, i * k)
            b = advance(cols, j * cols_depth)
            first = advance(start, i * start_rows + j)
            if high == MR and wide == nr:
                microkernel(k, a, b, advance(c, i * ldc + j), ldc, first, start_rows, add)
            else:
                microkernel(k, a, b, edge, nr, edge, 0, False)
                into = advance(c, i * ldc + j)
                for y in range(high):
                    for x in range(wide):
                        value = load(edge, y * nr + x)
                        if add:
                            value += load(first, y * start_rows + x)
                        store(into, y * ldc + x, value)


@inner
def gemm(m, n, k, a, a_row, a_column, b, b_row, b_column, c, ldc, start, start_rows, add, pack):
    """C (m × n) = [start +] A (m × k) B (k × n), all by pointer and stride; `pack` has `pack_size` elements."""
    nr = panel_width(c)
    threads = thread_count()
    passes = (k + KC - 1) // KC
    for turn in range(passes):
        k_from = turn * k // passes
        depth = (turn + 1) * k // passes - k_from
        for j_from in range(0, n, NC):
            width = min(NC, n - j_from)
            panels = (width + nr - 1) // nr
            of = advance(b, k_from * b_row + j_from * b_column)
            for q in prange(panels):
                pack_panel(
                    advance(pack, q * nr * depth),
                    advance(of, q * nr * b_column),
                    b_row,
                    b_column,
                    min(nr, width - q * nr),
                    depth,
                )
            spaces = advance(pack, panels * nr * depth)
            # Blocks of rows of equal height, a multiple of the threads in number; fewer rows than that share columns
            # too.
            strips = (m + MR - 1) // MR
            blocks = (strips * MR + MC - 1) // MC
            blocks = min(strips, (blocks + threads - 1) // threads * threads)
            shares = min(panels, (threads + blocks - 1) // blocks)
            space = min(strips * MR, MC) * depth + MR * nr
            for task in prange(blocks * shares):
                block, share = task // shares, task % shares
                i_from = block * strips // blocks * MR
                high = min(m, (block + 1) * strips // blocks * MR) - i_from
                q_from = share * panels // shares
                j = q_from * nr
                wide = min(width, (share + 1) * panels // shares * nr) - j
                rows = advance(spaces, get_thread_id() * space)
                pack_rows(rows, advance(a, i_from * a_row + k_from * a_column), a_row, a_column, high, depth)
                into = advance(c, i_from * ldc + j_from + j)
                first, first_rows = advance(start, i_from * start_rows + j_from + j), start_rows
                if turn > 0:
                    first, first_rows = into, ldc
                multiply_panels(
                    into,
                    ldc,
                    high,
                    wide,
                    depth,
                    rows,
                    advance(pack, j * depth),
                    depth,
                    first,
                    first_rows,
                    add or turn > 0,
                    advance(rows, space - MR * nr),
                )


@inner
def gemm_nn(c, a, b, pack, accumulate):
    """C (M, N) = A (M, K) B (K, N), or C += with `accumulate`."""
    (m, k), n, one = a.shape, b.shape[1], np.int64(1)
    to = pointer(c, 0)
    add = np.bool_(accumulate)
    gemm(m, n, k, pointer(a, 0), k, one, pointer(b, 0), n, one, to, n, to, n, add, pointer(pack, 0))


@inner
def gemm_nn_bias(c, a, b, bias, pack):
    """C (M, N) = A (M, K) B (K, N) + bias (N), row by row."""
    (m, k), n, one = a.shape, b.shape[1], np.int64(1)
    to, row = pointer(c, 0), pointer(bias, 0)
    gemm(m, n, k, pointer(a, 0), k, one, pointer(b, 0), n, one, to, n, row, one - one, np.bool_(True), pointer(pack, 0))


@inner
def gemm_nt(c, a, b, pack, accumulate):
    """C (M, N) = A (M, K) Bᵀ with B (N, K), or C += with `accumulate`."""
    (m, k), n, one = a.shape, b.shape[0], np.int64(1)
    to = pointer(c, 0)
    add = np.bool_(accumulate)
    gemm(m, n, k, pointer(a, 0), k, one, pointer(b, 0), one, k, to, n, to, n, add, pointer(pack, 0))


@inner
def gemm_tn(c, a, b, pack, accumulate):
    """C (M, N) = Aᵀ B with A (K, M) and B (K, N), or C += with `accumulate`."""
    (k, m), n, one = a.shape, b.shape[1], np.int64(1)
    to = pointer(c, 0)
    add = np.bool_(accumulate)
    gemm(m, n, k, pointer(a, 0), one, m, pointer(b, 0), n, one, to, n, to, n, add, pointer(pack, 0))
