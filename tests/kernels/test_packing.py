"""Panels hold the lines of a matrix, whichever way it lies in memory; what is missing is zero, no more is written."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import packed_columns, packed_rows, panel_pieces, plain

from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.kernels.packing import lanes
from cllm_cli.kernels.simd import MR, columns

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def panels_of(lines, height):
    """The panels of the lines (count, k), in the obvious way."""
    count, k = lines.shape
    padded = np.zeros((-(-count // height) * height, k), lines.dtype)
    padded[:count] = lines
    return padded.reshape(-1, height, k).transpose(0, 2, 1).reshape(-1)


@precisions
@pytest.mark.parametrize("layout", ["lines lie whole", "lines lie across", "every other element"])
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_panels(side, layout, dtype, guarded):
    rng = np.random.default_rng(3)
    itemsize = np.dtype(dtype).itemsize
    height = MR if side == "rows" else columns(itemsize)
    pack = packed_rows if side == "rows" else packed_columns
    depth = lanes(itemsize)
    for count in (1, height - 1, height, height + 1, 3 * height):
        for k in (1, depth - 1, depth, depth + 1, 3 * depth, 3 * depth + 2):
            lines = rng.standard_normal((count, k)).astype(dtype)
            if layout == "lines lie whole":
                x, line_stride, stride = lines, k, 1
            elif layout == "lines lie across":
                x, line_stride, stride = np.ascontiguousarray(lines.T), 1, count
            else:
                x, line_stride, stride = np.repeat(lines, 2, axis=1), 2 * k, 2
            guarded.buffers.clear()
            panels = guarded.allocate((panels_of(lines, height).size,), dtype)
            strides = (line_stride, stride) if side == "rows" else (stride, line_stride)
            pack(panels, guarded.holding(x), *strides, count, k)
            assert np.array_equal(panels, panels_of(lines, height)), (count, k)
            guarded.assert_intact()


@pytest.mark.skipif(JIT_OFF, reason="the twins are all there is")
@precisions
@pytest.mark.parametrize("lines", [1, MR - 1, MR])
def test_pieces_are_those_of_their_twins(lines, dtype):
    itemsize = np.dtype(dtype).itemsize
    depth, nr = lanes(itemsize), columns(itemsize)
    stride = depth + 3
    x = np.random.default_rng(4).standard_normal(nr * stride).astype(dtype)
    found = []
    for kernel in (panel_pieces, plain(panel_pieces)):
        rows, cols = np.ones((4, MR * depth), dtype), np.ones((3, nr * depth), dtype)
        kernel(rows, cols, x, stride, lines)
        found.append((rows, cols))
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))
    rows, cols = found[0]
    assert rows[3, 0] == depth
    assert np.array_equal(rows[1, :MR], np.where(np.arange(MR) < lines, x[:MR], 0))
    assert np.array_equal(cols[2].reshape(depth, nr)[:, :lines], x.reshape(nr, stride)[:lines, :depth].T)
    assert not cols[2].reshape(depth, nr)[:, lines:].any()
