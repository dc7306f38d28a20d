"""GPT-2 as a whole, forward and backward, by the book.

    x = wte[tokens] + wpe[0 … T−1]
    for each block:   x ← x + proj(attention(c_attn(ln_1(x))))        x ← x + proj(gelu(c_fc(ln_2(x))))
    logits = ln_f(x) · wteᵀ

Pre-LayerNorm, learned positions, GELU in its tanh form, biases everywhere, the head tied to the token embedding, no
dropout. Linear weights are stored (inputs, outputs). Every `*_backward` is the derivative of the `*_forward` above it,
derived on paper: with dout = dloss/dout it returns dloss/dinput for each input.

(Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; parameters are named as in transformers)
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
Tensors = dict[str, np.ndarray]

EPS = 1e-5


def parameter_shapes(
    *, n_layer: int, n_embd: int, n_hidden: int, vocab_size: int, block_size: int
) -> dict[str, tuple[int, ...]]:
    """Every parameter's name and shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocab_size, n_embd),
        "transformer.wpe.weight": (block_size, n_embd),
    }
    for layer in range(n_layer):
        block = f"transformer.h.{layer}."
        shapes[block + "ln_1.weight"] = (n_embd,)
        shapes[block + "ln_1.bias"] = (n_embd,)
        shapes[block + "attn.c_attn.weight"] = (n_embd, 3 * n_embd)
        shapes[block + "attn.c_attn.bias"] = (3 * n_embd,)
        shapes[block + "attn.c_proj.weight"] = (n_embd, n_embd)
        shapes[block + "attn.c_proj.bias"] = (n_embd,)
        shapes[block + "ln_2.weight"] = (n_embd,)
        shapes[block + "ln_2.bias"] = (n_embd,)
        shapes[block + "mlp.c_fc.weight"] = (n_embd, n_hidden)
        shapes[block + "mlp.c_fc.bias"] = (n_hidden,)
        shapes[block + "mlp.c_proj.weight"] = (n_hidden, n_embd)
        shapes[block + "mlp.c_proj.bias"] = (n_embd,)
    shapes["transformer.ln_f.weight"] = (n_embd,)
    shapes["transformer.ln_f.bias"] = (n_embd,)
    return shapes


def random_parameters(rng: np.random.Generator, std: float = 0.2, **sizes: int) -> Tensors:
    """Parameters that hide no mistake: nothing is zero or one, LayerNorm's weights are spread around one."""
    drawn: Tensors = {}
    for name, shape in parameter_shapes(**sizes).items():
        centre = 1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0
        drawn[name] = centre + std * rng.standard_normal(shape)
    return drawn


def logits(params: Tensors, tokens: Array, *, n_head: int, eps: float = EPS) -> Array:
    """tokens (B, T) int → logits (B, T, V)"""
    return _forward(params, tokens, n_head, eps)[0]


def losses(params: Tensors, tokens: Array, targets: Array, *, n_head: int, eps: float = EPS) -> Array:
    """tokens (B, T), targets (B, T), −1 where ignored → the loss of each target in nats (B, T), 0 where ignored."""
    return cross_entropy_forward(logits(params, tokens, n_head=n_head, eps=eps), targets)


def loss_and_gradients(
    params: Tensors, tokens: Array, targets: Array, *, n_head: int, eps: float = EPS, scale: float | None = None
) -> tuple[float, Tensors]:
    """The loss, scale · Σ losses, and its gradient for every parameter.

    `scale` is by default 1 / the number of targets that are not ignored: the loss is their mean.
    """
    if scale is None:
        scale = 1.0 / np.count_nonzero(targets != -1)
    output, saved = _forward(params, tokens, n_head, eps)
    loss = scale * float(cross_entropy_forward(output, targets).sum())
    return loss, _backward(params, tokens, n_head, saved, cross_entropy_backward(output, targets, scale))


