"""A home and a cache that cannot be written, and a user whose the run is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cllm_cli.kernels import jit
from cllm_cli.kernels.jit import JIT_OFF

ROOT = Path(__file__).parents[2]
AS_ROOT = pytest.mark.skipif(bool(os.geteuid()), reason="only root may mount and become somebody else")

AS_ANOTHER = """
import contextlib, importlib, io, os, pkgutil, shlex, tempfile
from pathlib import Path
import cllm_cli
from cllm_cli.main import main
from tests.reliability import chains, forks

for module in pkgutil.walk_packages(cllm_cli.__path__, "cllm_cli."):  # the other user may not even read the package
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

@contextlib.contextmanager
def another():
    os.setgroups([])
    os.setgid(12345)
    os.setuid(12345)
    yield

def said(name):
    return (place / name).read_text("utf-8")

with tempfile.TemporaryDirectory() as folder:
    place = Path(folder)
    place.chmod(0o755)
    (place / "theirs").mkdir()
    os.chown(place / "theirs", 12345, 12345)
    forks.warm_up(place)

    def run(args, out, **more):
        return forks.Child(args, place, f"{out}.out", f"{out}.err", **more).ended_within(None)

    train = ["train", "text.txt", "--threads=1", *forks.FLAGS]
    assert run([*train, "-o", "run"], "root") == 0, said("root.err")
    before = chains.bits(place / "run")
    with contextlib.redirect_stdout(io.StringIO()):  # the other user may not even read Python's own modules
        main(["inspect", str(place / "run")])
        main(["inspect", str(place / "run/model.safetensors")])
    for number, args in enumerate(([*train, "-o", "run", "--force"], ["train", "text.txt", "-o", "run", "--resume"])):
        assert run(args, f"theirs/{number}", during=another()) == 1
        told = said(f"theirs/{number}.err")
        assert "error: cannot write to run: Permission denied" in told, told
    assert run([*train, "-o", "new"], "theirs/new", during=another()) == 1
    assert "error: cannot write to new: Permission denied" in said("theirs/new.err"), said("theirs/new.err")
    assert run(["inspect", "run"], "theirs/inspect", during=another()) == 0, said("theirs/inspect.err")
    assert chains.differing(chains.bits(place / "run"), before) == []
    (place / "run/model.safetensors").chmod(0o600)
    assert run(["inspect", "run/model.safetensors"], "theirs/closed", during=another()) == 1
    assert "Permission denied" in said("theirs/closed.err")
"""


@pytest.mark.slow
@AS_ROOT
@pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")
def test_another_user_reads_a_run_and_changes_nothing():
    subprocess.run([sys.executable, "-c", AS_ANOTHER], cwd=ROOT, check=True)


@pytest.fixture
def read_only(tmp_path):
    """A folder on a disk that cannot be written to."""
    place = tmp_path / "read-only"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=100k,mode=700", "none", place]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@AS_ROOT
@pytest.mark.parametrize("name", ["", "within"])
@pytest.mark.parametrize("variable", ["HOME", jit.CACHE_VARIABLE, "XDG_CACHE_HOME"])
def test_a_cache_that_cannot_be_written_is_none(read_only, monkeypatch, variable, name):
    for other in (jit.CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(read_only / name))
    assert jit.cache_root.__wrapped__() is None


@pytest.mark.slow
@AS_ROOT
@pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")
def test_a_home_that_cannot_be_written(read_only, tmp_path):
    """Kernels are compiled anew then, by other processes all the same; that is told, and nothing is left of it."""
    (tmp_path / "temporary").mkdir()
    places = {"HOME": str(read_only), "TMPDIR": str(tmp_path / "temporary")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **places}
    for other in (jit.CACHE_VARIABLE, "XDG_CACHE_HOME"):
        environment.pop(other, None)
    command = [sys.executable, "-m", "cllm_cli"]
    more = {"cwd": tmp_path, "env": environment, "capture_output": True, "encoding": "utf-8", "check": False}
    (tmp_path / "text.txt").write_text("line after line\n" * 9, "utf-8")
    done = subprocess.run([*command, "inspect", "text.txt"], **more)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "gradcheck", "--layer", "add"], **more)
    assert done.returncode == 0, done.stderr
    assert "compiled kernels are not kept" in done.stderr
    assert "in this process" not in done.stderr
    assert not [*(tmp_path / "temporary").iterdir()]
