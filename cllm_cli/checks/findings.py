"""What is out of the ordinary in the flow of gradients: its names, thresholds and sources.

not finite           A NaN or an infinity (IEEE 754). Nothing is learned from there on, so the observation ends.
zero activations     Every output is exactly 0; `zero gradient` likewise. What stands before learns nothing: a product
                     with zero is zero (the chain rule; Rumelhart, Hinton & Williams 1986, Nature 323).
zero weights         Every entry of a matrix is exactly 0 before the first step: its units are all alike, and stay so
                     (Goodfellow, Bengio & Courville 2016, "Deep Learning", section 8.4).
vanishing,           A layer's gradient is below 1/SPREAD or above SPREAD of the one that arrives from the loss. Depth
exploding            multiplies gradients by a factor a layer, which should stay near 1 (Glorot & Bengio 2010, AISTATS
                     9; Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063); ten layers of a factor of 2 make a thousand.
dead units           Of a pointwise layer (GELU): of the gradient that reaches them they pass on less than PASSED, at
                     every row. Such a unit is constant whatever comes in, and has no gradient to come back by (Lu,
                     Shin, Su & Karniadakis 2020, "Dying ReLU and Initialization", arXiv:1903.06733).
gain at zero         Entries of a gain that starts at 1 (LayerNorm's weight) are below PASSED: such a channel is
                     off, as pruning by gains takes it (Liu et al. 2017, "Network Slimming", arXiv:1708.06519).
massive activations  The largest is above MASSIVE and above MASSIVE_RATIO times the median magnitude, as Sun, Chen,
                     Kolter & Liu 2024 define them (arXiv:2402.17762).
large update         A step moves a matrix by more than LARGE_UPDATE of its norm, a hundred times the 1e-3 of a
                     healthy run (Karpathy, CS231n notes, "Neural Networks Part 3", ratio of weights:updates).
lost update          It is below 2⁻²⁴ of the norm: float32 rounds most of it away (Gupta, Agrawal, Gopalakrishnan &
                     Narayanan 2015, "Deep Learning with Limited Numerical Precision", arXiv:1502.02551).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SPREAD = 1e3
PASSED = 1e-3
MASSIVE, MASSIVE_RATIO = 100.0, 1e3
LARGE_UPDATE, LOST_UPDATE = 0.1, 2.0**-24

NOT_FINITE = "not finite"


def layer_findings(row: Mapping[str, Any], arriving: float) -> list[str]:
    """What is out of the ordinary in a layer's row; `arriving` is the gradient of the layer next to the loss."""
    back = row["gradient_rms"]
    if not _finite(row["activation_rms"], back):
        return [NOT_FINITE]
    return _named(
        {
            "zero activations": row["activation_max"] == 0,
            "massive activations": row["massive"],
            "dead units": bool(row["dead"]),
            "zero gradient": back == 0,
            "vanishing": back is not None and 0 < back < arriving / SPREAD,
            "exploding": back is not None and back > SPREAD * arriving > 0,
        }
    )


def parameter_findings(row: Mapping[str, Any]) -> list[str]:
    """What is out of the ordinary in a parameter's row; ratios are judged of matrices, since biases start at 0."""
    if not _finite(row["weight_rms"], row["gradient_rms"], row["update_rms"]):
        return [NOT_FINITE]
    ratio = row["update_ratio"] if len(row["shape"]) > 1 else None
    return _named(
        {
            "zero weights": len(row["shape"]) > 1 and row["weight_rms"] == 0,
            "zero gradient": row["gradient_rms"] == 0,
            "gain at zero": bool(row["shut"]),
            "large update": ratio is not None and ratio > LARGE_UPDATE,
            "lost update": ratio is not None and ratio < LOST_UPDATE and row["gradient_rms"] != 0,
        }
    )


def _finite(*figures: float | None) -> bool:
    return all(math.isfinite(figure) for figure in figures if figure is not None)


def _named(findings: Mapping[str, bool]) -> list[str]:
    return [name for name, found in findings.items() if found]
