"""The command line in hostile surroundings: each is a clear error or a working run, never a traceback or a lost run.

Each case is a line for the shell, with text.txt and the finished run `run` beside it: `cllm` is the command, `$S` are
the flags of a run that takes a moment. It names the exit code and what is said.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from cllm_cli.errors import RunError
from cllm_cli.main import main
from cllm_cli.training import machine, train
from reliability.chains import bits, differing
from reliability.forks import TEXT

SIZES = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --batch-size 2 --dropout 0 --sample-every 0 --threads 1"
FLAGS = f"{SIZES} --steps 12 --eval-every 6 --save-every 6 --log-every 2"
NAME = "a" * 251
CASES = {
    # standard streams: what is read, what is written, what is closed or full
    "reader of one line": ("cllm generate run --tokens 500 | head -1; exit ${PIPESTATUS[0]}", {0, 141}, ""),
    "reader of one event": ("cllm eval run --json | head -0; exit ${PIPESTATUS[0]}", {0, 141}, ""),
    "reader of help": ("cllm train --help | head -1; exit ${PIPESTATUS[0]}", {0, 141}, ""),
    "output full": ("cllm inspect run >/dev/full", 1, "cannot write the output: No space left on device"),
    "events full": ("cllm train text.txt -o new $S --json >/dev/full", 1, "cannot write the output: No space left"),
    "both full": ("cllm train text.txt -o new $S >/dev/full 2>/dev/full", 1, ""),
    "errors full": ("cllm train text.txt -o new $S 2>/dev/full", 0, "cllm generate new"),
    "errors full, and one to tell": ("cllm train nowhere.txt 2>/dev/full", 1, ""),
    "errors closed, and one to tell": ("cllm train nowhere.txt 2>&-", 1, ""),
    "output closed": ("cllm train text.txt -o new $S >&-", 1, "standard output is closed"),
    "all closed": ("cllm train text.txt -o new $S <&- >&- 2>&-", 1, ""),
    "input closed": ("cllm train - -o new $S <&-", 1, "standard input is closed"),
    "input empty": ("cllm train - -o new $S </dev/null", 1, "standard input is empty"),
    "input a folder": ("cllm train - -o new $S <.", 1, "directory"),
    "input for writing alone": ("cllm train - -o new $S 0>written", 1, ""),
    "input that is not read closed": ("cllm eval run <&-", 0, "bits per byte"),
    # language and terminal
    "LANG=C": ("LANG=C cllm generate run --tokens 5 --prompt ä", 0, "ä"),
    "LC_ALL=POSIX": ("LC_ALL=POSIX PYTHONUTF8=0 cllm generate run --tokens 5 --prompt ä", 0, "ä"),
    "an unknown language": ("LC_ALL=xx_YY.nothing cllm inspect run", 0, "n_layer"),
    "an unknown encoding": ("PYTHONIOENCODING=latin-1 cllm generate run --tokens 5 --prompt ä", 0, "ä"),
    "TERM unset": ("unset TERM; cllm inspect run", 0, "n_layer"),
    "TERM unknown": ("TERM=nonsense cllm inspect run", 0, "n_layer"),
    "COLUMNS=1": ("COLUMNS=1 cllm inspect run", 0, ""),
    "COLUMNS=nonsense": ("COLUMNS=nonsense cllm train --help", 0, "Usage"),
    "COLUMNS=0": ("COLUMNS=0 LINES=0 cllm train --help", 0, "Usage"),
    "NO_COLOR": ("NO_COLOR=1 FORCE_COLOR=1 cllm inspect run", 0, "n_layer"),
    # what Numba and OpenMP read
    "OMP_NUM_THREADS": ("OMP_NUM_THREADS=1 cllm eval run", 0, "bits per byte"),
    "OMP_NUM_THREADS no number": ("OMP_NUM_THREADS=abc cllm eval run", 0, "bits per byte"),
    "OMP_THREAD_LIMIT": ("OMP_THREAD_LIMIT=1 cllm eval run", 0, "bits per byte"),
    "NUMBA_NUM_THREADS": ("NUMBA_NUM_THREADS=1 cllm eval run", 0, "bits per byte"),
    "NUMBA_NUM_THREADS too few": ("NUMBA_NUM_THREADS=1 cllm eval run --threads 2", 1, "--threads 2 is more than"),
    "NUMBA_NUM_THREADS no number": ("NUMBA_NUM_THREADS=abc cllm eval run", 0, "warning: Environment variable"),
    "NUMBA_NUM_THREADS none": ("NUMBA_NUM_THREADS=0 cllm eval run", 1, "NUMBA_NUM_THREADS=0 leaves no thread"),
    "NUMBA_NUM_THREADS below": ("NUMBA_NUM_THREADS=-3 cllm train text.txt -o new $S", 1, "=-3 leaves no thread"),
    "NUMBA_NUM_THREADS none, and doctor": ("NUMBA_NUM_THREADS=0 cllm doctor", 3, "NUMBA_NUM_THREADS is no number"),
    "NUMBA_NUM_THREADS 1000": ("NUMBA_NUM_THREADS=1000 cllm train text.txt -o new $S", 0, "cllm generate new"),
    "a threading layer": ("NUMBA_THREADING_LAYER=workqueue cllm train text.txt -o new $S", 0, "cllm generate new"),
    "a layer that is not installed": ("NUMBA_THREADING_LAYER=tbb cllm eval run", {0, 1}, ""),
    "a layer that is none": ("NUMBA_THREADING_LAYER=x cllm train text.txt -o new $S", 1, "unset NUMBA_THREADING_LAYER"),
    "layers that are none": ("NUMBA_THREADING_LAYER_PRIORITY=x cllm eval run", 1, "cannot start its threads"),
    "a CPU that is none": ("NUMBA_CPU_NAME=nonsense CLLM_CACHE_DIR=$PWD/c cllm tokenize text.txt -o t", 0, ""),
    "no JIT": ("NUMBA_DISABLE_JIT=1 cllm train text.txt -o new $S", 0, "cllm generate new"),
    "no JIT, perhaps": ("NUMBA_DISABLE_JIT=x cllm eval run", 0, "warning: Environment variable"),
    "Numba's own cache": ("NUMBA_CACHE_DIR=$PWD/numba cllm eval run && ! ls numba", 0, "bits per byte"),
    "CLLM_CPU": ("CLLM_CPU=pentium cllm eval run", 1, "unknown CPU level 'pentium'"),
    # names
    "a line break": ("cp text.txt $'new\\nline.txt'; cllm train $'new\\nline.txt' $S", 0, "new\\nline"),
    "a missing name with a line break": ("cllm train $'new\\nline' $S", 1, "no file or folder new\\nline"),
    "an escape": ("cllm train $'\\e[31mred' $S", 1, "\\x1b[31mred"),
    "a leading dash": ("cp text.txt -- -dash.txt; cllm train -o new $S -- -dash.txt", 0, "cllm generate new"),
    "a leading dash as a flag": ("cllm train -dash.txt -o new $S", 2, "unknown flag -d"),
    "no UTF-8": ("cp text.txt $'bad\\xff.txt'; cllm train $'bad\\xff.txt' $S", 0, "runs/bad"),
    "255 bytes": (f"cp text.txt {NAME}.txt; cllm train {NAME}.txt $S", 0, NAME),
    "256 bytes": (f"cllm train text.txt -o {NAME}aaaaa $S", 1, "File name too long"),
    "a path of 5000 bytes": (f"cllm train text.txt -o {'b/' * 2500}c $S", 1, "File name too long"),
    "an emoji": ("cp text.txt 🦙.txt; cllm train 🦙.txt $S", 0, "runs/🦙"),
    "spaces": ("cp text.txt ' a  b .txt'; cllm train ' a  b .txt' $S", 0, "'runs/ a  b '"),
    "right to left": ("cp text.txt טקסט.txt; cllm train טקסט.txt $S", 0, "runs/טקסט"),
    "an override of direction": ("cllm train $'a\\u202etxt' $S", 1, "\\u202e"),
    "an empty name": ("cllm train '' $S", 1, "error: "),
    "a folder without a name": ("cllm train text.txt -o '' --resume", 1, "there is no run"),
    "a thousand files": (
        "for n in {1..1000}; do echo $n; done | split -l 1 - part; cllm train part* -o new $S",
        0,
        "cllm generate new",
    ),
    "a long value": ("cllm train text.txt --tokenizer $(printf 'a%.0s' {1..100000})", 1, "unknown tokenizer"),
    # folders
    "out is /dev/null": ("cllm train text.txt -o /dev/null $S", 1, "/dev/null is no folder"),
    "out is /": ("cllm train text.txt -o / $S", 1, "/ is not empty and no run"),
    "out is .": ("cllm train text.txt -o . $S", 1, "is not empty and no run"),
    "out is a FIFO": ("mkfifo fifo; cllm train text.txt -o fifo $S", 1, "fifo is no folder"),
    "out is in /proc": ("cllm train text.txt -o /proc/run $S", 1, "cannot write to /proc/run"),
    "out is a link to a folder": ("mkdir real; ln -s real link; cllm train text.txt -o link $S", 0, "generate link"),
    "out is a link to itself": ("ln -s loop loop; cllm train text.txt -o loop $S", 1, "loop is no folder"),
    "a run through a link": ("ln -s run link; cllm train text.txt -o link --resume", 0, "generate link"),
    "a FIFO for a run": ("mkfifo fifo; cllm eval fifo", 1, "there is no run in fifo"),
    "a device for a text": ("cllm train /dev/null -o new $S", 1, "/dev/null"),
    "the current folder is gone": ("mkdir gone; cd gone; rmdir ../gone; cllm train ../text.txt -o new $S", 1, ""),
    "umask 077": ("umask 077; cllm train text.txt -o new $S && stat -c %a new", 0, "700"),
    "umask 000": ("umask 000; cllm train text.txt -o new $S && stat -c %a new/.lock", 0, "644"),
    # limits and no home
    "ulimit -v for nothing": ("ulimit -v 150000; cllm train text.txt -o new $S", {1, 127, 130, 134, 139}, ""),
    "ulimit -v for too little": (
        "ulimit -v 2500000; cllm train text.txt -o new $S --n-layer 40 --n-embd 1024",
        1,
        "ulimit -v leaves",
    ),
    "ulimit -n": ("ulimit -n 12; cllm train text.txt -o new $S", 0, "cllm generate new"),
    "ulimit -n for nothing": ("ulimit -n 5; cllm train text.txt -o new $S", 1, ""),
    "ulimit -f": ("ulimit -f 20; cllm train text.txt -o new $S", 1, "cannot write new/"),
    "ulimit -f 0": ("ulimit -f 0; cllm train text.txt -o new $S", 1, "File too large"),
    "ulimit -t": ("ulimit -t 100; cllm eval run", 0, "bits per byte"),
    "HOME unset": ("unset HOME; cllm eval run", 0, "bits per byte"),
    "PATH empty": ("PATH= cllm eval run", 0, "bits per byte"),
    "no folder for temporary files": ("TMPDIR=/nowhere cllm eval run", 0, "bits per byte"),
}
UNHEALTHY = {"ulimit -v for nothing", "ulimit -n for nothing", "the current folder is gone", "ulimit -f 0"}
"""Where Python itself may not start: it says so in its own way."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with text.txt and a run on it. Not to be changed."""
    place = tmp_path_factory.mktemp("surroundings")
    (place / "text.txt").write_text(TEXT, "utf-8")
    done = _shell("cllm train text.txt -o run $S", place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _shell(line, place):
    command = f'cllm() {{ {shlex.quote(sys.executable)} -m cllm_cli "$@"; }}; S={shlex.quote(FLAGS)}\n{line}'
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_surroundings(case, place, monkeypatch):
    line, codes, words = CASES[case]
    before = bits(place / "run")
    done = _shell(line, place)
    assert done.returncode in (codes if isinstance(codes, set) else {codes}), done.stderr
    assert words in done.stdout + done.stderr
    if case not in UNHEALTHY:
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    assert "unexpected" not in done.stderr
    assert differing(bits(place / "run"), before) == []
    if (place / "new/config.toml").exists():  # whatever ended it, it goes on
        monkeypatch.chdir(place)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
            code = main(["train", "text.txt", "-o", "new", "--resume", "--quiet"])
        assert code == (1 if "part*" in line else 0), told.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 40])
