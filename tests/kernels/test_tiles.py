"""The product is right on every tile of the table, not only on this machine's: LLVM makes do with what the CPU has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.kernels.simd import TILE, TILES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")]

HERE = Path(__file__).parent
RUN = """
import sys
import cllm_cli.kernels.jit as jit
jit.cpu_features = lambda: frozenset({feature!r}.split())
import pytest
from cllm_cli.kernels.simd import TILE
assert (TILE.rows, TILE.vectors, TILE.vector_bytes) == {shape}
sys.exit(pytest.main(["-q", "--no-warmup", "-p", "no:cacheprovider", "{here}/test_gemm.py", "{here}/test_simd.py"]))
"""


@pytest.mark.parametrize("feature", [feature for feature, tile in TILES.items() if tile != TILE])
def test_products_are_right_on_the_tile_of(feature):
    """The features are a part of a kernel's key, so these stand in the same cache as this machine's own."""
    tile = TILES[feature]
    program = RUN.format(feature=feature, shape=(tile.rows, tile.vectors, tile.vector_bytes), here=HERE)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
