"""What is installed and where it runs: the facts of `cllm --version --json`, and the checks of `cllm doctor`.

What is looked at may be what is broken, so nothing heavy is imported before the check that needs it, and a check that
fails in whatever way is a row like the others.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any, TextIO

import cllm_cli
from cllm_cli.errors import CllmError
from cllm_cli.training.machine import available_cores, available_memory

NEEDED = ("numba", "llvmlite", "numpy", "typer", "rich", "safetensors")
EXTRAS = ("zstandard", "pyarrow", "tokenizers", "sentencepiece")
BINARY = "CLLM_BINARY"  # the variable in which the single-file binary says where it is
FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "neon")  # what the kernels' speed depends on
PREFIXES = ("CLLM_", "NUMBA_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_")
LIBRARIES = "LD_LIBRARY_PATH"
PYTHON = ("LD_PRELOAD", LIBRARIES, "PYTHONPATH", "PYTHONHOME", "MALLOC_ARENA_MAX")
TERMINAL = ("TERM", "LANG", "LC_ALL", "NO_COLOR", "COLUMNS")
PROCESSORS = Path("/proc/cpuinfo")
SHOWN = 5  # of files that are damaged


@dataclass(frozen=True)
class Finding:
    """What a check found: in words for people, in `facts` for programs."""

    name: str
    ok: bool
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The event of `cllm doctor --json`."""
        return {"event": "check", "name": self.name, "ok": self.ok, "detail": self.detail, **self.facts}


def version_facts() -> dict[str, Any]:
    """The object of `cllm --version --json`. Raises ConfigError for a CLLM_CPU that this CPU is not."""
    from cllm_cli.kernels.jit import TARGET, cache_root
    from cllm_cli.kernels.threads import threading_layer

    root = cache_root()
    return {
        "event": "version",
        **versions(),
        **_install(os.environ),
        "cpu": cpu_name(),
        "level": TARGET,
        "threads": available_cores(),
        "threading_layer": threading_layer(),
        "cache": str(root) if root else None,
    }


def versions() -> dict[str, Any]:
    """Of this package, of Python and of what it is made of; `extras` are those that are installed."""
    extras = {name: found for name in EXTRAS if (found := version_of(name))}
    needed = {name: version_of(name) for name in NEEDED}
    return {"cllm": cllm_cli.__version__, "python": platform.python_version(), **needed, "extras": extras}


