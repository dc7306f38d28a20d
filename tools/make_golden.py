"""Writes tests/parity/golden.safetensors from PyTorch in float64; `--check` makes it anew and only compares.

    pip install -e '.[parity]'
    python tools/make_golden.py [--check]

Exit code 1 where the file is not what PyTorch gives.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tolerances
from parity import cases, compare, golden, torch_gpt2


def made() -> tuple[cases.Tensors, dict[str, str]]:
    """The file's tensors and metadata, by PyTorch."""
    tensors: cases.Tensors = {}
    for name, case in cases.SMALL.items():
        weights, batch = cases.weights_of(case), cases.batch_of(case)
        tensors |= _inputs(name, weights, *batch)
        tensors |= _under(name, torch_gpt2.measure(case, weights, batch))
    for name, case in cases.TRAINED.items():
        weights, batches = cases.weights_of(case), cases.batches_of(case)
        tensors |= _inputs(f"trained {name}", weights, *(np.stack(part) for part in zip(*batches, strict=True)))
        ends = [torch_gpt2.train(case, weights, batches, *pair) for pair in cases.GOLDEN_PAIRS[name]]
        stacked = {quantity: np.array([end[quantity] for end in ends]) for quantity in ends[0]}
        tensors |= _under(f"trained {name}/end", stacked)
    metadata = {
        "format": golden.FORMAT,
        "inputs": golden.inputs(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }
    return tensors, metadata


def _inputs(case: str, weights: cases.Tensors, tokens: np.ndarray, targets: np.ndarray) -> cases.Tensors:
    small = _under(f"{case}/weights", {name: value.astype(np.float16) for name, value in weights.items()})
    return small | _under(case, {"tokens": tokens.astype(np.int32), "targets": targets.astype(np.int32)})


def _under(prefix: str, tensors: cases.Tensors) -> cases.Tensors:
    return {f"{prefix}/{name}": np.array(value, order="C") for name, value in tensors.items()}


def check() -> str:
    """How the file differs from what PyTorch gives here, or an empty string."""
    tensors, metadata = made()
    there, known = golden.read()
    for name in ("format", "inputs"):
        if metadata[name] != known[name]:
            return f"made for another {name}"
    try:
        compare.assert_same(there, tensors, tolerances.PARITY64)
    except AssertionError as error:
        return str(error)
    return ""


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        fault = check()
        sys.stdout.write(f"{golden.FILE.name}: {fault or 'is what PyTorch gives'}\n")
        return 1 if fault else 0
    tensors, metadata = made()
    save_file(tensors, golden.FILE, metadata)
    sys.stdout.write(f"{golden.FILE.name}: {len(tensors)} tensors, {golden.FILE.stat().st_size / 1e3:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
