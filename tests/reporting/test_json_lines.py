from __future__ import annotations

import json
import math
import sys

import pytest

from cllm_cli.reporting.records import JsonLines, json_line
from cllm_cli.training.records import Compiling, Evaluating, Sample, Step

CONTRACT = {
    "start": ["event", "params", "train_tokens", "val_tokens", "memory_bytes", "config"],
    "compile": ["event", "seconds"],
    "step": ["event", "step", "loss", "lr", "grad_norm", "tokens_per_s", "ms"],
    "eval": ["event", "step", "train_loss", "val_loss", "bits_per_byte", "perplexity"],
    "sample": ["event", "step", "text"],
    "checkpoint": ["event", "step", "path"],
    "spike": ["event", "step", "loss", "z"],
    "skip": ["event", "step", "reason"],
    "rollback": ["event", "step", "to_step", "reason"],
    "end": ["event", "step", "val_loss", "best_val_loss", "seconds", "stopped"],
}


def test_every_event_has_the_keys_of_the_contract_and_end_is_last(records, pipe):
    lines = JsonLines(pipe)
    for record in records:
        lines.show(record)
    found = [json.loads(line) for line in pipe.getvalue().splitlines()]
    assert {values["event"] for values in found} == {*CONTRACT, "notice"}
    for values in found:
        keys = CONTRACT.get(values["event"], ["event", "message"])
        assert list(values)[: len(keys)] == keys
    assert found[-1]["event"] == "end"


def test_records_for_the_screen_alone_are_not_written(pipe):
    JsonLines(pipe).show(Compiling("gemm", 0, 2))
    JsonLines(pipe).show(Evaluating(1, 2))
    assert pipe.getvalue() == ""


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, sys.float_info.max, -0.0, 1e16, 2.0])
def test_floats_come_back_bit_for_bit(value):
    back = json.loads(json_line({"value": value}))["value"]
    assert math.copysign(1, back) == math.copysign(1, value)
    assert back == value


def test_what_is_not_finite_is_null(pipe):
    JsonLines(pipe).show(Step(1, math.nan, 1e-3, math.inf, 1.0, 1.0))
    values = json.loads(pipe.getvalue(), parse_constant=lambda name: pytest.fail(name))
    assert values["loss"] is None
    assert values["grad_norm"] is None
    assert json.loads(json_line({"a": [{"b": (-math.inf, 1.0)}]})) == {"a": [{"b": [None, 1.0]}]}


def test_an_object_is_one_line_of_ascii(pipe):
    JsonLines(pipe).show(Sample(1, "a\nb\u2028é\x1b[2J"))
    assert pipe.getvalue().count("\n") == 1
    assert pipe.getvalue().isascii()
    assert "\x1b" not in pipe.getvalue()
    assert json.loads(pipe.getvalue())["text"] == "a\nb\u2028é\x1b[2J"


def test_a_line_is_flushed_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with path.open("w", encoding="ascii") as stream:
        JsonLines(stream).show(Sample(1, "text"))
        assert path.read_text(encoding="ascii").endswith("}\n")
