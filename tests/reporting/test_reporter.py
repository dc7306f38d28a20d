from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cllm_cli.reporting.consumer import Consumer
from cllm_cli.reporting.reporter import Reporter, make_reporter
from cllm_cli.training.records import Notice


def run(records, **options):
    with make_reporter(**options) as reporter:
        for record in records:
            reporter.show(record)


def test_results_go_to_standard_output_and_progress_to_standard_error(records, terminal, pipe):
    err = terminal()
    run(records, stdout=pipe, stderr=err)
    assert pipe.getvalue().splitlines()[0] == "validation loss  1.7427"
    assert len(pipe.getvalue().splitlines()) == 4
    assert "\x1b" in err.getvalue()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "")])
def test_no_color_and_dumb_terminals_get_plain_lines(records, terminal, pipe, monkeypatch, name, value):
    err = terminal()
    monkeypatch.setenv(name, value)
    run(records, stdout=pipe, stderr=err)
    assert err.getvalue().startswith("start  ")
    assert err.getvalue().isascii()
    assert "\x1b" not in err.getvalue()


def test_a_pipe_gets_plain_lines_even_where_color_is_forced(records, terminal, pipe, monkeypatch):
    err = type(pipe)()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    run(records, stdout=pipe, stderr=err)
    assert "\x1b" not in err.getvalue() + pipe.getvalue()


def test_quiet_leaves_notices_and_results(records, terminal, pipe):
    err = terminal()
    run(records, quiet=True, stdout=pipe, stderr=err)
    assert err.getvalue().startswith("note: the corpus is small\n")
    assert all(line.startswith("note: ") for line in err.getvalue().splitlines())
    assert len(pipe.getvalue().splitlines()) == 4


@pytest.mark.parametrize("quiet", [True, False])
def test_json_makes_standard_output_json_lines_and_nothing_else(records, terminal, pipe, quiet):
    err = terminal()
    run(records, json=True, quiet=quiet, stdout=pipe, stderr=err)
    events = [json.loads(line)["event"] for line in pipe.getvalue().splitlines()]
    assert events[0] == "start"
    assert events[-1] == "end"
    assert ("generate with" in err.getvalue()) is not quiet


def test_json_on_a_terminal_is_not_torn_by_a_screen(records, terminal):
    out, err = terminal(), terminal()
    run(records, json=True, stdout=out, stderr=err)
    assert err.getvalue().startswith("note: the corpus is small\n")
    assert all(line.startswith("note: ") for line in err.getvalue().splitlines())
    assert all(json.loads(line) for line in out.getvalue().splitlines())


def test_an_exception_closes_the_screen_and_comes_through(records, terminal, pipe):
    err = terminal()

    def interrupted():
        yield from records[:12]
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        run(interrupted(), stdout=pipe, stderr=err)
    assert err.getvalue().count("\x1b[?25l") == err.getvalue().count("\x1b[?25h") == 1
    assert pipe.getvalue() == ""


class Failing(Consumer):
    def __init__(self, error: OSError, vital: bool = False) -> None:
        self.error = error
        self.vital = vital  # type: ignore[misc]  # a consumer declares it as constant of its class
        self.calls = 0

    def show(self, record) -> None:
        self.calls += 1
        raise self.error


def test_a_terminal_that_went_away_does_not_end_the_run():
    gone = Failing(OSError(5, "Input/output error"))
    with Reporter([gone]) as reporter:
        for _ in range(3):
            reporter.show(Notice("text"))
    assert gone.calls == 1


@pytest.mark.parametrize("consumer", [Failing(BrokenPipeError()), Failing(OSError(28, "No space left"), vital=True)])
def test_a_closed_pipe_and_lost_results_do(consumer):
    with pytest.raises(OSError), Reporter([consumer]) as reporter:  # noqa: PT011 - any OSError
        reporter.show(Notice("text"))


def test_neither_numba_nor_numpy_is_imported_and_rich_only_for_a_screen():
    code = (
        "import io, sys; from cllm_cli.reporting.reporter import make_reporter\n"
        "make_reporter(json=True, stdout=io.StringIO(), stderr=io.StringIO()); print('rich' in sys.modules)\n"
        "import cllm_cli.reporting.console, cllm_cli.reporting.tables; print({'numba', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "set()"]
