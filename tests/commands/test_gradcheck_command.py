"""`cllm gradcheck` and `cllm profile`: their rows, and exit code 3 when a gradient is wrong."""

from __future__ import annotations

import pytest

from cllm_cli.layers import LAYERS

CHECK = {"event", "layer", "sizes", "tensor", "dtype", "error", "tolerance", "ok"}


def test_one_layer(cllm):
    done = cllm("gradcheck", "--layer", "gelu", "--json").assert_done()
    checks, end = done.of("check"), done.events[-1]
    assert all(set(check) >= CHECK for check in checks)
    assert {check["layer"] for check in checks} == {"gelu"}
    assert all(check["ok"] and check["error"] <= check["tolerance"] for check in checks)
    assert len({str(check["sizes"]) for check in checks}) > 1
    assert end == {"event": "end", "checks": len(checks), "failed": 0}
    assert done.err == ""


def test_several_layers_as_a_table(cllm):
    done = cllm("gradcheck", "--layer", "gelu", "--layer", "add").assert_done()
    assert "all passed" in done.out.splitlines()[-1]
    assert "\x1b" not in done.out
    assert {line.split()[0] for line in done.out.splitlines()[1:-1]} == {"gelu", "add"}


@pytest.mark.slow
def test_all_layers_and_a_whole_model(cllm):
    done = cllm("gradcheck", "--json").assert_done()
    layers = {check["layer"] for check in done.of("check")}
    assert layers > set(LAYERS)


@pytest.fixture
def wrong(monkeypatch):
    """One check out of two finds a gradient that is off."""
    from cllm_cli.checks import gradcheck
    from cllm_cli.checks.gradcheck import Check

    good = Check("gelu", {"N": 7, "C": 5}, "x", "float64", 1e-12, 1e-7, True, "[direction 0]", 1.0, 1.0)
    bad = Check("gelu", {"N": 1, "C": 1}, "x", "float64", 0.5, 1e-7, False, "[0, 0]", 1.5, 3.0)
    monkeypatch.setattr(gradcheck, "check_layers", lambda names, seed: iter([good, bad]))


@pytest.mark.usefixtures("wrong")
def test_a_wrong_gradient_is_3_and_names_tensor_and_figures(cllm):
    found = cllm("gradcheck", "--layer", "gelu")
    assert found.code == 3
    assert "FAIL" in found.out
    assert "1 failed" in found.out
    error, hint = found.err.splitlines()
    assert error == "error: gelu, x[0, 0] with {'N': 1, 'C': 1}: analytic 1.5, numeric 3"
    assert hint.startswith("hint: 1 ")


@pytest.mark.usefixtures("wrong")
def test_a_wrong_gradient_in_json(cllm):
    found = cllm("gradcheck", "--layer", "gelu", "--json")
    assert found.code == 3
    assert [check["ok"] for check in found.of("check")] == [True, False]
    assert found.events[-1] == {"event": "end", "checks": 2, "failed": 1}


# profile

LAYER = {"event", "name", "direction", "calls", "ms", "gflops", "gbytes_per_s", "roof_share"}
END = {"event", "ms_per_step", "tokens_per_s", "gflops", "machine_gflops", "roof_share", "memory_bytes"}


def assert_profile(done):
    rows, end = done.of("layer"), done.events[-1]
    assert all(set(row) >= LAYER for row in rows)
    assert set(end) >= END
    assert {row["direction"] for row in rows} == {"forward", "backward", "update"}
    assert {"linear", "attention", "gelu", "adamw"} <= {row["name"] for row in rows}
    assert all(row["ms"] > 0 and row["calls"] > 0 for row in rows)
    assert 0 < sum(row["ms"] for row in rows) <= 2 * end["ms_per_step"]
    assert end["memory_bytes"]["total"] > 0
    assert done.err == ""


def test_profile_of_a_run(cllm, run, contents):
    before = contents(run)
    assert_profile(cllm("profile", run, "--steps", 2, "--json").assert_done())
    assert contents(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--preset", "nano", "--batch-size", 2, "--vocab-size", 300]])
def test_profile_of_a_preset(cllm, flags):
    assert_profile(cllm("profile", *flags, "--steps", 1, "--json").assert_done())


def test_profile_as_a_table(cllm, run):
    out = cllm("profile", run, "--steps", 1).assert_done().out
    assert "tokens/s" in out
    assert "of the roof" in out
    assert "memory" in out
    assert "\x1b" not in out