def _forward(params: Tensors, tokens: Array, n_head: int, eps: float) -> tuple[Array, dict[str, Any]]:
    """The logits, and the inputs of every operation, which backward needs."""
    wte, wpe = params["transformer.wte.weight"], params["transformer.wpe.weight"]
    x = wte[tokens] + wpe[: tokens.shape[1]]
    saved: dict[str, Any] = {"blocks": []}
    for layer in range(count_layers(params)):
        w = block_parameters(params, layer)
        keep: Tensors = {"x": x}
        keep["norm1"], keep["xhat1"], keep["rstd1"] = layernorm_forward(x, w["ln_1.weight"], w["ln_1.bias"], eps)
        keep["qkv"] = keep["norm1"] @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"]
        keep["mixed"], keep["probs"] = attention_forward(keep["qkv"], n_head)
        x = x + keep["mixed"] @ w["attn.c_proj.weight"] + w["attn.c_proj.bias"]
        keep["norm2"], keep["xhat2"], keep["rstd2"] = layernorm_forward(x, w["ln_2.weight"], w["ln_2.bias"], eps)
        keep["up"] = keep["norm2"] @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"]
        keep["act"] = gelu_forward(keep["up"])
        x = x + keep["act"] @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]
        saved["blocks"].append(keep)
    norm, saved["xhat"], saved["rstd"] = layernorm_forward(
        x, params["transformer.ln_f.weight"], params["transformer.ln_f.bias"], eps
    )
    saved["norm"] = norm
    return norm @ wte.T, saved


def _backward(params: Tensors, tokens: Array, n_head: int, saved: dict[str, Any], dlogits: Array) -> Tensors:
    """The gradient of every parameter, from that of the logits."""
    wte = params["transformer.wte.weight"]
    grads: Tensors = {}

    # logits = norm · wteᵀ
    dwte = np.einsum("btv,btc->vc", dlogits, saved["norm"])
    dnorm = dlogits @ wte
    dx, grads["transformer.ln_f.weight"], grads["transformer.ln_f.bias"] = layernorm_backward(
        dnorm, params["transformer.ln_f.weight"], saved["xhat"], saved["rstd"]
    )

    for layer in reversed(range(count_layers(params))):
        w = block_parameters(params, layer)
        keep = saved["blocks"][layer]
        g: Tensors = {}

        # x ← x + act · c_proj: dx goes on unchanged beside what comes through the branch
        dact, g["mlp.c_proj.weight"], g["mlp.c_proj.bias"] = linear_backward(dx, keep["act"], w["mlp.c_proj.weight"])
        dup = gelu_backward(dact, keep["up"])
        dnorm2, g["mlp.c_fc.weight"], g["mlp.c_fc.bias"] = linear_backward(dup, keep["norm2"], w["mlp.c_fc.weight"])
        dbranch, g["ln_2.weight"], g["ln_2.bias"] = layernorm_backward(
            dnorm2, w["ln_2.weight"], keep["xhat2"], keep["rstd2"]
        )
        dx = dx + dbranch

        # x ← x + mixed · c_proj
        dmixed, g["attn.c_proj.weight"], g["attn.c_proj.bias"] = linear_backward(
            dx, keep["mixed"], w["attn.c_proj.weight"]
        )
        dqkv = attention_backward(dmixed, keep["qkv"], keep["probs"], n_head)
        dnorm1, g["attn.c_attn.weight"], g["attn.c_attn.bias"] = linear_backward(
            dqkv, keep["norm1"], w["attn.c_attn.weight"]
        )
        dbranch, g["ln_1.weight"], g["ln_1.bias"] = layernorm_backward(
            dnorm1, w["ln_1.weight"], keep["xhat1"], keep["rstd1"]
        )
        dx = dx + dbranch

        grads.update({f"transformer.h.{layer}.{name}": gradient for name, gradient in g.items()})

    # x = wte[tokens] + wpe[: T]: a token that occurs twice gets both gradients, and the head's beside
    for b in range(tokens.shape[0]):
        for t in range(tokens.shape[1]):
            dwte[tokens[b, t]] += dx[b, t]
    dwpe = np.zeros_like(params["transformer.wpe.weight"])
    dwpe[: tokens.shape[1]] = dx.sum(axis=0)
    grads["transformer.wte.weight"] = dwte
    grads["transformer.wpe.weight"] = dwpe
    return {name: grads[name] for name in params}


def count_layers(params: Tensors) -> int:
    """How many blocks the names tell of."""
    return len({name.split(".")[2] for name in params if name.startswith("transformer.h.")})


