"""Kernels are compiled elsewhere, and this process runs what lies in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numba
import numpy as np
import pytest

from cllm_cli.errors import ConfigError
from cllm_cli.kernels import ahead
from cllm_cli.kernels.ahead import describe, type_of
from cllm_cli.kernels.jit import CACHE_VARIABLE
from cllm_cli.optim.clip import sum_squares

ARGUMENTS = [
    np.zeros((2, 3), np.float32),
    np.zeros((1, 2, 3, 4, 5), np.float64),
    np.zeros(4, np.int32),
    np.float32(1.5),
    np.float64(2.5),
    np.int64(3),
    np.uint64(4),
    np.bool_(True),
    5,
]


@pytest.mark.parametrize("value", ARGUMENTS, ids=describe)
def test_a_described_type_is_the_one_that_a_call_would_have(value: object) -> None:
    assert type_of(describe(value)) == numba.typeof(value)


PROGRAM = """
import numpy as np
from cllm_cli.kernels.ahead import compile_ahead
from cllm_cli.layers.gelu import gelu_backward
numbers = np.linspace(-6, 6, 6000, dtype=np.float32).reshape(60, 100)
out = np.zeros_like(numbers)
arguments = (out, np.ones_like(numbers), numbers)
progress = list(compile_ahead([(gelu_backward, arguments)], 2))
gelu_backward(*arguments)
hits, misses = (sum(count.values()) for count in (gelu_backward.stats.cache_hits, gelu_backward.stats.cache_misses))
print(hits, misses, any(doing == "compile" for *_, doing in progress), hash(out.tobytes()))
"""


@pytest.mark.slow
def test_the_first_process_runs_the_same_code_as_the_second(tmp_path: Path) -> None:
    """Compiled in place, this kernel would round otherwise than it does when it is loaded."""
    environment = {**os.environ, "CLLM_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "1"}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    )
    assert first[:3] == ["1", "0", "True"]
    assert second[:3] == ["1", "0", "False"]
    assert first[3] == second[3]


@pytest.mark.slow
def test_where_no_folder_keeps_them_they_are_compiled_elsewhere_too_and_here_where_no_folder_can_be_made(
    tmp_path: Path,
) -> None:
    def run(cache: Path, before: str = "") -> list[str]:
        program = f"{before}\n{PROGRAM}\nprint([doing for *_, doing in progress][-1])"
        environment = {**os.environ, "CLLM_CACHE_DIR": str(cache), "PYTHONHASHSEED": "1"}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    kept, unkept = run(tmp_path / "cache"), run(blocked)
    assert (kept[:3], unkept[:3]) == (["1", "0", "True"], ["1", "0", "False"])
    assert kept[3] == unkept[3]
    nowhere = run(blocked, "import tempfile; tempfile.tempdir = '/nowhere'")
    assert (nowhere[0], nowhere[-1]) == ("0", "unkept")


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_kernel_whose_process_dies_is_given_to_one_other_and_then_compiled_here(tmp_path: Path, deaths: int) -> None:
    """What stands in for the interpreter ends at once, the first few times."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
mkdir {tmp_path}/first 2>/dev/null && exit 9
[ {deaths} = 2 ] && mkdir {tmp_path}/second 2>/dev/null && exit 9
exec {sys.executable} "$@"
""")
    python.chmod(0o700)
    replaced = f"import sys; sys.executable = {str(python)!r}\n{PROGRAM}\nprint([doing for *_, doing in progress][-1])"
    environment = {**os.environ, "CLLM_CACHE_DIR": str(tmp_path / "cache"), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", replaced], env=environment, capture_output=True, text=True, check=True)
    hits, misses, *_, last = done.stdout.split()
    assert (hits, misses, last) == (("1", "0", "load") if deaths == 1 else ("0", "1", "here"))


@pytest.mark.slow
def test_a_process_that_died_before_it_was_asked_is_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("cllm_cli.optim.clip", "sum_squares", "float64[1]", "float32[1]")
    start, started = ahead._start, []

    def first_dead(level: str, environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
        process = (
            start(level, environment)
            if started
            else subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        if not started:
            process.wait()
        started.append(process)
        return process

    monkeypatch.setattr(ahead, "_start", first_dead)
    assert [*ahead._elsewhere([key], 1, environment={CACHE_VARIABLE: str(tmp_path)})][-1] == (1, "sum_squares")
    assert len(started) == 2


@pytest.mark.slow
def test_where_others_could_write_nothing_is_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who compiles would have no folder for it, and leaves none of its own."""
    for name in ("open", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    calls = [(sum_squares, (np.zeros(1), np.zeros(1, np.float32)))]
    with pytest.raises(ConfigError, match="1 of 1 kernels could not be compiled"):
        [*ahead.compile_for("x86-64-v3", tmp_path / "open" / "kernels", calls, 1)]
    assert not [*(tmp_path / "open").iterdir(), *(tmp_path / "temporary").iterdir()]
