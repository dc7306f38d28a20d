"""One function a layer: float64 arrays by name in, a dict of outputs by name out.

B batch, T time, C channels, N = B·T rows, NH heads, HS head size, F hidden width, V vocabulary, S longest window.
"""

from __future__ import annotations

import numpy as np

Outputs = dict[str, np.ndarray]


def embedding(*, tokens: np.ndarray, weight: np.ndarray) -> Outputs:
    """Each token's row of the table:  out_n = weight[tokens_n].   tokens (N) int, weight (V, C) → out (N, C)"""
    return {"out": np.stack([weight[token] for token in tokens])}


def positions(*, x: np.ndarray, weight: np.ndarray, position: int = 0) -> Outputs:
    """Learned positions:  out[b, t] = x[b, t] + weight[position + t].   x (B, T, C), weight (S, C) → out (B, T, C)

    (Gehring et al. 2017, arXiv:1705.03122, section 3.1)
    """
    out = np.empty_like(x)
    for t in range(x.shape[1]):
        out[:, t] = x[:, t] + weight[position + t]
    return {"out": out}


def layernorm(*, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> Outputs:
    """Each row to mean 0 and variance 1, then scaled and shifted.   (Ba, Kiros & Hinton 2016, arXiv:1607.06450)

        mean = (1/C) Σ_c x_c                                rstd = 1 / √((1/C) Σ_c (x_c − mean)² + eps)
        out = (x − mean) · rstd · weight + bias

    x (N, C), weight (C), bias (C) → out (N, C), mean (N), rstd (N). The variance is the biased one: divided by C.
    """
    mean = x.mean(axis=1)
    centred = x - mean[:, None]
    rstd = 1.0 / np.sqrt((centred**2).mean(axis=1) + eps)
    return {"out": centred * rstd[:, None] * weight + bias, "mean": mean, "rstd": rstd}


def linear(*, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Outputs:
    """out = x · weight + bias.   x (N, C), weight (C, F), bias (F) → out (N, F)"""
    return {"out": x @ weight + bias}


def linear_nobias(*, x: np.ndarray, weight: np.ndarray) -> Outputs:
    """out = x · weight.   x (N, C), weight (C, F) → out (N, F)"""
    return {"out": x @ weight}


def attention(*, qkv: np.ndarray) -> Outputs:
    """Causal multi-head attention, one query at a time.   (Vaswani et al. 2017, arXiv:1706.03762, section 3.2)

        s_j = q_t · k_j / √HS  for j ≤ t        lse = log Σ_j exp s_j        out_t = Σ_j exp(s_j − lse) v_j

    qkv (B, T, 3, NH, HS) → out (B, T, NH, HS), lse (B, NH, T) in nats
    """
    batches, times, _, heads, head_size = qkv.shape
    out = np.empty((batches, times, heads, head_size))
    lse = np.empty((batches, heads, times))
    for b in range(batches):
        for h in range(heads):
            query, key, value = qkv[b, :, 0, h], qkv[b, :, 1, h], qkv[b, :, 2, h]
            for t in range(times):
                scores = key[: t + 1] @ query[t] / np.sqrt(head_size)
                lse[b, h, t] = log_sum_exp(scores)
                out[b, t, h] = np.exp(scores - lse[b, h, t]) @ value[: t + 1]
    return {"out": out, "lse": lse}


def gelu(*, x: np.ndarray) -> Outputs:
    """GELU in its tanh form:  out = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).   x (N, C) → out (N, C)

    (Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2)
    """
    return {"out": 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))}


def add(*, a: np.ndarray, b: np.ndarray) -> Outputs:
    """out = a + b.   a (N, C), b (N, C) → out (N, C)"""
    return {"out": a + b}


def split(*, x: np.ndarray) -> Outputs:
    """The same values for two readers, the transpose of add:  a = x, b = x.   x (N, C) → a (N, C), b (N, C)"""
    return {"a": x.copy(), "b": x.copy()}


def dropout(*, x: np.ndarray, rate: float, stream: int, key: int, first_row: int) -> Outputs:
    """Each element is dropped with probability `rate`, the kept ones are scaled up:  out = x · keep / (1 − rate).

    x (N, C) → out (N, C). `keep` is a pure function of where the element is: see `dropout_keeps`.
    (Srivastava et al. 2014, JMLR 15, section 10: the scaling at training time)
    """
    rows, columns = x.shape
    out = np.empty_like(x)
    for n in range(rows):
        for c in range(columns):
            index = (int(first_row) + n) * columns + c
            keep = dropout_keeps(index, rate=rate, stream=stream, key=key)
            out[n, c] = x[n, c] * keep / (1.0 - rate)
    return {"out": out}


def last(*, x: np.ndarray) -> Outputs:
    """The last row of each sequence:  out_b = x_b,T−1.   x (B, T, C) → out (B, C)"""
    return {"out": x[:, -1].copy()}


def head(*, x: np.ndarray, weight: np.ndarray) -> Outputs:
    """Logits of the head tied to the embedding:  out = x · weightᵀ.   x (N, C), weight (V, C) → out (N, V)

    (Press & Wolf 2017, arXiv:1608.05859)
    """
    return {"out": x @ weight.T}


def cross_entropy(*, x: np.ndarray, weight: np.ndarray, targets: np.ndarray, scale: float = 1.0) -> Outputs:
    """Projection to the vocabulary, softmax, and the negative log-likelihood of each target, in nats.

        logits = x · weightᵀ
        losses_n = log Σ_v exp logits_nv − logits_n,target        hits_n = [argmax_v logits_nv = target]

    x (N, C), weight (V, C), targets (N) int, −1 where ignored → losses (N), hits (N): both 0 where ignored. Of equal
    logits the first is the largest. `scale` is the loss's gradient, dloss/dlosses_n: the outputs do not depend on it.
    """
    losses = np.zeros(len(x))
    hits = np.zeros(len(x))
    for n, target in enumerate(targets):
        if target == -1:
            continue
        logits = weight @ x[n]
        losses[n] = log_sum_exp(logits) - logits[target]
        hits[n] = float(np.argmax(logits) == target)
    return {"losses": losses, "hits": hits}


def log_sum_exp(values: np.ndarray) -> float:
    """log Σ exp values, with the largest taken out first so that nothing overflows."""
    largest = values.max()
    return float(largest + np.log(np.exp(values - largest).sum()))


WORD = 2**64
GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # 2⁶⁴ / golden ratio, made odd


def splitmix64_mix(z: int) -> int:
    """SplitMix64's finalizer: a bijection of 64-bit words.

    (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"; its variant 13 of Stafford's mixers)
    """
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def dropout_word(index: int, *, stream: int, key: int) -> int:
    """The random 64-bit word of element `index`: output number `index`, from 0, of a SplitMix64 generator.

        word = mix(seed + (index + 1) · golden gamma)        seed = key + mix(stream + 1)        all modulo 2⁶⁴

    The generator's state after n outputs is known in closed form, so no state is carried from one element to the next
    and rows may be computed in any order. Its seed comes from the step (key) and the place in the network (stream).
    """
    seed = int(key) + splitmix64_mix(int(stream) + 1)
    return splitmix64_mix((seed + (index + 1) * GOLDEN_GAMMA) % WORD)


def dropout_keeps(index: int, *, rate: float, stream: int, key: int) -> bool:
    """Whether element `index` stays: its word's upper 24 bits, as a fraction of 2²⁴, reach `rate`."""
    threshold = int(np.floor(float(rate) * 2**24 + 0.5))
    return (dropout_word(index, stream=stream, key=key) >> 40) >= threshold