def block_parameters(params: Tensors, layer: int) -> Tensors:
    """One block's parameters, by their names within the block."""
    prefix = f"transformer.h.{layer}."
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def linear_backward(dout: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Of out = x · weight + bias:  dx = dout · weightᵀ,  dweight = Σ_bt x ⊗ dout,  dbias = Σ_bt dout"""
    return dout @ weight.T, np.einsum("btc,btf->cf", x, dout), dout.sum(axis=(0, 1))


def layernorm_forward(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """x̂ = (x − mean) · rstd and out = x̂ · weight + bias; returns out, x̂, rstd.   (Ba, Kiros & Hinton 2016)"""
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1.0 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    xhat = centred * rstd
    return xhat * weight + bias, xhat, rstd


def layernorm_backward(dout: Array, weight: Array, xhat: Array, rstd: Array) -> tuple[Array, Array, Array]:
    """With g = dout · weight:  dx = rstd (g − mean(g) − x̂ mean(g x̂)),  dweight = Σ dout x̂,  dbias = Σ dout"""
    g = dout * weight
    dx = rstd * (g - g.mean(axis=-1, keepdims=True) - xhat * (g * xhat).mean(axis=-1, keepdims=True))
    return dx, (dout * xhat).sum(axis=(0, 1)), dout.sum(axis=(0, 1))


def attention_forward(qkv: Array, n_head: int) -> tuple[Array, Array]:
    """qkv (B, T, 3C) → out (B, T, C) and the probabilities (B, NH, T, T), zero above the diagonal.

    scores = q kᵀ / √HS,  probs = softmax over the keys up to the query's own,  out = probs · v   (Vaswani et al. 2017)
    """
    q, k, v = heads_of(qkv, n_head)
    times = qkv.shape[1]
    scores = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(times, dtype=bool), scores, -np.inf)
    probs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    return merged(np.einsum("bhij,bhjd->bhid", probs, v)), probs


def attention_backward(dout: Array, qkv: Array, probs: Array, n_head: int) -> Array:
    """The softmax between two products, each transposed:

        dv = probsᵀ · do                dscores = probs (dprobs − Σ_j probs dprobs)
        dprobs = do · vᵀ                dq = dscores · k / √HS,   dk = dscoresᵀ · q / √HS

    Above the diagonal probs is zero, so dscores is zero there too and needs no mask.
    """
    q, k, v = heads_of(qkv, n_head)
    do = heads_of(dout, n_head, parts=1)[0]
    dv = np.einsum("bhij,bhid->bhjd", probs, do)
    dprobs = np.einsum("bhid,bhjd->bhij", do, v)
    dscores = probs * (dprobs - (probs * dprobs).sum(axis=-1, keepdims=True))
    dq = np.einsum("bhij,bhjd->bhid", dscores, k) / np.sqrt(q.shape[-1])
    dk = np.einsum("bhij,bhid->bhjd", dscores, q) / np.sqrt(q.shape[-1])
    return np.concatenate([merged(dq), merged(dk), merged(dv)], axis=-1)


def heads_of(x: Array, n_head: int, parts: int = 3) -> tuple[Array, ...]:
    """(B, T, parts · C) → parts arrays (B, NH, T, HS)"""
    batches, times, width = x.shape
    return tuple(x.reshape(batches, times, parts, n_head, width // parts // n_head).transpose(2, 0, 3, 1, 4))


def merged(x: Array) -> Array:
    """(B, NH, T, HS) → (B, T, C)"""
    batches, _, times, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batches, times, -1)


GELU_SCALE = np.sqrt(2.0 / np.pi)


def gelu_forward(x: Array) -> Array:
    """out = x/2 (1 + tanh u)  with  u = √(2/π) (x + 0.044715 x³)   (Hendrycks & Gimpel 2016)"""
    return 0.5 * x * (1.0 + np.tanh(GELU_SCALE * (x + 0.044715 * x**3)))


def gelu_backward(dout: Array, x: Array) -> Array:
    """dx = dout (½ (1 + tanh u) + x/2 (1 − tanh² u) u')  with  u' = √(2/π) (1 + 3 · 0.044715 x²)"""
    tanh = np.tanh(GELU_SCALE * (x + 0.044715 * x**3))
    du = GELU_SCALE * (1.0 + 3.0 * 0.044715 * x**2)
    return dout * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh**2) * du)


def cross_entropy_forward(logits: Array, targets: Array) -> Array:
    """losses = log Σ_v exp logits_v − logits_target in nats, 0 where the target is −1"""
    largest = logits.max(axis=-1, keepdims=True)
    lse = largest[..., 0] + np.log(np.exp(logits - largest).sum(axis=-1))
    chosen = np.take_along_axis(logits, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return np.where(targets == -1, 0.0, lse - chosen)


def cross_entropy_backward(logits: Array, targets: Array, scale: float) -> Array:
    """dlogits = scale (softmax(logits) − onehot(target)), 0 where the target is −1"""
    probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    onehot = np.arange(logits.shape[-1]) == targets[..., None]
    return scale * np.where(targets[..., None] == -1, 0.0, probs - onehot)
