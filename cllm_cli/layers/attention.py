"""Causal multi-head attention.                                                  (Vaswani et al. 2017, arXiv:1706.03762)

    S = Q Kᵀ / √HS,  keys after the query masked        lse_t = ln Σ_u exp S_tu        P = exp(S − lse)        out = P V
    δ_t = Σ dout_t · out_t        dP = dout Vᵀ        dS = P (dP − δ) / √HS
    dQ = dS K                     dK = dSᵀ Q          dV = Pᵀ dout

A head is worked off in strips of queries, against the keys that they can see. A strip's scores are a tile of scratch,
so the T × T matrix never exists; backward computes P again from the saved lse (Dao et al. 2022, arXiv:2205.14135). All
products run on the micro-kernel, K and V being packed once a task: a task is a head or, where threads outnumber heads,
some of its strips; dK and dV, being sums over strips, then go by blocks of keys, and P is computed twice. A tile's rows
are whole panels long: what lies past the last key that a query sees is masked, which needs no loop for the odd elements
at the end. Every number is one sum in fixed order: no result depends on threads.

In generation K and V of earlier tokens stand in a cache, and `position` is the place of the first new token.
"""

from __future__ import annotations

import numpy as np
from numba import get_thread_id, prange

from cllm_cli.kernels.gemm import multiply_panels
from cllm_cli.kernels.jit import inner, kernel
from cllm_cli.kernels.math import exp, log
from cllm_cli.kernels.packing import pack_columns, pack_rows
from cllm_cli.kernels.pointers import advance, pointer
from cllm_cli.kernels.reduce import row_max
from cllm_cli.kernels.simd import MR, columns, panel_width, thread_count
from cllm_cli.layers.base import Layer

STRIP = 32  # queries in a strip: their packed rows and scores stay in the second-level cache
KEYS = 4  # strips of keys at a time, where heads are shared: fewer pack the queries too often, more leave threads idle


