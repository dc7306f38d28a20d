"""Memory between two pages that no one may touch, and the products of every small size on it.

python fences.py all | some | past | before        in a process of its own, since what strays ends it

`all` and `some` print how many products there were, or the first that is wrong; `past` and `before` read one element
beyond a fence, to show what happens then.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from itertools import product

import numba
import numpy as np

from cllm_cli.kernels.gemm import pack_size

PAGE = mmap.PAGESIZE
MOST = 40
PROT_NONE = 0


class Fenced:
    """An array `flat` of at least `count` elements that fills its pages; those before and after cannot be used."""

    def __init__(self, count, dtype):
        dtype = np.dtype(dtype)
        size = -(-count * dtype.itemsize // PAGE) * PAGE
        self.memory = mmap.mmap(-1, size + 2 * PAGE)
        whole = np.frombuffer(self.memory, np.uint8)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for page in (0, PAGE + size):
            address = ctypes.c_void_p(whole.ctypes.data + page)
            if protect(address, ctypes.c_size_t(PAGE), ctypes.c_int(PROT_NONE)):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.flat = whole[PAGE : PAGE + size].view(dtype)
        self.flat.fill(np.nan)


def sizes_of(which):
    """(m, n, k): all 64,000, or a Latin square of 1,600 in which every two of the three meet every pair of sizes."""
    numbers = range(1, MOST + 1)
    if which == "all":
        return np.array(list(product(numbers, repeat=3)))
    return np.array([(m, n, (7 * m + 11 * n) % MOST + 1) for m, n in product(numbers, repeat=2)])


def check(which):
    """Every size, form and precision, once flush with the fence before and once with that after, which first by lot."""
    from compiled import FORMS, products

    sizes, threads, count = sizes_of(which), numba.get_num_threads(), 0
    rng = np.random.default_rng(11)
    values = rng.standard_normal(2 * MOST**2 + 997)
    for dtype in (np.float32, np.float64):
        itemsize = np.dtype(dtype).itemsize
        spaces = np.array([pack_size(m, n, k, threads, itemsize) for m, n, k in sizes.tolist()])
        square, row = MOST * MOST, MOST
        c, a, b = (Fenced(square, dtype).flat for _ in range(3))
        bias, pack = Fenced(row, dtype).flat, Fenced(int(spaces.max()), dtype).flat
        for number, form in enumerate(FORMS):
            ends = rng.random(len(sizes)) < 0.5
            wrong, calls = products(sizes, spaces, number, ends, c, a, b, bias, pack, values.astype(dtype))
            if wrong >= 0:
                m, n, k = sizes[wrong].tolist()
                raise SystemExit(f"{form} of {np.dtype(dtype)} is wrong at m={m} n={n} k={k}")
            count += calls
    print(count)  # noqa: T201 - a program of its own


def stray(past):
    """Reads the element beyond a fence."""
    from compiled import by_pointer

    flat = Fenced(8, np.float32).flat
    by_pointer(np.zeros(3, np.float32), flat, (flat.size if past else -1) - 2, 0)


if __name__ == "__main__":
    numba.set_num_threads(1 if sys.argv[1] == "all" else 2)
    if sys.argv[1] in {"past", "before"}:
        stray(sys.argv[1] == "past")
    else:
        check(sys.argv[1])
