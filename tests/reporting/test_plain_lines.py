from __future__ import annotations

import math

import pytest

from cllm_cli.reporting.lines import SAMPLE_LENGTH, Lines, Notices, Results
from cllm_cli.reporting.terminal import write_line
from cllm_cli.training.records import Compiling, End, Evaluating, Notice, Sample, Start, Step


def test_a_run_is_a_line_a_record(records, pipe):
    lines = Lines(pipe, clock=lambda: 0.0)
    for record in records:
        lines.show(record)
    written = pipe.getvalue().splitlines()
    kinds = [line.split()[0] for line in written]
    assert kinds[:3] == ["start", "note:", "compiled"]
    assert kinds[-1] == "end"
    assert [kinds.count(kind) for kind in ("step", "eval", "sample", "checkpoint")] == [20, 2, 2, 2]
    assert written[3].startswith("step 10/200  loss 4.8859  lr 1.00e-03  grad norm 0.500  18400 tokens/s  41.7 ms")
    assert written[-1] == "end  step 200 reached in 1:23"
    assert pipe.getvalue().isascii()
    assert "\x1b" not in pipe.getvalue()


def test_the_start_says_what_is_trained_on_what(records, pipe):
    Lines(pipe).show(records[0])
    for phrase in ("1,003,854 training tokens", "4 layers, 128 wide, 4 heads, T=64, vocabulary 256", "34.8 MB"):
        assert phrase in pipe.getvalue()


def test_work_is_reported_after_a_second_and_then_seldom(pipe):
    now = [0.0]
    lines = Lines(pipe, clock=lambda: now[0])
    for tick in range(300):
        now[0] = tick / 10
        lines.show(Compiling("gemm_nn", tick, 300))
    assert len(pipe.getvalue().splitlines()) == 3
    assert pipe.getvalue().startswith("compiling, once: gemm_nn, 10 of 300 done\n")
    lines.show(Step(1, 1.0, 1e-3, 1.0, 1.0, 1.0))
    lines.show(Evaluating(0, 5))
    assert pipe.getvalue().splitlines()[-1].startswith("step 1 ")


def test_hostile_text_stays_on_its_line(pipe):
    lines = Lines(pipe)
    lines.show(Sample(1, "a\nb\x1b]0;title\x07\r\u202e" + "x" * 1000))
    lines.show(Notice("one\ntwo\x1b[31m"))
    lines.show(Start(1, 1, 1, {}, {"arch": "\x1b[2J"}, "runs/\n\x1b[2J"))
    assert len(pipe.getvalue().splitlines()) == 3
    assert "\x1b" not in pipe.getvalue()
    assert len(pipe.getvalue().splitlines()[0]) < SAMPLE_LENGTH + 20


def test_a_loss_that_is_not_finite_is_shown(pipe):
    Lines(pipe).show(Step(1, math.nan, 1e-3, math.inf, 1.0, 1.0))
    assert "loss nan" in pipe.getvalue()
    assert "grad norm inf" in pipe.getvalue()


def test_results_name_losses_run_and_the_command_to_generate(records, pipe):
    results = Results(pipe)
    for record in records:
        results.show(record)
    assert pipe.getvalue().splitlines() == [
        "validation loss  1.7427",
        "bits per byte    2.514",
        "run folder       runs/a tale",
        "generate with    cllm generate 'runs/a tale'",
    ]


def test_results_name_the_best_step_where_it_is_another(records, pipe):
    results = Results(pipe)
    for record in records[:-1]:
        results.show(record)
    results.show(End(200, 1.9, 1.8, 1.0, "steps", run="runs/x"))
    assert "best validation  1.8000 at step 200\n" in pipe.getvalue()


def test_results_of_a_run_without_evaluation(pipe):
    Results(pipe).show(End(3, None, None, 1.0, "interrupt", run="runs/x"))
    assert pipe.getvalue().startswith("validation loss  none")
    assert "generate with" in pipe.getvalue()


def test_a_run_without_a_step_has_no_weights_to_generate_with(pipe):
    Results(pipe).show(End(0, None, None, 1.0, "interrupt", run="runs/x"))
    assert pipe.getvalue().splitlines()[-1] == "run folder       runs/x"


def test_notices_alone(records, pipe):
    notices = Notices(pipe)
    for record in records:
        notices.show(record)
    assert pipe.getvalue().splitlines() == [
        "note: the corpus is small",
        "note: the loss of step 200 is 3.25, 7.0 deviations above those before it",
        "note: the loss is not finite: skipped",
        "note: the loss jumped: back from step 202 to 190, and on with other batches",
    ]


@pytest.mark.parametrize(("encoding", "written"), [("ascii", "caf\\xe9 \\u2014\n"), ("utf-8", "café —\n")])
def test_a_line_can_be_written_in_any_encoding(pipe, monkeypatch, encoding, written):
    monkeypatch.setattr(pipe, "_encoding", encoding)
    write_line(pipe, "café —")
    assert pipe.getvalue() == written
