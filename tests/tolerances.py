"""Every tolerance of the tests, with the reason beside it.

An error is relative to the largest magnitude of the tensor that is compared, unless it says otherwise.
"""

from __future__ import annotations

import math

import numpy as np

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # half the distance from 1 to the next number: one rounding

# Layers whose outputs are copies of inputs.
EXACT = {"embedding", "split", "last"}

# A sum of n random terms loses √n roundings or so, not n (Higham & Mary 2019); the largest element of a tensor hides
# some of that, and the operations around the sum add a few. Of all layers and samples the worst was 2.0 √n,
# cross_entropy's dx.
ROUNDINGS = 4.0


def rounding(sizes: dict[str, int], dtype: type) -> float:
    """Of a layer at these sizes: no sum in it is longer than its dimensions together."""
    longest = sum(size for letter, size in sizes.items() if letter not in {"S", "R"})
    return ROUNDINGS * math.sqrt(longest) * UNIT[np.dtype(dtype).name]


# What cancels in a gradient, where the gradient itself does not show how large the terms were. With one column
# LayerNorm's output is constant, so dx is what is left of terms of this size.
CANCELLED = {("layernorm", "dx"): lambda known: known["rstd"].max() * np.abs(known["dout"] * known["weight"]).max()}

# A gradient that is added to what stands there: one rounding for each pass over the depth of a product, and one more.
ACCUMULATED = 4.0  # roundings of the sum

# float64 derivatives: of 41 runs with other seeds the worst was 6.5e-12 for layers, 1.1e-11 for models.
RIGHT_GRADIENT = 1e-9

# A whole model of two blocks against the oracle: some ten layers one after another, each as above, and softmax and
# LayerNorm that amplify what comes before. Measured 3e-14 and 1.2e-5.
MODEL64, MODEL32 = 1e-10, 1e-4

# Against PyTorch in float64, whatever the precision of ours. Measured in float64: 2e-14 for logits, losses and
# gradients; 1e-10 for the weights after twenty steps of adamw, where it divides the rounding noise of the key biases'
# gradient, which is zero, by eps = 1e-8; 3e-15 for all other weights.
PARITY64 = 1e-9

# The oracle against PyTorch, both in float64: sums of some hundred terms, in another order. Measured 1e-14.
ORACLE = 1e-12

# Learning rates: a few operations in double precision; the sums of torch's schedulers go from step to step.
RATE = 1e-13


def parity32(longest: int, n_layer: int) -> float:
    """Of float32 logits, losses and gradients of a GPT-2 whose longest sum has so many terms.

    Ten layers a block and four around them, forward and then backward, each as in `rounding`; errors that know nothing
    of each other add up as their squares. Measured: mostly a tenth of it, a quarter in a model of three
    channels; as much for PyTorch's own float32.
    """
    return ROUNDINGS * math.sqrt(2 * (10 * n_layer + 4) * longest) * UNIT["float32"]


def steps32(longest: int, n_layer: int, steps: int) -> float:
    """Of float32 weights after some steps: each moves them by less than themselves, with the error of its gradient.

    Measured: a sixth of it for adamw, which divides the smallest gradients by themselves; a fiftieth for the others,
    mostly the rounding of the weights themselves.
    """
    return math.sqrt(steps) * parity32(longest, n_layer)


# Times PyTorch's own float32 error of a model: two roundings of the same thing, by luck one larger or the other.
# Measured 2.
AS_GOOD = 4.0

# Logits of a run folder in transformers and here, both float32, absolutely: what the command line promises.
TRANSFORMERS = 1e-4
