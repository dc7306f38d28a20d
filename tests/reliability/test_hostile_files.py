"""Files that somebody made to do harm, by hand: each command ends with an error of ours, and harms nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cllm_cli.main import main
from cllm_cli.training import train
from cllm_cli.training.durable import entries_hash
from cllm_cli.training.evaluate import MOST_NUMBERS, affordable_batch
from cllm_cli.training.resolve import model_config
from cllm_cli.training.run_folder import RunFolder

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 2, "dropout": 0.0, "steps": 2}
TINY |= {"eval_every": 2, "save_every": 2, "sample_every": 0, "threads": 1}
HOSTILE = "\x1b]0;title\x07\x1b[31m\u202e\x9b2J"
UNSAFE = ("\x1b", "\x07", "\u202e", "\x9b", "\x00", "\x7f")
HUGE = 2**63


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text("".join(f"line {n} of {n * n % 97}\n" for n in range(90)), "utf-8")
    for _ in train([folder / "text.txt"], folder / "run", **TINY):
        pass
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A run as ./run, its text as ./text.txt, and ./outside, which nobody may touch."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(made / "text.txt", "text.txt")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"precious\n")
    return Path(shutil.copytree(made / "run", "run"))


@pytest.fixture
def refused(capfd, tmp_path):
    """Runs a command that has to fail as all errors do; gives what it said. What is outside stays as it was."""

    def check(*args, words=()):
        assert main([str(arg) for arg in args]) == 1
        said = capfd.readouterr()
        assert said.err.splitlines()[-2].startswith("error: ")
        assert "unexpected" not in said.err
        assert "not enough memory" not in said.err
        assert not any(sign in said.out + said.err for sign in UNSAFE)
        assert all(word in said.err for word in words), said.err
        assert (tmp_path / "outside" / "precious").read_bytes() == b"precious\n"
        assert [item.name for item in (tmp_path / "outside").iterdir()] == ["precious"]
        return said.err

    return check


def tensors(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


SAFETENSORS = {
    "empty": b"",
    "seven bytes": b"1234567",
    "header of 2^63": tensors({}, size=HUGE),
    "header of 2^64-1": tensors({}, size=2**64 - 1),
    "header of 5 MB": tensors(b"{" + b" " * (5 << 20) + b"}"),
    "many tensors of nothing": tensors({f"{n}": entry([0], 0, 0) for n in range(80_000)}),
    "shape of 2^63": tensors({"a": entry([HUGE], 0, 4)}, b"1234"),
    "shape that overflows": tensors({"a": entry([2**32, 2**32], 0, 0)}),
    "offsets of 2^63": tensors({"a": entry([1], HUGE, HUGE + 4)}, b"1234"),
    "negative offset": tensors({"a": entry([1], -4, 0)}, b"1234"),
    "offsets swapped": tensors({"a": entry([1], 4, 0)}, b"1234"),
    "overlap": tensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "gap": tensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "bytes left over": tensors({"a": entry([1], 0, 4)}, bytes(12)),
    "bytes missing": tensors({"a": entry([1 << 40], 0, 4 << 40)}, bytes(12)),
    "unknown type": tensors({"a": entry([1], 0, 4, "PICKLE")}, bytes(4)),
    "duplicate keys": tensors(b'{"a":1,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "brackets": tensors(b"[" * 100_000),
    "deep object": tensors(b'{"a":' * 100_000),
    "no UTF-8": tensors(b'{"\xff":1}'),
    "list": tensors([1, 2, 3]),
    "hostile names": tensors({HOSTILE: entry([1], 0, 4)}, bytes(4)),
    "hostile metadata": tensors({"__metadata__": {"sha256": HOSTILE}, "a": entry([1], 0, 4)}, bytes(4)),
    "zip": None,
    "bfloat16": tensors({"val": entry([2], 0, 4, "BF16"), "train": entry([0], 4, 4, "BF16")}, bytes(4)),
    "float8": tensors({"val": entry([2], 0, 2, "F8_E4M3")}, bytes(2)),
}


def content(name):
    if SAFETENSORS[name] is not None:
        return SAFETENSORS[name]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("data.pkl", b"cos\nsystem\n(S'touch pwned'\ntR.")
    return packed.getvalue()


@pytest.mark.parametrize("file", ["model.safetensors", "data/tokens.safetensors", "checkpoint"])
@pytest.mark.parametrize("name", SAFETENSORS)
def test_tensors(run, refused, name, file):
    if file == "checkpoint":
        (step,) = run.glob("checkpoint/*")
        (step / "state.safetensors").write_bytes(content(name))
        refused("train", "text.txt", "-o", run, "--resume")
    else:
        (run / file).write_bytes(content(name))
        refused("eval", run)
    assert not Path("pwned").exists()


def test_a_sparse_file_takes_no_memory(run, refused):
    with (run / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 40)
    refused("generate", run)


LARGE = {
    "layers": ("n_layer = 1\n", "n_layer = 10000\n"),
    "10^9 layers": ("n_layer = 1\n", "n_layer = 1000000000\n"),
    "10^12 parameters": ("n_embd = 16", "n_embd = 1000000"),
    "wide beyond all": ("n_embd = 16", "n_embd = 1000000000"),
    "vocabulary": ("vocab_size = 256", "vocab_size = 1000000000"),
    "window": ("block_size = 8", "block_size = 1000000000"),
    "hidden": ("n_hidden = 64", "n_hidden = 1000000000"),
    "1e400": ("n_embd = 16", "n_embd = 1e400"),
    "inf": ("n_embd = 16", "n_embd = inf"),
    "date": ("n_embd = 16", "n_embd = 1979-05-27"),
    "twice": ("n_embd = 16", "n_embd = 16\nn_embd = 16"),
    "table": ("n_embd = 16", "[n_embd]\nx = 1"),
}
READERS = {
    "eval": ("eval", "run"),
    "generate": ("generate", "run", "--tokens", "3"),
    "gradcheck": ("gradcheck", "run"),
    "flow": ("gradcheck", "run", "--flow"),
    "profile": ("profile", "run", "--steps", "1"),
    "resume": ("train", "text.txt", "-o", "run", "--resume"),
    "init-from": ("train", "text.txt", "-o", "next", "--init-from", "run"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", LARGE)
def test_a_model_that_its_files_do_not_hold_takes_no_memory(run, refused, name, reader):
    before, after = LARGE[name]
    config = unsigned_settings(run)
    assert before in config
    (run / "config.toml").write_text(config.replace(before, after), "utf-8")
    refused(*READERS[reader])


@pytest.mark.parametrize("reader", ["flow", "profile", "resume"])
def test_a_step_of_a_billion_micro_batches_takes_no_memory(run, refused, reader):
    config = unsigned_settings(run).replace("grad_accum = 1\n", "grad_accum = 1000000000\n")
    assert "1000000000" in config
    (run / "config.toml").write_text(config, "utf-8")
    refused(*READERS[reader])


def unsigned_settings(run: Path) -> str:
    """A run's config.toml without its hash, as a stranger would write it."""
    return (run / "config.toml").read_text("utf-8").partition("\n")[2]


