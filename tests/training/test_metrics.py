"""The metrics file, its lines, and signals that ask a run to end."""

from __future__ import annotations

import json
import math
import os
import signal
import tracemalloc

import pytest

from cllm_cli.errors import RunError
from cllm_cli.training.metrics import LONGEST_LINE, Metrics, events_of
from cllm_cli.training.records import Checkpointed, Notice, Pulse, Sample, json_line
from cllm_cli.training.signals import WATCHED, StopSignals


def test_events_are_appended_and_cut_back_to_where_a_checkpoint_stands(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0)
    metrics.write(Notice("one"))
    kept = metrics.length
    metrics.write(Notice("two"))
    metrics.write(Pulse(1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1, None))  # for the screen alone
    metrics.sync()
    assert path.stat().st_size == metrics.length > kept
    metrics.close()
    again = Metrics(path, kept)
    again.write(Notice("three"))
    again.close()
    assert [json.loads(line)["message"] for line in path.read_text("utf-8").splitlines()] == ["one", "three"]


def test_what_tells_of_a_checkpoint_is_in_the_file_at_once(tmp_path):
    """Whoever is killed after a save, and loses the checkpoint, is told so; other events may wait."""
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.write(Notice("one"))
    assert list(events_of(metrics.path)) == []
    metrics.write(Checkpointed(7, "step-7"))
    assert [event["event"] for event in events_of(metrics.path)] == ["notice", "checkpoint"]
    metrics.close()


def test_events_of_a_file_that_anyone_has_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event":"a"}\n[1]\n\xff\n{"event":"b"}\n{"event":\n' + b"[" * 100_000)
    assert list(events_of(path)) == [{"event": "a"}, {"event": "b"}]
    assert list(events_of(tmp_path / "none")) == []
    with pytest.raises(RunError, match="cannot read"):
        list(events_of(tmp_path))


def test_a_line_of_many_megabytes_takes_the_memory_of_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.truncate(16 * LONGEST_LINE)
    tracemalloc.start()
    assert list(events_of(path)) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * LONGEST_LINE


def test_what_was_there_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"1234567\n")
    for length, left in ((100, 8), (5, 5), (0, 0)):
        metrics = Metrics(path, length)
        assert metrics.length == path.stat().st_size == left
        metrics.close()


def test_a_sync_reaches_the_disk(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.write(Notice("one"))
    metrics.sync()
    assert sizes == [metrics.length]
    metrics.close()


def test_a_pipe_in_its_place_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    reader = os.open(tmp_path / "metrics.jsonl", os.O_RDWR)  # who opens it to write need not wait
    try:
        with pytest.raises(RunError, match="no regular file"):
            Metrics(tmp_path / "metrics.jsonl", 0)
    finally:
        os.close(reader)


@pytest.mark.parametrize("what", ["write", "sync", "close"])
def test_a_full_disk_is_a_run_error(tmp_path, what):
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)

    class Full:
        def fail(self, *_):
            raise OSError(28, "No space left on device")

        write = flush = close = fail

    whole, metrics._file = metrics._file, Full()
    with pytest.raises(RunError, match=r"cannot write .*: No space left on device"):
        getattr(metrics, what)(*[Notice("one")] * (what == "write"))
    whole.close()


def test_a_file_that_cannot_be_opened_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        Metrics(tmp_path / "none" / "metrics.jsonl", 0)


def test_what_is_not_finite_is_null():
    values = {"loss": math.nan, "many": [1.5, math.inf, (math.nan, {"deep": -math.inf})], "step": 3, "text": "ü"}
    line = json_line(values)
    assert json.loads(line) == {"loss": None, "many": [1.5, None, [None, {"deep": None}]], "step": 3, "text": "ü"}
    assert line.isascii()
    assert json.loads(json_line({"loss": 0.1})) == {"loss": 0.1}


def test_records_are_objects_with_their_event():
    assert Sample(3, "text").as_dict()["event"] == "sample"


def test_a_patient_run_notes_the_first_signal_and_ends_at_the_second():
    before = [signal.getsignal(number) for number in WATCHED]
    with StopSignals() as signals:
        signals.patient = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGTERM
    assert [signal.getsignal(number) for number in WATCHED] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)
