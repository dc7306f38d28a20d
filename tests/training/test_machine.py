"""Cores and memory: the least of what the machine, control groups of both versions and ulimit leave."""

from __future__ import annotations

import resource

import pytest

from cllm_cli.training import machine
from cllm_cli.training.machine import Room, available_cores, available_memory

GB = 10**9
FREE = "MemTotal:       24000000 kB\nMemFree:         100000 kB\nMemAvailable:   20000000 kB\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A function that makes up a system of files; it has four cores and 20.48 GB left."""
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OF_PROCESS", tmp_path / "self")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for name in machine.THREADS:
        monkeypatch.delenv(name, raising=False)

    def make(**files):
        files = {"meminfo": FREE, "self/status": "VmSize:\t 1000000 kB\nVmRSS: 5 kB\n"} | files
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, "utf-8")

    return make


def test_without_limits_it_is_what_the_machine_has(system):
    system()
    assert available_cores() == 4
    assert available_memory() == Room(20_480_000_000, "this machine has")


def test_a_system_that_tells_nothing(system):
    assert available_memory() is None
    assert available_cores() == 4


@pytest.mark.parametrize(
    ("inner", "outer", "cores"),
    [
        ("200000 100000", "max 100000", 2),
        ("max 100000", "100000 100000", 1),
        ("350000 100000", "max 100000", 3),
        ("50000 100000", "max 100000", 1),
        ("900000 100000", "800000 100000", 4),
        ("max", "", 4),
        ("1 0", "nonsense here", 4),
    ],
)
def test_a_quota_of_any_group_that_it_is_in(system, inner, outer, cores):
    files = {"self/cgroup": "0::/a/b\n", "cgroup/a/b/cpu.max": inner, "cgroup/a/cpu.max": outer}
    system(**files)
    assert available_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("-1", 4)])
def test_a_quota_of_version_1(system, quota, cores):
    files = {"self/cgroup": "4:cpu,cpuacct:/job\n3:memory:/job\n0::/\n"}
    files |= {"cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": quota, "cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}
    system(**files)
    assert available_cores() == cores


@pytest.mark.parametrize("name", machine.THREADS)
@pytest.mark.parametrize(
    ("said", "cores"),
    [("1", 1), ("3", 3), (" 2 ", 2), ("2,4", 2), ("99", 4), ("", 4), ("0", 4), ("-1", 4), ("abc", 4), ("1.5", 4)],
)
def test_a_variable_may_leave_fewer(system, monkeypatch, name, said, cores):
    """What is no number is for OpenMP and Numba to complain of."""
    system()
    monkeypatch.setenv(name, said)
    assert available_cores() == cores


def test_within_a_container_the_mounted_group_is_the_own(system):
    """The name is that of outside, and there is no such folder."""
    system(**{"self/cgroup": "0::/../../docker/abc\n", "cgroup/cpu.max": "100000 100000"})
    assert available_cores() == 1


def test_memory_of_a_group_without_pages_that_give_way(system):
    files = {"self/cgroup": "0::/a\n", "cgroup/a/memory.max": f"{3 * GB}\n", "cgroup/a/memory.current": f"{2 * GB}\n"}
    system(**files)
    assert available_memory() == Room(GB, "its control group leaves")
    system(**files, **{"cgroup/a/memory.stat": f"anon 5\ninactive_file {GB // 2}\nactive_file 7\n"})
    assert available_memory() == Room(3 * GB // 2, "its control group leaves")
    system(**files, **{"cgroup/memory.max": "1000\n", "cgroup/memory.current": "5000\n"})
    assert available_memory() == Room(0, "its control group leaves")


def test_memory_of_a_group_of_version_1(system):
    files = {"self/cgroup": "4:memory:/a\n", "cgroup/memory/a/memory.limit_in_bytes": "5000"}
    files |= {
        "cgroup/memory/a/memory.usage_in_bytes": "4000",
        "cgroup/memory/a/memory.stat": "total_inactive_file 100\n",
    }
    system(**files)
    assert available_memory() == Room(1100, "its control group leaves")


def test_a_group_without_a_limit_is_none(system):
    system(**{"self/cgroup": "0::/a\n", "cgroup/a/memory.max": "max\n", "cgroup/a/memory.current": "5\n"})
    assert available_memory().whose == "this machine has"


def test_addresses_may_be_limited(system, monkeypatch):
    system()
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (3 * GB, resource.RLIM_INFINITY))
    assert available_memory() == Room(3 * GB - 1_024_000_000, "ulimit -v leaves")


def test_here_it_gives_what_is_plausible():
    assert 1 <= available_cores() <= 1024
    assert 10**8 < available_memory().bytes < 10**14