LINKED = ["config.toml", "model.safetensors", "tokenizer.json", "metrics.jsonl", "checkpoint", "data", ".lock"]
LINKED += ["data/tokens.safetensors", "data/corpus.json", "checkpoint/step-00000009"]


@pytest.mark.parametrize("command", ["eval", "resume"])
@pytest.mark.parametrize("name", LINKED)
def test_a_link_out_of_a_run_is_refused(run, refused, name, command):
    item = run / name
    target = Path("outside").absolute()
    if item.is_dir():
        shutil.rmtree(item)
    else:
        item.unlink(missing_ok=True)
        target = target if "step" in name else target / "precious"
    item.symlink_to(target)
    refused(*READERS[command], words=[f"{Path('run') / name} is a link that leads out of the run folder"])


def test_a_batch_that_a_stranger_asks_for_is_made_smaller(run):
    config = unsigned_settings(run)
    (run / "config.toml").write_text(config.replace("batch_size = 2", "batch_size = 1000000000"), "utf-8")
    assert affordable_batch(model_config(RunFolder(run).read_settings()), 10**9) * 8 * 64 <= MOST_NUMBERS
    assert affordable_batch(model_config(RunFolder(run).read_settings()), 12) == 12


def test_what_a_model_writes_is_safe_on_a_terminal_and_whole_in_a_pipe(run, monkeypatch, capfdbinary):
    command = ["generate", "run", "--tokens", "40", "--prompt", HOSTILE, "--temperature", "5"]
    assert main(command) == 0
    piped = capfdbinary.readouterr().out
    assert piped.startswith(HOSTILE.encode())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(command) == 0
    shown = capfdbinary.readouterr().out.decode()
    assert not any(sign in shown for sign in UNSAFE)