def workspace(S: int, HS: int, threads: int, itemsize: int) -> int:
    """A: elements of scratch. A thread has K, Kᵀ, Vᵀ and a strip packed, two tiles of scores, and an edge tile."""
    nr = columns(itemsize)
    keys, size = -(-S // nr) * nr, -(-HS // nr) * nr
    tile = (STRIP + MR) * max(keys, size)
    return threads * (2 * keys * HS + S * size + STRIP * size + 3 * tile + MR * nr)


@inner
def padded(count, nr):
    """The least multiple of nr that is not below count."""
    return (count + nr - 1) // nr * nr


@inner
def softmax_row(row, seen, scaling):
    """row = softmax(row · scaling) of its first `seen` elements, 0 after them; gives ln Σ exp."""
    real = row.dtype.type
    width = padded(seen, panel_width(pointer(row, 0)))
    largest = row_max(row, seen)
    total = real(0)
    for u in range(width):
        weight = exp((row[u] - largest) * scaling)
        weight = weight if u < seen else real(0)
        row[u] = weight
        total += weight
    inverse = real(1) / total
    for u in range(width):
        row[u] *= inverse
    row[width:] = real(0)
    return largest * scaling + log(total)


@inner
def softmax_row_backward(p, ds, seen, scaling, level, delta):
    """Scores p become probabilities, their gradients ds those of the scores; 0 after the first `seen`."""
    real = p.dtype.type
    width = padded(seen, panel_width(pointer(p, 0)))
    for u in range(width):
        probability = exp(p[u] * scaling - level)
        slope = probability * (ds[u] - delta) * scaling
        p[u] = probability if u < seen else real(0)
        ds[u] = slope if u < seen else real(0)
    p[width:] = real(0)
    ds[width:] = real(0)


@inner
def attend(out, lse, q, k, v, q_stride, kv_stride, out_stride, rows, position, size, work, share, shares):
    """One head: out (rows × size) of queries at places position … position + rows; all pointers, lse (rows) an array.

    Of the strips, this task takes every `shares`-th from `share` on.
    """
    real = lse.dtype.type
    one, no = np.int64(1), np.bool_(False)  # literals would compile the products' functions once more
    nr = panel_width(q)
    every = position + rows
    scaling = real(1) / np.sqrt(real(size))
    keys_packed = pointer(work, 0)
    at = padded(every, nr) * size
    values_packed = pointer(work, at)
    at += every * padded(size, nr)
    edge = pointer(work, at)
    at += MR * nr
    packed = pointer(work, at)
    at += (STRIP + MR) * max(padded(every, nr), size)
    pack_columns(keys_packed, k, one, kv_stride, every, size)
    pack_columns(values_packed, v, kv_stride, one, size, every)
    for first in range(share * STRIP, rows, shares * STRIP):
        strip = min(STRIP, rows - first)
        keys = position + first + strip
        width = padded(keys, nr)
        scores = work[at : at + strip * width].reshape(strip, width)
        tile = pointer(scores, 0)
        pack_rows(packed, advance(q, first * q_stride), q_stride, one, strip, size)
        multiply_panels(tile, width, strip, width, size, packed, keys_packed, size, tile, width, no, edge)
        for i in range(strip):
            lse[first + i] = softmax_row(scores[i], position + first + i + 1, scaling)
        into = advance(out, first * out_stride)
        pack_rows(packed, tile, width, one, strip, keys)
        multiply_panels(into, out_stride, strip, size, keys, packed, values_packed, every, into, out_stride, no, edge)


@inner
def shares_of(pairs, threads, time):
    """Into how many tasks the strips of a head are divided, so that no thread is without one."""
    return min((threads + pairs - 1) // pairs, (time + STRIP - 1) // STRIP)


@kernel
def attention_forward(out, lse, work, qkv):
    batch, time, _, heads, size = qkv.shape
    pairs, threads = batch * heads, thread_count()
    shares = shares_of(pairs, threads, time)
    space = work.shape[0] // threads
    stride, out_stride = 3 * heads * size, heads * size
    for task in prange(pairs * shares):
        b, h, share = task // shares // heads, task // shares % heads, task % shares
        at = b * time * stride + h * size
        mine = work[get_thread_id() * space : (get_thread_id() + 1) * space]
        q, k, v = pointer(qkv, at), pointer(qkv, at + out_stride), pointer(qkv, at + 2 * out_stride)
        into = pointer(out, b * time * out_stride + h * size)
        attend(into, lse[b, h], q, k, v, stride, stride, out_stride, time, np.int64(0), size, mine, share, shares)


@kernel
def attention_cached(out, keys, values, recent_lse, work, qkv, position):
    batch, time, _, heads, size = qkv.shape
    window, threads = keys.shape[1], thread_count()
    space = work.shape[0] // threads
    stride, out_stride = 3 * heads * size, heads * size
    for task in prange(batch * heads):
        b, h = task // heads, task % heads
        for t in range(time):
            for c in range(size):
                keys[b, position + t, h, c] = qkv[b, t, 1, h, c]
                values[b, position + t, h, c] = qkv[b, t, 2, h, c]
        mine = work[get_thread_id() * space : (get_thread_id() + 1) * space]
        place = b * window * out_stride + h * size
        q, k, v = pointer(qkv, b * time * stride + h * size), pointer(keys, place), pointer(values, place)
        into = pointer(out, b * time * out_stride + h * size)
        attend(
            into,
            recent_lse[b, h],
            q,
            k,
            v,
            stride,
            out_stride,
            out_stride,
            time,
            position,
            size,
            mine,
            np.int64(0),
            np.int64(1),
        )


@inner
def attend_backward(dqkv, dout, qkv, out, lse, b, h, work, share, shares, low, high, queries, keys):
    """A part of a head's backward: `queries` writes dQ of strips, `keys` dK and dV of the keys low … high.

    Of the strips that see a key from low (a multiple of STRIP) on, this takes every `shares`-th from `share` on. dQ
    needs all keys, dK and dV all strips: what is not asked for is not written.
    """
    _, time, _, heads, size = qkv.shape
    real = qkv.dtype.type
    one, yes, no = np.int64(1), np.bool_(True), np.bool_(False)
    stride, out_stride = 3 * heads * size, heads * size
    start, out_start = b * time * stride + h * size, b * time * out_stride + h * size
    k_start = start + low * stride + out_stride
    v_start = k_start + out_stride
    q, k, v = pointer(qkv, start), pointer(qkv, k_start), pointer(qkv, v_start)
    dq, dk, dv = pointer(dqkv, start), pointer(dqkv, k_start), pointer(dqkv, v_start)
    nr = panel_width(q)
    scaling = real(1) / np.sqrt(real(size))
    every = high - low
    keys_transposed = pointer(work, 0)
    at = padded(every, nr) * size
    values_transposed = pointer(work, at)
    at *= 2
    keys_packed = pointer(work, at)
    at += every * padded(size, nr)
    strip_packed = pointer(work, at)
    at += STRIP * padded(size, nr)
    edge = pointer(work, at)
    at += MR * nr
    packed = pointer(work, at)
    at += (STRIP + MR) * max(padded(every, nr), size)
    pack_columns(keys_transposed, k, one, stride, every, size)
    pack_columns(values_transposed, v, one, stride, every, size)
    if queries:
        pack_columns(keys_packed, k, stride, one, size, every)
    for first in range(low + share * STRIP, time, shares * STRIP):
        strip = min(STRIP, time - first)
        seen = min(first + strip, high) - low
        width = padded(seen, nr)
        p = work[at : at + strip * width].reshape(strip, width)
        ds = work[at + strip * width : at + 2 * strip * width].reshape(strip, width)
        tile, dtile = pointer(p, 0), pointer(ds, 0)
        q_strip, dout_strip = advance(q, first * stride), pointer(dout, out_start + first * out_stride)
        pack_rows(packed, q_strip, stride, one, strip, size)
        multiply_panels(tile, width, strip, width, size, packed, keys_transposed, size, tile, width, no, edge)
        pack_rows(packed, dout_strip, out_stride, one, strip, size)
        multiply_panels(dtile, width, strip, width, size, packed, values_transposed, size, dtile, width, no, edge)
        for i in range(strip):
            t = first + i
            delta = real(0)
            for c in range(size):
                delta += dout[b, t, h, c] * out[b, t, h, c]
            softmax_row_backward(p[i], ds[i], min(t + 1, high) - low, scaling, lse[b, h, t], delta)
        if queries:
            into = advance(dq, first * stride)
            pack_rows(packed, dtile, width, one, strip, seen)
            multiply_panels(into, stride, strip, size, seen, packed, keys_packed, every, into, stride, no, edge)
        if keys:
            # The first strips reach the first keys alone: who first sees a key writes its row, the later ones add.
            old = min(first, high) - low
            for source, panels, panels_stride, target in (
                (tile, dout_strip, out_stride, dv),
                (dtile, q_strip, stride, dk),
            ):
                pack_columns(strip_packed, panels, panels_stride, one, size, strip)
                pack_rows(packed, source, one, width, old, strip)
                multiply_panels(
                    target, stride, old, size, strip, packed, strip_packed, strip, target, stride, yes, edge
                )
                pack_rows(packed, advance(source, old), one, width, seen - old, strip)
                fresh = advance(target, old * stride)
                multiply_panels(
                    fresh, stride, seen - old, size, strip, packed, strip_packed, strip, fresh, stride, no, edge
                )


@kernel
def attention_backward(dqkv, work, dout, qkv, out, lse):
    batch, time, _, heads, _ = qkv.shape
    pairs, threads = batch * heads, thread_count()
    shares = shares_of(pairs, threads, time)
    # In shares, probabilities are computed twice: 7 products for 5. That must pay.
    if 7 * ((pairs * shares + threads - 1) // threads) >= 5 * shares * ((pairs + threads - 1) // threads):
        shares = 1
    span = min(KEYS, ((time + STRIP - 1) // STRIP + shares - 1) // shares) * STRIP
    space = work.shape[0] // threads
    none, one, yes, no = np.int64(0), np.int64(1), np.bool_(True), np.bool_(False)
    for task in prange(pairs * shares):
        b, h, share = task // shares // heads, task // shares % heads, task % shares
        mine = work[get_thread_id() * space : (get_thread_id() + 1) * space]
        # Late strips see more keys, early keys are seen by more strips: each share has as much to do.
        whole = shares == 1
        attend_backward(dqkv, dout, qkv, out, lse, b, h, mine, share, shares, none, time, yes, whole)
        if not whole:
            for low in range(share * span, time, shares * span):
                high = min(low + span, time)
                attend_backward(dqkv, dout, qkv, out, lse, b, h, mine, none, one, low, high, no, yes)


ATTENTION = Layer(
    "attention",
    attention_forward,
    attention_backward,
    inputs={"qkv": "B T 3 NH HS"},
    saved={"lse": "B NH T"},
    scratch={"recent_lse": "B NH T", "work": "A"},
    outputs={"out": "B T NH HS"},
    step_args=("position",),
    derived={"A": workspace},
    cached=attention_cached,
    cache={"keys": "B S NH HS", "values": "B S NH HS"},
    flops=lambda sizes: 2 * sizes["B"] * sizes["NH"] * sizes["T"] ** 2 * sizes["HS"],
    samples=[
        {"B": 1, "T": 1, "NH": 1, "HS": 1, "S": 1},
        {"B": 2, "T": 17, "NH": 3, "HS": 5, "S": 17},
        {"B": 1, "T": 101, "NH": 2, "HS": 16, "S": 101},  # several strips, the last one short
    ],
)
