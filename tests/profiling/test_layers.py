"""What the profiler counts: operations, bytes and calls follow from the shapes alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cllm_cli.config import make_settings
from cllm_cli.errors import ConfigError
from cllm_cli.layers import LAYERS
from cllm_cli.profiling.layers import StepProfile
from cllm_cli.profiling.roof import Roof, measure_roof
from cllm_cli.profiling.trace import write_trace
from cllm_cli.training.session import rehearsal

L, C, F, NH, T, B, V = 2, 16, 48, 2, 8, 3, 300
N = B * T


def profiled(accumulate=1, vocabulary=V, steps=3, **more):
    given = {"n_layer": L, "n_embd": C, "n_hidden": F, "n_head": NH, "block_size": T, "batch_size": B, "threads": 1}
    settings = make_settings({**given, "grad_accum": accumulate, "dropout": 0.0, "eval_every": 1}, more)
    session = rehearsal(settings, vocabulary)
    *rows, end = StepProfile(session.stepper, steps).rows(Roof(gflops=100.0, gbytes=50.0))
    return {(row["name"], row["direction"]): row for row in rows}, end, session


def flops(row):
    return row["gflops"] * 1e9 * row["ms"] / 1e3


def moved(row):
    return row["gbytes_per_s"] * 1e9 * row["ms"] / 1e3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_operations_are_those_of_the_closed_form(accumulate):
    """6 N (L (4 C² + 2 C F) + V C) for the matrices and 6 L N T C for causal attention; a row's parts add up to it."""
    rows, end, _ = profiled(accumulate)
    wanted = accumulate * (6 * N * (L * (4 * C * C + 2 * C * F) + V * C) + 6 * L * N * T * C)
    assert end["gflops"] * 1e9 * end["ms_per_step"] / 1e3 == pytest.approx(wanted)
    assert sum(map(flops, rows.values())) == pytest.approx(wanted)
    assert flops(rows["linear", "backward"]) == pytest.approx(2 * flops(rows["linear", "forward"]))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_call_of_a_step_is_counted(accumulate):
    rows, end, session = profiled(accumulate)
    assert rows["linear", "forward"]["calls"] == 4 * L * accumulate
    assert rows["layernorm", "backward"]["calls"] == (2 * L + 1) * accumulate
    assert rows["adamw", "update"]["calls"] == 1
    assert end["tokens_per_s"] == pytest.approx(accumulate * N / (end["ms_per_step"] / 1e3))
    recorded = len(session.stepper.replay.plan.forward) + len(session.stepper.replay.plan.backward)
    assert sum(row["calls"] for key, row in rows.items() if key[1] != "update") == accumulate * recorded


def test_bytes_are_those_of_what_a_kernel_touches():
    rows, _, session = profiled()
    block = [N * 3 * C, N * C, N * F, N * C]  # outputs of a block's four products
    inputs = [N * C, N * C, N * C, N * F]
    weights = [C * 3 * C + 3 * C, C * C + C, C * F + F, F * C + C]
    assert moved(rows["linear", "forward"]) == pytest.approx(4 * L * sum(block + inputs + weights))
    assert moved(rows["embedding", "forward"]) == pytest.approx(4 * (N + N * C + N * C))
    assert moved(rows["positions", "forward"]) == pytest.approx(4 * (2 * N * C + T * C))
    assert moved(rows["adamw", "update"]) == pytest.approx(8 * 4 * session.model.arena.size)
    assert moved(rows["gradient norm", "update"]) == pytest.approx(4 * session.model.arena.size)


def test_of_a_large_table_the_rows_that_are_looked_up_count():
    small, large = profiled(vocabulary=100)[0], profiled(vocabulary=5000)[0]
    assert moved(large["embedding", "forward"]) == pytest.approx(moved(small["embedding", "forward"]))
    assert moved(large["cross_entropy", "backward"]) > 10 * moved(small["cross_entropy", "backward"])


def test_tables_name_letters_that_their_layers_have():
    for name in LAYERS:
        layer = LAYERS.load(name)
        shapes = " ".join([*layer.inputs.values(), *layer.outputs.values()])
        for param, letter in layer.rows.items():
            assert param in layer.params
            assert letter in shapes


def test_every_part_takes_time_and_nothing_is_learned():
    before = profiled()[2].model.arena.values.copy()
    rows, _, session = profiled()
    assert all(row["ms"] > 0 for row in rows.values())
    assert np.array_equal(session.model.arena.values, before)


def test_the_roof_is_a_rate_that_a_machine_can_have(set_threads):
    set_threads(1)
    roof = measure_roof()
    assert 1 < roof.gflops < 1e5
    assert 0.1 < roof.gbytes < 1e4


def test_kernels_and_what_is_between_them_make_the_step():
    rows, end, _ = profiled(steps=1)  # of several, medians are taken one by one
    assert end["python_ms"] > 0
    assert sum(row["ms"] for row in rows.values()) + end["python_ms"] == pytest.approx(end["ms_per_step"])


def test_the_memory_over_the_step_is_that_of_the_plan():
    _, end, session = profiled()
    plan = session.stepper.replay.plan
    assert end["alive_bytes"] == plan.alive
    assert len(plan.alive) == len(plan.forward) + len(plan.backward)
    assert 0 < min(plan.alive) < max(plan.alive) <= plan.total


def test_what_is_computed_again_is_counted_as_time_and_not_as_work():
    rows, end, _ = profiled(recompute="block")
    plain_rows, plain, _ = profiled(recompute="none")
    assert rows["linear", "recompute"]["calls"] == 3  # of one block all products but the last
    assert rows["linear", "recompute"]["gflops"] == 0
    assert ("linear", "recompute") not in plain_rows
    assert end["gflops"] * end["ms_per_step"] == pytest.approx(plain["gflops"] * plain["ms_per_step"])


def test_a_trace_has_every_kernel_of_a_step(tmp_path):
    _, _, session = profiled(accumulate=2)
    profile = StepProfile(session.stepper, 1)
    write_trace(tmp_path / "trace.json", profile.spans[0])
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    kernels = [event for event in events if event["ph"] == "X"]
    plan = session.stepper.replay.plan
    assert len(kernels) == 2 * (len(plan.forward) + len(plan.backward)) + 2
    assert [event["args"]["bytes"] for event in events if event["ph"] == "C"] == 2 * plan.alive
    ends = [event["ts"] + event["dur"] for event in kernels]
    assert all(end <= event["ts"] for end, event in zip(ends, kernels[1:], strict=False))
    assert {event["cat"] for event in kernels} == {"forward", "backward", "forward_backward", "update"}
    with pytest.raises(ConfigError, match="cannot write"):
        write_trace(tmp_path, profile.spans[0])
