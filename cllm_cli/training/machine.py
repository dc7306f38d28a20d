"""What of the machine this process may use: cores, and memory, as the system, control groups and `ulimit -v` leave it.

Who sets OMP_NUM_THREADS or NUMBA_NUM_THREADS, as schedulers of clusters do, leaves no more cores than that.

Control groups of version 2 (Linux, Documentation/admin-guide/cgroup-v2.rst) have their limits in cpu.max and
memory.max, those of version 1 in cpu.cfs_quota_us, cpu.cfs_period_us and memory.limit_in_bytes. A group is bound by all
that it is in.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GROUPS, OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self")
MEMORY = Path("/proc/meminfo")
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
COUNT = re.compile(r"\s*0*([1-9][0-9]{0,5})\s*(,|$)")  # OpenMP takes a list, a number for each depth of nesting


class Room(NamedTuple):
    """So many bytes that can still be taken, and what says so."""

    bytes: int
    whose: str


def available_cores() -> int:
    """Cores that this process may use, at least one: those that it is allowed on, the time that a quota gives, and
    what the variables of THREADS leave.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _groups("cpu") if (quota := _quota(folder)) is not None]
    named = [int(found[1]) for name in THREADS if (found := COUNT.match(os.environ.get(name, "")))]
    return max(1, min([allowed, *map(int, quotas), *named]))


def available_memory() -> Room | None:
    """The least that any limit leaves; None where the system tells nothing."""
    rooms = [_of_machine(), _of_process(), *map(_of_group, _groups("memory"))]
    return min((room for room in rooms if room is not None), default=None)


def _of_machine() -> Room | None:
    found = _fields(MEMORY).get("MemAvailable")
    return None if found is None else Room(found, "this machine has")


def _of_process() -> Room | None:
    limit, taken = resource.getrlimit(resource.RLIMIT_AS)[0], _fields(OF_PROCESS / "status").get("VmSize")
    if limit == resource.RLIM_INFINITY or taken is None:
        return None
    return Room(max(0, limit - taken), "ulimit -v leaves")


def _of_group(folder: Path) -> Room | None:
    """What a control group leaves. Pages of files count as taken, but those not used lately give way."""
    for limit, taken in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most, used = _number(folder / limit), _number(folder / taken)
        if most is not None and used is not None:
            statistics = _fields(folder / "memory.stat", 1)
            idle = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
            return Room(max(0, most - max(0, used - idle)), "its control group leaves")
    return None


def _quota(folder: Path) -> float | None:
    """The cores that a control group's quota amounts to."""
    text = _text(folder / "cpu.max").split()
    if len(text) == 2 and all(part.isdigit() for part in text):
        return int(text[0]) / int(text[1]) if int(text[1]) else None
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and period else None


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, from the innermost out.

    Within a container the names may be those of outside; what is mounted is then the group itself.
    """
    for line in _text(OF_PROCESS / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, name = rest.partition(":")
        if number == "0" and not names:
            roots = [GROUPS, GROUPS / "unified"]
        elif controller in names.split(","):
            roots = [GROUPS / names, GROUPS / controller]
        else:
            continue
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for root in roots:
            yield from (root.joinpath(*parts[:count]) for count in range(len(parts), -1, -1))


def _fields(path: Path, unit: int = 1024) -> dict[str, int]:
    """The numbers of a file of names and numbers, in bytes: kB in /proc, bytes in control groups."""
    return {name: int(number) * unit for name, number in re.findall(r"^(\w+):?\s+(\d+)", _text(path), re.MULTILINE)}


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, such as -1 or max, which mean no limit."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
