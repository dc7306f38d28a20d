"""What is told of an installation: versions, CPU, kernels that came along, limits, variables, cache, terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from importlib import metadata

import numba
import pytest

from cllm_cli.checks import installation, selftest  # all kernels, before anything is done to their cache
from cllm_cli.checks.examination import Examination
from cllm_cli.checks.installation import Finding, checks, cpu_name, guarded, version_facts, version_of
from cllm_cli.errors import ConfigError
from cllm_cli.kernels import jit, levels

NAMES = ["versions", "install", "cpu", "kernels", "threads", "cores", "memory", "environment", "cache", "terminal"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A folder of kernels that nobody else writes to, whatever the user's is like."""
    monkeypatch.setenv("CLLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "cache_root", jit.cache_root.__wrapped__)
    return tmp_path / "cache" / "kernels"


def found(environment=()):
    return {finding.name: finding for finding in checks(dict(environment), io.StringIO())}


def test_a_sound_installation():
    findings = found()
    assert list(findings) == NAMES
    assert [finding for finding in findings.values() if not finding.ok] == []
    for finding in findings.values():
        assert finding.detail
        row = json.loads(json.dumps(finding.as_dict()))
        assert (row["event"], row["name"], row["ok"]) == ("check", finding.name, True)


def test_the_facts_of_a_version():
    facts = version_facts()
    assert facts["event"] == "version"
    assert facts["numba"] == numba.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (facts["install"], facts["level"], facts["threading_layer"]) == ("plain", "native", "omp")
    assert facts["threads"] >= 1
    assert all(facts["extras"].values())
    assert facts["cache"] == os.environ["CLLM_CACHE_DIR"] + "/kernels"


def test_a_library_that_pip_knows_nothing_of(monkeypatch):
    """As in the single-file binary."""

    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", unknown)
    assert version_of("numba") == numba.__version__
    assert version_of("no_such_library") is None


def test_a_library_that_is_missing_fails(monkeypatch):
    monkeypatch.setattr(installation, "version_of", lambda name: None if name == "numpy" else "1.0")
    finding = found()["versions"]
    assert not finding.ok
    assert "numpy is missing" in finding.detail


def test_the_name_of_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "PROCESSORS", tmp_path / "cpuinfo")
    assert cpu_name()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU (R) @ 2 GHz\nflags : fma\n", "utf-8")
    assert cpu_name() == "A CPU (R) @ 2 GHz"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of compiled kernels that came along for x86-64-v3, which is also the target."""
    folder = tmp_path / "compiled" / "x86-64-v3"
    folder.mkdir(parents=True)
    monkeypatch.setattr(levels, "SHIPPED", tmp_path / "compiled")
    monkeypatch.setattr(jit, "TARGET", "x86-64-v3")
    monkeypatch.setattr(jit, "JIT_OFF", False)
    return folder


def test_kernels_that_came_along(shipped):
    for name in jit.folder_names():
        (shipped / name).mkdir()
    findings = found()
    assert findings["kernels"].ok
    assert findings["install"].detail.startswith("wheel, with kernels for x86-64-v3, at ")


def test_kernels_of_another_source_fail(shipped):
    for name in jit.folder_names():
        stem = name.rpartition("-")[0]
        (shipped / (f"{stem}-0" if stem == "gelu" else name)).mkdir()
    finding = found()["kernels"]
    assert not finding.ok
    assert [name.rpartition("-")[0] for name in finding.facts["missing"]] == ["gelu"]


@pytest.mark.skipif(jit.JIT_OFF, reason="nothing is cached")
def test_the_folders_of_kernels_are_those_that_they_are_kept_in():
    assert {jit.folder_name(jit.PACKAGE / path) for path in ("layers/gelu.py", "optim/clip.py")} < jit.folder_names()
    assert len(jit.folder_names()) > 12


def test_a_cache_of_nobodys_own_fails(cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    finding = found()["cache"]
    assert not finding.ok
    assert "CLLM_CACHE_DIR" in finding.detail


@pytest.mark.skipif(jit.JIT_OFF, reason="nothing is compiled")
def test_a_cache_that_cannot_be_written_to_fails_where_kernels_are_compiled(cache):
    cache.parent.write_text("a file")
    finding = found()["cache"]
    assert not finding.ok
    assert str(cache) in finding.detail
    assert "Not a directory" in finding.detail
    assert "compiled anew at every start" in finding.detail


def test_with_kernels_that_came_along_none_is_needed(cache, shipped):
    for name in jit.folder_names():
        (shipped / name).mkdir()
    cache.parent.write_text("a file")
    findings = found()
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert "Not a directory" in findings["cache"].detail
    assert "it is not needed" in findings["cache"].detail
    assert findings["cache"].facts["cache"] is None


def test_without_a_home_there_is_no_place_for_a_cache(monkeypatch, shipped):
    monkeypatch.delenv("CLLM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(jit.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    assert found()["cache"].detail.startswith("no home directory; kernels are compiled anew")


def test_what_is_in_the_cache(cache):
    current = sorted(jit.folder_names())[0]
    for name, size in ((current, 3000), ("gelu-0", 7000), ("linear-0", 1000)):
        (cache / name).mkdir(parents=True)
        (cache / name / "kernel.nbc").write_bytes(bytes(size))
    cache.chmod(0o700)
    facts = found()["cache"].facts
    assert {name: facts[name] for name in ("bytes", "folders", "stale", "stale_bytes")} == {
        "bytes": 11000,
        "folders": 3,
        "stale": 2,
        "stale_bytes": 8000,
    }


@pytest.mark.parametrize(("count", "ok"), [("4", True), ("abc", False), ("0", False), ("", True)])
def test_variables_that_matter_are_shown_and_judged(count, ok):
    finding = found({"NUMBA_NUM_THREADS": count, "OMP_PLACES": "cores", "HOME": "/", "TERM": "dumb"})["environment"]
    assert finding.ok == ok
    assert finding.facts["variables"] == {"NUMBA_NUM_THREADS": count, "OMP_PLACES": "cores"}


def test_what_the_binary_sets_for_itself_is_not_shown_as_the_users(monkeypatch):
    variables = {"CLLM_BINARY": "/opt/cllm", "CLLM_CPU": "native", "LD_LIBRARY_PATH": "/c/1/_internal:/c/1/_internal"}
    assert found(variables)["environment"].facts["variables"] == variables  # who else sets them is the user
    monkeypatch.setattr(sys, "executable", "/c/1/cllm")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert found(variables)["environment"].facts["variables"] == {"CLLM_CPU": "native"}
    users = {**variables, "LD_LIBRARY_PATH": "/c/1/_internal:/usr/lib/odd"}
    assert found(users)["environment"].facts["variables"]["LD_LIBRARY_PATH"] == "/usr/lib/odd"


def test_the_terminal_is_described():
    finding = found({"TERM": "dumb", "LANG": "C"})["terminal"]
    assert finding.detail == "a pipe or a file, plain, TERM=dumb, LANG=C"


def test_from_the_binary_its_files_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "cllm"))
    findings = found({"CLLM_BINARY": "/opt/cllm"})
    assert findings["install"].detail.startswith("binary")
    assert findings["install"].facts["path"] == "/opt/cllm"
    assert not findings["files"].ok
    assert findings["files"].detail == f".manifest: No such file or directory in {tmp_path}"
    (tmp_path / ".manifest").write_text(f"{'0' * 64} 3 a\n" * 9, "utf-8")
    (tmp_path / ".lock").touch()
    detail = found({"CLLM_BINARY": "/opt/cllm"})["files"].detail
    assert detail.endswith(f" and 4 more; it is unpacked anew once {tmp_path} is removed")


@pytest.mark.parametrize("error", [ConfigError("what", "do"), ImportError("what"), OSError(2, "what")])
def test_a_check_that_cannot_be_made_has_failed(error):
    def broken():
        raise error

    finding = guarded("name", broken)
    assert (finding.name, finding.ok) == ("name", False)
    assert "what" in finding.detail


def test_without_compiled_kernels_there_is_no_self_test():
    def prepare():
        raise ConfigError("no compiler", "get one")

    *_, last, end = Examination({}, io.StringIO(), prepare).rows()
    assert (last["name"], last["ok"], last["detail"]) == ("compiling", False, "no compiler; get one")
    assert end == {"event": "end", "checks": len(NAMES) + 1, "failed": 1}


def test_a_kernel_that_cannot_be_run_ends_the_self_test(monkeypatch):
    def broken():
        raise ValueError("no such instruction")
        yield

    monkeypatch.setattr(selftest, "self_test", broken)
    examination = Examination({}, io.StringIO(), lambda: 3)
    *_, last, end = examination.rows()
    assert last["detail"] == "ValueError: no such instruction"
    assert examination.failed == [Finding("self-test", False, last["detail"])]
    assert end["failed"] == 1
