"""`cllm warmup` leaves nothing for later commands to compile."""

from __future__ import annotations

import json

import pytest

from cllm_cli.kernels.jit import JIT_OFF

pytestmark = pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")


def test_warmup_says_what_is_ready_and_where(cllm):
    done = cllm("warmup", "--json").assert_done()
    (row,) = map(json.loads, done.out.splitlines())
    assert row["event"] == "compile"
    assert row["kernels"] > 50
    assert row["seconds"] > 0
    shown = cllm("warmup").assert_done()
    assert f"{row['kernels']} kernels are ready in {row['path']}" in shown.out


def test_without_a_folder_for_kernels_there_is_nothing_to_do(run_apart, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLLM_CACHE_DIR", str(tmp_path / "file"))
    run_apart("warmup").assert_error(1, "no folder to keep compiled kernels in", "CLLM_CACHE_DIR")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--level", "x86-64-v3"], "--level and --out belong together", "for example"),
        (["--out", "new"], "--level and --out belong together", "for example"),
        (["--level", "v3", "--out", "new"], "unknown --level 'v3'", "x86-64-v3"),
        (["--level", "x86-64-v3", "--out", "."], "cannot make", "choose another"),
        (["--level", "x86-64-v3", "--out", "not/there"], "cannot make", "choose another"),
    ],
)
def test_a_level_goes_into_a_new_folder(cllm, arguments, message, hint):
    cllm("warmup", *arguments).assert_error(1, message, hint)


def test_a_cpu_that_is_none_is_named(run_apart):
    run_apart("warmup", "--cpu", "pentium").assert_error(1, "unknown CPU level 'pentium'", "x86-64-v3")