def test_force_over_links_deletes_nothing_outside(run, refused):
    shutil.rmtree(run / "checkpoint")
    (run / "checkpoint").symlink_to(Path("outside").absolute())
    refused("train", "text.txt", "-o", run, "--force", "--steps", "1")


def test_links_that_look_like_temporaries_go_and_what_they_lead_to_stays(run):
    target = Path("outside/precious").absolute()
    for name in ("config.toml", "tokenizer.json", "model.safetensors"):
        (run / f".tmp-1-{name}").symlink_to(target)
    assert main(["train", "text.txt", "-o", "run", "--resume", "--steps", "4", "--quiet"]) == 0
    assert target.read_bytes() == b"precious\n"
    assert not [item for item in run.rglob("*") if item.is_symlink()]


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
@pytest.mark.parametrize("name", ["config.toml", "model.safetensors", "tokenizer.json", "data/tokens.safetensors"])
def test_no_file_in_its_place(run, refused, name, kind):
    (run / name).unlink()
    put(run / name, kind)
    refused("eval", run)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "data/corpus.json", "state.safetensors", "manifest.json"])
def test_no_file_in_its_place_when_resumed(run, refused, name, kind):
    item = next(run.glob("checkpoint/*")) / name if name in ("state.safetensors", "manifest.json") else run / name
    item.unlink()
    put(item, kind)
    refused("train", "text.txt", "-o", run, "--resume", "--steps", "4")


def put(path, kind):
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


FIGURES = {"step": True, "position": -1, "loss_sum": "x", "val_loss": "NaN", "recent_losses": [[]]}
FIGURES |= {"metrics_bytes": 1e9, "best_step": 2**70, "seconds": None, "evaluated_step": HOSTILE}


