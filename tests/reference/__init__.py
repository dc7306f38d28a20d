"""The oracle: what every layer, the whole model, the optimizers and the schedules should compute.

Slow, obvious, textbook NumPy in float64, written from the papers alone. It never imports the package, and the package
never imports it: when the two agree, two independent derivations agree.

    layers.py      one function a layer                             ORACLES[name](**arrays) → its outputs by name
                   called with whatever it asks for                 expected(name, known)
    gpt2.py        the whole model: logits, losses, and the gradient for every parameter
    optimizers.py  update rules                                     OPTIMIZERS[name](params, grads, state, …)
    schedules.py   closed forms of the learning rate                SCHEDULES[name](step, …)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

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


def expected(name: str, known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The outputs of a layer's oracle, which takes what it needs from `known`: arrays and scalars by their names.

    Floats are taken to float64. Where an oracle wants a rate, `drop` is that rate in units of 2⁻²⁴.
    """
    wanted = {}
    for parameter in inspect.signature(ORACLES[name]).parameters:
        value = known["drop"] / 2**24 if parameter == "rate" else known[parameter]
        real = isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f"
        wanted[parameter] = value.astype(np.float64) if real else value
    return ORACLES[name](**wanted)
