"""`cllm profile`: its rows, tables and traces."""

from __future__ import annotations

import json

import pytest

LAYER = {"event", "name", "direction", "calls", "ms", "gflops", "gbytes_per_s", "roof_share"}
END = {"event", "ms_per_step", "tokens_per_s", "gflops", "machine_gflops", "roof_share", "memory_bytes"}


def assert_profile(done):
    rows, end = done.of("layer"), done.events[-1]
    assert all(set(row) >= LAYER for row in rows)
    assert set(end) >= END
    assert {row["direction"] for row in rows} == {"forward", "backward", "update"}
    assert {"linear", "attention", "gelu", "adamw"} <= {row["name"] for row in rows}
    assert all(row["ms"] > 0 and row["calls"] > 0 for row in rows)
    assert 0 < sum(row["ms"] for row in rows) <= 2 * end["ms_per_step"]
    assert end["memory_bytes"]["total"] > 0
    assert done.err == ""


def test_profile_of_a_run(cllm, run, contents):
    before = contents(run)
    assert_profile(cllm("profile", run, "--steps", 2, "--json").assert_done())
    assert contents(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--preset", "nano", "--batch-size", 2, "--vocab-size", 300]])
def test_profile_of_a_preset(cllm, flags):
    assert_profile(cllm("profile", *flags, "--steps", 1, "--json").assert_done())


def test_profile_compares_sizes(cllm, run):
    done = cllm("profile", run, "--steps", 1, "--batch-size", "1,2", "--block-size", "3,4", "--json").assert_done()
    assert [(row["batch_size"], row["block_size"]) for row in done.of("size")] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert done.events == done.of("size")
    lines = cllm("profile", run, "--steps", 1, "--batch-size", "1,2").assert_done().out.splitlines()
    assert lines[0].split()[:3] == ["batch", "block", "ms/step"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]


def test_profile_writes_a_trace(cllm, run, tmp_path):
    cllm("profile", run, "--steps", 1, "--trace", "trace.json").assert_done()
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_profile_as_a_table(cllm, run):
    out = cllm("profile", run, "--steps", 1).assert_done().out
    assert "tokens/s" in out
    assert "of the roof" in out
    assert "memory" in out
    assert "\x1b" not in out
