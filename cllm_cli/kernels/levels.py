"""For which CPU kernels are compiled: the very one that is here, or a level that many have.

The levels are those of the x86-64 psABI (section 3.1.1, "Processor Architecture"): v3 has AVX2 and FMA, v4 AVX-512.
A package may bring compiled kernels of levels along (`cllm warmup --level` makes them). Then the highest level that the
CPU has is the target, unless CLLM_CPU names another or says native. Without them every CPU compiles for itself. It is
decided once, when `kernels/jit.py` is imported: the target is a part of every kernel's key.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

import llvmlite.binding as llvm

from cllm_cli.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "compiled"  # a folder for each level that the package brings along
VARIABLE, NATIVE = "CLLM_CPU", "native"

_V3 = "sse3 ssse3 sse4.1 sse4.2 cx16 sahf popcnt avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave"
# The names are LLVM's.
LEVELS = {
    "x86-64-v4": frozenset(f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl".split()),
    "x86-64-v3": frozenset(_V3.split()),
}
"""What a CPU of a level can do, the highest level first."""


def host_features() -> frozenset[str]:
    """The LLVM names of what this CPU can do."""
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


def shipped_levels() -> list[str]:
    """The levels that this package has compiled kernels for."""
    return [level for level in LEVELS if (SHIPPED / level).is_dir()]


def chosen_level(wanted: str, shipped: Iterable[str], features: frozenset[str]) -> str:
    """The level to compile for, or native.

    wanted: a level, native, or nothing: then it is the highest of the shipped ones that a CPU with `features` has.
    Raises ConfigError for a name that is none, and for a level that the CPU does not have.
    """
    if not wanted:
        there = set(shipped)
        return next((level for level in LEVELS if level in there and LEVELS[level] <= features), NATIVE)
    if wanted != NATIVE and wanted not in LEVELS:
        raise ConfigError(f"unknown CPU level '{wanted}'", f"known: {', '.join([NATIVE, *LEVELS])}")
    if wanted != NATIVE and not LEVELS[wanted] <= features:
        missing = ", ".join(sorted(LEVELS[wanted] - features))
        raise ConfigError(f"this CPU is not of level {wanted}: it lacks {missing}", f"{VARIABLE}={NATIVE} fits any CPU")
    return wanted


_elsewhere: list[str] = []


def only_compile_for(level: str) -> None:
    """Has this process compile for a level that its CPU need not have: it must never run what it compiles.

    Call it before anything imports `kernels/jit.py`.
    """
    _elsewhere.append(level)


def target() -> str:
    """The level that this process compiles for, or native. Raises ConfigError as `chosen_level`."""
    if _elsewhere:
        return _elsewhere[-1]
    if platform.machine() != "x86_64":
        return NATIVE
    return chosen_level(os.environ.get(VARIABLE, ""), shipped_levels(), host_features())
