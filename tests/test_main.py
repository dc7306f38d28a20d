"""The one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import io

import pytest

from cllm_cli import errors, main


@pytest.fixture
def outcome(monkeypatch, capsys):
    """Exit code and standard error of a command whose body raises `error`."""

    class Program:
        error: BaseException | None = None

        def main(self, args, **more):
            if self.error is not None:
                raise self.error

    def run(error, *args):
        program = Program()
        program.error = error
        monkeypatch.setattr(main, "_program", lambda: program)
        code = main.main(["train", *args])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("what", "do"), 1),
        (errors.UsageError("what", "do"), 2),
        (errors.CorpusError("what", "do"), 1),
        (errors.RunError("what", "do"), 1),
        (errors.TrainingError("what", "do"), 1),
        (errors.CheckFailed("what", "do"), 3),
        (errors.Interrupted(15, "what", "do"), 143),
    ],
    ids=lambda value: type(value).__name__,
)
def test_our_own_errors(outcome, error, code):
    assert outcome(error) == (code, "error: what\nhint: do\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory"),
        (OverflowError("too large"), "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError("odd"), "odd"),
        (ZeroDivisionError("x"), "unexpected ZeroDivisionError: x"),
        (RecursionError("deep"), "what was given is nested too deeply"),
        (UnicodeError("why"), "what was given is no UTF-8: why"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_others_are_one_line_and_a_hint_too(outcome, error, message):
    code, err = outcome(error)
    assert code == 1
    first, second = err.splitlines()
    assert first == f"error: {message}"
    assert second.startswith("hint: ")


def test_ctrl_c_is_130_and_a_closed_pipe_141(outcome):
    assert outcome(KeyboardInterrupt())[0] == 130
    assert outcome(BrokenPipeError()) == (141, "")


def test_a_closed_pipe_that_was_made_into_an_exit_is_141_too(outcome):
    ended = SystemExit(1)
    ended.__context__ = BrokenPipeError()
    assert outcome(ended) == (141, "")
    assert outcome(SystemExit(0)) == (0, "")


def test_debug_adds_the_traceback(outcome):
    code, err = outcome(errors.RunError("what", "do"), "--debug")
    assert code == 1
    assert err.startswith("Traceback")
    assert err.endswith("error: what\nhint: do\n")


def test_what_a_message_quotes_cannot_act_on_the_terminal(outcome):
    _, err = outcome(errors.RunError("\x1b[2J\nerror: forged", "a\tb\u202e"))
    assert err == "error: \\x1b[2J\\nerror: forged\nhint: a\\tb\\u202e\n"


def test_success_is_0(outcome):
    assert outcome(None) == (0, "")


def test_a_stderr_that_fails_changes_no_code(outcome, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("sys.stderr", Full())
    assert main.main(["frobnicate"]) == 2


def test_every_command_is_listed_with_a_first_line_of_help():
    for command in main.COMMANDS.values():
        assert command.__doc__.splitlines()[0]


def test_a_ctrl_c_while_an_error_is_told_is_130(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 130
