"""Matrix products at every size of tile, panel and block that can be an edge, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from compiled import FORMS, multiply

from cllm_cli.kernels.gemm import KC, block_rows, pack_size
from cllm_cli.kernels.simd import MR, columns

forms = pytest.mark.parametrize("form", FORMS)
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])
NR = columns(4)  # of float32; half as many of float64
MC = block_rows(KC, 4)

SMALL = [
    (*others[:axis], size, *others[axis:])
    for size in range(1, 21)
    for axis in range(3)
    for others in [(1, 1), (MR + 1, NR + 1), (5, 33)]
]
EDGES = [
    *[(9, 11, k) for k in (KC - 1, KC, KC + 1, 2 * KC, 2 * KC + 1)],
    *[(m, 7, 5) for m in (MC - 1, MC, MC + 1, 2 * MC, 2 * MC + 3)],
    *[(m, NR + 3, KC + 7) for m in (MC + MR - 1, 3 * MC + 1)],
    *[(m, 3 * NR, 2 * KC + 5) for m in range(MC - MR, MC + MR)],
    *[(1, n, k) for n in (NR - 1, 3 * NR, 5 * NR + 3) for k in (1, 7, KC + 5, 2 * KC + 3)],
    *[(1, 3 * MR * NR + NR + 1, k) for k in (1, 7)],  # more columns than there is space for their sums at once
    (2 * MR, 2 * NR, 8),
    (2 * MR + 1, 5 * NR - 1, 64),
]


def operands(rng, m, n, k, dtype):
    """A (m, k), B (k, n), a start for C (m, n), and a bias (n)."""
    return [rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (m, n), (n,))]


def product(form, a, b, c, bias, threads, keep=lambda values: values, accumulate=False):
    """Calls a form: c is written or added to; `keep` says where operands lie. Gives the packing space back."""
    (m, k), n = a.shape, b.shape[1]
    pack = keep(np.full(pack_size(m, n, k, threads, c.itemsize), np.nan, c.dtype))
    first = keep(np.ascontiguousarray(a.T)) if form == "tn" else keep(a)
    second = keep(np.ascontiguousarray(b.T)) if form == "nt" else keep(b)
    multiply(FORMS.index(form), c, first, second, keep(bias), pack, accumulate)
    return pack


class Exact:
    """A B in float64, and the sums of its terms' magnitudes."""

    def __init__(self, a, b):
        a, b = a.astype(np.float64), b.astype(np.float64)
        self.product, self.terms, self.roundings = a @ b, np.abs(a) @ np.abs(b), a.shape[1] + 2

    def assert_is(self, c, start):
        """c is A B + start, element by element: at most k + 2 roundings, of the magnitudes of its terms.

        (Higham 2002, section 3.1)
        """
        start = start.astype(np.float64)
        unit = 2 * self.roundings * tolerances.UNIT[c.dtype.name]  # NumPy's own beside ours
        assert np.all(np.abs(c - (self.product + start)) <= unit * (self.terms + np.abs(start)))


@precisions
@forms
@pytest.mark.parametrize("sizes", [SMALL, EDGES], ids=["small", "edges"])
def test_products_of_every_size(form, dtype, sizes, guarded):
    rng = np.random.default_rng(1)
    for m, n, k in sizes:
        a, b, start, bias = operands(rng, m, n, k, dtype)
        guarded.buffers.clear()
        c = guarded.allocate((m, n), dtype)  # NaN: what is overwritten must not be read
        product(form, a, b, c, bias, 2, guarded.holding)
        exact = Exact(a, b)
        exact.assert_is(c, bias if form == "nn_bias" else np.zeros(1))
        guarded.assert_intact()
        if form != "nn_bias":
            c = guarded.holding(start)
            product(form, a, b, c, bias, 2, guarded.holding, accumulate=True)
            exact.assert_is(c, start)
            guarded.assert_intact()


@precisions
@forms
def test_operands_are_left_alone(form, dtype):
    a, b, c, bias = operands(np.random.default_rng(2), MR + 1, NR + 1, KC + 1, dtype)
    kept = [values.copy() for values in (a, b, bias)]
    held = []

    def keep(values):
        held.append((values, values.copy()))
        return values

    product(form, a, b, c, bias, 2, keep)
    assert all(np.array_equal(values, before) for values, before in held[1:])  # the first is the packing space
    assert all(np.array_equal(values, before) for values, before in zip((a, b, bias), kept, strict=True))


@precisions
@forms
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 300, 40), (1, 9 * NR + 1, 2 * KC + 3), (5, 8 * NR, KC + 9), (MC + 5, 33, 17), (3 * MC, 2 * NR, KC + 1)],
)
def test_same_bits_for_every_number_of_threads(form, dtype, m, n, k, set_threads):
    a, b, start, bias = operands(np.random.default_rng(3), m, n, k, dtype)
    found = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        c = start.copy()
        product(form, a, b, c, bias, threads, accumulate=True)
        found.append(c)
    assert all(np.array_equal(found[0], other) for other in found[1:])


@precisions
@forms
def test_an_element_depends_on_its_own_row_and_column_alone(form, dtype):
    a, b, start, bias = operands(np.random.default_rng(4), MC + MR + 2, 3 * NR + 2, KC + 3, dtype)
    whole = start.copy()
    product(form, a, b, whole, bias, 2, accumulate=True)
    for rows, width in [(1, 1), (1, b.shape[1]), (MR - 1, NR), (MR, 2 * NR + 1), (MC + 1, 5), (a.shape[0], 1)]:
        c = start[:rows, :width].copy()
        product(form, a[:rows].copy(), b[:, :width].copy(), c, bias[:width].copy(), 2, accumulate=True)
        assert np.array_equal(c, whole[:rows, :width]), (rows, width)


@precisions
@forms
def test_nan_reaches_its_row_and_column_alone(form, dtype):
    a, b, c, bias = operands(np.random.default_rng(5), 2 * MR + 1, 2 * NR + 1, 9, dtype)
    a[3, 4] = np.nan
    product(form, a, b, c, bias, 2)
    assert np.isnan(c[3]).all()
    assert np.isfinite(np.delete(c, 3, axis=0)).all()
    a[3, 4], b[2, NR] = 1, np.inf
    product(form, a, b, c, bias, 2)
    assert not np.isfinite(c[:, NR]).any()
    assert np.isfinite(np.delete(c, NR, axis=1)).all()
