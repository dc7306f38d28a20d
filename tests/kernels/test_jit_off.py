"""With the JIT off every layer runs in Python, on the plain twins of the intrinsics, and computes the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

# Python's integers of fixed width warn where they wrap round, which is what dropout's hash does.
RUN = """
import numpy as np
import tolerances
from reference import expected
from cllm_cli.checks.gradcheck import check_layer
from cllm_cli.checks.harness import Bench, letters_of
from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.layers import LAYERS

assert JIT_OFF
with np.errstate(over="ignore"):
    for name in LAYERS:
        layer = LAYERS.load(name)
        assert not hasattr(layer.forward, "signatures")
        for sample in layer.samples[:2]:
            for dtype in (np.float32, np.float64):
                bench = Bench(layer, sample, dtype)
                bench.step()
                tolerance = tolerances.rounding(letters_of(sample), dtype)
                for output, wanted in expected(name, bench.known()).items():
                    worst = np.abs(bench.arrays[output] - wanted).max()
                    assert worst <= tolerance * np.abs(wanted).max(), (name, sample, output, worst)
        for sample in (layer.samples[0], TINY.get(name, layer.samples[0])):
            for check in check_layer(layer, sample):
                assert check.ok, check
        print(name)
"""

TINY = {
    "attention": {"B": 2, "T": 3, "NH": 2, "HS": 3, "S": 3},
    "cross_entropy": {"N": 5, "V": 3, "C": 2},
    "layernorm": {"N": 3, "C": 5},
    "gelu": {"N": 2, "C": 3},
    "embedding": {"N": 4, "V": 3, "C": 2},
}


def test_every_layer_runs_without_the_jit():
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    command = [sys.executable, "-W", "error", "-c", f"TINY = {TINY}\n{RUN}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.split()) >= 13
