"""`cllm doctor` and `cllm --version --json`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cllm_cli.kernels.jit import JIT_OFF

pytestmark = pytest.mark.skipif(JIT_OFF, reason="the compiled kernels are what is tested")


def test_a_row_a_check_and_a_sum(cllm):
    done = cllm("doctor", "--json").assert_done()
    *rows, end = done.events
    assert {row["event"] for row in rows} == {"check"}
    assert all(row["ok"] and row["name"] and row["detail"] for row in rows)
    assert end == {"event": "end", "checks": len(rows), "failed": 0}
    kernels = [row for row in rows if "kernel" in row]
    assert len({row["kernel"] for row in kernels}) > 30
    assert {row["dtype"] for row in kernels} >= {"float32", "float64", "int64"}
    assert all(row["error"] <= row["tolerance"] for row in kernels)
    assert done.err == ""


def test_for_people_a_line_a_check_and_one_for_all_kernels(cllm):
    lines = cllm("doctor").assert_done().out.splitlines()
    assert all(line.startswith("ok    ") for line in lines[:-1])
    assert lines[-1].endswith("checks, all passed")
    assert "kernels, all right" in lines[-2]
    assert lines[0].startswith("ok    versions     cllm ")
    assert "".join(lines).isascii()


@pytest.fixture
def wrong(monkeypatch):
    """The kernel of dropout takes twice the share."""
    from cllm_cli.layers.dropout import DROPOUT

    forward = DROPOUT.forward

    def broken(out, x, drop, stream, key, first_row):
        forward(out, x, np.int64(2 * drop), stream, key, first_row)

    object.__setattr__(DROPOUT, "forward", broken)
    yield
    object.__setattr__(DROPOUT, "forward", forward)


def test_a_kernel_that_computes_something_else_is_3(cllm, wrong):
    found = cllm("doctor", "--json")
    assert found.code == 3
    failed = [row for row in found.events if row.get("ok") is False]
    assert {(row["kernel"], row["tensor"]) for row in failed} == {("broken", "out")}
    assert found.events[-1]["failed"] == len(failed) > 0
    error, hint = found.err.splitlines()
    assert error.startswith("error: broken: float32, N=7 C=5: out is off by ")
    assert hint.startswith("hint: to report it")
    shown = cllm("doctor").out.splitlines()
    assert sum(line.startswith("FAIL  broken") for line in shown) == len(failed)
    assert f"{len(failed)} wrong" in shown[-2]


@pytest.mark.parametrize("flags", [["--version", "--json"], ["--json", "--version"]])
def test_all_about_the_build_is_one_object(cllm, flags):
    (facts,) = cllm(*flags).assert_done().events
    assert {"cllm", "python", "numba", "llvmlite", "numpy", "level", "threads", "threading_layer", "cache"} <= set(
        facts
    )


def test_json_alone_belongs_after_the_command(cllm):
    cllm("--json").assert_error(2, "command")
    cllm("--json", "doctor").assert_error(2, "--json comes after the command", "cllm doctor --json")


def test_a_variable_that_numba_cannot_read_is_told_in_a_line(run_apart):
    """Of all that is odd Numba would print a traceback."""
    found = run_apart("doctor", "--json", env={"NUMBA_NUM_THREADS": "abc", "NUMBA_OPT": "7"})
    assert found.code == 3
    assert [row["name"] for row in found.events if row.get("ok") is False] == ["environment"]
    assert "Traceback" not in found.err
    assert found.err.count("warning: ") == 2, found.err


def test_a_cpu_that_is_none_is_told_by_doctor_too(run_apart):
    found = run_apart("doctor", "--json", "--cpu", "pentium")
    assert found.code == 3
    assert "unknown CPU level 'pentium'" in found.err
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert {row["name"]: row["ok"] for row in rows[:2]} == {"versions": True, "install": True}
    assert rows[-1]["event"] == "end"
