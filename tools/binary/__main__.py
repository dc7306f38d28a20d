"""Builds the single-file `cllm` for Linux on x86-64, and tells what is in it.

    pip install -e '.[binary]'
    python -m tools.binary [--out dist]        writes dist/cllm-VERSION-linux-x86_64

Kernels are compiled for every CPU level that is shipped, PyInstaller collects Python and what the program imports, and
the whole becomes one file (pack.py) with a launcher in front (launcher.zig) that unpacks it once. Standard output: a
line of JSON for each part, with its bytes unpacked and packed.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import py_compile
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cllm_cli
from cllm_cli.kernels.levels import LEVELS
from tools.binary.pack import pack
from tools.sources import unpacked

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Wheels have some libraries' tables moved, which `strip` does not know of.
MOVED = ("libscipy", "libgfortran", "libgomp", "libquadmath", "libstdc++", "libgcc_s", "omppool")
PARTS = {
    "LLVM": ("_internal/llvmlite/",),
    "NumPy and OpenBLAS": ("_internal/numpy", "_internal/libscipy", "_internal/libgfortran", "_internal/libquadmath"),
    "Numba": ("_internal/numba",),
    "kernels, compiled": ("_internal/cllm_cli/compiled/",),
    "cllm": ("_internal/cllm_cli/",),
    "tokenizers, sentencepiece, zstandard": ("_internal/tokenizers", "_internal/sentencepiece", "_internal/zstandard"),
    "typer, rich": ("_internal/typer", "_internal/pydantic", "_internal/rich", "_internal/pygments"),
    "Python and the rest": ("",),
}


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> None:
    """Runs a command, its output on standard error. Raises CalledProcessError."""
    subprocess.run([*map(str, command)], check=True, stdout=sys.stderr, cwd=cwd, env={**os.environ, **environment})


def compile_kernels(folder: Path) -> None:
    """All kernels for every level, each in a folder of its name."""
    for level in LEVELS:
        run(sys.executable, "-m", "cllm_cli", "warmup", "--quiet", "--level", level, "--out", folder / level)


def collect(work: Path) -> Path:
    """The folder of PyInstaller, whose program needs nothing but the system's C library."""
    arguments = ("--noconfirm", "--log-level", "WARN", "--distpath", work / "tree", "--workpath", work / "work")
    settings = {"CLLM_SOURCE": str(ROOT), "CLLM_COMPILED": str(work / "compiled"), "PYTHONHASHSEED": "0"}
    run(sys.executable, "-m", "PyInstaller", *arguments, HERE / "cllm.spec", **settings)
    tree = work / "tree" / "cllm"
    for library in tree.rglob("*.so*"):
        if not library.is_symlink() and not library.name.startswith(MOVED):
            run("strip", "--strip-unneeded", library)
    # The folder is never written to again: Python must not look whether a source is newer than what was made of it.
    compileall.compile_dir(
        tree / "_internal" / cllm_cli.__name__,
        quiet=1,
        stripdir=str(tree),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return tree


def build_launcher(work: Path) -> bytes:
    """The program in front, linked with nothing but the zstd library, whose source the package `zstandard` brings."""
    library = unpacked("zstandard", work) / "zstd" / "zstd.c"
    options = ("-target", "x86_64-linux-musl", "-O", "ReleaseFast", "-fstrip", "-fsingle-threaded", "-lc")
    # Zig would raise the limit of the stack to this size, also for the program that is started.
    options += ("--stack", "0")
    caches = ("--cache-dir", work / "zig", "--global-cache-dir", work / "zig")
    target = work / "launcher"
    run(
        *(sys.executable, "-m", "ziglang", "build-exe", *options, *caches),
        *(HERE / "launcher.zig", library, f"-femit-bin={target}"),
    )
    return target.read_bytes()


def part_of(path: str) -> str:
    """The name of the part that a file belongs to."""
    return next(name for name, starts in PARTS.items() if path.startswith(starts))


def oldest_glibc(tree: Path) -> str:
    """The version of the C library that the newest symbol of any library in the folder is of."""
    found = {
        tuple(map(int, version.split(b".")))
        for library in [tree / "cllm", *tree.rglob("*.so*")]
        for version in re.findall(rb"GLIBC_([0-9.]*[0-9])\0", library.read_bytes())
    }
    return ".".join(map(str, max(found)))


def name_of_binary() -> str:
    """The name of the file of this version."""
    return f"cllm-{cllm_cli.__version__}-linux-x86_64"


def build(work: Path, target: Path) -> list[dict[str, Any]]:
    """Builds `target` by way of the empty folder `work`, which then has compiled/ and tree/cllm/; gives its parts."""
    (work / "compiled").mkdir()
    compile_kernels(work / "compiled")
    return pack(build_launcher(work), collect(work), target, part_of)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / name_of_binary()
    with tempfile.TemporaryDirectory(prefix="cllm-binary-") as work:
        for part in build(Path(work), target):
            sys.stdout.write(json.dumps({"event": "part", **part}) + "\n")
        glibc = oldest_glibc(Path(work) / "tree" / "cllm")
    made = {"event": "binary", "path": str(target), "bytes": target.stat().st_size, "glibc": glibc}
    sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
