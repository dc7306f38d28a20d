"""The table of gradient flow: figures with bars, findings named, in a terminal and in a pipe."""

from __future__ import annotations

import math

import pytest

from cllm_cli.reporting.flow import show_flow


def layer(name: str, activation: float, gradient: float | None, *findings: str, dead: int | None = None) -> dict:
    values = {"event": "flow", "kind": "layer", "name": name, "layer": "linear", "shape": [4, 8], "dead": dead}
    values |= {"activation_rms": activation, "activation_max": 2 * activation, "gradient_rms": gradient}
    return values | {"findings": list(findings)}


def parameter(name: str, shape: list[int], ratio: float | None, *findings: str) -> dict:
    values = {"event": "flow", "kind": "parameter", "name": name, "shape": shape, "weight_rms": 0.02}
    values |= {"gradient_rms": 1e-3, "update_rms": 2e-5, "update_ratio": ratio, "shut": None}
    return values | {"findings": list(findings)}


ROWS = [
    layer("embedding", 0.02, 1e-3),
    layer("transformer.h.0.gelu", 0.2, 1e-4, "dead units", dead=3),
    layer("transformer.h.0.mlp.c_proj", math.nan, None, "not finite"),
    layer("cross_entropy", 5.5, None),
    parameter("transformer.wte.weight", [16, 8], 1e-3),
    parameter("transformer.h.0.mlp.c_fc.weight", [8, 32], 0.2, "large update"),
    parameter("transformer.h.0.mlp.c_fc.bias", [32], 1.0),
    {
        "event": "end",
        "steps": 2,
        "batch": 4,
        "grad_accum": 1,
        "time": 8,
        "losses": [5.5, 5.25],
        "rates": [0.1, 0.0],
        "findings": 3,
    },
]


def test_a_pipe_gets_every_figure_in_ascii(pipe):
    show_flow(ROWS, pipe)
    text = pipe.getvalue()
    assert text.isascii()
    assert "\x1b" not in text
    lines = [line.split() for line in text.splitlines()]
    assert ["h.0.gelu", "2.00e-01", "####", "1.00e-04", "#", "3", "dead", "units"] in lines
    assert ["h.0.mlp.c_proj", "nan", "-", "-", "not", "finite"] in lines
    assert ["h.0.mlp.c_fc.bias", "2.00e-02", "1.00e-03", "2.00e-05", "1.00e+00"] in lines
    assert "dead units: h.0.gelu" in text.splitlines()
    assert text.splitlines()[-1] == "2 steps of 4 x 8 tokens, loss 5.5000 to 5.2500, 3 findings"


def test_accumulation_and_a_schedule_at_its_end_are_told(pipe):
    show_flow([{**ROWS[-1], "grad_accum": 3, "rates": [0.0, 0.0], "findings": 0}], pipe)
    wanted = "2 steps of 3 x 4 x 8 tokens, loss 5.5000 to 5.2500, learning rate 0, nothing out of the ordinary"
    assert pipe.getvalue().splitlines()[-1] == wanted


def test_bars_grow_with_the_logarithm(pipe):
    show_flow([layer("linear", 10.0**power, 1.0) for power in range(-4, 4)], pipe)
    bars = [line.split()[2].count("#") for line in pipe.getvalue().splitlines()[1:9]]
    assert bars == sorted(bars)
    assert bars[0] == 1
    assert bars[-1] == 8


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_it_fits_its_terminal(terminal, width):
    stream = terminal(width)
    show_flow(ROWS, stream)
    assert max(len(line) for line in stream.lines() if "steps" not in line) <= width
    assert "\x1b[" in stream.getvalue()


def test_many_of_a_kind_are_counted(pipe):
    show_flow([*(layer(f"h.{block}.gelu", 1.0, 1.0, "dead units") for block in range(9)), ROWS[-1]], pipe)
    assert "dead units: h.0.gelu, h.1.gelu, h.2.gelu, h.3.gelu, h.4.gelu, h.5.gelu and 3 more" in pipe.getvalue()


def test_nothing_to_show_is_no_error(pipe):
    show_flow([], pipe)
