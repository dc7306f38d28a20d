"""What the tests share: more threads than cores, an allocator with guards, and one run of a layer.

Numba reads how many threads there can be when it is imported, so this stands before any import of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

# Two cores must be able to run the seven threads that the tests compare; and those must not spin while others wait.
os.environ["NUMBA_NUM_THREADS"] = str(max(8, os.cpu_count() + 1, int(os.environ.get("NUMBA_NUM_THREADS", "8"))))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from reliability.audit import AUDIT

from cllm_cli.kernels.jit import JIT_OFF

# A shell has what it runs in the background ignore Ctrl-C, and nohup the end of a terminal; cllm heeds both, and many
# tests are about them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples in every run, and no clock: what fails, fails everywhere. `laws.py` gives the seeds, and nothing is
# drawn from the constants of the modules that happen to be loaded, as Hypothesis otherwise does now and then.
settings.register_profile("laws", derandomize=False, deadline=None, database=None)
settings.load_profile("laws")
providers._get_local_constants = Constants


class Guarded:
    """Memory with guards: every array lies in a larger buffer of NaN (floats) or zeros, away from any alignment."""

    PAD = 67  # elements: odd, and more than a tile of the micro-kernel is wide

    def __init__(self):
        self.buffers = []

    def allocate(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape))
        buffer = np.zeros(size + 2 * self.PAD, dtype)
        if dtype.kind == "f":
            buffer.fill(np.nan)
        self.buffers.append((buffer, buffer.tobytes()))
        return buffer[self.PAD : self.PAD + size].reshape(shape)

    def holding(self, values):
        """A guarded copy of an array."""
        array = self.allocate(values.shape, values.dtype)
        array[...] = values
        return array

    def assert_intact(self):
        for buffer, before in self.buffers:
            was, now = np.frombuffer(before, np.uint8), buffer.view(np.uint8)
            edge = self.PAD * buffer.itemsize
            assert np.array_equal(was[:edge], now[:edge]), "written before the start"
            assert np.array_equal(was[-edge:], now[-edge:]), "written past the end"


def pytest_addoption(parser):
    parser.addoption("--no-warmup", action="store_true", help="compile just the kernels that are met, in this process")


def pytest_sessionstart(session):
    """Kernels compiled as commands have them compiled: what this process compiled itself might round differently.

    Once, also where xdist shares out the tests: before its workers start. Then what they do is audited, fixtures too.
    """
    config = session.config
    if not (JIT_OFF or config.getoption("--no-warmup") or config.option.collectonly or hasattr(config, "workerinput")):
        subprocess.run([sys.executable, "-m", "cllm_cli", "warmup", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    AUDIT.start()


@pytest.fixture(autouse=True)
def _audited():
    """No test makes library code open a socket, start a process, or run code or a pickle from data."""
    before = AUDIT.refused.copy()
    yield
    assert AUDIT.refused - before == {}


def pytest_sessionfinish(session):
    """What a fixture had refused before its test began fails the session. A worker of xdist hands on what it has."""
    if AUDIT.refused:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["audited"] = [dict(AUDIT.allowed), dict(AUDIT.refused)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    allowed, refused = getattr(node, "workeroutput", {}).get("audited", ({}, {}))
    AUDIT.allowed.update(allowed)
    AUDIT.refused.update(refused)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"audited: {dict(AUDIT.allowed)} allowed, {dict(AUDIT.refused)} refused")


@pytest.fixture
def guarded():
    return Guarded()


@pytest.fixture(autouse=True)
def _two_threads():
    """What is not about threads runs on two, as on the smallest machine, whatever the test before it has set."""
    import numba

    numba.set_num_threads(2)


@pytest.fixture
def set_threads():
    """A function that sets the number of threads, until the test is over."""
    import numba

    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)
