"""`cllm inspect`: each kind of thing as JSON and as lines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tokenizer_files import END, byte_level, sentence_pieces, spec_of, write_gpt2

KEYS = {
    "text": {"documents", "bytes", "tokens", "bytes_per_token", "vocab_size", "used_ids", "skipped", "problems"},
    "run": {"config", "params", "layers", "step", "steps", "best_val_loss", "complete", "resumable", "file_bytes"},
    "store": {"documents", "train_tokens", "val_tokens", "tokenizer", "sha256", "fingerprint", "whole"},
    "tokenizer": {"tokenizer", "vocab_size", "end_of_text", "ids", "sha256"},
}
PLACES = {"text": "text.txt", "run": "run", "store": "a.tok", "tokenizer": "run/tokenizer.json"}


@pytest.fixture
def things(cllm, text, run):
    cllm("tokenize", text, "-o", "a.tok").assert_done()


@pytest.mark.parametrize("kind", KEYS)
def test_one_event_of_each_kind(cllm, things, contents, kind):
    before = contents(Path())
    (row,) = cllm("inspect", PLACES[kind], "--json").assert_done().events
    assert row["event"] == kind
    assert set(row) >= KEYS[kind]
    shown = cllm("inspect", PLACES[kind]).assert_done()
    assert shown.err == ""
    assert len(shown.out.splitlines()) >= 4
    assert contents(Path()) == before


def test_a_text(cllm, text):
    row = cllm("inspect", text, "--tokenizer", "char", "--json").assert_done().events[0]
    content = text.read_text()
    assert (row["tokens"], row["bytes"], row["lines"]) == (len(content), len(content), content.count("\n"))
    assert row["used_ids"] == row["vocab_size"] == len(set(content))
    assert (row["problems"], row["documents"], row["tokenizer"]) == ([], 1, "char")
    assert cllm("inspect", "-", "--json", stdin=b"abc").assert_done().events[0]["bytes"] == 3


def test_a_text_in_the_ids_of_a_run(cllm, text, run):
    row = cllm("inspect", text, "--tokenizer", run / "tokenizer.json", "--json").assert_done().events[0]
    assert (row["tokens"], row["vocab_size"]) == (text.stat().st_size, 256)


def test_problems_are_shown_and_cannot_act_on_the_terminal(cllm):
    Path("a\x1b[2J.txt").write_bytes("caf\xe9 \x1b[31m\r\nb\nÃ©".encode("latin-1", "replace") + "Ã©".encode())
    Path("b.txt").write_bytes(b"x" * 300)
    Path("c.txt").write_bytes(b"x" * 300)
    shown = cllm("inspect", ".").assert_done().out
    for fragment in ("invalid UTF-8", "from byte 3 on", "mixed line ends", "read as Latin-1", "is a copy of", "300 B"):
        assert fragment in shown
    assert "\x1b" not in shown


def test_a_run(cllm, run):
    row = cllm("inspect", run, "--json").assert_done().events[0]
    tensors = load_file(run / "model.safetensors")
    assert row["params"] == sum(tensor.size for tensor in tensors.values()) == sum(x["params"] for x in row["layers"])
    assert [layer["name"] for layer in row["layers"]] == ["wpe", "wte", "h.0", "ln_f"]
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [event["val_loss"] for event in events if event["event"] == "eval"]
    assert (row["val_loss"], row["best_val_loss"]) == (losses[-1], min(losses))
    assert (row["step"], row["steps"], row["complete"], row["resumable"]) == (12, 12, True, True)
    assert row["file_bytes"] == sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    assert row["config"]["n_embd"] == 16


def test_a_run_that_was_stopped_and_one_that_is_damaged(cllm, text, tiny, run):
    cllm("train", text, "-o", "out", *tiny, "--stop-after", 4).assert_done()
    row = cllm("inspect", "out", "--json").assert_done().events[0]
    assert (row["step"], row["complete"], row["resumable"]) == (4, False, True)
    for state in run.glob("checkpoint/*/state.safetensors"):
        state.write_bytes(b"")
    shown, found = cllm("inspect", run), cllm("inspect", run, "--json")
    row = found.events[0]
    assert (row["step"], row["resumable"], row["whole"], len(row["damaged"])) == (0, False, False, 2)
    assert "is damaged" in shown.out
    assert found.code == shown.code == 3
    with (run / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b"[1]\n{\n\xff\n" + b"[" * 100_000 + b'\n{"event":"eval","val_loss":"low","step":1}\n')
    assert cllm("inspect", run, "--json").events[0]["best_val_loss"] == row["best_val_loss"]


DAMAGE = {
    "tokenizer.json": {"tokenizer": {"spec": "byte", "vocab_size": None}, "resumable": False},
    "model.safetensors": {"params": None, "layers": []},
    "metrics.jsonl": dict.fromkeys(("train_loss", "val_loss", "best_val_loss", "best_step")) | {"resumable": False},
    "data/corpus.json": {"resumable": False},
    "data/tokens.safetensors": {},
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_rest_of_a_run_is_shown_where_a_file_of_it_is_damaged(cllm, run, name):
    whole = cllm("inspect", run, "--json").assert_done().events[0]
    (run / name).unlink()
    if name == "metrics.jsonl":
        os.mkfifo(run / name)
    else:
        (run / name).write_bytes(b'{"kind": "byte"')
    found = cllm("inspect", run, "--json")
    row, changed = found.events[0], {"damaged", "whole", "files", "file_bytes"}
    assert (found.code, row["whole"], len(row["damaged"])) == (3, False, 1)
    assert name in row["damaged"][0]
    assert {key: value for key, value in row.items() if key not in changed} == {
        key: value for key, value in {**whole, **DAMAGE[name]}.items() if key not in changed
    }
    shown = cllm("inspect", run)
    assert shown.code == 3
    assert "n_layer 1" in shown.out
    assert str(run / name) in shown.out
    goes_on = f"cllm train CORPUS --out {run} --resume goes on from step 12"
    hint = goes_on if row["resumable"] else "restore what is named as damaged, or train again"
    assert shown.err.splitlines() == ["error: the run is damaged", f"hint: {hint}"]
    if name != "metrics.jsonl":  # where there is none, a new one is begun
        (run / name).unlink()
        (why,) = cllm("inspect", run, "--json").events[0]["damaged"]
        assert str(run / name) in why


def test_a_run_keeps_text_from_standard_input_itself(cllm, text, tiny):
    cllm("train", "-", "-o", "out", *tiny, stdin=text.read_bytes()).assert_done()
    assert cllm("inspect", "out", "--json").assert_done().events[0]["resumable"]
    Path("out/data/tokens.safetensors").unlink()
    found = cllm("inspect", "out", "--json")
    assert (found.code, found.events[0]["resumable"]) == (3, False)
    assert cllm("train", "-", "-o", "out", "--resume", stdin=text.read_bytes()).code == 1


@pytest.mark.parametrize("kind", ["bpe", "huggingface", "sentencepiece"])
def test_a_run_is_shown_without_the_library_of_its_tokenizer(cllm, text, tiny, monkeypatch, tmp_path, kind):
    cllm("train", text, "-o", "run", "--tokenizer", spec_of(kind, tmp_path), *tiny).assert_done()
    whole = cllm("inspect", "run", "--json").assert_done().events[0]
    assert "note" not in whole["tokenizer"]
    extra = "sentencepiece" if kind == "sentencepiece" else "tokenizers"
    monkeypatch.setitem(sys.modules, extra, None)
    row = cllm("inspect", "run", "--json").assert_done().events[0]
    note = row["tokenizer"].pop("note")
    assert f"needs the package {extra}" in note
    assert f"pip install 'cllm[{extra}]'" in note
    del whole["tokenizer"]["sha256"]
    assert row == whole
    assert f"needs the package {extra}" in cllm("inspect", "run").assert_done().out
    for size in ("many", -1, 10**400) if kind != "bpe" else ():  # whose file is checked before its library is needed
        facts = json.loads(Path("run/tokenizer.json").read_text("utf-8")) | {"vocab_size": size}
        Path("run/tokenizer.json").write_text(json.dumps(facts), "utf-8")
        assert cllm("inspect", "run", "--json").assert_done().events[0]["tokenizer"]["vocab_size"] is None
        cllm("inspect", "run").assert_done()


def test_a_store_whose_checksum_is_wrong(cllm, things):
    assert cllm("inspect", "a.tok", "--json").assert_done().events[0]["whole"] is True
    content = bytearray(Path("a.tok").read_bytes())
    content[-1] ^= 1
    Path("a.tok").write_bytes(content)
    found = cllm("inspect", "a.tok", "--json")
    assert found.code == 3
    assert found.events[0]["whole"] is False
    assert "error: the token store is not as it was written" in found.err


def test_a_tokenizer(cllm, text, tiny):
    cllm("tokenize", text, "-o", "c.tok", "--tokenizer", "char").assert_done()
    cllm("train", "c.tok", "-o", "char", *tiny).assert_done()
    row = cllm("inspect", "char/tokenizer.json", "--json").assert_done().events[0]
    characters = sorted(set(text.read_text()))
    assert (row["tokenizer"], row["vocab_size"], row["end_of_text"]) == ("char", len(characters), None)
    assert all(characters[entry["id"]] == entry["text"] for entry in row["ids"])
    assert all(bytes.fromhex(entry["hex"]).decode() == entry["text"] for entry in row["ids"])
    assert {row["ids"][0]["id"], row["ids"][-1]["id"]} == {0, len(characters) - 1}
    assert "'\\n'" in cllm("inspect", "char/tokenizer.json").assert_done().out
    other = cllm("inspect", "c.tok", "--json").assert_done().events[0]
    assert other["tokenizer_sha256"] == row["sha256"]


def test_json_that_is_no_tokenizer_is_text(cllm):
    Path("a.json").write_text('{"text": "some"}')
    assert cllm("inspect", "a.json", "--json").assert_done().events[0]["event"] == "text"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere", ["no file or folder nowhere"]),
        ("text.txt --tokenizer bite", ["unknown tokenizer", "byte"]),
        ("text.txt --tokenizer none.json", ["cannot read none.json"]),
        ("text.txt a.tok", ["a.tok is a token store"]),
        ("empty.txt", ["empty.txt is empty"]),
        ("bad.json", ["kind is unknown"]),
    ],
)
def test_errors(cllm, things, line, words):
    Path("empty.txt").touch()
    Path("bad.json").write_text('{"kind": "bite", "vocab_size": 3}')
    cllm("inspect", *line.split()).assert_error(1, *words)


def test_tokenizers_of_other_programs_are_shown_as_such(cllm):
    pytest.importorskip("tokenizers")
    made = byte_level()
    write_gpt2(Path("gpt2"), made)
    for name in ("tokenizer.json", "mine.json"):
        Path(name).write_text(made.to_str(), "utf-8")
    kinds = {"gpt2": "bpe", "gpt2/vocab.json": "bpe", "tokenizer.json": "huggingface", "mine.json": "huggingface"}
    for path, kind in kinds.items():
        (row,) = cllm("inspect", path, "--json").assert_done().events
        assert (row["event"], row["tokenizer"]) == ("tokenizer", kind)
        assert row["vocab_size"] == made.get_vocab_size()
        assert row["end_of_text"] == made.token_to_id(END)


def test_a_folder_of_a_sentencepiece_model_is_a_tokenizer_and_a_model_among_texts_is_none(cllm):
    """What comes with a model, as its list of pieces does, makes no text of it."""
    Path("t5").mkdir()
    Path("t5/spiece.model").write_bytes(sentence_pieces())
    Path("t5/spiece.vocab").write_text("<unk>\t0\n", "utf-8")
    (row,) = cllm("inspect", "t5", "--json").assert_done().events
    assert (row["event"], row["tokenizer"]) == ("tokenizer", "sentencepiece")
    Path("t5/story.txt").write_text("once upon a time", "utf-8")
    (row,) = cllm("inspect", "t5", "--json").assert_done().events
    assert (row["event"], row["skipped"]) == ("text", {"binary": 1})


def test_a_run_of_sizes_that_no_model_has_is_shown_too(cllm, run):
    config = run / "config.toml"
    config.write_text(config.read_text("utf-8").split("\n", 1)[1].replace("n_head = 2", "n_head = 3"), "utf-8")
    found = cllm("inspect", run, "--json")
    assert (found.code, found.events[0]["damaged"]) == (3, ["width 16 is not divisible by 3 heads"])
