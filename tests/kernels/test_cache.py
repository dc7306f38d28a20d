"""The cache of compiled kernels: an edit is noticed where it matters and nowhere else, and what is loaded is ours."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cllm_cli.kernels import jit, private, temporary
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


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder can keep compiled kernels; there is one for temporary files."""
    (tmp_path / "kernels").write_text("a file in its place", encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("CLLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(jit, "cache_root", jit.cache_root.__wrapped__)
    monkeypatch.setattr(temporary, "_made", functools.cache(temporary._made.__wrapped__))
    return tmp_path / "temporary"


def test_then_a_process_has_a_private_folder_of_its_own(nowhere):
    root = jit.working_root()
    assert root.parent.parent == nowhere
    assert [each.stat().st_mode & 0o777 for each in (root, root.parent)] == [0o700, 0o700]
    assert jit.working_root() == root


def test_or_none_where_others_could_write_to_it(nowhere):
    nowhere.chmod(0o777)
    assert jit.working_root() is None


@pytest.mark.parametrize("name", ["mkdtemp", "make_private"])
def test_or_none_where_none_can_be_made(nowhere, monkeypatch, name):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(tempfile if name == "mkdtemp" else temporary, name, full)
    assert jit.working_root() is None


def test_none_is_made_for_kernels_that_came_along(nowhere, monkeypatch):
    module = jit.PACKAGE / "layers" / "gelu.py"
    shipped = nowhere.parent / "shipped"
    (shipped / jit.TARGET / jit.folder_name(module)).mkdir(parents=True)
    monkeypatch.setattr(jit, "SHIPPED", shipped)
    assert jit.cache_folder.__wrapped__(module) == shipped / jit.TARGET / jit.folder_name(module)
    assert not [*nowhere.iterdir()]


HOLD = """
import sys
from cllm_cli.kernels.jit import working_root
print(working_root(), flush=True)
sys.stdin.read()
"""


def hold(kill):
    """Where a process has its folder, that uses it until it ends or is killed; and the process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    place = Path(process.stdout.readline().strip())
    if kill:
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    return place, process


def test_it_goes_with_the_process_and_one_that_was_left_with_the_next(nowhere):
    left, _ = hold(kill=True)
    assert left.is_dir()
    used, process = hold(kill=False)
    assert not left.exists()
    _, last = hold(kill=False)
    assert used.is_dir()  # a process is using it
    for each in (process, last):
        each.communicate()
        assert each.returncode == 0
    assert not [*nowhere.iterdir()]


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


# Who can put something into the cache


def test_a_folder_that_others_can_read_is_closed(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir(mode=0o755)
    assert root_of(tmp_path, monkeypatch) == tmp_path / "kernels"
    assert (tmp_path / "kernels").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_folder_on_the_way_that_others_can_write_to_is_refused(tmp_path, monkeypatch, mode):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    assert root_of(tmp_path / "open" / "mine", monkeypatch) is None
    (tmp_path / "open").chmod(mode | 0o1000)  # sticky, as /tmp is: nobody can replace what is not theirs
    assert root_of(tmp_path / "open" / "mine", monkeypatch) is not None


def test_a_folder_on_the_way_of_a_group_of_others_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(private, "_is_alone_in", lambda group: False)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o775)
    assert root_of(tmp_path / "shared" / "mine", monkeypatch) is None


def test_a_link_on_the_way_is_followed_to_a_safe_place_alone(tmp_path, monkeypatch):
    for name, mode in (("safe", 0o700), ("open", 0o777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        (tmp_path / name / "cllm").mkdir()
        (tmp_path / f"to-{name}").symlink_to(tmp_path / name)
    assert root_of(tmp_path / "to-safe" / "cllm", monkeypatch) is not None
    assert root_of(tmp_path / "to-open" / "cllm", monkeypatch) is None


@pytest.mark.parametrize("umask", [0, 0o002, 0o022])
def test_folders_on_the_way_that_are_made_are_closed(tmp_path, monkeypatch, umask):
    before = os.umask(umask)
    try:
        assert root_of(tmp_path / "some" / "way" / "cllm", monkeypatch)
    finally:
        os.umask(before)
    made = [tmp_path / "some", tmp_path / "some" / "way", tmp_path / "some" / "way" / "cllm"]
    assert [folder.stat().st_mode & 0o777 for folder in made] == [0o700] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("foreign", ["root", "way", "link"])
def test_what_belongs_to_another_user_is_refused(tmp_path, monkeypatch, foreign):
    (tmp_path / "way" / "kernels").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "way")
    place = {"root": "way/kernels", "way": "way", "link": "link"}[foreign]
    os.chown(tmp_path / place, 12345, 12345, follow_symlinks=False)
    assert root_of(tmp_path / ("link" if foreign == "link" else "way"), monkeypatch) is None


def test_a_modules_folder_that_others_could_enter_is_made_anew(tmp_path):
    folder = tmp_path / "linear-0"
    folder.mkdir(mode=0o755)
    (folder / "planted.nbi").write_bytes(b"code")
    private.make_private_within(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(folder.iterdir())
    (folder / "own.nbi").write_bytes(b"code")
    private.make_private_within(folder)
    assert [item.name for item in folder.iterdir()] == ["own.nbi"]


@pytest.mark.parametrize("kind", ["link to a folder", "link in it", "file of another"])
def test_a_modules_folder_with_something_foreign_is_made_anew(tmp_path, kind):
    folder, other = tmp_path / "linear-0", tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "kept").write_bytes(b"code")
    if kind == "link to a folder":
        folder.symlink_to(other)
    else:
        folder.mkdir(mode=0o700)
    if kind == "link in it":
        (folder / "planted.nbi").symlink_to(other / "kept")
    if kind == "file of another":
        if os.geteuid():
            pytest.skip("only root gives files away")
        (folder / "planted.nbi").write_bytes(b"code")
        os.chown(folder / "planted.nbi", 12345, 12345)
    private.make_private_within(folder)
    assert not folder.is_symlink()
    assert not any(folder.iterdir())
    assert (other / "kept").exists()
