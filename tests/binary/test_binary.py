"""The built binary: every command works, nothing is compiled, and little of a machine is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cllm_cli
from binary.conftest import SAMPLE, Caller
from cllm_cli.kernels.levels import LEVELS, host_features

MOST_BYTES = 90_000_000
COMPILED = "lineno="  # in a line for each instruction of a function that Numba compiles (NUMBA_DUMP_BYTECODE)
SGD = "--preset nano --optimizer sgd --dropout 0.1 --steps 1 --quiet"


@pytest.fixture(scope="module")
def run(cllm):
    """The folder of a short run."""
    text = next(SAMPLE.glob("*.txt"))
    cllm("train", text, "--preset", "nano", "--steps", "3", "--quiet", "--out", "run")
    return cllm.home / "run"


def events(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_is_one_small_file(binary):
    assert binary.is_file()
    assert binary.stat().st_size <= MOST_BYTES
    with binary.open("rb") as file:
        assert file.read(4) == b"\x7fELF"


def test_the_launcher_needs_no_library(binary):
    """It has neither a loader to start it (PT_INTERP, 3) nor anything for one to link (PT_DYNAMIC, 2)."""
    with binary.open("rb") as file:
        header = file.read(64)
        offset, size, count = (int.from_bytes(header[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
        file.seek(offset)
        kinds = {int.from_bytes(file.read(size)[:4], "little") for _ in range(count)}
    assert 1 in kinds  # PT_LOAD
    assert not {2, 3} & kinds


@pytest.mark.parametrize("level", [level for level in LEVELS if LEVELS[level] <= host_features()])
def test_every_command_works_and_nothing_is_compiled(cllm, run, tmp_path, level):
    from cllm_cli.main import COMMANDS

    text = next(SAMPLE.glob("*.txt"))
    store, copy = tmp_path / "text.store", shutil.copytree(run, tmp_path / "run")
    commands = {
        "eval": ("eval", run, "--json"),
        "generate": ("generate", run, "--tokens", "5", "--check-copy"),
        "resume": ("train", "--resume", "--out", copy, "--steps", "5", "--quiet", text),
        "tokenize": ("tokenize", text, "--tokenizer", "bpe:300", "--out", store),
        "inspect run": ("inspect", run),
        "inspect text": ("inspect", text, "--json"),
        "train store": ("train", store, "--preset", "nano", "--steps", "1", "--out", tmp_path / "other", "--quiet"),
        "sgd": (*("train", text, "--out", tmp_path / "sgd"), *SGD.split()),
        "gradcheck": ("gradcheck", "--json"),
        "profile": ("profile", "--preset", "nano", "--json"),
        "warmup": ("warmup", "--json"),
        "doctor": ("doctor", "--json"),
    }
    probes = {"NUMBA_DEBUG_CACHE": "1", "NUMBA_DUMP_BYTECODE": "1"}
    assert {command[0] for command in commands.values()} == set(COMMANDS)
    ran = {name: cllm(*command, CLLM_CPU=level, **probes) for name, command in commands.items()}
    said = "".join(done.stdout for done in ran.values())
    assert COMPILED not in said  # of a function that is kept nowhere the cache tells nothing
    assert said.count("[cache] data loaded from") > 100
    assert "[cache] data saved to" not in said
    assert not any(cllm.home.glob(".cache/cllm/kernels/*/*"))
    assert sum(bool(done.stdout) for done in ran.values()) >= 10


def test_an_older_cpu_or_this_very_one_compiles_for_itself(cllm, tmp_path):
    command = ("gradcheck", "--layer", "add", "--cpu", "native")
    done = cllm(*command, CLLM_CACHE_DIR=str(tmp_path), NUMBA_DEBUG_CACHE="1")
    assert "[cache] data saved to" in done.stdout or any(tmp_path.glob("kernels/*/*.nbc"))


@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_what_is_compiled_and_not_kept_is_seen(cllm, tmp_path, mode):
    """The probes: without a cache others compile, into a folder of a command's own, or the process itself."""
    (tmp_path / "cache").write_text("no folder", "utf-8")
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(mode)
    places = {"CLLM_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "temporary")}
    probes = {"NUMBA_DEBUG_CACHE": "1", "NUMBA_DUMP_BYTECODE": "1"}
    done = cllm("gradcheck", "--layer", "add", "--cpu", "native", **places, **probes)
    assert "compiled kernels are not kept" in done.stderr
    assert "[cache] data saved to" not in done.stdout
    assert ("[cache] data loaded from" in done.stdout) is (mode == 0o700)
    assert (COMPILED in done.stdout) is (mode == 0o777)
    assert not [*(tmp_path / "temporary").glob("cllm-kernels-*")]


def test_the_level_is_the_highest_that_the_cpu_has(cllm):
    (said,) = events(cllm("--version", "--json"))
    expected = next((level for level in LEVELS if LEVELS[level] <= host_features()), "native")
    assert said["level"] == expected
    assert said["install"] == "binary"
    assert said["threading_layer"] == "omp"
    assert said["cllm"] == cllm_cli.__version__


def test_doctor_finds_nothing_wrong(cllm):
    *checks, end = events(cllm("doctor", "--json"))
    assert end["failed"] == 0
    files = next(check for check in checks if check["name"] == "files")
    assert files["ok"]
    environment = next(check for check in checks if check["name"] == "environment")
    assert environment["variables"] == {}  # what the launcher has set is not the user's


def test_doctor_without_a_cache_says_why_and_goes_on(cllm, tmp_path):
    home = tmp_path / "home"
    home.write_text("a file", "utf-8")
    *checks, end = events(cllm("doctor", "--json", HOME=str(home), TMPDIR=str(tmp_path)))
    cache = next(check for check in checks if check["name"] == "cache")
    assert (cache["ok"], cache["cache"], end["failed"]) == (True, None, 0)
    assert cache["detail"].startswith(f"{home}/.cache/cllm/kernels: Not a directory; it is not needed")
    assert any("kernel" in check for check in checks)


def test_doctor_finds_a_changed_file(cllm, tmp_path):
    own = Caller(cllm.program, tmp_path)
    own("--version")
    victim = next(own.cache.glob("*/_internal/cllm_cli/errors.py"))
    content = bytearray(victim.read_bytes())
    content[-2:-1] = b" "
    victim.chmod(0o700)
    victim.write_bytes(content)
    done = own("doctor", "--json", code=3)
    assert "cllm_cli/errors.py" in done.stdout


def test_help_of_every_command(cllm):
    from cllm_cli.main import COMMANDS

    for name in COMMANDS:
        assert f"cllm {name}" in cllm(name, "--help").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its root")
def test_it_runs_in_an_empty_root(cllm, tmp_path):
    root = tmp_path / "root"
    for folder in ("lib64", "lib/x86_64-linux-gnu", "dev", "proc", "home"):
        (root / folder).mkdir(parents=True)
    for name in ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"):
        shutil.copy(f"/lib/x86_64-linux-gnu/{name}", root / "lib/x86_64-linux-gnu")
    shutil.copy("/lib64/ld-linux-x86-64.so.2", root / "lib64")
    shutil.copy(cllm.program, root / "cllm")
    shutil.copy(next(SAMPLE.glob("*.txt")), root / "text.txt")
    script = (
        f"mount -t proc proc {root}/proc; mount --bind /dev {root}/dev;"
        f"exec chroot {root} /cllm train text.txt --preset nano --steps 2 --out /home/run --json --quiet"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script],
        env={"HOME": "/home", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert events(done)[-1]["event"] == "end"
    assert not (root / "usr").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_it_runs_as_another_user_without_a_home(binary, tmp_path_factory):
    folder = Path("/var/tmp") / f"cllm-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        program = folder / "cllm"
        shutil.copy(binary, program)
        program.chmod(0o755)
        place = folder / "temporary"
        place.mkdir()
        os.chown(place, 65534, 65534)
        done = subprocess.run(
            [program, "gradcheck", "--layer", "add", "--json"],
            env={"HOME": "/nonexistent", "CLLM_CACHE_DIR": "/proc/nowhere", "TMPDIR": str(place)},
            user=65534,
            group=65534,
            extra_groups=[],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert events(done)[-1]["failed"] == 0
        assert not [*place.glob("cllm-kernels-*")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(Path("/var/tmp/cllm-65534"), ignore_errors=True)


def test_several_first_starts_at_once(cllm, tmp_path):
    own = Caller(cllm.program, tmp_path)
    command = [own.program, "gradcheck", "--layer", "add", "--json"]
    processes = [
        subprocess.Popen(command, env=own.environment(), stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(4)
    ]
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0
        assert json.loads(said.splitlines()[-1])["failed"] == 0
    assert len([entry for entry in own.cache.iterdir() if entry.is_dir()]) == 1


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "many"},
        {"OMP_THREAD_LIMIT": "1"},
        {"NUMBA_NUM_THREADS": "1"},
        {"NUMBA_NUM_THREADS": "many"},
        {"NUMBA_CACHE_DIR": "/nonexistent"},
        {"NUMBA_THREADING_LAYER": "workqueue"},
        {"NUMBA_DISABLE_JIT": "1"},
        {"NUMBA_OPT": "7"},
        {"NUMBA_CPU_NAME": "nonsense"},
        {"NUMBA_CPU_FEATURES": ""},
        {"LANG": "C", "LC_ALL": "POSIX"},
        {"LC_ALL": "xx_YY.nothing"},
        {"TERM": ""},
        {"TERM": "nonsense"},
        {"COLUMNS": "40"},
        {"PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent"},
        {"LD_LIBRARY_PATH": "/nonexistent"},
    ],
    ids=lambda variables: "-".join(next(iter(variables.items()))),
)
def test_it_behaves_with_odd_variables(cllm, variables):
    done = cllm("gradcheck", "--layer", "add", "--json", **variables)
    assert events(done)[-1]["failed"] == 0
    assert "Traceback" not in done.stderr


def test_it_takes_no_more_threads_than_openmp_may(cllm):
    assert events(cllm("--version", "--json", OMP_NUM_THREADS="1"))[0]["threads"] == 1


def test_help_fits_into_40_columns(cllm):
    for command in ("train", "generate", "doctor"):
        shown = cllm(command, "--help", COLUMNS="40", TERM="dumb").stdout
        assert max(map(len, shown.splitlines())) <= 40


GROUPS = Path("/sys/fs/cgroup")
MOST_MEMORY = 1_000_000_000
LIMITS = {
    2: {".": {"cpu.max": "100000 100000", "memory.max": f"{MOST_MEMORY}"}},
    1: {"cpu": {"cpu.cfs_quota_us": "100000"}, "memory": {"memory.limit_in_bytes": f"{MOST_MEMORY}"}},
}


@pytest.fixture
def limited(cllm):
    """Runs the program in a control group, of version 2 or 1, that has one core and little memory."""
    limits = LIMITS[2 if (GROUPS / "cgroup.controllers").exists() else 1]
    folders = {GROUPS / controller / f"cllm-test-{os.getpid()}": files for controller, files in limits.items()}
    try:
        for folder, files in folders.items():
            folder.mkdir()
            for name, text in files.items():
                (folder / name).write_text(text, "utf-8")
            assert (folder / "cgroup.procs").exists()
        enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in folders)

        def run(*arguments):
            command = ["/bin/sh", "-ec", f'{enter}exec "$@"', "sh", cllm.program, *arguments]
            return subprocess.run(
                command, env=cllm.environment(), cwd=cllm.home, capture_output=True, text=True, check=False
            )

        yield run
    except OSError as error:
        pytest.skip(f"no control group with limits can be made here: {error}")
    finally:
        for folder in folders:
            if folder.exists():
                folder.rmdir()


def test_threads_and_plan_follow_a_control_group(cllm, limited):
    cllm("--version")  # unpacked outside
    (facts,) = events(limited("--version", "--json"))
    assert facts["threads"] == 1
    checks = {row["name"]: row for row in events(limited("doctor", "--json")) if row["event"] == "check"}
    assert checks["cores"]["cores"] == 1
    assert 0 < checks["memory"]["memory_bytes"] < MOST_MEMORY
    assert checks["memory"]["detail"].startswith("its control group leaves ")
    text = next(SAMPLE.glob("*.txt"))
    fits = limited("train", text, "--preset", "nano", "--steps", "1", "--out", "limited", "--quiet", "--json")
    assert fits.returncode == 0, fits.stderr
    size = ("--n-layer", "24", "--n-embd", "1024", "--n-head", "16")
    large = limited("train", text, *size, "--steps", "1", "--out", "large", "--quiet")
    assert large.returncode == 1, large.stderr
    assert "its control group leaves" in large.stderr


def test_a_closed_pipe_ends_it_quietly(cllm, run):
    with subprocess.Popen(
        [cllm.program, "generate", run, "--tokens", "5000"],
        env=cllm.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as generate:
        generate.stdout.read(10)
        generate.stdout.close()
        assert generate.stderr.read() == b""
    assert generate.returncode == 141


def test_numbers_are_those_of_the_package(cllm, tmp_path):
    """The same command gives the same bits from the binary and from Python, with kernels of the same level."""
    text = next(SAMPLE.glob("*.txt"))
    command = ["train", str(text), "--preset", "nano", "--steps", "3", "--json", "--quiet", "--log-every", "1"]
    own = events(cllm(*command, "--out", tmp_path / "own", CLLM_CPU=""))
    level = events(cllm("--version", "--json"))[0]["level"]
    if level == "native":
        pytest.skip("this CPU compiles for itself")
    done = subprocess.run(
        [sys.executable, "-m", "cllm_cli", *command, "--out", str(tmp_path / "other"), "--cpu", level],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [e["loss"] for e in own if e["event"] == "step"] == [e["loss"] for e in events(done) if e["event"] == "step"]
