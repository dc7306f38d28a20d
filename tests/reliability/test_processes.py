"""The harnesses with small counts, each as its own command; `python -m tests.reliability` has the full figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cllm_cli.kernels.jit import JIT_OFF

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")]


@pytest.fixture
def harness():
    """A function that runs a part so many times and gives its summary."""

    def run(part, count):
        command = [sys.executable, "-m", "tests.reliability", part, "--count", str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        summary = json.loads(done.stdout)
        assert summary["failures"] == 0, summary["wrong"]
        assert done.returncode == 0
        return summary

    return run


def test_kills_at_random_moments_cost_an_interval_at_most(harness):
    summary = harness("kills", 40)
    assert summary["kills"] == 40
    assert summary["most_steps_lost"] <= 5


def test_signals_at_random_moments(harness):
    assert harness("signals", 10)["signals"] == 10


def test_cold_starts_at_once(harness):
    assert harness("cold_starts", 5)["starts"] == 5


def test_kills_while_compiling(harness):
    assert harness("kills_while_compiling", 5)["kills"] == 5


def test_nothing_grows_while_training(harness):
    assert harness("soak", 10)["steps"] > 1000


def test_a_run_that_is_not_as_it_should_be_is_seen(tmp_path):
    """What judges the chains can fail."""
    code = f"""
from pathlib import Path
from random import Random
from tests.reliability import chains, forks
place = Path({str(tmp_path)!r})
forks.warm_up(place)
whole = chains.uninterrupted(place)
chain = chains.Chain(place, "whole", Random(1))
for spoiled in ("model.safetensors", "metrics.jsonl", "stray.tmp"):
    chain.wrong = []
    chain.finish(whole)
    assert chain.wrong == [], chain.wrong
    path = chain.run / spoiled
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + b'{{"event":"sample","step":1,"text":""}}' + bytes([10]))
    chain.finish(whole)
    assert chain.wrong, spoiled
    path.unlink() if before is None else path.write_bytes(before)
chain.saved, chain.wrong = 7, []
chain.judge(0, {{0}})
assert "goes on at 0" in chain.wrong[0], chain.wrong
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
