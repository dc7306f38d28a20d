"""Surveys of text: counts against plain Python, and each kind of problem where it is."""

from __future__ import annotations

import io
import random
import subprocess
import sys

import numpy as np
import pytest
from text_files import BOM, many, refused, words, write
from tokenizer_files import word_pieces

from cllm_cli.text import chunks
from cllm_cli.text.corpus import read_corpus
from cllm_cli.text.store import MAGIC
from cllm_cli.text.survey import (
    COPY,
    INVALID,
    MIXED,
    MOJIBAKE,
    MOST_ERRORS,
    NO_TOKENS,
    NUL,
    REPLACED,
    UTF_16,
    DocumentScan,
    survey,
)
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.text.tokenizers.char import CharTokenizer


def problems(found):
    return {row["problem"]: row for row in found["problems"]}


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.parametrize("count", [1, 7])
def test_tokens_are_those_that_training_has(tmp_path, spec, count, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 7)
    many(tmp_path / "texts", count)
    found = survey([tmp_path / "texts"], spec)
    corpus = read_corpus([tmp_path / "texts"], spec, 0.2)
    whole = np.concatenate([corpus.train, corpus.val])
    text = whole[whole != corpus.tokenizer.end_of_text]
    assert found["tokens"] == whole.size
    assert found["used_ids"] == np.unique(text).size
    assert found["vocab_size"] == corpus.tokenizer.vocab_size
    assert found["bytes"] == corpus.train_bytes + corpus.val_bytes
    assert found["bytes_per_token"] == found["bytes"] / text.size
    assert (found["documents"], found["problems"], found["skipped"]) == (count, [], {})


def test_notices_are_those_of_reading_and_of_the_tokenizer(tmp_path):
    (tmp_path / "pieces.json").write_text(word_pieces().to_str(), "utf-8")
    rows, text = tmp_path / "rows.json", tmp_path / "text.txt"
    rows.write_text('{"text": "one"}\n{"text": "two"}\n')
    text.write_text("No Capital comes back.\n")
    cases = (
        (rows, "byte", "JSON lines"),
        (text, str(tmp_path / "pieces.json"), "come back"),
        (text, "bpe:300", "pairs"),
    )
    for path, spec, part in cases:
        (notice,) = survey([path], spec)["notices"]
        assert part in notice
    assert survey([text], "char")["notices"] == []


def test_a_given_tokenizer_counts_too(tmp_path):
    path = write(tmp_path, a_txt="abab") / "a.txt"
    found = survey([path], "char", tokenizer=CharTokenizer("abc"))
    assert (found["tokens"], found["used_ids"], found["vocab_size"]) == (4, 2, 3)
    found = survey([path, path], "byte", tokenizer=ByteTokenizer())
    assert (found["tokens"], found["tokenizer"]) == (8, "byte")


def scanned(data, size):
    scan = DocumentScan()
    for start in range(0, len(data), size):
        scan.push(data[start : start + size])
    digest = scan.end()
    return {**{name: value for name, value in vars(scan).items() if name[0] != "_"}, "digest": digest}


def test_chunks_make_no_difference():
    rng = random.Random(5)
    pieces = [b"\n", b"\r\n", b"\0", b"\xff", "é🎈".encode(), "\ufffd".encode(), "Ã©â€œÂ ".encode(), b"plain text"]
    for _ in range(100):
        data = b"".join(rng.choice(pieces) for _ in range(rng.randrange(1, 40)))
        expected = scanned(data, len(data))
        lines = data.split(b"\n")
        assert expected["longest"] == max(map(len, lines))
        assert expected["longest_line"] in {0} | {
            i + 1 for i, line in enumerate(lines) if len(line) == expected["longest"]
        }
        assert expected["line_feeds"] == data.count(b"\n")
        assert expected["counts"].get(NUL, 0) == data.count(0)
        assert expected["counts"].get(REPLACED, 0) == data.count("\ufffd".encode())
        for size in (1, 2, 3, 5, 64):
            assert scanned(data, size) == expected