@pytest.mark.parametrize("name", FIGURES)
def test_a_manifest_with_a_right_hash_and_wrong_figures(run, refused, name):
    (path,) = run.glob("checkpoint/*/manifest.json")
    manifest = json.loads(path.read_text("utf-8")) | {name: FIGURES[name]}
    path.write_text(json.dumps(manifest | {"sha256": entries_hash(manifest)}), "utf-8")
    refused("train", "text.txt", "-o", run, "--resume", "--steps", "4", words=["no checkpoint"])


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
LONG_MERGE = {"model": BPE | {"merges": [["ab", "ab"]]}}
CUT_MERGE = {"model": BPE | {"continuing_subword_prefix": "xxxx"}}
TOKENIZERS = {
    "brackets": b"[" * 100_000,
    "5,000 digits": b'{"kind": "byte", "vocab_size": ' + b"9" * 5_000 + b"}",
    "hostile kind": json.dumps({"kind": HOSTILE}).encode(),
    "path as kind": b'{"kind": "../../x"}',
    "surrogate": b'{"kind": "char", "vocab_size": 1, "end_of_text": null, "characters": "\\ud800"}',
    "id out of range": b'{"kind": "byte", "vocab_size": 256, "end_of_text": 4294967296}',
    "merges of nothing": b'{"kind": "bpe", "vocab_size": 1, "end_of_text": null, "tokens": ["a"], "merges": [[0, 7]]}',
    "no model": b'{"kind": "sentencepiece", "vocab_size": 1, "end_of_text": null, "model": "AAAA"}',
    "a merge beyond all tokens": json.dumps({"kind": "huggingface", "vocab_size": 3, "tokenizer": LONG_MERGE}).encode(),
    "a merge that is cut": json.dumps({"kind": "huggingface", "vocab_size": 3, "tokenizer": CUT_MERGE}).encode(),
    "no description": b'{"kind": "huggingface", "vocab_size": 1, "end_of_text": null, "model": {"type": "BPE"}}',
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers(run, refused, name):
    (run / "tokenizer.json").write_bytes(TOKENIZERS[name])
    refused("generate", run)


@pytest.mark.parametrize("line", ['val = "/dev/zero"', 'val = "fifo"', 'tokenizer = "fifo"', 'val = "../../x"'])
def test_paths_in_a_strangers_settings_are_not_opened(run, line, capfd):
    os.mkfifo("fifo")
    name = line.split()[0]
    lines = [each for each in unsigned_settings(run).splitlines() if not each.startswith(f"{name} ")]
    (run / "config.toml").write_text("\n".join([*lines, line]), "utf-8")
    assert main(["eval", "run"]) == 0
    assert main(["generate", "run", "--tokens", "3"]) == 0
    if name == "val":
        assert main(["train", "text.txt", "-o", "run", "--resume", "--steps", "4"]) == 1


def test_hostile_text_does_not_reach_the_terminal(run, capfd, refused):
    Path(f"{HOSTILE}.txt").write_text(HOSTILE * 200, "utf-8")
    assert main(["inspect", f"{HOSTILE}.txt"]) == 0
    assert main(["eval", "run", f"{HOSTILE}.txt", "--per-line"]) == 0
    assert main(["eval", "run", f"{HOSTILE}.txt", "--json"]) == 0
    said = capfd.readouterr()
    assert not any(sign in said.out + said.err for sign in UNSAFE)
    refused("train", f"{HOSTILE}.nowhere")
    refused("train", "text.txt", "--config", f"{HOSTILE}.toml")
    refused("train", "text.txt", "--tokenizer", f"{HOSTILE}/tokenizer.json")
    Path("rows.jsonl").write_text(json.dumps({HOSTILE: "x"}), "utf-8")
    refused("train", "rows.jsonl")
    Path("rows.csv").write_text(f"{HOSTILE},b\n1,2\n", "utf-8")
    refused("train", "rows.csv")
    (run / "config.toml").write_text(f'arch = "\\u001b[31m\\u202e"\n"{"k"}\\u001b" = 1\n', "utf-8")
    refused("eval", run)


def test_a_gz_of_zeros_is_refused_or_read_in_little_memory(run, capfd):
    with gzip.open("zeros.gz", "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert main(["inspect", "zeros.gz"]) == 0
    assert "67,108,864" in capfd.readouterr().out


def test_a_gz_that_is_a_zip_is_told(run, refused):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a", b"b" * 100)
    Path("both.gz").write_bytes(gzip.compress(b"text\n" * 50) + packed.getvalue())
    refused("train", "both.gz", words=["both.gz", "damaged"])


ROWS = [b"9" * 5000, b"[" * 100_000, b'{"text": ' + b"[" * 100_000, b"\xff\xfe{", b'"\\ud800"']


@pytest.mark.parametrize("line", ROWS, ids=range(len(ROWS)))
def test_rows(run, refused, line):
    Path("rows.jsonl").write_bytes(line + b"\n")
    refused("train", "rows.jsonl", words=["line 1"])


@pytest.mark.slow
def test_ten_thousand_files_in_a_checkpoint_folder(run, capfd):
    for number in range(10_000):
        (run / "checkpoint" / f"step-{number:08d}x").touch()
    assert main(["inspect", "run"]) == 0  # none of them is one
    assert main([*READERS["resume"], "--steps", "4"]) == 0
    assert sorted(path.name for path in (run / "checkpoint").iterdir() if path.is_dir())[-1] == "step-00000004"


def test_weights_stay_whole(run):
    """The fixtures above are harmless as they are: a run that nobody spoiled is read."""
    save_file(load_file(run / "model.safetensors"), run / "model.safetensors")
    assert main(["eval", "run"]) == 0
    assert np.isfinite(load_file(run / "model.safetensors")["transformer.ln_f.weight"]).all()
