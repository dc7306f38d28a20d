"""The model shapes that are measured: one table for both sides.

A shape is named by its letter, or by a letter and what differs: "M:block_size=512,batch_size=4". Where a width is
given, heads of 64 and a feed-forward four times as wide go with it, unless they are given too.

Standard library only, so that no side loads the other's packages.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Shape:
    """A model and its batch: L = n_layer, C = n_embd, F = n_hidden, V = vocab_size, T = block_size, B = batch_size."""

    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int
    vocab_size: int
    block_size: int
    batch_size: int

    @property
    def tokens(self) -> int:
        """Tokens in a step, N = B·T."""
        return self.batch_size * self.block_size

    @property
    def weights(self) -> int:
        """Numbers in the matrices that each token is multiplied by: L(4C² + 2CF) + VC."""
        width = self.n_embd
        return self.n_layer * (4 * width**2 + 2 * width * self.n_hidden) + self.vocab_size * width

    @property
    def flops(self) -> float:
        """Floating-point operations of a training step: 6N(L(4C² + 2CF) + VC) + 6LNTC.

        Six for each weight and row: a multiply and an add in forward, twice that in backward. With F = 4C the weights
        of the blocks are 12LC². The last term is attention's two products at the half that is causal. Recomputation
        does not count, nor do the elementwise layers.   (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)
        """
        attention = self.n_layer * self.block_size * self.n_embd
        return 6.0 * self.tokens * (self.weights + attention)


SHAPES: dict[str, Shape] = {
    "S": Shape(n_layer=4, n_head=4, n_embd=128, n_hidden=512, vocab_size=65, block_size=64, batch_size=12),
    "M": Shape(n_layer=6, n_head=8, n_embd=512, n_hidden=2048, vocab_size=8192, block_size=256, batch_size=8),
    "L": Shape(n_layer=12, n_head=12, n_embd=768, n_hidden=3072, vocab_size=50257, block_size=64, batch_size=4),
}

# One size changes, what else differs from a letter's shape stays the same over the sweep.
SWEEPS: dict[str, list[str]] = {
    "width": [f"S:n_embd={width},block_size=128,batch_size=8,vocab_size=1024" for width in (64, 128, 256, 512, 1024)],
    "time": [f"M:block_size={time},batch_size={2048 // time}" for time in (64, 128, 256, 512, 1024, 2048)],
    "batch": [f"S:n_embd=256,batch_size={batch}" for batch in (1, 2, 4, 8, 16, 32, 64)],
    "vocabulary": [f"S:n_embd=256,vocab_size={size}" for size in (256, 1024, 4096, 16384, 50257)],
}


def named_shape(name: str) -> Shape:
    """The shape of a name. Raises argparse.ArgumentTypeError, as an argument's type may, for one that means nothing."""
    letter, _, rest = name.partition(":")
    known = {field.name for field in fields(Shape)}
    try:
        changes = {key: int(value) for key, value in (part.split("=") for part in rest.split(",") if part)}
        if letter not in SHAPES or not changes.keys() <= known:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{name!r} is no shape: {', '.join(SHAPES)}, or M:NAME=N,… of {', '.join(sorted(known))}"
        ) from None
    if "n_embd" in changes:
        width = changes["n_embd"]
        changes = {"n_head": max(1, width // 64), "n_hidden": 4 * width, **changes}
    return replace(SHAPES[letter], **changes)
