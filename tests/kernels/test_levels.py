"""CPU levels: the right one is chosen, and kernels that came along are run without compiling anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cllm_cli
from cllm_cli.errors import ConfigError
from cllm_cli.kernels import jit, levels
from cllm_cli.kernels.levels import LEVELS, NATIVE, chosen_level, host_features

V3, V4 = "x86-64-v3", "x86-64-v4"
HOSTS = {
    V4: LEVELS[V4] | {"sse4a", "amx-tile"},
    V3: LEVELS[V3] | {"sse4a"},
    "half of v4": LEVELS[V3] | {"avx512f", "avx512cd"},
    "almost v3": LEVELS[V3] - {"movbe"},
    "old": frozenset({"sse3"}),
}


@pytest.mark.parametrize(
    ("host", "shipped", "level"),
    [
        (V4, [V3, V4], V4),
        (V4, [V3], V3),
        (V4, [], NATIVE),
        (V3, [V3, V4], V3),
        (V3, [V4], NATIVE),
        ("half of v4", [V4, V3], V3),
        ("almost v3", [V4, V3], NATIVE),
        ("old", [V4, V3], NATIVE),
    ],
)
def test_the_highest_level_that_came_along_and_that_the_cpu_has(host, shipped, level):
    assert chosen_level("", shipped, HOSTS[host]) == level


# The psABI's table 3.1 once more, by the names that it has there; LLVM's where they are others.
PSABI = {
    "x86-64-v2": "cmpxchg16b lahf-sahf popcnt sse3 sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma lzcnt movbe osxsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}
LLVM_NAMES = {"cmpxchg16b": "cx16", "lahf-sahf": "sahf", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "bmi1": "bmi"}
LLVM_NAMES |= {"osxsave": "xsave"}


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_what_the_psabi_has_for_it(level):
    names = " ".join(said for name, said in PSABI.items() if name <= level).split()
    assert LEVELS[level] == {LLVM_NAMES.get(name, name) for name in names}


def test_the_levels_of_this_cpu_are_those_that_the_loader_finds():
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    if not loader.exists():
        pytest.skip("another C library or CPU")
    told = subprocess.run([loader, "--help"], capture_output=True, text=True, check=True).stdout
    if "glibc-hwcaps" not in told:
        pytest.skip("a loader that tells no levels")
    assert {level for level in LEVELS if LEVELS[level] <= host_features()} == {
        level for level in LEVELS if f"{level} (supported" in told
    }


def test_whoever_names_one_gets_it_or_an_error():
    assert chosen_level(NATIVE, [V3, V4], HOSTS[V4]) == NATIVE
    assert chosen_level(V3, [], HOSTS[V4]) == V3
    with pytest.raises(ConfigError, match=r"this CPU is not of level x86-64-v4: it lacks avx512bw, avx512dq, avx512vl"):
        chosen_level(V4, [V3, V4], HOSTS["half of v4"])
    with pytest.raises(ConfigError, match="unknown CPU level 'v3'") as raised:
        chosen_level("v3", [], HOSTS[V4])
    assert raised.value.hint == "known: native, x86-64-v4, x86-64-v3"


def test_each_level_has_all_of_the_one_below():
    assert LEVELS[V3] < LEVELS[V4]
    assert list(LEVELS) == [V4, V3]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package, and what runs Python on it with a kernel cache of its own: ran(arguments …)."""
    place = tmp_path_factory.mktemp("package")
    shutil.copytree(Path(cllm_cli.__file__).parent, place / "cllm_cli", ignore=shutil.ignore_patterns("__pycache__"))

    def ran(*arguments, **environment):
        given = {"PYTHONPATH": str(place), "CLLM_CACHE_DIR": str(place / "cache"), **environment}
        return subprocess.run(
            [sys.executable, *arguments], env=os.environ | given, capture_output=True, text=True, cwd=place
        )

    ran.place = place
    return ran


MAKE = """
import sys
from pathlib import Path
from cllm_cli.kernels.ahead import compile_for
from cllm_cli.optim.clip import norm_scratch, sum_squares
import numpy as np
calls = [(sum_squares, (norm_scratch(), np.zeros(3, np.float32)))]
print([done for _, done, _ in compile_for(sys.argv[1], Path(sys.argv[2]), calls, 1)][-1])
"""
USE = """
import json
import numpy as np
from cllm_cli.kernels.jit import TARGET, cpu_features, is_cached
from cllm_cli.optim.clip import global_norm, norm_scratch, sum_squares
norm = global_norm(np.array([3, 4], np.float32), norm_scratch())
stats = sum_squares.stats
hits, misses = (sum(each.values()) for each in (stats.cache_hits, stats.cache_misses))
print(json.dumps([TARGET, norm, hits, misses, str(stats.cache_path), "avx512f" in cpu_features()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(jit.JIT_OFF or not LEVELS[V3] <= host_features(), reason="this CPU is below the level")
def test_kernels_that_came_along_are_loaded_and_nothing_is_compiled(package):
    (package.place / "cllm_cli" / "compiled").mkdir()
    for level in LEVELS:
        made = package("-c", MAKE, level, str(package.place / "cllm_cli" / "compiled" / level))
        assert made.stdout == "1\n", made.stderr
    v4 = LEVELS[V4] <= host_features()
    for wanted, level in [("", V4 if v4 else V3), (V3, V3)]:
        used = package("-c", USE, CLLM_CPU=wanted)
        target, norm, hits, misses, path, wide = json.loads(used.stdout)
        assert (target, norm, hits, misses) == (level, 5.0, 1, 0), used.stderr
        assert Path(path).parent == package.place / "cllm_cli" / "compiled" / level
        assert wide == (level == V4)
    assert not list((package.place / "cache").rglob("*.nbc"))
    native = json.loads(package("-c", USE, CLLM_CPU=NATIVE).stdout)
    assert native[:4] == [NATIVE, 5.0, 0, 1]
    assert Path(native[4]).is_relative_to(package.place / "cache")


def test_a_folder_is_made_whole_or_not_at_all(package, tmp_path):
    """A level that the compiler does not know, which the command refuses before it comes to that."""
    failed = package("-c", MAKE, "x86-64-v9", str(tmp_path / "made"))
    assert "ConfigError: 1 of 1 kernels could not be compiled for x86-64-v9" in failed.stderr
    assert not list(tmp_path.iterdir())


def test_numbas_own_variables_come_first(package):
    used = package("-c", "from cllm_cli.kernels import jit; print(jit.TARGET)", CLLM_CPU=V3, NUMBA_CPU_NAME="generic")
    assert used.stdout == f"{NATIVE}\n"


def test_other_machines_have_no_levels(monkeypatch):
    monkeypatch.setattr(levels.platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("CLLM_CPU", V3)
    assert levels.target() == NATIVE
