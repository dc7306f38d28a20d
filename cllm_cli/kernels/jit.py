"""How kernels are compiled: the only place with JIT flags, and the cache of compiled kernels.

`kernel` marks a function that a program calls, `inner` one that kernels call. `twin` gives an intrinsic the plain
Python function that stands in for it when the JIT is off (NUMBA_DISABLE_JIT=1).

The cache. Numba's own on-disk cache stamps a kernel with the file it stands in and does not notice an edit in another
file that it calls. Here each kernel module has a folder named by a hash of its own source, of every module of this
package that it imports, of Numba's version and of the CPU: a stale kernel cannot be found, and one edit does not
recompile the rest.
A cached kernel is code that will run, so the folder is private to the user, and ignored where others could put
something into it (`private.py`); where there is none, a folder for the time of the process takes its place. A package
may bring along folders of its own, compiled for CPU levels (`levels.py`): they are only read.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
from numba.core.caching import NullCache, _CacheLocator
from numba.core.codegen import get_host_cpu_features

from cllm_cli.kernels.levels import LEVELS, NATIVE, SHIPPED, host_features, target
from cllm_cli.kernels.private import make_private, make_private_within
from cllm_cli.kernels.temporary import KERNELS, temporary_root

# Reordering, contraction and approximate division are wanted; nnan and ninf are not: a NaN must survive to be seen.
FASTMATH = {"contract", "reassoc", "arcp", "nsz", "afn"}
FLAGS: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}

JIT_OFF = bool(numba.config.DISABLE_JIT)

# Who sets one of these has decided already where threads run; otherwise kernels/cores.py gives each a core of its own.
PLACED = ("OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
BINDING = hasattr(os, "sched_setaffinity") and not JIT_OFF and not any(name in os.environ for name in PLACED)

# Waking a thread that sleeps takes 10 to 50 µs, as long as many a kernel: one that waits spins first, for about 100 µs.
# With a core to itself it holds up nobody by that; without, it would hold the very core that the others wait for when
# the machine is busy. OpenMP reads this when Numba starts its threads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "6000" if BINDING else "1000")

# Whoever sets Numba's own variables has decided for what to compile. On some CPUs with vectors of 512 bits LLVM prefers
# 256, lest a stray loop slow all others down. Here products use the wide ones all the time, so the other loops may as
# well: attention takes 10 to 25 % less.
TARGET = target() if numba.config.CPU_FEATURES is numba.config.CPU_NAME is None else NATIVE
if TARGET != NATIVE:
    numba.config.CPU_NAME = TARGET
    numba.config.CPU_FEATURES = ",".join([*(f"+{name}" for name in sorted(LEVELS[TARGET])), "-prefer-256-bit"])
elif platform.machine() == "x86_64" and numba.config.CPU_FEATURES is numba.config.CPU_NAME is None:
    numba.config.CPU_FEATURES = f"{get_host_cpu_features()},-prefer-256-bit".lstrip(",")

CACHE_VARIABLE = "CLLM_CACHE_DIR"
PACKAGE = Path(__file__).parent.parent


def cpu_features() -> frozenset[str]:
    """The LLVM names of what the target CPU can do, honouring NUMBA_CPU_FEATURES."""
    if numba.config.CPU_FEATURES is not None:
        names = numba.config.CPU_FEATURES.split(",")
        return frozenset(name[1:] for name in names if name.startswith("+"))
    return host_features()


def cache_place() -> Path:
    """Where the folder of compiled kernels would be. Raises RuntimeError for a user without a home."""
    chosen = os.environ.get(CACHE_VARIABLE)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen or Path(caches) / "cllm") / KERNELS


@functools.cache
def cache_root() -> Path | None:
    """The folder that keeps compiled kernels; None where none is safe to use, and each command compiles anew."""
    try:
        return cache_place() if make_private(cache_place()) else None
    except (OSError, RuntimeError):
        return None


def working_root() -> Path | None:
    """The folder that this process has compiled kernels from: `cache_root()`, or else one that goes with the process.

    None where there is no place for that either.
    """
    return cache_root() or temporary_root()


@functools.cache
def _package_imports(source: bytes) -> set[str]:
    """The dotted names that a module imports of this package, read from its syntax tree."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE.name}
    return found


