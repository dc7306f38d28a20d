"""`cllm gradcheck`: its rows, and exit code 3 when a gradient is wrong."""

from __future__ import annotations

import json
import shutil

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
    assert (end["event"], end["checks"], end["failed"]) == ("end", len(checks), 0)
    worst = max(checks, key=lambda check: check["error"])
    assert end["worst"] == {name: worst[name] for name in ("layer", "tensor", "error", "tolerance")}
    assert done.err == ""


def test_float32_against_float64(cllm):
    done = cllm("gradcheck", "--layer", "gelu", "--float32", "--json").assert_done()
    checks = done.of("check")
    assert {check["dtype"] for check in checks} == {"float32"}
    assert len({check["tolerance"] for check in checks}) == len(checks)  # it follows from the sizes


def test_the_seed_decides_what_is_checked(cllm):
    def errors(seed):
        done = cllm("gradcheck", "--layer", "gelu", "--json", "--seed", seed).assert_done()
        return [check["error"] for check in done.of("check")]

    assert errors(3) == errors(3)
    assert errors(3) != errors(4)


def test_several_layers_as_a_table(cllm):
    done = cllm("gradcheck", "--layer", "gelu", "--layer", "add").assert_done()
    assert "all passed; worst " in done.out.splitlines()[-1]
    assert "\x1b" not in done.out
    assert {line.split()[0] for line in done.out.splitlines()[1:-1]} == {"gelu", "add"}
    twice = cllm("gradcheck", "--layer", "gelu", "--layer", "add", "--layer", "gelu").assert_done()
    assert len(twice.out.splitlines()) == len(done.out.splitlines())


@pytest.mark.slow
def test_all_layers_and_a_whole_model(cllm):
    done = cllm("gradcheck", "--json").assert_done()
    layers = {check["layer"] for check in done.of("check")}
    assert layers > set(LAYERS)
    assert done.events[-1]["seconds"] < 60
    done = cllm("gradcheck", "--json", "--float32").assert_done()
    assert {check["layer"] for check in done.of("check")} == layers


@pytest.fixture
def wrong(monkeypatch):
    """One check out of two finds a gradient that is off."""
    from cllm_cli.checks import selection
    from cllm_cli.checks.differences import Check

    good = Check("gelu", {"N": 7, "C": 5}, "x", [7, 5], "float64", 1e-12, 1e-7, True, "[direction 0]", 1.0, 1.0)
    bad = Check("gelu", {"N": 1, "C": 1}, "x", [1, 1], "float64", 0.5, 1e-7, False, "[0, 0]", 1.5, 3.0)
    monkeypatch.setattr(selection, "check_layers", lambda names, seed: iter([good, bad]))


@pytest.mark.usefixtures("wrong")
def test_a_wrong_gradient_is_3_and_names_tensor_and_figures(cllm):
    found = cllm("gradcheck", "--layer", "gelu")
    assert found.code == 3
    assert "FAIL" in found.out
    assert "  at [0, 0] of shape [1, 1]: analytic 1.5, numeric 3\n" in found.out
    assert "1 failed" in found.out
    error, hint = found.err.splitlines()
    assert error == "error: gelu, x[0, 0] of shape [1, 1] with N=1 C=1: analytic 1.5, numeric 3"
    assert hint.startswith("hint: 1 ")


@pytest.mark.usefixtures("wrong")
def test_a_wrong_gradient_in_json(cllm):
    found = cllm("gradcheck", "--layer", "gelu", "--json")
    assert found.code == 3
    assert [check["ok"] for check in found.of("check")] == [True, False]
    end = found.events[-1]
    assert (end["event"], end["checks"], end["failed"]) == ("end", 2, 1)
    assert end["worst"]["error"] == 0.5


# of a run

FLOW = {"event", "kind", "name", "shape", "gradient_rms", "findings"}


@pytest.mark.parametrize("flags", [[], ["--float32"]])
def test_every_parameter_of_a_run_is_checked_on_its_own_text(cllm, run, contents, flags):
    before = contents(run)
    done = cllm("gradcheck", run, *flags, "--json").assert_done()
    checks, end = done.of("check"), done.events[-1]
    assert {check["layer"] for check in checks} == {"gpt2"}
    assert len({check["tensor"] for check in checks}) == len(checks) == 16
    assert {(check["sizes"]["C"], check["sizes"]["T"]) for check in checks} == {(16, 8)}
    assert {check["dtype"] for check in checks} == {"float32" if flags else "float64"}
    assert end["checks"] == 16
    assert contents(run) == before