@pytest.mark.parametrize("term", ["xterm-256color", "dumb", ""])
def test_narrow_terminals(place, columns, term):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 10, columns, 0, 0))
    environment = {**os.environ, "TERM": term, "OMP_WAIT_POLICY": "passive"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "cllm_cli", "train", "text.txt", "-o", "new", *FLAGS.split()]
    shown = b""
    with subprocess.Popen(
        command, cwd=place, env=environment, stdin=follower, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        while True:
            try:
                shown += os.read(leader, 4096)
            except OSError:  # the other end was closed
                break
    os.close(leader)
    assert process.returncode == 0, shown
    assert b"Traceback" not in shown
    assert (b"\x1b[" in shown) == (term == "xterm-256color")


# While training, in this process

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 2, "dropout": 0.0, "steps": 12}
OFTEN = {"eval_every": 6, "save_every": 3, "log_every": 1, "sample_every": 0, "threads": 1}


def _train(place, name="new", during=lambda record: None, **more):
    for record in train([place / "text.txt"], place / name, **({} if more.get("resume") else TINY | OFTEN), **more):
        during(record)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return tmp_path / "text.txt"


def at_step(number, do):
    return lambda record: do() if record.event == "step" and record.step == number else None


def test_a_folder_that_is_deleted_while_training(text, tmp_path):
    with pytest.raises(RunError, match="new"):
        _train(tmp_path, during=at_step(5, lambda: shutil.rmtree(tmp_path / "new")))
    _train(tmp_path)


