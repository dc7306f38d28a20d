"""exp, tanh and log that LLVM vectorises: straight-line polynomials, one for each precision, no call into libm.

Each is compiled without reordering of sums, which would undo the two-part arguments. Errors, measured over the whole
range by tests/kernels/test_math.py: exp ≤ 1.5 ulp, tanh ≤ 3.5 ulp, log ≤ 2 ulp in both precisions. NaN stays NaN.

    exp    x = n ln 2 + r, |r| ≤ ½ ln 2:  eˣ = 2ⁿ eʳ, eʳ by its Taylor series                    (Muller 2016, ch. 11)
    tanh   e = e²ˣ − 1 = 2ⁿ(eʳ − 1) + (2ⁿ − 1), so nothing cancels near 0:  tanh x = e / (e + 2)
    log    x = m 2ⁿ, √½ ≤ m < √2, s = (m − 1)/(m + 1):  ln x = n ln 2 + 2(s + s³/3 + s⁵/5 + …)

ln 2 is split in two, so that n times its first part is exact.                                  (Cody & Waite 1980)
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from cllm_cli.kernels.bits import ROUND, scale, split_exponent
from cllm_cli.kernels.jit import FLAGS, JIT_OFF, precise

f32, f64 = np.float32, np.float64
LOG2E32, LOG2E64 = f32(1.4426950408889634), f64(1.4426950408889634)
LN2_HIGH32, LN2_LOW32 = f32(0.693359375), f32(-2.1219444e-4)
LN2_HIGH64, LN2_LOW64 = f64(0.6931471803691238), f64(1.9082149292705877e-10)
TINY32, TINY64 = f32(2.0**-126), 2.0**-1022  # the least normal numbers
INF32, NAN32 = f32(np.inf), f32(np.nan)
ROUND32, ROUND64 = f32(ROUND["float32"]), f64(ROUND["float64"])


@precise
def _series32(r):
    """(eʳ − 1) / r to r⁶: eʳ comes within 2⁻²⁷."""
    c2, c3, c4, c5, c6, c7 = f32(1 / 2), f32(1 / 6), f32(1 / 24), f32(1 / 120), f32(1 / 720), f32(1 / 5040)
    return f32(1) + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * c7)))))


@precise
def _series64(r):
    """(eʳ − 1) / r to r¹³: eʳ comes within 2⁻⁵⁸."""
    high = 1 / 479001600 + r * (1 / 6227020800 + r * (1 / 87178291200))
    middle = 1 / 5040 + r * (1 / 40320 + r * (1 / 362880 + r * (1 / 3628800 + r * (1 / 39916800 + r * high))))
    return 1.0 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r * middle)))))


@precise
def _tail32(z):
    """(artanh s) / s − 1 to z⁵, z = s²."""
    return z * (f32(1 / 3) + z * (f32(1 / 5) + z * (f32(1 / 7) + z * (f32(1 / 9) + z * f32(1 / 11)))))


@precise
def _tail64(z):
    """(artanh s) / s − 1 to z¹¹, z = s²."""
    high = 1 / 15 + z * (1 / 17 + z * (1 / 19 + z * (1 / 21 + z * (1 / 23))))
    return z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11 + z * (1 / 13 + z * high))))))


@precise
def _exp32(x):
    x = f32(89) if x > f32(89) else x
    x = f32(-104) if x < f32(-104) else x
    rounded = x * LOG2E32 + ROUND32
    n = rounded - ROUND32
    r = (x - n * LN2_HIGH32) - n * LN2_LOW32
    return scale(f32(1) + r * _series32(r), rounded)


@precise
def _exp64(x):
    x = 710.0 if x > 710.0 else x
    x = -746.0 if x < -746.0 else x
    rounded = x * LOG2E64 + ROUND64
    n = rounded - ROUND64
    r = (x - n * LN2_HIGH64) - n * LN2_LOW64
    return scale(1.0 + r * _series64(r), rounded)


@precise
def _tanh32(x):
    y = -x if x < f32(0) else x
    y = f32(2) * (f32(10) if y > f32(10) else y)
    rounded = y * LOG2E32 + ROUND32
    n = rounded - ROUND32
    r = (y - n * LN2_HIGH32) - n * LN2_LOW32
    power = scale(f32(1), rounded)
    e = power * (r * _series32(r)) + (power - f32(1))
    t = e / (e + f32(2))
    return -t if x < f32(0) else t


@precise
def _tanh64(x):
    y = -x if x < 0.0 else x
    y = 2.0 * (20.0 if y > 20.0 else y)
    rounded = y * LOG2E64 + ROUND64
    n = rounded - ROUND64
    r = (y - n * LN2_HIGH64) - n * LN2_LOW64
    power = scale(f64(1), rounded)
    e = power * (r * _series64(r)) + (power - 1.0)
    t = e / (e + 2.0)
    return -t if x < 0.0 else t


@precise
def _log32(x):
    positive = (x > f32(0)) & (x < INF32)
    normal = x if positive else f32(1)
    small = normal < TINY32
    m, n = split_exponent(normal * f32(2**24) if small else normal)
    n -= f32(24) if small else f32(0)
    s = (m - f32(1)) / (m + f32(1))
    y = (f32(2) * s + (f32(2) * s * _tail32(s * s) + n * LN2_LOW32)) + n * LN2_HIGH32
    return y if positive else x if x > f32(0) else -INF32 if x == f32(0) else NAN32


@precise
def _log64(x):
    positive = (x > 0.0) & (x < np.inf)
    normal = x if positive else 1.0
    small = normal < TINY64
    m, n = split_exponent(normal * 2.0**53 if small else normal)
    n -= 53.0 if small else 0.0
    s = (m - 1.0) / (m + 1.0)
    y = (2.0 * s + (2.0 * s * _tail64(s * s) + n * LN2_LOW64)) + n * LN2_HIGH64
    return y if positive else x if x > 0.0 else -np.inf if x == 0.0 else np.nan


def exp(x):
    """eˣ; 0 and ∞ where it leaves the range."""
    return _exp32(x) if isinstance(x, np.float32) else _exp64(x)


def tanh(x):
    """tanh x."""
    return _tanh32(x) if isinstance(x, np.float32) else _tanh64(x)


def log(x):
    """ln x; −∞ of 0, NaN below."""
    return _log32(x) if isinstance(x, np.float32) else _log64(x)


def _choose(public, single, double):
    @overload(public, jit_options=FLAGS | {"forceinline": True})
    def by_precision(x):
        chosen = {types.float32: single, types.float64: double}.get(x)
        return None if chosen is None else (lambda x: chosen(x))


if not JIT_OFF:
    _choose(exp, _exp32, _exp64)
    _choose(tanh, _tanh32, _tanh64)
    _choose(log, _log32, _log64)
