"""How parameters start: each from a random stream of its own, so that one more layer changes no other tensor."""

from __future__ import annotations

import zlib

import numpy as np

from cllm_cli.model.arena import Arena


def initialize(arena: Arena, seed: int) -> None:
    """Fills the arena: normal or constant, as each parameter's layer declares; the same numbers for every precision."""
    for name, parameter in arena.parameters.items():
        values = arena.parameter(name)
        if parameter.init.std:
            stream = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
            values[...] = stream.standard_normal(parameter.shape, np.float32) * np.float32(parameter.init.std)
        else:
            values[...] = parameter.init.value