def version_of(name: str) -> str | None:
    """A library's version; None where it is not installed. A binary has libraries without what pip notes of them."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if util.find_spec(name) is None:
            return None
        return str(getattr(importlib.import_module(name), "__version__", "unknown"))


def cpu_name() -> str:
    """As the system calls it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", PROCESSORS.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def checks(environment: Mapping[str, str], stream: TextIO) -> Iterator[Finding]:
    """All but that of the kernels. environment: as the command found it; stream: where its results go."""
    yield guarded("versions", _versions)
    yield guarded("install", lambda: _installed(environment))
    if environment.get(BINARY):
        yield guarded("files", _files)
    yield guarded("cpu", _cpu)
    yield guarded("kernels", _kernels)
    yield guarded("threads", _threads)
    yield guarded("cores", _cores)
    yield guarded("memory", _memory)
    yield guarded("environment", lambda: _environment(environment))
    yield guarded("cache", _cache)
    yield guarded("terminal", lambda: _terminal(environment, stream))


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check found; that it failed, where it could not be made."""
    try:
        return check()
    except Exception as error:
        return failure(name, error)


def failure(name: str, error: Exception) -> Finding:
    """A check that could not be made."""
    said = f"{error.message}; {error.hint}" if isinstance(error, CllmError) else f"{type(error).__name__}: {error}"
    return Finding(name, False, said)


def _versions() -> Finding:
    found = versions()
    missing = [name for name in NEEDED if not found[name]]
    listed = {**found, **found["extras"]}
    del listed["extras"]
    shown = ", ".join(f"{name} {version or 'is missing'}" for name, version in listed.items())
    system = os.uname()  # platform.platform() would start a program
    libc = " ".join(platform.libc_ver())
    return Finding("versions", not missing, f"{shown}; {system.sysname} {system.release}, {libc}", found)


def _install(environment: Mapping[str, str]) -> dict[str, Any]:
    """`install`: binary, wheel (one that brought compiled kernels along), or plain; `shipped`: for which levels."""
    from cllm_cli.kernels.levels import shipped_levels

    shipped, binary = shipped_levels(), environment.get(BINARY)
    kind = "binary" if binary else "wheel" if shipped else "plain"
    return {"install": kind, "path": binary or str(Path(cllm_cli.__file__).parent), "shipped": shipped}


def _installed(environment: Mapping[str, str]) -> Finding:
    facts = _install(environment)
    brought = f"with kernels for {' and '.join(facts['shipped'])}" if facts["shipped"] else "without compiled kernels"
    return Finding("install", True, f"{facts['install']}, {brought}, at {facts['path']}", facts)


def _files() -> Finding:
    from cllm_cli.checks.unpacked import MANIFEST, damage

    folder = Path(sys.executable).parent
    wrong = list(damage(folder))
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    # Without the list it may be no folder of the binary's at all.
    remedy = f"; it is unpacked anew once {folder} is removed" if (folder / MANIFEST).is_file() else f" in {folder}"
    said = f"{'; '.join(wrong[:SHOWN])}{more}{remedy}" if wrong else "as they were packed"
    return Finding("files", not wrong, said, {"damaged": wrong, "folder": str(folder)})


def _cpu() -> Finding:
    from cllm_cli.kernels.levels import LEVELS, host_features

    host = host_features()
    there = [name for name in FEATURES if name in host]
    level = next((level for level, wanted in LEVELS.items() if wanted <= host), "below x86-64-v3")
    level = level if platform.machine() == "x86_64" else platform.machine()
    facts = {"cpu": cpu_name(), "features": there, "cpu_level": level}
    return Finding("cpu", True, f"{facts['cpu']}, {level}, {' '.join(there)}", facts)


def _kernels() -> Finding:
    """For which CPU, and whether those that came along are of this very source."""
    from cllm_cli.kernels.jit import JIT_OFF, TARGET
    from cllm_cli.kernels.levels import shipped_levels

    facts = {"level": TARGET, "jit": not JIT_OFF}
    if JIT_OFF:
        return Finding(
            "kernels", True, "plain Python, since NUMBA_DISABLE_JIT is set: some hundred times slower", facts
        )
    if TARGET not in shipped_levels():
        return Finding("kernels", True, f"compiled here for {TARGET}", facts)
    missing = _not_shipped()
    said = f"not of this source or this Numba, so they are compiled: {', '.join(missing)}" if missing else "came along"
    return Finding("kernels", not missing, f"for {TARGET}, {said}", {**facts, "missing": missing})


def _not_shipped() -> list[str]:
    """The folders of kernels of this very source that did not come along."""
    from cllm_cli.kernels.jit import TARGET, folder_names
    from cllm_cli.kernels.levels import SHIPPED

    return sorted(name for name in folder_names() if not (SHIPPED / TARGET / name).is_dir())


def _threads() -> Finding:
    import numba

    from cllm_cli.kernels.threads import threading_layer

    layer, most = threading_layer(), int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # set by name
    facts = {"threading_layer": layer, "most_threads": most}
    return Finding(
        "threads", True, f"{layer}, {available_cores()} unless --threads says otherwise, at most {most}", facts
    )


def _cores() -> Finding:
    allowed, usable = sorted(os.sched_getaffinity(0)), available_cores()
    facts = {"cores": usable, "allowed": allowed, "machine_cores": os.cpu_count()}
    least = "" if usable == len(allowed) else ": a control group's quota, or a variable, leaves no more"
    return Finding("cores", True, f"{usable} of the {len(allowed)} allowed of {os.cpu_count()}{least}", facts)


def _memory() -> Finding:
    room = available_memory()
    if room is None:
        return Finding("memory", True, "the system tells nothing", {"memory_bytes": None})
    return Finding("memory", True, f"{room.whose} {room.bytes / 1e9:.1f} GB left", {"memory_bytes": room.bytes})


def _environment(environment: Mapping[str, str]) -> Finding:
    environment = _without_own(environment)
    there = {name: environment[name] for name in sorted(environment) if name.startswith(PREFIXES) or name in PYTHON}
    count = there.get("NUMBA_NUM_THREADS", "")
    wrong = bool(count) and not re.fullmatch(r"0*[1-9][0-9]{0,4}", count)
    said = ", ".join(f"{name}={value}" for name, value in there.items()) or "nothing unusual"
    why = "; NUMBA_NUM_THREADS is no number of threads" if wrong else ""
    return Finding("environment", not wrong, said + why, {"variables": there})


def _without_own(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Without what the single-file binary has set for itself: its path, and its libraries before those of the user."""
    if not getattr(sys, "frozen", False):
        return environment
    own = str(Path(sys.executable).parent / "_internal")
    places = ":".join(place for place in environment.get(LIBRARIES, "").split(":") if place != own)
    others = {name: value for name, value in environment.items() if name not in (BINARY, LIBRARIES)}
    return {**others, LIBRARIES: places} if places else others