@pytest.mark.parametrize("do", [Path.unlink, lambda path: path.write_text("other text " * 100)])
def test_a_corpus_that_is_changed_while_training(text, tmp_path, do):
    """The run was begun on what it was, and ends on it."""
    _train(tmp_path, "whole")
    _train(tmp_path, during=at_step(5, lambda: do(text)))
    assert differing(bits(tmp_path / "whole"), bits(tmp_path / "new")) == []


def test_a_clock_that_jumps(text, tmp_path, monkeypatch):
    """What time it is is never asked: only how much has passed."""
    _train(tmp_path, "whole")
    times = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: float(next(times)))
    seconds = []
    _train(tmp_path, during=lambda record: seconds.append(record.seconds) if record.event == "end" else None)
    assert 0 <= seconds[0] < 600
    assert differing(bits(tmp_path / "whole"), bits(tmp_path / "new")) == []


def test_a_control_group_with_too_little_memory(text, tmp_path, monkeypatch):
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text("30000000\n")
    (group / "memory.current").write_text("10000000\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    monkeypatch.setattr(machine, "GROUPS", group)
    monkeypatch.setattr(machine, "OF_PROCESS", tmp_path / "self")
    with pytest.raises(
        Exception, match=r"training needs [\d,]+ MB of memory, its control group leaves 20 MB"
    ) as raised:
        list(train([text], tmp_path / "new", **TINY | OFTEN | {"batch_size": 4096, "n_embd": 64}))
    assert "--batch-size" in raised.value.hint
    assert not (tmp_path / "new").exists()


def test_a_control_group_with_the_time_of_one_core(text, tmp_path, monkeypatch):
    """A run takes as many threads as a quota amounts to, whatever cores there are."""
    (tmp_path / "group").mkdir()
    (tmp_path / "group/cpu.max").write_text("100000 100000\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "group")
    monkeypatch.setattr(machine, "OF_PROCESS", tmp_path / "self")
    free = {name: value for name, value in (TINY | OFTEN).items() if name != "threads"}
    first = next(iter(train([text], tmp_path / "new", **free)))
    assert first.config["threads"] == 1


@pytest.fixture
def read_only(tmp_path):
    """A folder on a disk that cannot be written to."""
    place = tmp_path / "read-only"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=100k", "none", place]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_folder_that_cannot_be_written_to(text, tmp_path, read_only):
    with pytest.raises(RunError, match=r"cannot write to .*read-only/run: Read-only file system"):
        list(train([text], read_only / "run", **TINY | OFTEN))
    with pytest.raises(RunError, match=r"cannot write to .*read-only: Read-only file system"):
        list(train([text], read_only, **TINY | OFTEN))