def test_a_run_whose_weights_are_damaged_fails_its_check(cllm, run):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(run / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"][0, 0] = float("nan")
    save_file(tensors, run / "model.safetensors")
    found = cllm("gradcheck", run)
    assert found.code == 3
    assert "error: transformer.h.0.mlp.c_fc.weight[0, 0] of shape [16, 64] is nan" in found.err
    assert found.out == ""


def test_what_is_no_run_is_an_error(cllm, run):
    cllm("gradcheck", "nowhere").assert_error(1, "nowhere")
    cllm("gradcheck", "nowhere", "--flow").assert_error(1, "nowhere")
    cllm("gradcheck", run, "--layer", "gelu").assert_error(1, "--layer")
    cllm("gradcheck", "--flow", "--float32").assert_error(1, "--flow")
    cllm("gradcheck", "--flow", "--layer", "gelu").assert_error(1, "--flow")
    cllm("gradcheck", "--seed", 2**63).assert_error(2, "--seed")
    (run / "data" / "tokens.safetensors").unlink()
    cllm("gradcheck", run).assert_error(1, "tokens.safetensors")


def test_the_flow_of_a_run_leaves_it_as_it_is(cllm, run, contents):
    before = contents(run)
    done = cllm("gradcheck", "--flow", run, "--json").assert_done()
    rows, end = done.of("flow"), done.events[-1]
    assert all(set(row) >= FLOW for row in rows)
    assert {row["kind"] for row in rows} == {"layer", "parameter"}
    assert end["event"] == "end"
    assert end["steps"] == len(end["losses"]) == 5
    assert done.err == ""
    assert contents(run) == before
    shutil.rmtree(run / "checkpoint")
    assert cllm("gradcheck", "--flow", run, "--json").assert_done().events[-1]["losses"] != end["losses"]


@pytest.mark.parametrize("length", [["--epochs", 1], ["--minutes", 0.0001, "--stop-after", 12]])
@pytest.mark.parametrize("flags", [[], ["--recompute", "block", "--grad-accum", 2]])
def test_the_flow_of_runs_of_every_kind(cllm, text, tiny, tmp_path, length, flags):
    sizes = [flag for flag in tiny if flag not in ("--steps", "12")]
    cllm("train", text, *sizes, *length, *flags, "--out", tmp_path / "other", "--quiet").assert_done()
    end = cllm("gradcheck", "--flow", tmp_path / "other", "--json").assert_done().events[-1]
    assert (end["steps"], end["grad_accum"]) == (5, 2 if flags else 1)
    cllm("profile", tmp_path / "other", "--steps", 1).assert_done()


def test_the_flow_passes_over_a_damaged_checkpoint_and_leaves_it(cllm, run, contents):
    last = max((run / "checkpoint").glob("step-*"))
    (last / "manifest.json").write_text("{", "utf-8")
    before = contents(run)
    done = cllm("gradcheck", "--flow", run, "--json").assert_done()
    assert done.err.startswith("note: passed over: ")
    assert last.name in done.err
    assert contents(run) == before


def test_flow_goes_on_from_the_last_checkpoint(cllm, run):
    """Its first loss is that of the weights after the last step, not of those that were best."""
    (run / "model.safetensors").unlink()
    end = cllm("gradcheck", "--flow", run, "--json").assert_done().events[-1]
    trained = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert end["losses"][0] == pytest.approx(trained[-1]["val_loss"], abs=0.5)


@pytest.mark.slow
def test_flow_without_a_run_as_a_table(cllm):
    out = cllm("gradcheck", "--flow").assert_done().out
    assert out.isascii()
    assert "nothing out of the ordinary" in out.splitlines()[-1]


def test_what_is_not_finite_is_named_and_3(cllm, run):
    from safetensors.numpy import load_file, save_file

    shutil.rmtree(run / "checkpoint")
    tensors = load_file(run / "model.safetensors")
    tensors["transformer.h.0.attn.c_attn.weight"][:] = 3e38
    save_file(tensors, run / "model.safetensors")
    found = cllm("gradcheck", "--flow", run)
    assert found.code == 3
    assert "error: not finite: activation of transformer.h.0.attn.c_attn at step 1" in found.err