def _package_files(names: Iterable[str]) -> set[Path]:
    """The files of modules that exist, by their dotted names."""
    places = [PACKAGE.parent / Path(*name.split(".")) for name in names]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return {file for file in files if file.is_file()}


@functools.cache
def source_key(path: Path) -> str:
    """A hash of everything that decides the machine code of the kernels in the module at `path`."""
    sources: dict[Path, bytes] = {}
    waiting = {path, Path(__file__)}
    while waiting:
        module = waiting.pop()
        sources[module] = module.read_bytes()
        waiting |= _package_files(_package_imports(sources[module])) - sources.keys()
    digest = hashlib.sha256()
    for module, source in sorted(sources.items()):
        digest.update(str(module.relative_to(PACKAGE)).encode() + b"\0" + source + b"\0")
    cpu = numba.config.CPU_NAME or llvm.get_host_cpu_name()
    settings = (numba.__version__, llvmlite.__version__, cpu, *sorted(cpu_features()))
    digest.update("\0".join(settings).encode())
    return digest.hexdigest()[:24]


def folder_name(module: Path) -> str:
    """The name of the folder that the compiled kernels of a module of this package are in."""
    return f"{module.stem}-{source_key(module)}"


def folder_names() -> set[str]:
    """Those of all modules of this package that have kernels."""
    modules = [path for path in PACKAGE.rglob("*.py") if b"\n@kernel\n" in path.read_bytes()]
    return {folder_name(module) for module in modules}


@functools.cache
def cache_folder(module: Path) -> Path | None:
    """Where the compiled kernels of the module at this path are: in the package itself or under `working_root()`.

    None where no place for them is safe, and for a module that is not of this package.
    """
    path = module.resolve()
    if PACKAGE.resolve() not in path.parents:
        return None
    name = folder_name(PACKAGE / path.relative_to(PACKAGE.resolve()))
    shipped = SHIPPED / TARGET / name
    if shipped.is_dir():
        return shipped
    root = working_root()
    if root is None:
        return None
    try:
        make_private_within(root / name)
    except OSError:
        return None
    return root / name


class KernelCacheLocator(_CacheLocator):  # type: ignore[misc]  # Numba has no types
    """Puts the compiled kernels of this package where `cache_folder` says."""

    def __init__(self, path: Path, function: Any, folder: Path) -> None:
        self._py_file = str(path)
        self._line = function.__code__.co_firstlineno
        self._folder = folder

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._folder.name

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Any, py_file: str) -> KernelCacheLocator | None:
        path, folder = Path(py_file), cache_folder(Path(py_file))
        return cls(path, function, folder) if folder else None


def _parallel(function: Any) -> dict[str, bool]:
    """Numba warns where it is told to parallelise what has no `prange`."""
    return {"parallel": "prange" in function.__code__.co_names}


def kernel(function: Callable[..., None]) -> Any:
    """A function that a program calls with arrays and scalars; cached on disk."""
    before = numba.config.CACHE_LOCATOR_CLASSES
    numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelCacheLocator.__name__}"
    try:
        cached = not JIT_OFF and cache_folder(Path(function.__code__.co_filename)) is not None
        return numba.njit(cache=cached, **_parallel(function), **FLAGS)(function)
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = before


def is_cached(kernel: Any, types: tuple[Any, ...]) -> bool:
    """Whether the machine code of a kernel for these argument types is on the disk."""
    cache = kernel._cache
    if isinstance(cache, NullCache):
        return False
    return cache._index_key(types, kernel.targetctx.codegen()) in cache._cache_file._load_index()


def inner(function: Callable[..., Any]) -> Any:
    """A function that kernels call; compiled with them. One with `prange` is called outside of parallel loops."""
    return numba.njit(**_parallel(function), **FLAGS)(function)


def precise(function: Callable[..., Any]) -> Any:
    """A function that kernels call, always inlined, whose sums are not reordered: contraction to FMA is all."""
    return numba.njit(**{**FLAGS, "fastmath": {"contract"}}, forceinline=True)(function)


def twin(plain: Callable[..., Any]) -> Callable[[Any], Any]:
    """Marks an intrinsic; `plain` does the same in Python and stands in for it when the JIT is off."""

    def choose(intrinsic: Any) -> Any:
        if JIT_OFF:
            return plain
        intrinsic.plain = plain
        return intrinsic

    return choose
