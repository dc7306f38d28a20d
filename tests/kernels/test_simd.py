"""Every intrinsic does what its plain twin does."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import tolerances
from compiled import by_pointer, ordered, parts, plain, row_pieces, scaled, threads, tile

from cllm_cli.kernels import bits, gemv, packing, pointers, simd
from cllm_cli.kernels.bits import ROUND
from cllm_cli.kernels.gemv import ROWS
from cllm_cli.kernels.jit import FLAGS, JIT_OFF
from cllm_cli.kernels.levels import host_features
from cllm_cli.kernels.simd import MR, TILES, columns, tile_for

pytestmark = pytest.mark.skipif(JIT_OFF, reason="the twins are all there is")
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def test_every_intrinsic_has_a_twin():
    everywhere = vars(pointers) | vars(bits) | vars(simd) | vars(packing) | vars(gemv)
    intrinsics = [value for value in everywhere.values() if type(value).__name__ == "_Intrinsic"]
    assert len(intrinsics) == 23
    assert all(callable(value.plain) for value in intrinsics)


TILE, MB = simd.TILE, 2**20


@pytest.mark.parametrize(
    ("size", "sharing", "more"),
    [
        ("1536K", "1", 3 * MB // 2 - TILE.cache_bytes),
        ("4096K", "1", 2 * MB - TILE.cache_bytes),  # what some virtual machines say of every CPU
        ("4096K", "00000003", 2 * MB - TILE.cache_bytes),  # two threads of a core, or two cores of a cluster
        ("16384K", "ff,00000000", 2 * MB - TILE.cache_bytes),
        ("128K", "1", 0),  # less than such CPUs have: half of a core, perhaps, or a guess of a virtual machine
        ("", "1", 0),
        ("4096K", "0", 0),
        (None, None, 0),
    ],
)
def test_blocks_are_as_large_as_the_second_level_cache_allows(tmp_path, monkeypatch, size, sharing, more):
    if size is not None:
        (tmp_path / "size").write_text(size + "\n")
        (tmp_path / "shared_cpu_map").write_text(sharing + "\n")
    monkeypatch.setattr(simd, "SECOND_LEVEL", tmp_path)
    assert simd.block_bytes.__wrapped__() == TILE.block_bytes + more


@pytest.mark.skipif("avx512f" not in host_features(), reason="no vectors of 512 bits here")
def test_loops_take_the_widest_vectors_that_there_are():
    """On some CPUs LLVM would prefer half of them."""

    @numba.njit(**FLAGS)
    def add(out, x):
        for i in range(x.size):
            out[i] += x[i]

    add(np.zeros(64, np.float32), np.ones(64, np.float32))
    assert "zmm" in add.inspect_asm(add.signatures[0])


@precisions
@pytest.mark.parametrize("shape", [(60,), (6, 10), (3, 4, 5)])
def test_pointers(dtype, shape):
    x = np.arange(60, dtype=dtype).reshape(shape)
    for offset, by in [(0, 0), (7, 0), (7, 11), (30, -11)]:
        out, other = np.zeros(3, dtype), np.zeros(3, dtype)
        by_pointer(out, x, offset, by)
        plain(by_pointer)(other, x, offset, max(by, 0)) if by >= 0 else other.__setitem__(slice(None), out)
        assert list(out) == [0, offset + by + 2, columns(np.dtype(dtype).itemsize)]
        assert np.array_equal(out, other)


@precisions
@pytest.mark.parametrize("k", [0, 1, 3, 4, 5, 23])
@pytest.mark.parametrize(("add", "ld_start"), [(False, 0), (True, 0), (True, 5)])
@pytest.mark.parametrize("high", range(1, MR + 1))
def test_microkernel(dtype, k, add, ld_start, high, guarded):
    rng = np.random.default_rng(7)
    nr = columns(np.dtype(dtype).itemsize)
    ldc = nr + 3
    a, b = (guarded.holding(rng.standard_normal(k * width).astype(dtype)) for width in (MR, nr))
    start = guarded.holding(rng.standard_normal(MR * (nr + ld_start)).astype(dtype))
    c = guarded.allocate(((MR - 1) * ldc + nr,), dtype)
    gaps = np.array([at % ldc >= nr or at // ldc >= high for at in range(c.size)])
    c[gaps] = 5
    other = c.copy()
    tile(c, a, b, start, k, ldc, (nr + ld_start) if ld_start else 0, add, high)
    plain(tile)(other, a, b, start, k, ldc, (nr + ld_start) if ld_start else 0, add, high)
    guarded.assert_intact()
    assert np.all(c[gaps] == 5)
    # Of a sum in order the error is at most k + 1 roundings of its terms' magnitudes.
    terms = np.abs(a.reshape(k, MR)).T @ np.abs(b.reshape(k, nr)) + 4
    allowed = (k + 2) * tolerances.UNIT[np.dtype(dtype).name] * terms.max()
    np.testing.assert_allclose(c, other, rtol=0, atol=allowed)


@precisions
@pytest.mark.parametrize("ld_start", [0, 5])
def test_what_a_tile_starts_from_is_added_to_the_rounded_sum(dtype, ld_start):
    """So a tile over the edge of C, which is added to outside of the micro-kernel, has the bits of a whole one."""
    rng = np.random.default_rng(9)
    nr = columns(np.dtype(dtype).itemsize)
    a, b = (rng.standard_normal(40 * width).astype(dtype) for width in (MR, nr))
    start = 100 * rng.standard_normal((MR, nr + ld_start)).astype(dtype)
    first = start[:, :nr] if ld_start else start[0]
    for kernel in (tile, plain(tile)):
        alone, added = np.empty((MR, nr), dtype), np.empty((MR, nr), dtype)
        kernel(alone.reshape(-1), a, b, start.reshape(-1), 40, nr, 0, False, MR)
        kernel(added.reshape(-1), a, b, start.reshape(-1), 40, nr, (nr + ld_start) if ld_start else 0, True, MR)
        assert np.array_equal(added, alone + first)


@precisions
@pytest.mark.parametrize("blocks", [1, 3])
def test_pieces_of_a_row_times_a_matrix(dtype, blocks, guarded):
    """Each sum gets its own terms, and nothing beyond the last line of the last row is read or written."""
    rng = np.random.default_rng(10)
    itemsize = np.dtype(dtype).itemsize
    nr, n, k = columns(itemsize), blocks * columns(itemsize), blocks * packing.lanes(itemsize)
    ldb = max(n, k) + 3
    size = max((ROWS - 1) * ldb + n, (nr - 1) * ldb + k)
    x = guarded.holding(rng.standard_normal(max(ROWS, k)).astype(dtype))
    b = guarded.holding(rng.standard_normal(size).astype(dtype))
    sums = guarded.holding(rng.standard_normal((3, max(n, nr))).astype(dtype))
    others = sums.copy()
    row_pieces(sums, x, b, ldb, n, k)
    plain(row_pieces)(others, x, b, ldb, n, k)
    guarded.assert_intact()
    np.testing.assert_allclose(sums, others, rtol=0, atol=100 * k * tolerances.UNIT[np.dtype(dtype).name])


@precisions
def test_scale(dtype):
    magic = dtype(ROUND[np.dtype(dtype).name])
    largest = np.finfo(dtype).maxexp
    n = np.arange(-largest - 30, largest + 2)
    x = np.linspace(0.7, 1.42, n.size).astype(dtype)
    rounded = n.astype(dtype) + magic
    out, other = np.empty_like(x), np.empty_like(x)
    scaled(out, x, rounded)
    with np.errstate(over="ignore", under="ignore"):
        plain(scaled)(other, x, rounded)
    # Two factors round twice where the result is subnormal.
    tiny = np.abs(other) < np.finfo(dtype).tiny
    assert np.array_equal(out[~tiny], other[~tiny])
    assert np.all(np.abs(out[tiny] - other[tiny]) <= np.finfo(dtype).smallest_subnormal)
    assert np.isinf(out[-1])
    nan = np.array([np.nan], dtype)
    for scaling in (scaled, plain(scaled)):
        scaling(out[:1], nan, nan)
        assert np.isnan(out[0])


@precisions
def test_split_exponent(dtype):
    rng = np.random.default_rng(8)
    info = np.finfo(dtype)
    x = np.exp2(rng.uniform(info.minexp, info.maxexp - 1, 20_000)).astype(dtype)
    root = dtype(np.sqrt(0.5))
    x = np.concatenate([x, [info.tiny, info.max, 1, root, np.nextafter(root, dtype(0)), np.nextafter(root, dtype(1))]])
    x = x.astype(dtype)
    m, n, other_m, other_n = (np.empty_like(x) for _ in range(4))
    parts(m, n, x)
    plain(parts)(other_m, other_n, x)
    assert np.array_equal(m, other_m)
    assert np.array_equal(n, other_n)
    assert np.array_equal(np.ldexp(m, n.astype(int)), x)
    assert m.min() == root
    assert m.max() < 2 * root


@precisions
def test_order_is_that_of_the_floats(dtype):
    info = np.finfo(dtype)
    some = np.random.default_rng(9).standard_normal(500).astype(dtype)
    x = np.sort(np.concatenate([some, [0, 1, info.tiny, info.smallest_subnormal, info.max, np.inf]]).astype(dtype))
    x = np.concatenate([-x[::-1], x])
    x.sort()
    numbers, back, others, other_back = np.zeros(x.size, np.int64), x + 1, np.zeros(x.size, np.int64), x + 1
    ordered(numbers, back, x)
    plain(ordered)(others, other_back, x)
    assert np.all((np.diff(numbers) > 0) | (np.diff(x) == 0))
    assert np.array_equal(numbers, others)
    assert np.array_equal(back, x)
    assert np.array_equal(other_back, x)


def test_thread_count(set_threads):
    for count in (1, 2, 3):
        set_threads(count)
        assert threads() == count
    assert plain(threads)() == 1


@pytest.mark.parametrize(
    ("features", "expected"),
    [({"fma", "avx2"}, "fma"), ({"fma", "avx512f"}, "avx512f"), ({"neon", "sve"}, "neon"), ({"sse2"}, "")],
)
def test_the_tile_follows_the_features(features, expected):
    assert tile_for(frozenset(features)) == TILES[expected]


def test_tiles_fit_their_registers():
    registers = {"avx512f": 32, "fma": 16, "neon": 32, "": 16}
    for feature, shape in TILES.items():
        assert shape.rows * shape.vectors + shape.vectors + 1 <= registers[feature]
