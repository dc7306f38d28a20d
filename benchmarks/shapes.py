"""The model shapes that are measured: one table for both sides.

Standard library only, so that no side loads the other's packages.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    def flops(self) -> float:
        """Floating-point operations of a training step: 6N(L(4C² + 2CF) + VC) + 6LNTC.

        Six for each weight and row: a multiply and an add in forward, twice that in backward. With F = 4C the weights
        of the blocks are 12LC². The last term is attention's two products at the half that is causal. Recomputation
        does not count, nor do the elementwise layers.   (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)
        """
        rows, width = self.tokens, self.n_embd
        weights = self.n_layer * (4 * width**2 + 2 * width * self.n_hidden) + self.vocab_size * width
        return 6.0 * rows * weights + 6.0 * self.n_layer * rows * self.block_size * width


SHAPES: dict[str, Shape] = {
    "S": Shape(n_layer=4, n_head=4, n_embd=128, n_hidden=512, vocab_size=65, block_size=64, batch_size=12),
    "M": Shape(n_layer=6, n_head=8, n_embd=512, n_hidden=2048, vocab_size=8192, block_size=256, batch_size=8),
    "L": Shape(n_layer=12, n_head=12, n_embd=768, n_hidden=3072, vocab_size=50257, block_size=64, batch_size=4),
}
