"""The golden file: what PyTorch gave in float64, frozen, with the weights and batches that it was given.

    <case>/weights/<name>      float16, the very numbers          <case>/tokens, <case>/targets     (B, T) int32
    <case>/<quantity>          as `torch_gpt2.measure` gives it, float64

    trained <case>/weights/<name>, …/tokens, …/targets            the start and the batches (steps, B, T) of training
    trained <case>/end/<quantity>   as `torch_gpt2.train` gives it, for each of its GOLDEN_PAIRS (pairs, …) float64

The metadata has FORMAT, `inputs` (JSON: every size and setting), and the versions that made it. tools/make_golden.py
writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import safe_open

from parity import cases
from parity.cases import Pair, Tensors
from parity.ours import Batch

FILE = Path(__file__).with_name("golden.safetensors")
FORMAT = "2"


def inputs() -> str:
    """What decides the numbers, beside weights and batches, as JSON."""
    facts = {
        "cases": {name: asdict(case) for name, case in cases.SMALL.items()},
        "trained": {name: asdict(case) for name, case in cases.TRAINED.items()},
        "pairs": cases.GOLDEN_PAIRS,
        "settings": {name: cases.settings_of(name) for name in cases.OPTIMIZERS},
        "schedule": cases.SCHEDULE,
        "least": cases.LEAST,
        "clip": cases.CLIP,
        "steps": cases.STEPS,
    }
    return json.dumps(facts, sort_keys=True)


def read() -> tuple[Tensors, dict[str, str]]:
    """The file's tensors and metadata."""
    with safe_open(FILE, "numpy") as file:
        # No mapping: it has keys() alone.
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def below(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin so, by what follows."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def given(tensors: Tensors, case: str) -> tuple[Tensors, Batch]:
    """A case's weights and batch."""
    weights = {name: value.astype(np.float64) for name, value in below(tensors, f"{case}/weights/").items()}
    return weights, (tensors[f"{case}/tokens"], tensors[f"{case}/targets"])


def batches(batch: Batch) -> Sequence[Batch]:
    """The batches of the steps."""
    return list(zip(*batch, strict=True))


def wanted(tensors: Tensors, case: str) -> Tensors:
    """What PyTorch gave for a case."""
    taken = ("weights/", "tokens", "targets")
    return {name: value for name, value in below(tensors, f"{case}/").items() if not name.startswith(taken)}


def wanted_end(tensors: Tensors, case: str, pair: Pair) -> Tensors:
    """What PyTorch gave for twenty steps."""
    at = cases.GOLDEN_PAIRS[case].index(pair)
    return {name: value[at] for name, value in below(tensors, f"trained {case}/end/").items()}
