"""What the tests of kernels call: thin functions around what only kernels can call, compiled with the package's flags.

They are cached beside the package's kernels, in a folder that is keyed by this file and by all that it imports.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import FunctionType

import numba
import numpy as np

from cllm_cli.kernels import gemm, math, pointers, simd
from cllm_cli.kernels.jit import FLAGS, KernelCacheLocator, cache_root, source_key
from cllm_cli.kernels.pointers import advance, load, pointer, store
from cllm_cli.kernels.simd import microkernel, panel_width, scale, split_exponent, thread_count


class Locator(KernelCacheLocator):
    """Numba finds this class by its name, `compiled.Locator`."""

    def __init__(self, path, function, root):
        keys = [
            Path(__file__).read_bytes(),
            *(source_key(Path(each.__file__)).encode() for each in (gemm, math, pointers, simd)),
        ]
        self._py_file, self._line = str(path), function.__code__.co_firstlineno
        self._folder = root / f"tests-{hashlib.sha256(b''.join(keys)).hexdigest()[:24]}"

    @classmethod
    def from_function(cls, function, py_file):
        return cls(Path(py_file), function, cache_root())


def compiled(function):
    before = numba.config.CACHE_LOCATOR_CLASSES
    numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{Locator.__name__}"
    try:
        return numba.njit(cache=cache_root() is not None, **FLAGS)(function)
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = before


def plain(dispatcher):
    """The same function in Python, with the plain twin of every intrinsic."""
    function = dispatcher.py_func
    twins = {name: value.plain for name, value in function.__globals__.items() if hasattr(value, "plain")}
    return FunctionType(function.__code__, function.__globals__ | twins)


@compiled
def nn(c, a, b, pack, accumulate):
    gemm.gemm_nn(c, a, b, pack, accumulate)


@compiled
def nt(c, a, b, pack, accumulate):
    gemm.gemm_nt(c, a, b, pack, accumulate)


@compiled
def tn(c, a, b, pack, accumulate):
    gemm.gemm_tn(c, a, b, pack, accumulate)


@compiled
def nn_bias(c, a, b, bias, pack):
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
def by_pointer(out, x, offset, by):
    """out[1] = x[offset + by + 2] and out[2] = the panel's width, all by pointer; x of any rank."""
    into = pointer(out, 1)
    store(into, 0, load(advance(pointer(x, offset), by), 2))
    store(into, np.int64(1), load(pointer(x, 0), 0) * 0 + panel_width(into))


@compiled
def tile(c, a, b, start, k, ldc, ld_start, add):
    """One tile of the micro-kernel, from flat panels."""
    microkernel(k, pointer(a, 0), pointer(b, 0), pointer(c, 0), ldc, pointer(start, 0), ld_start, add)


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
