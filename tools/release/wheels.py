"""The source distribution, the wheel for every machine, and the wheel that brings compiled kernels along."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tools.binary.__main__ import ROOT, run

PLATFORM = "manylinux_2_17_x86_64"  # the kernels call no C library; this is the oldest that Numba's own wheels run on


def build_distributions(out: Path) -> Path:
    """Writes sdist and pure wheel into `out`, where there is no wheel yet; gives the wheel."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", out.resolve(), cwd=ROOT)
    return next(out.glob("*-py3-none-any.whl"))


def with_kernels(wheel: Path, compiled: Path, work: Path) -> Path:
    """A second wheel beside `wheel`, with the folder of compiled kernels in it; gives its path.

    A kernel's key has the Python version and Numba's in it: elsewhere such a wheel compiles as the pure one does.
    """
    run(sys.executable, "-m", "wheel", "unpack", wheel, "-d", work)
    package = next(work.glob("cllm-*"))
    # Without the modes of files, which are for the user alone where the binary has unpacked them.
    shutil.copytree(compiled, package / "cllm_cli" / "compiled", copy_function=shutil.copyfile)
    run(sys.executable, "-m", "wheel", "pack", package, "-d", work)
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tags = ("--python-tag", python, "--abi-tag", "none", "--platform-tag", PLATFORM)
    run(sys.executable, "-m", "wheel", "tags", "--remove", *tags, work / wheel.name)
    made = next(work.glob(f"*-{python}-none-{PLATFORM}.whl"))
    return Path(shutil.move(made, wheel.parent / made.name))
