"""Ctrl-C, kill, a terminal that goes away, a disk that is full: what was trained is there afterwards, and goes on."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
STEPS = ("--steps", 400, "--eval-every", 200, "--save-every", 200, "--log-every", 1, "--seed", 7)


def wait_for(process, event, step=0):
    """Reads JSON lines until one is of this event (and of this step, or a later one); gives all of them."""
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == event and events[-1].get("step", 0) >= step:
            return events
    pytest.fail(f"no {event} came: {process.stderr.read()}")


def finish(process):
    """The events that are left, and what was said on standard error."""
    out, err = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()], err


@pytest.fixture
def train(start, text, sizes):
    """Starts to train, long enough to be stopped."""
    return lambda *flags, **more: start("train", text, "-o", "out", *sizes, *STEPS, "--json", *flags, **more)


@pytest.fixture(scope="module")
def whole(cllm, trained, sizes, bits, tmp_path_factory):
    """The bits of the run that nobody stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    cllm("train", trained / "text.txt", "-o", run, *sizes, *STEPS).assert_done()
    return bits(run)


@pytest.mark.parametrize("number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in CODES if n != 2)])
def test_a_signal_saves_first_and_the_run_goes_on_to_the_same_bits(train, cllm, text, whole, bits, number):
    process = train()
    wait_for(process, "step", 5)
    process.send_signal(number)
    events, err = finish(process)
    assert process.returncode == CODES[number]
    assert events[-1]["event"] == "end"
    assert events[-1]["stopped"] == "interrupt"
    assert [event["event"] for event in events].count("checkpoint") == 1
    assert Path("out/checkpoint", f"step-{events[-1]['step']:08}").is_dir()
    assert Path("out/model.safetensors").exists()
    assert "Traceback" not in err
    assert [line.split(":")[0] for line in err.splitlines()[-2:]] == ["error", "hint"]
    cllm("generate", "out", "--tokens", 3).assert_done()
    cllm("train", text, "-o", "out", "--resume").assert_done()
    assert bits(Path("out")) == whole


@pytest.mark.parametrize("number", CODES)
def test_whoever_waits_for_text_is_stopped_by_one_signal(start, sizes, number):
    process = start("train", "-", "-o", "out", *sizes, stdin=subprocess.PIPE)
    process.stdin.write("more than a pipe holds " * 10_000)  # so this ends when most of it was read
    process.stdin.flush()
    process.send_signal(number)
    assert process.wait(10) == CODES[number]
    assert process.stderr.read().startswith("error: ended at once")
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(train):
    """A step of so many micro-batches takes seconds, and the first signal lets it end."""
    process = train("--grad-accum", 20_000)
    wait_for(process, "step", 1)
    for _ in range(2):
        with pytest.raises(
            subprocess.TimeoutExpired
        ):  # in the midst of the second step, before and after the first one
            process.wait(0.2)
        process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    events, err = finish(process)
    assert "end" not in [event["event"] for event in events]
    assert "Traceback" not in err
    assert "error: ended at once" in err


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["new-cache", "file/cache"], ids=["into a new cache", "where none can be made"])
def test_before_the_first_step_nothing_is_left_that_stands_in_the_way(
    train, cllm, text, sizes, bits, whole, tmp_path, cache
):
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    process = train(env={"CLLM_CACHE_DIR": str(tmp_path / cache), "TMPDIR": str(tmp_path / "temporary")})
    wait_for(process, "start")
    process.send_signal(signal.SIGINT)
    events, err = finish(process)
    assert process.returncode == 130
    assert not [*(tmp_path / "temporary").iterdir()]
    assert "Traceback" not in err
    assert [event["event"] for event in events if event["event"] == "step"] == []
    assert events[-1]["event"] == "end"
    assert events[-1]["stopped"] == "interrupt"
    resumed = shutil.copytree("out", "resumed")
    cllm("train", text, "-o", resumed, "--resume").assert_done()
    cllm("train", text, "-o", "out", *sizes, *STEPS).assert_done()
    assert bits(Path("out")) == bits(Path("resumed")) == whole


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6, 0.9, 1.2, 1.5])
def test_a_signal_at_any_moment_of_the_start_gives_no_traceback(train, cllm, text, sizes, delay):
    process = train()
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    _, err = finish(process)
    if (
        "from cllm_cli.main import run" not in err and process.returncode != -signal.SIGINT
    ):  # Python itself was starting
        assert "Traceback" not in err
        assert process.returncode == 130
    done = cllm("train", text, "-o", "out", *sizes, "--steps", 1)
    assert done.code == 0 or "there is a run in out" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1])
