"""Gradient flow tells what was there, changes nothing of a step, and names each thing that is out of the ordinary."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cllm_cli.checks.findings import layer_findings, parameter_findings
from cllm_cli.checks.gradflow import Flow, is_pointwise
from cllm_cli.checks.trained import fresh_flow, package_text, schedule_of, sizes_for
from cllm_cli.config import make_settings
from cllm_cli.layers import LAYERS
from cllm_cli.model.build import ModelConfig
from cllm_cli.model.program import names_of
from cllm_cli.text.batches import Windows
from cllm_cli.training.session import rehearsal

TINY = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 8,
    "batch_size": 4,
    "dropout": 0.0,
    "steps": 100,
    "warmup": 10,
}
BLOCK = "transformer.h.0"


@pytest.fixture(autouse=True)
def _one_thread(set_threads):
    set_threads(1)


def tiny_flow(change=lambda tensors: None, **more):
    """A flow of a tiny new model after `change` was done to its weights."""
    session = rehearsal(make_settings(TINY, more), 256)
    change(session.model.arena.tensors())
    return Flow(session.stepper, schedule_of(session.settings), Windows(package_text()[:4000], 8, 4))


def observed(flow, steps=3):
    """Rows by name and the end of a flow."""
    flow.run(steps)
    *rows, end = flow.rows()
    assert all(row["event"] == "flow" for row in rows)
    assert len({(row["kind"], row["name"]) for row in rows}) == len(rows)
    return {(row["kind"], row["name"]): row for row in rows}, end


def found(change=lambda tensors: None, steps=3, **more):
    """What is named, by name of layer or parameter, after `change`."""
    rows, end = observed(tiny_flow(change, **more), steps)
    return {name: row["findings"] for (_, name), row in rows.items() if row["findings"]}, end


def test_a_new_model_has_nothing_out_of_the_ordinary():
    findings, end = found()
    assert findings == {}
    sizes = {"event": "end", "steps": 3, "batch": 4, "grad_accum": 1, "time": 8}
    assert end == {**end, **sizes, "findings": 0, "first_nonfinite": None}
    assert len(end["losses"]) == 3
    assert math.log(256) == pytest.approx(end["losses"][0], rel=0.05)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_observed_steps_are_those_of_training(accumulate):
    flow = tiny_flow(dropout=0.2, grad_accum=accumulate)
    flow.run(3)
    session = rehearsal(make_settings(TINY, {"dropout": 0.2, "grad_accum": accumulate}), 256)
    taken = iter([flow.windows[number] for number in range(3 * accumulate)])

    def next_batch(x, y):
        for start in range(0, len(x), 4):
            x[start : start + 4], y[start : start + 4] = next(taken)

    session.stepper.sampler.next_batch = next_batch
    losses = [session.stepper.run(step, flow.schedule).loss for step in range(3)]
    assert losses == flow.losses
    assert (session.model.arena.values == flow.stepper.model.arena.values).all()


def test_figures_are_those_of_the_tensors():
    flow = tiny_flow()
    tensors = {name: values.copy() for name, values in flow.stepper.model.arena.tensors().items()}
    rows, _ = observed(flow, 1)
    x, _ = flow.windows[0]
    wte, after = tensors["transformer.wte.weight"], flow.stepper.model.arena.parameter("transformer.wte.weight")
    embedded = wte[x.reshape(-1)].astype(np.float64)
    row = rows["layer", "embedding"]
    assert row["activation_rms"] == pytest.approx(np.sqrt(np.mean(embedded**2)))
    assert row["activation_max"] == pytest.approx(np.abs(embedded).max())
    row = rows["parameter", "transformer.wte.weight"]
    assert row["weight_rms"] == pytest.approx(np.sqrt(np.mean(wte.astype(np.float64) ** 2)))
    moved = np.linalg.norm(after - wte) / np.linalg.norm(wte)
    assert row["update_ratio"] == pytest.approx(moved, rel=1e-4)


def test_every_layer_that_computes_and_every_parameter_has_a_row():
    flow = tiny_flow()
    rows, _ = observed(flow, 1)
    assert {name for kind, name in rows if kind == "parameter"} == set(flow.stepper.model.arena.parameters)
    layers = [row for (kind, _), row in rows.items() if kind == "layer"]
    assert [row["name"] for row in layers][:4] == ["embedding", "positions", f"{BLOCK}.ln_1", f"{BLOCK}.attn.c_attn"]
    assert len(layers) == sum(run.direction != "backward" for run in flow.stepper.replay.plan.forward)
    assert all(row["gradient_rms"] > 0 for row in layers[:-1])
    assert f"{BLOCK}.add 2" in names_of(flow.program)


def test_zeroed_weights_are_named():
    def zero(tensors):
        tensors[f"{BLOCK}.mlp.c_fc.weight"][:] = 0
        tensors[f"{BLOCK}.mlp.c_fc.bias"][:] = 0

    findings, _ = found(zero, 1)
    assert findings[f"{BLOCK}.mlp.c_fc"] == findings[f"{BLOCK}.gelu"] == ["zero activations"]
    assert findings[f"{BLOCK}.mlp.c_fc.weight"] == ["zero weights"]
    assert findings[f"{BLOCK}.ln_2"] == findings[f"{BLOCK}.mlp.c_proj.weight"] == ["zero gradient"]


def test_dead_units_are_counted():
    def kill(tensors):
        tensors[f"{BLOCK}.mlp.c_fc.bias"][:5] = -30

    rows, _ = observed(tiny_flow(kill))
    row = rows["layer", f"{BLOCK}.gelu"]
    assert (row["dead"], row["units"], row["findings"]) == (5, 64, ["dead units"])


def test_a_unit_that_passes_on_at_some_row_is_not_dead():
    """Although the row with the largest gradient, by far, is one where it does not."""
    flow = tiny_flow()
    gelu = next(run for run in flow.stepper.replay.plan.backward if run.call.layer.name == "gelu")
    arrays = {name: flow.stepper.replay.array(place) for name, place in gelu.places.items()}
    number = flow.program.calls.index(gelu.call)
    arrays["dout"][:], arrays["dx"][:] = 1, 1
    arrays["dout"][0], arrays["dx"][0] = 1e6, 0
    arrays["dx"][:, 7] = 0  # dead
    arrays["dout"][:, 9], arrays["dx"][:, 9] = 0, 0  # nothing reaches it
    flow._see_gradients(gelu, number, set())
    passes, reached = flow._units[number]
    assert list(np.flatnonzero(reached & ~passes)) == [7]


@pytest.mark.parametrize("recompute", ["cheap", "block"])
def test_what_is_recomputed_is_seen_once(recompute):
    rows, end = observed(tiny_flow(recompute=recompute, dropout=0.1), 2)
    wanted, wanted_end = observed(tiny_flow(dropout=0.1), 2)
    assert end == wanted_end
    assert rows == wanted


def test_gains_at_zero_are_named():
    def shut(tensors):
        tensors[f"{BLOCK}.ln_1.weight"][:3] = 0

    rows, _ = observed(tiny_flow(shut, lr=1e-6))
    row = rows["parameter", f"{BLOCK}.ln_1.weight"]
    assert (row["shut"], row["findings"]) == (3, ["gain at zero"])


def test_massive_activations_are_named():
    def raise_one(tensors):
        tensors["transformer.wpe.weight"][0, 0] = 500

    findings, _ = found(raise_one, 1)
    assert "massive activations" in findings["positions"]
    assert "embedding" not in findings


def test_a_learning_rate_that_is_far_too_high_is_named():
    findings, end = found(lr=10.0, steps=5)
    assert {"large update", "not finite"} & set(findings["transformer.wte.weight"])
    assert end["losses"][-1] > 2 * end["losses"][0]


def test_updates_that_rounding_loses_are_named():
    findings, _ = found(lr=1e-11, min_lr=0.0)
    assert findings["transformer.wte.weight"] == ["lost update"]


def test_a_schedule_at_its_end_loses_no_update():
    session = rehearsal(make_settings(TINY, {"min_lr": 0.0}), 256)
    windows = Windows(package_text()[:4000], 8, 4)
    _, end = observed(Flow(session.stepper, schedule_of(session.settings), windows, first=100), 2)
    assert end["rates"] == [0.0, 0.0]
    assert end["findings"] == 0


def test_vanishing_and_exploding_gradients_are_named():
    def shrink(tensors):
        tensors[f"{BLOCK}.attn.c_proj.weight"][:] *= 1e-4

    findings, _ = found(shrink, 1)
    assert findings[f"{BLOCK}.attention"] == ["vanishing"]

    def weaken(tensors):
        tensors["transformer.ln_f.weight"][:] *= 1e-6

    findings, _ = found(weaken, 1)
    assert findings["positions"] == findings[f"{BLOCK}.gelu"] == ["vanishing"]
    assert "transformer.ln_f" not in findings

    def grow(tensors):
        tensors["transformer.ln_f.weight"][:] *= 1e5

    findings, _ = found(grow, 1)
    assert findings["positions"] == findings[f"{BLOCK}.gelu"] == ["exploding"]


def test_the_first_that_is_not_finite_is_named_and_ends_it():
    def spoil(tensors):
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = np.nan

    findings, end = found(spoil)
    assert end["first_nonfinite"] == "weight of transformer.h.1.mlp.c_fc.weight at step 1"
    assert end["steps"] == 1
    assert findings["transformer.h.1.mlp.c_fc"] == ["not finite"]

    def overflow(tensors):
        tensors[f"{BLOCK}.attn.c_attn.weight"][:] = 3e38

    findings, end = found(overflow)
    assert end["first_nonfinite"] == f"activation of {BLOCK}.attn.c_attn at step 1"
    assert "embedding" not in findings or findings["embedding"] == ["not finite"]  # by its gradient


@pytest.mark.parametrize("what", ["gradient", "update"])
@pytest.mark.parametrize("step", [1, 2])
def test_the_step_is_named_in_which_something_is_not_finite(what, step, monkeypatch):
    flow = tiny_flow()
    arena, name = flow.stepper.model.arena, "transformer.ln_f.bias"
    updater = flow.stepper.updater
    if what == "update":

        def spoil(number, *more, update=updater.update):
            update(number, *more)
            if number == step:
                arena.parameter(name)[3] = np.inf

        monkeypatch.setattr(updater, "update", spoil)
    else:

        def run(*more, forward_backward=flow._forward_backward):
            loss = forward_backward(*more)
            if len(flow.losses) == step - 1:
                arena.gradient(name)[3] = np.nan
            return loss

        monkeypatch.setattr(flow, "_forward_backward", run)
    _, end = observed(flow)
    assert end["first_nonfinite"] == f"{what} of {name} at step {step}"
    assert end["steps"] == step


ROW = {"activation_rms": 1.0, "activation_max": 2.0, "gradient_rms": 1.0, "dead": 0, "massive": False}
PARAMETER = {
    "shape": [2, 3],
    "weight_rms": 1.0,
    "gradient_rms": 1.0,
    "update_rms": 1e-3,
    "update_ratio": 1e-3,
    "shut": 0,
}


@pytest.mark.parametrize(
    ("change", "median", "wanted"),
    [
        ({}, 999.0, []),
        ({}, 1001.0, ["vanishing"]),
        ({}, 1 / 999, []),
        ({}, 1 / 1001, ["exploding"]),
        ({"gradient_rms": 0.0}, 1.0, ["zero gradient"]),
        ({"gradient_rms": None}, 1.0, []),
        ({"activation_max": 0.0}, 1.0, ["zero activations"]),
        ({"dead": 1}, 1.0, ["dead units"]),
        ({"dead": None}, 1.0, []),
        ({"massive": True}, 1.0, ["massive activations"]),
        ({"gradient_rms": math.inf}, 1.0, ["not finite"]),
        ({"activation_rms": math.nan}, 1.0, ["not finite"]),
    ],
)
def test_thresholds_of_layers(change, median, wanted):
    assert layer_findings({**ROW, **change}, median) == wanted


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, []),
        ({"update_ratio": 0.11}, ["large update"]),
        ({"update_ratio": 0.11, "shape": [3]}, []),  # a bias starts at 0
        ({"update_ratio": 2.0**-25}, ["lost update"]),
        ({"update_ratio": 0.0, "gradient_rms": 0.0}, ["zero gradient"]),
        ({"update_ratio": None, "update_rms": None}, []),
        ({"weight_rms": 0.0, "update_ratio": None}, ["zero weights"]),
        ({"weight_rms": 0.0, "update_ratio": None, "shape": [3]}, []),
        ({"shut": 1}, ["gain at zero"]),
        ({"shut": None}, []),
        ({"update_rms": math.nan}, ["not finite"]),
    ],
)
def test_thresholds_of_parameters(change, wanted):
    assert parameter_findings({**PARAMETER, **change}) == wanted


def test_pointwise_layers_are_known_by_their_declaration():
    assert [name for name in LAYERS if is_pointwise(LAYERS.load(name))] == ["gelu"]


def test_a_flow_without_a_run_is_of_a_small_model_on_the_package_itself():
    flow = fresh_flow(seed=3)
    assert flow.stepper.model.config.n_layer == 4
    assert flow.windows.targets > 100_000
    assert package_text().tobytes().startswith(b'"""')
    other = fresh_flow(seed=4)
    assert (flow.stepper.model.arena.values != other.stepper.model.arena.values).any()


def test_checks_of_a_run_are_of_a_size_that_ends():
    nano = ModelConfig("gpt2", 4, 4, 128, 512, 64, 256)
    assert sizes_for(nano, 10_000) == (2, 32)
    assert sizes_for(nano, 2) == (1, 1)
    assert sizes_for(nano, 34) == (2, 32)
    assert sizes_for(replace(nano, block_size=5), 10_000) == (2, 5)
    assert sizes_for(replace(nano, n_layer=12, n_embd=768), 10_000) == (1, 8)
