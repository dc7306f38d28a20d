"""Update rules, written as in their papers: new parameters and new state from parameters, gradients and state.

Tensors are dicts of float64 arrays by name. A state starts as an empty dict. Steps count from 1. Nothing is changed in
place. Weight decay is decoupled everywhere: w ← w − lr · weight_decay · w, beside the gradient's step and from the same
w, on the tensors in `decayed` alone.   (Loshchilov & Hutter 2019, arXiv:1711.05101)
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

Tensors = dict[str, np.ndarray]
State = dict[str, Tensors]
Updated = tuple[Tensors, State]


def adamw(
    params: Tensors,
    grads: Tensors,
    state: State,
    *,
    step: int,
    lr: float,
    decayed: Collection[str],
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Updated:
    """Adam with decoupled weight decay.   (Kingma & Ba 2015, arXiv:1412.6980; Loshchilov & Hutter 2019, algorithm 2)

    m ← β₁ m + (1 − β₁) g          m̂ = m / (1 − β₁ᵗ)
    v ← β₂ v + (1 − β₂) g²         v̂ = v / (1 − β₂ᵗ)
    w ← w − lr (m̂ / (√v̂ + eps) + weight_decay · w)
    """
    new_params: Tensors = {}
    new_state: State = {}
    for name, w in params.items():
        g = grads[name]
        moments = state.get(name, {"m": np.zeros_like(w), "v": np.zeros_like(w)})
        m = beta1 * moments["m"] + (1.0 - beta1) * g
        v = beta2 * moments["v"] + (1.0 - beta2) * g**2
        m_hat = m / (1.0 - beta1**step)
        v_hat = v / (1.0 - beta2**step)
        decay = weight_decay if name in decayed else 0.0
        new_params[name] = w - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay * w)
        new_state[name] = {"m": m, "v": v}
    return new_params, new_state


def sgd(
    params: Tensors,
    grads: Tensors,
    state: State,
    *,
    step: int,
    lr: float,
    decayed: Collection[str],
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> Updated:
    """Gradient descent with momentum, in PyTorch's convention: the learning rate is not part of the buffer.

        buf ← momentum · buf + g  (on the first step buf = g)        d = g + momentum · buf  with Nesterov, else  buf
        w ← w − lr (d + weight_decay · w)

    (Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning"; torch.optim.SGD with
    dampening 0. torch.optim.SGD adds its weight decay to g instead.)
    """
    new_params: Tensors = {}
    new_state: State = {}
    for name, w in params.items():
        g = grads[name]
        buf = g.copy() if step == 1 else momentum * state[name]["buf"] + g
        d = g + momentum * buf if nesterov else buf
        decay = weight_decay if name in decayed else 0.0
        new_params[name] = w - lr * (d + decay * w)
        new_state[name] = {"buf": buf}
    return new_params, new_state


def adam_embed(
    params: Tensors,
    grads: Tensors,
    state: State,
    *,
    step: int,
    lr: float,
    lr_embed: float,
    embeddings: Collection[str],
    beta1: float,
    beta2: float,
    eps: float,
) -> Updated:
    """Adam on the embeddings with lr_embed, plain gradient descent  w ← w − lr · g  elsewhere; no decay anywhere."""
    adam_params = {name: w for name, w in params.items() if name in embeddings}
    new_params, new_state = adamw(
        adam_params,
        grads,
        state,
        step=step,
        lr=lr_embed,
        decayed=(),
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=0.0,
    )
    for name, w in params.items():
        if name not in embeddings:
            new_params[name] = w - lr * grads[name]
    return new_params, new_state


def global_norm(grads: Tensors) -> float:
    """The Euclidean norm of all gradients taken as one vector."""
    return float(np.sqrt(sum(float((g**2).sum()) for g in grads.values())))


def clip(grads: Tensors, max_norm: float) -> tuple[Tensors, float]:
    """Gradients scaled by min(1, max_norm / (norm + 1e-6)), and their norm before; a max_norm of 0 scales nothing.

    (Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; the 1e-6 as in torch.nn.utils.clip_grad_norm_)
    """
    norm = global_norm(grads)
    scale = 1.0 if max_norm == 0 else min(1.0, max_norm / (norm + 1e-6))
    return {name: g * scale for name, g in grads.items()}, norm


OPTIMIZERS: dict[str, Callable[..., Updated]] = {"adamw": adamw, "sgd": sgd, "adam-embed": adam_embed}