def test_a_kill_loses_what_came_after_the_last_checkpoint_and_no_more(train, cllm, text, whole, bits, delay):
    process = train("--save-every", 3)
    wait_for(process, "checkpoint", 6)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = cllm("train", text, "-o", "out", "--resume", "--json").assert_done()
    assert done.of("start")[0]["step"] >= 6
    assert bits(Path("out")) == whole
    steps = [json.loads(line) for line in Path("out/metrics.jsonl").read_text("utf-8").splitlines()]
    assert [event["step"] for event in steps if event["event"] == "step"] == list(range(1, 401))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_was_to_be_ignored_is_ignored(train, number):
    """nohup ignores SIGHUP for what it starts, and a script's shell SIGINT for what it puts into the background."""
    process = train(preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    wait_for(process, "step", 5)
    process.send_signal(number)
    events, _ = finish(process)
    assert process.returncode == 0
    assert events[-1]["stopped"] == "steps"


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "words"), [((), b"tokens/s"), (("--json",), b'"event":"step"')])
def test_a_terminal_that_goes_away_is_survived(text, sizes, cllm, bits, whole, flags, words):
    """Closing the window hangs up: SIGHUP comes, and neither stream can be written to any more."""
    child, terminal = pty.fork()
    if child == 0:
        command = [sys.executable, "-m", "cllm_cli", "train", str(text), "-o", "out", *sizes, *map(str, STEPS), *flags]
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", "OMP_WAIT_POLICY": "passive"})
    shown = b""
    while words not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert list(Path("out/checkpoint").iterdir())
    cllm("train", text, "-o", "out", "--resume").assert_done()
    assert bits(Path("out")) == whole


# A disk that is full


def limit(process, size):
    """From now on the process can write no file beyond this size."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_checkpoint_before_it_goes_on(train, cllm, text, whole, bits):
    process = train("--save-every", 3)
    wait_for(process, "checkpoint", 6)
    limit(process, 40_000)
    _, err = finish(process)
    assert process.returncode == 1
    assert err.startswith("error: cannot write out/")
    assert "File too large" in err
    assert "hint: " in err
    assert "Traceback" not in err
    assert not list(Path("out").rglob(".tmp-*"))
    cllm("train", text, "-o", "out", "--resume").assert_done()
    assert bits(Path("out")) == whole


@pytest.mark.slow
def test_end_is_the_last_line_whatever_ended_the_run(train):
    process = train("--save-every", 3)
    wait_for(process, "checkpoint", 6)
    limit(process, 40_000)
    events, _ = finish(process)
    assert events[-1]["event"] == "end"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", place]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_while_training(cllm, text, tiny, small_disk, bits):
    """Model and checkpoint take 31 and 92 kB: the second checkpoint fits beside the first, the third does not."""
    flags = [*tiny, "--save-every", 2]
    found = cllm("train", text, "-o", small_disk / "run", *flags, "--quiet")
    assert found.code == 1
    assert found.err.startswith(f"error: cannot write {small_disk}/run/")
    assert "No space left on device" in found.err
    assert "Traceback" not in found.err
    assert found.out == ""
    shutil.copytree(small_disk / "run", "roomy")
    cllm("train", text, "-o", "roomy", "--resume").assert_done()
    cllm("train", text, "-o", "whole", *flags).assert_done()
    assert bits(Path("roomy")) == bits(Path("whole"))


def test_a_disk_that_is_full_from_the_start(cllm, text, tiny, small_disk):
    (small_disk / "rest").write_bytes(bytes(300_000 - 8192))
    found = cllm("train", text, "-o", small_disk / "run", *tiny)
    assert found.code == 1
    assert "No space left on device" in found.err
    (small_disk / "rest").unlink()
    cllm("train", text, "-o", small_disk / "run", *tiny, "--steps", 1).assert_done()


# A signal before or after what listens for records


def test_a_signal_while_nothing_is_shown_yet_has_its_own_exit_code(cllm, text, tiny, monkeypatch):
    monkeypatch.setattr("cllm_cli.reporting.reporter.make_reporter", lambda **_: signal.raise_signal(signal.SIGTERM))
    cllm("train", text, "-o", "out", *tiny).assert_error(143, "ended at once", "nothing was changed")
    assert not Path("out").exists()


def test_other_commands_say_that_they_were_interrupted(cllm, run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cllm_cli.training.run_folder.RunFolder.read_settings", interrupt)
    found = cllm("eval", run)
    assert (found.code, found.err) == (130, "error: interrupted\n")
