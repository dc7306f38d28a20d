"""The oracle: what every layer, the whole model, the optimizers and the schedules should compute.

Slow, obvious, textbook NumPy in float64, written from the papers alone. It never imports the package, and the package
never imports it: when the two agree, two independent derivations agree.

    layers.py      one function a layer                             ORACLES[name](**arrays) → its outputs by name
    gpt2.py        the whole model: logits, losses, and the gradient for every parameter
    optimizers.py  update rules                                     OPTIMIZERS[name](params, grads, state, …)
    schedules.py   closed forms of the learning rate                SCHEDULES[name](step, …)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import layers

ORACLES: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "embedding": layers.embedding,
    "positions": layers.positions,
    "layernorm": layers.layernorm,
    "linear": layers.linear,
    "linear_nobias": layers.linear_nobias,
    "attention": layers.attention,
    "gelu": layers.gelu,
    "add": layers.add,
    "split": layers.split,
    "dropout": layers.dropout,
    "last": layers.last,
    "head": layers.head,
    "cross_entropy": layers.cross_entropy,
}