def _cache() -> Finding:
    from cllm_cli.kernels.jit import JIT_OFF, cache_root, folder_names

    root = cache_root()
    if root is None:
        needed = not JIT_OFF and bool(_not_shipped())
        return Finding("cache", not needed, _without_cache(needed), {"cache": None})
    sizes = {folder.name: _size(folder) for folder in root.iterdir()}
    stale = sizes.keys() - folder_names()
    total, old = sum(sizes.values()), sum(sizes[name] for name in stale)
    facts = {"cache": str(root), "bytes": total, "folders": len(sizes), "stale": len(stale), "stale_bytes": old}
    others = f", of these {old / 1e6:.1f} MB for other versions or CPUs ({len(stale)} of {len(sizes)} folders)"
    free = shutil.disk_usage(root).free / 1e9
    detail = f"{root}, private, {total / 1e6:.1f} MB{others if stale else ''}; {free:.1f} GB free"
    return Finding("cache", True, detail, facts)


def _without_cache(needed: bool) -> str:
    """Why there is no folder to keep kernels in, and what that means."""
    from cllm_cli.kernels.jit import CACHE_VARIABLE, cache_place
    from cllm_cli.kernels.private import make_private

    try:
        place = cache_place()
        make_private(place)
        others = "it is not yours alone: others can write to it, or to a folder on the way"
        reason = f"{place}: {others if os.access(place, os.W_OK) else 'it cannot be written to'}"
    except OSError as error:
        reason = f"{place}: {error.strerror}"
    except RuntimeError as error:  # no home
        reason = str(error)
    if not needed:
        return f"{reason}; it is not needed: no kernel has to be compiled"
    remedy = f"set {CACHE_VARIABLE} to a folder that only you can write to"
    return f"{reason}; kernels are compiled anew at every start: {remedy}"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder.rglob("*") if folder.is_dir() else [folder]) if file.is_file())


def _terminal(environment: Mapping[str, str], stream: TextIO) -> Finding:
    from cllm_cli.reporting.terminal import is_plain, is_unicode

    columns, lines = shutil.get_terminal_size()
    there = {name: environment[name] for name in TERMINAL if name in environment}
    plain, terminal = is_plain(stream), stream.isatty()
    facts = {"terminal": terminal, "plain": plain, "unicode": is_unicode(stream), "columns": columns, "lines": lines}
    kind = f"{columns} x {lines}" if terminal else "a pipe or a file"
    listed = [f"{name}={value}" for name, value in there.items()]
    said = ", ".join([kind, "plain" if plain else "with styles", *listed])
    return Finding("terminal", True, said, {**facts, "variables": there})
