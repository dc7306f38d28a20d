"""Matrix products at every size from 1 to 40 in each dimension, between pages that cannot be touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cllm_cli.kernels.jit import JIT_OFF

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(JIT_OFF, reason="pages have no fences for NumPy's own products")


def fenced(what):
    """Runs fences.py in a process that may die of a touched page."""
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-W", "error", str(HERE / "fences.py"), what]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [("some", 1_600), pytest.param("all", 64_000, marks=pytest.mark.slow)],
    ids=["each-pair-of-sizes", "each-size"],
)
def test_products_of_small_sizes_are_right_and_touch_nothing_else(sizes, count):
    done = fenced(sizes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) == count * 8 * 2  # nn, nt, tn written and added to, nn_bias twice; both precisions


@pytest.mark.slow
@pytest.mark.parametrize("where", ["past", "before"])
def test_one_element_beyond_a_fence_ends_the_process(where):
    assert fenced(where).returncode in (-signal.SIGSEGV, -signal.SIGBUS)
