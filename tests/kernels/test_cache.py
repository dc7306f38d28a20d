"""The cache of compiled kernels: an edit is noticed where it matters and nowhere else, and what is loaded is ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from cllm_cli.kernels import jit
from cllm_cli.layers import LAYERS

ROOT = jit.PACKAGE.parent
MODULES = ["layers/linear.py", "layers/gelu.py", "layers/residual.py", "layers/attention.py"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that can be edited; `jit` takes it for its own."""
    copy = tmp_path / "cllm_cli"
    shutil.copytree(jit.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "PACKAGE", copy)
    monkeypatch.setattr(jit, "__file__", str(copy / "kernels" / "jit.py"))
    return copy


def keys(package):
    return {module: jit.source_key.__wrapped__(package / module) for module in MODULES}


@pytest.mark.parametrize(
    ("edited", "stale"),
    [
        ("layers/linear.py", {"layers/linear.py"}),
        ("layers/gelu.py", {"layers/gelu.py"}),
        ("kernels/gemm.py", {"layers/linear.py", "layers/attention.py"}),
        ("kernels/math.py", {"layers/gelu.py", "layers/attention.py"}),
        ("kernels/simd.py", {"layers/linear.py", "layers/attention.py"}),
        ("kernels/bits.py", {"layers/linear.py", "layers/gelu.py", "layers/attention.py"}),  # through math and reduce
        ("kernels/jit.py", set(MODULES)),
        ("layers/base.py", set(MODULES)),
        ("model/gpt2.py", set()),
        ("layers/dropout.py", set()),
        ("layers/__init__.py", set()),
    ],
)
def test_an_edit_changes_the_keys_of_those_that_import_it(package, edited, stale):
    before = keys(package)
    with (package / edited).open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    after = keys(package)
    assert {module for module in MODULES if before[module] != after[module]} == stale


def test_a_copy_has_the_keys_of_the_original(request):
    original = keys(jit.PACKAGE)
    assert keys(request.getfixturevalue("package")) == original


@pytest.mark.parametrize("setting", ["CPU_NAME", "CPU_FEATURES"])
def test_another_cpu_has_other_keys(package, setting, monkeypatch):
    before = keys(package)
    monkeypatch.setattr(jit.numba.config, setting, "generic" if setting == "CPU_NAME" else "+sse2")
    assert all(before[module] != after for module, after in keys(package).items())


def root_of(folder, monkeypatch):
    monkeypatch.setenv("CLLM_CACHE_DIR", str(folder))
    return jit.cache_root.__wrapped__()


def test_the_cache_is_private(tmp_path, monkeypatch):
    root = root_of(tmp_path / "new", monkeypatch)
    assert root == tmp_path / "new" / "kernels"
    assert root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o722])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, monkeypatch, mode):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(mode)
    assert root_of(tmp_path, monkeypatch) is None


def test_a_folder_of_someone_else_is_refused(tmp_path, monkeypatch):
    assert root_of(tmp_path, monkeypatch) is not None
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert root_of(tmp_path, monkeypatch) is None


def test_where_no_folder_can_be_made_nothing_is_cached(tmp_path, monkeypatch):
    (tmp_path / "kernels").write_text("a file in its place", encoding="utf-8")
    assert root_of(tmp_path, monkeypatch) is None


def test_the_users_cache_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.delenv("CLLM_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jit.cache_root.__wrapped__() == tmp_path / "cllm" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jit.cache_root.__wrapped__() == tmp_path / ".cache" / "cllm" / "kernels"


USE = """
import numpy as np
from cllm_cli.layers.residual import add_forward
x = np.ones((2, 3), np.float32)
out = np.zeros_like(x)
add_forward(out, x, x)
assert (out == 2).all()
print(sum(add_forward.stats.cache_hits.values()), sum(add_forward.stats.cache_misses.values()))
"""


def use(folder):
    """Hits and misses of a process that calls one small kernel."""
    environment = {**os.environ, "CLLM_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", USE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(jit.JIT_OFF, reason="nothing is compiled")
def test_the_second_process_only_loads(tmp_path):
    assert use(tmp_path) == ["0", "1"]
    assert use(tmp_path) == ["1", "0"]


@pytest.mark.slow
@pytest.mark.skipif(jit.JIT_OFF, reason="nothing is compiled")
def test_a_process_without_a_cache_compiles(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(0o777)
    assert [use(tmp_path), use(tmp_path)] == [["0", "1"]] * 2
    assert not any((tmp_path / "kernels").iterdir())


@pytest.mark.skipif(jit.JIT_OFF or jit.cache_root() is None, reason="nothing is cached")
@pytest.mark.parametrize("name", LAYERS)
def test_every_kernel_of_a_layer_is_cached_under_its_own_key(name):
    layer = LAYERS.load(name)
    for kernel in (layer.forward, layer.backward, layer.forward_backward, layer.cached):
        if kernel:
            path = jit.PACKAGE / f"{kernel.py_func.__module__.removeprefix('cllm_cli.').replace('.', '/')}.py"
            folder = jit.cache_root() / f"{path.stem}-{jit.source_key(path)}"
            assert kernel._cache.cache_path == str(folder)
