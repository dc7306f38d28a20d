"""The micro-kernel as Numba compiles it for CPUs that need not be here: all sums of a tile stay in registers."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys

import pytest
from assembly import loops

from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.kernels.levels import LEVELS
from cllm_cli.kernels.simd import TILES, UNROLL

pytestmark = pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")

# The assembly of the micro-kernel for each precision, as a JSON object. Nothing of it is run.
PROGRAM = """
import json, re
import numba
from cllm_cli.kernels.jit import FLAGS
from cllm_cli.kernels.pointers import pointer
from cllm_cli.kernels.simd import microkernel

def tile(k, a, b, c, rows):
    microkernel(k, pointer(a, 0), pointer(b, 0), pointer(c, 0), 32, pointer(c, 0), 32, True, rows)

found = {}
for real in ("float32", "float64"):
    array, size = getattr(numba, real)[::1], numba.intp
    function = numba.njit([(size, array, array, array, size)], **FLAGS)(tile)
    text = function.inspect_asm(function.signatures[0])
    found[real] = re.search(rf"^cllm_microkernel_{real}:$(.*?)\\.size", text, re.DOTALL | re.MULTILINE)[1]
print(json.dumps(found))
"""


@functools.cache
def assembly(cpu, level):
    features = ",".join([*(f"+{name}" for name in sorted(LEVELS[level])), "-prefer-256-bit"])  # as kernels/jit.py
    variables = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def and_slow(level, *cpus):
    return [pytest.param(cpu, level, marks=pytest.mark.slow) for cpu in cpus]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("cpu", "level"),
    [
        ("x86-64-v4", "x86-64-v4"),
        *and_slow("x86-64-v4", "znver4", "znver5", "skylake-avx512", "sapphirerapids"),
        ("x86-64-v3", "x86-64-v3"),
        *and_slow("x86-64-v3", "haswell", "znver3", "alderlake"),
    ],
)
def test_every_sum_is_in_a_register_of_its_own(cpu, level, dtype):
    """For x86-64-v4 LLVM had one of the whole tile's in memory, and products took a tenth longer on Zen 5."""
    tile = TILES["avx512f" if level == "x86-64-v4" else "fma"]
    register = "zmm" if level == "x86-64-v4" else "ymm"
    wanted = {UNROLL * rows * tile.vectors: rows * tile.vectors for rows in (*tile.lower, tile.rows)}
    found = {}
    for loop in loops(assembly(cpu, level)[dtype]):
        sums = [match[1] for line in loop if (match := re.match(rf"vfmadd\d+p[sd]\s.*%({register}\d+)$", line))]
        if len(sums) in wanted:
            found[len(sums)] = len(set(sums))
            assert not [line for line in loop if "%rsp" in line and register in line]
    assert found == wanted