PROBLEMS = {
    INVALID: (b"caf\xe9 and more", 3),
    REPLACED: ("caf\ufffd".encode(), 3),
    NUL: (b"ab\0c", 2),
    MOJIBAKE: ("cafÃ©".encode(), 3),
    MIXED: (b"a\r\nb\nc\n", None),
    UTF_16: ("some more text than that".encode("utf-16-le"), None),  # with a mark it would be decoded,
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_each_problem_is_named_with_its_place(tmp_path, kind):
    content, offset = PROBLEMS[kind]
    found = problems(survey([write(tmp_path, a_txt=content, b_txt="fine") / "a.txt", tmp_path / "b.txt"], "byte"))
    assert found[kind]["documents"] == 1
    assert found[kind]["count"] >= 1
    place = {} if offset is None else {"offset": offset}
    assert found[kind]["examples"] == [{"path": str(tmp_path / "a.txt"), **place}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "caf\u00e9",
        "Ångström, Ägypten, À la carte",
        "naïve Ã la",
        "“quoted” — 12 €",
        "吾輩は猫である",
        "a\nb\n",
        "a\r\nb\r\n",
    ],
)
def test_text_that_is_as_it_should_be_has_no_problems(tmp_path, text):
    assert survey([write(tmp_path, a_txt=f"{text}.") / "a.txt"], "byte")["problems"] == []


def test_utf_16_without_a_mark(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path, a_txt=words(1, 40).encode(encoding)) / "a.txt"
        assert UTF_16 in problems(survey([path], "byte"))


def test_what_is_no_text_at_all_ends_the_search(tmp_path):
    found = problems(survey([write(tmp_path, a_txt=b"\xff" * 5000) / "a.txt"], "byte"))
    assert found[INVALID]["count"] == MOST_ERRORS


def test_a_torn_character_at_the_end_is_invalid(tmp_path):
    found = problems(survey([write(tmp_path, a_txt="abc…".encode()[:-1]) / "a.txt"], "byte"))
    assert found[INVALID]["examples"][0]["offset"] == 3


def test_copies_and_what_was_left_out(tmp_path):
    write(tmp_path, a_txt="same", b_txt="other", c_txt="same", d_dat=b"\0", e_txt=b"")
    write(tmp_path, **{".hidden": "x"})
    found = survey([tmp_path], "byte")
    assert problems(found)[COPY]["examples"] == [{"path": str(tmp_path / "c.txt"), "copy_of": str(tmp_path / "a.txt")}]
    assert found["skipped"] == {"binary": 1, "empty": 1, "hidden": 1}
    assert found["documents"] == 3


def test_text_that_cannot_be_tokenized_is_surveyed_all_the_same(tmp_path):
    write(tmp_path, a_txt=b"fine", b_txt=BOM + b"caf\xe9", c_txt=b"fine too")
    found = survey([tmp_path], "char")
    assert (found["tokens"], found["used_ids"], found["documents"]) == (None, None, 3)
    (example,) = problems(found)[NO_TOKENS]["examples"]
    assert "byte 6 is 0xe9" in example["why"]


def test_long_lines(tmp_path):
    write(tmp_path, a_txt="ab\n" + "c" * 90 + "\nd", b_txt="e" * 70, c_txt="f" * 80 + "\n", d_txt="g\n")
    found = survey([tmp_path], "byte")
    lines = [(line["bytes"], line["line"], line["path"][-5:]) for line in found["longest_lines"]]
    assert lines == [(90, 2, "a.txt"), (80, 1, "c.txt"), (70, 1, "b.txt")]
    assert found["lines"] == 3 + 1 + 1 + 1


def test_names_are_safe_to_print(tmp_path):
    (tmp_path / "evil\x1b[2J.txt").write_bytes(b"\xff")
    (row,) = survey([tmp_path], "byte")["problems"]
    assert row["examples"][0]["path"].isprintable()


def test_standard_input_and_nothing(tmp_path):
    assert survey(["-"], "byte", io.BytesIO(b"abc"))["bytes"] == 3
    refused(lambda: survey([tmp_path], "byte"), "no text")
    refused(lambda: survey([write(tmp_path, a_txt=b"") / "a.txt"], "byte"), "empty")
    refused(lambda: survey(["-"], "byte", io.BytesIO(MAGIC)), "token store")


MEASURE = """
import resource, sys
from pathlib import Path
from cllm_cli.text.survey import survey
survey([sys.argv[3]], sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
survey([sys.argv[2]], sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["byte", "char"])
def test_a_large_text_takes_a_few_mebibytes(tmp_path, spec):
    text = words(5, 40_000).encode()
    with (tmp_path / "large.txt").open("wb") as file:
        for _ in range(100_000_000 // len(text)):
            file.write(text)
    write(tmp_path, small_txt=text)
    command = [sys.executable, "-c", MEASURE, spec, tmp_path / "large.txt", tmp_path / "small.txt"]
    assert int(subprocess.run(command, capture_output=True, check=True).stdout) < 16 << 20
