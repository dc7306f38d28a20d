"""Reading as a whole: one text gives one corpus, whatever it is wrapped in, and what is wrong is named."""

from __future__ import annotations

import io
import json
import os
import threading

import pytest
from text_files import BOM, compressed, json_lines, parquet, refused, table, words, write

from cllm_cli.config import Settings
from cllm_cli.errors import ConfigError
from cllm_cli.text.corpus import read_corpus, tokens_of
from cllm_cli.text.documents import AS_IT_IS, Reading
from cllm_cli.text.reading import plain_bytes, reading_of
from cllm_cli.text.sources import TextFile
from cllm_cli.text.tokenizers.byte import ByteTokenizer

TEXT = words(1, 400) + '\n"quoted", and more,\tof it\n'
KINDS = ["gzip", "bzip2", "xz", "zstd"]
LONG = "x" * 5000
TEXTS = [words(number, 30) for number in range(20)]


def facts(corpus):
    return corpus.train.tolist(), corpus.val.tolist(), corpus.facts() | {"from_stdin": False}, corpus.notices


@pytest.mark.parametrize("name", ["rows.json", "rows.txt.gz", "-"])
def test_who_reads_json_lines_as_plain_text_is_told(tmp_path, name):
    content = json_lines([{"text": text} for text in TEXTS])
    place = tmp_path / name
    place.write_bytes(compressed(content, "gzip") if name.endswith("gz") else content)
    source, stdin = ("-", io.BytesIO(content)) if name == "-" else (place, None)
    (notice,) = read_corpus([source], "byte", 0.2, stdin=stdin).notices
    assert notice.endswith("looks like JSON lines; --format jsonl reads it row by row")
    for reading, where in ((Reading(format="text"), source), (AS_IT_IS, tmp_path)):
        assert read_corpus([where], "byte", 0.2, stdin=io.BytesIO(content), reading=reading).notices == []
    for other in (
        json.dumps({"text": TEXT}, indent=1),
        '{"a": 1}',
        '{"a": 1, "b": [1,\n{2]}',
        '{"a": 1}\n[2]\n',
        "{1}\n{2}\n",
    ):
        place.write_text(other + " " * 99)
        assert read_corpus([place], "byte", 0.2).notices == []


def test_of_many_files_with_json_lines_the_first_is_told(tmp_path):
    places = [tmp_path / f"{number}.json" for number in range(3)]
    for number, place in enumerate(places):
        place.write_bytes(json_lines([{"text": text} for text in TEXTS[number:]]))
    notices = read_corpus(places, "byte", 0.2).notices
    assert [notice.split()[0] for notice in notices if "JSON lines" in notice] == [str(places[0])]


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.usefixtures("small_steps")
def test_one_text_is_one_corpus_whatever_it_is_wrapped_in(tmp_path, spec):
    data = TEXT.encode()
    wrapped = {
        "plain.txt": data,
        "marked.txt": BOM + data,
        "utf16.txt": TEXT.encode("utf-16"),
        "row.jsonl": json_lines([{"text": TEXT}]),
        "row.csv": table([["n", "text"], ["1", TEXT]]),
        "row.tsv": table([["n", "text"], ["1", TEXT]], "tsv"),
        "row.parquet": parquet(tmp_path / "made", {"text": [TEXT]}),
    }
    wrapped |= {f"marked-{name}": BOM + wrapped[name] for name in ("row.jsonl", "row.csv")}
    wrapped |= {f"{name}.{kind}": compressed(content, kind) for name, content in wrapped.items() for kind in KINDS[:1]}
    wrapped |= {f"other-{kind}": compressed(data, kind) for kind in KINDS}
    for name, content in wrapped.items():
        (tmp_path / name.replace("gzip", "gz")).write_bytes(content)
    expected = facts(read_corpus([tmp_path / "plain.txt"], spec, 0.2))
    for name, content in wrapped.items():
        path = tmp_path / name.replace("gzip", "gz")
        assert facts(read_corpus([path], spec, 0.2)) == expected, name
        form = name.split(".")[1].replace("txt", "text") if "." in name else "auto"
        piped = read_corpus(["-"], spec, 0.2, stdin=io.BytesIO(content), reading=Reading(format=form))
        assert facts(piped) == expected, name


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.usefixtures("small_steps")
def test_several_documents_are_the_same_corpus_as_files_and_as_rows(tmp_path, spec):
    texts = [words(seed, 3 + seed) for seed in range(40)]
    for number, text in enumerate(texts):
        write(tmp_path / "files", **{f"{number:02}_txt": text})
        (tmp_path / "packed").mkdir(exist_ok=True)
        (tmp_path / "packed" / f"{number:02}.gz").write_bytes(compressed(text.encode(), "gzip"))
    write(
        tmp_path,
        rows_jsonl=json_lines([{"text": text} for text in texts]),
        rows_csv=table([["text"], *([text] for text in texts)]),
        parts_txt="<|end|>\n".join(texts),
    )
    parquet(tmp_path, {"text": texts}, row_group_size=7)
    expected = facts(read_corpus([tmp_path / "files"], spec, 0.2))
    assert expected[2]["documents"] == 40
    for name in ("packed", "rows.jsonl", "rows.csv", "rows.parquet"):
        assert facts(read_corpus([tmp_path / name], spec, 0.2)) == expected, name
    split = reading_of(Settings(split_on=r"<|end|>\n"))
    assert facts(read_corpus([tmp_path / "parts.txt"], spec, 0.2, reading=split)) == expected


def test_parquet_in_a_pipe_is_known_by_its_ends(tmp_path, monkeypatch):
    data = parquet(tmp_path, {"text": TEXTS, "more": TEXTS})
    expected = facts(read_corpus([tmp_path / "rows.parquet"], "byte", 0.2))
    texts = {"cut": data[:-1], "text": b"PAR1 is how a text may begin, too"}
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for wrap in (lambda data: data, lambda data: compressed(data, "gzip")):
        assert facts(read_corpus(["-"], "byte", 0.2, stdin=io.BytesIO(wrap(data)))) == expected
        writer = threading.Thread(target=fifo.write_bytes, args=[wrap(data)])
        writer.start()
        assert facts(read_corpus([fifo], "byte", 0.2)) == expected
        writer.join()
        for text in texts.values():
            corpus = read_corpus(["-"], "byte", 0.2, stdin=io.BytesIO(wrap(text)))
            assert corpus.train.tobytes() + corpus.val.tobytes() == text
    as_text = read_corpus(["-"], "byte", 0.2, stdin=io.BytesIO(data), reading=Reading(format="text"))
    assert as_text.documents == 1


def test_parts_of_a_text_without_bytes_are_counted(tmp_path):
    path = write(tmp_path, a_txt="--a----b--") / "a.txt"
    corpus = read_corpus([path], "byte", 0.5, reading=Reading(separator=b"--"))
    assert (corpus.documents, corpus.skipped) == (2, {"empty parts": 2})
    none = write(tmp_path, b_txt="----") / "b.txt"
    error = refused(lambda: read_corpus([none], "byte", 0.5, reading=Reading(separator=b"--")), "no text in")
    assert error.hint == "left out: 2 empty parts"


def test_a_place_within_a_part_is_that_in_the_file(tmp_path):
    path = write(tmp_path, a_txt=BOM + b"one--two--thr\xffe") / "a.txt"
    refused(lambda: read_corpus([path], "char", 0.5, reading=Reading(separator=b"--")), "a.txt is no UTF-8: byte 16 is")


def test_rows_are_named_where_a_tokenizer_refuses_them(tmp_path):
    path = write(tmp_path, a_csv=b"text\nfine\ncaf\xe9\n") / "a.csv"
    refused(lambda: read_corpus([path], "char", 0.5), "a.csv, line 3 is no UTF-8: byte 3 is 0xe9")


@pytest.mark.slow
def test_ten_thousand_files(tmp_path):
    for number in range(10_000):
        (tmp_path / f"{number}.txt").write_text(str(number))
    corpus = read_corpus([tmp_path], "byte", 0.1)
    assert corpus.documents == 10_000
    assert corpus.train_bytes + corpus.val_bytes == sum(len(str(number)) for number in range(10_000))


def test_a_file_of_one_long_line(tmp_path):
    data = words(1, 200_000).encode()
    path = write(tmp_path, a_txt=data) / "a.txt"
    corpus = read_corpus([path], "byte", 0.1)
    assert corpus.train.tobytes() + corpus.val.tobytes() == data
    row = write(tmp_path, a_jsonl=json_lines([{"text": data.decode()}])) / "a.jsonl"
    assert read_corpus([row], "byte", 0.1).fingerprint == corpus.fingerprint


@pytest.mark.parametrize("spec", ["byte", "char"])
def test_a_nul_is_a_character(tmp_path, spec):
    path = write(tmp_path, a_txt="a\0b" * 9) / "a.txt"
    corpus = read_corpus([path], spec, 0.5)
    assert corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.val) == "a\0b" * 9
    assert len(corpus.notices) == 1
    row = write(tmp_path, a_jsonl=json_lines([{"text": "a\0b" * 9}])) / "a.jsonl"
    assert read_corpus([row], spec, 0.5).fingerprint == corpus.fingerprint


def test_empty_files_of_every_kind_are_left_out(tmp_path):
    write(tmp_path, a_txt="", b_txt=BOM, c_txt=b"\xff\xfe", d_jsonl="", e_csv="", f_parquet="", ok_txt="text")
    for kind in KINDS:
        (tmp_path / kind).write_bytes(compressed(b"", kind))
    assert read_corpus([tmp_path], "byte", 0.1).skipped == {"empty": 10}


def test_compressed_text_is_no_binary_file_and_a_compressed_binary_is(tmp_path):
    write(tmp_path, a_gz=compressed(b"text", "gzip"), b_gz=compressed(bytes(100), "gzip"), c=bytes(100))
    corpus = read_corpus([tmp_path], "byte", 0.5)
    assert corpus.train.tobytes() + corpus.val.tobytes() == b"text"
    assert corpus.skipped == {"binary": 2}


def test_only_plain_files_are_measured_beforehand(tmp_path):
    write(
        tmp_path,
        a_txt="x" * 100,
        b_gz=compressed(b"x" * 100, "gzip"),
        c_txt="x".encode("utf-16"),
        d_csv="text\nx",
        e_txt="",
    )
    sizes = {path.name: plain_bytes(TextFile(str(path), True), AS_IT_IS) for path in tmp_path.iterdir()}
    assert sizes == {"a.txt": 100, "b.gz": 0, "c.txt": 0, "d.csv": 0, "e.txt": 0}
    plain = TextFile(str(tmp_path / "a.txt"), True)
    assert plain_bytes(plain, Reading(format="jsonl")) == plain_bytes(plain, Reading(encoding="latin-1")) == 0
    assert plain_bytes(TextFile(str(tmp_path / "d.csv"), True), Reading(format="text")) == 6
    assert plain_bytes(TextFile(str(tmp_path / "none"), True), AS_IT_IS) == 0


def test_val_and_scored_text_are_read_the_same_way(tmp_path):
    write(tmp_path, a_txt="größe".encode("latin-1"), v_txt="möwe".encode("latin-1"))
    latin = Reading(encoding="latin-1")
    corpus = read_corpus([tmp_path / "a.txt"], "byte", 0.1, val=tmp_path / "v.txt", reading=latin)
    assert (corpus.train.tobytes().decode(), corpus.val.tobytes().decode()) == ("größe", "möwe")
    scored = tokens_of([tmp_path / "v.txt"], ByteTokenizer(), reading=latin)
    assert scored.tokens.tobytes().decode() == "möwe"


# Settings


@pytest.mark.parametrize(
    ("written", "separator"),
    [
        (r"\n\n", b"\n\n"),
        ("\n", b"\n"),
        (r"\r\n\t\0", b"\r\n\t\0"),
        (r"\\n", b"\\n"),
        (r"\x1e\u2029", b"\x1e" + "\u2029".encode()),
        ("<|endoftext|>", b"<|endoftext|>"),
        ("猫", "猫".encode()),
    ],
)
def test_escapes_of_a_separator(written, separator):
    assert reading_of(Settings(split_on=written)).separator == separator


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(split_on=""), ("--split-on is empty",)),
        (Settings(split_on=r"\d"), ("escape that is unknown", r"\d")),
        (Settings(split_on=r"\x1"), ("escape that is unknown", r"\x")),
        (Settings(split_on="a\\"), ("escape that is unknown",)),
        (Settings(split_on=r"\ud800"), ("half of a character",)),
        (Settings(encoding="utf-99"), ("unknown encoding 'utf-99'", "did you mean")),
        (Settings(errors="replac"), ("--errors must be strict or replace, not 'replac'",)),
        (Settings(format="jsonlines"), ("unknown format 'jsonlines'", "did you mean 'jsonl'?")),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError) as found:
        reading_of(settings)
    for word in words:
        assert word in f"{found.value.message}\n{found.value.hint}"
    assert found.value.hint


def test_defaults_say_nothing():
    assert reading_of(Settings()) == AS_IT_IS


# Bad inputs, and what each gets

OBJECT = "--format text reads it as plain text"
BAD = {
    # compression
    "cut.gz": (compressed(b"text" * 9, "gzip")[:-5], "cut.gz is cut off: its gzip data has no end", "copy it again"),
    "cut.bz2": (compressed(b"text" * 9, "bzip2")[:-5], "cut.bz2 is cut off", "copy it again"),
    "cut.xz": (compressed(b"text" * 9, "xz")[:-5], "cut.xz is cut off", "copy it again"),
    "sum.gz": (compressed(b"text", "gzip")[:-8] + bytes(7) + b"\1", "sum.gz is damaged: Error -3", "copy it again"),
    "tail.gz": (compressed(b"text", "gzip") + b"tail", "tail.gz is damaged", "written behind its end"),
    "tail.xz": (compressed(b"text", "xz") + b"tail" * 9, "tail.xz is damaged", "written behind its end"),
    "twice.gz": (compressed(compressed(b"text", "xz"), "gzip"), "twice.gz is compressed twice", "decompress it once"),
    # encodings
    "odd.txt": (b"\xff\xfea\0b", "odd.txt is no utf-16: byte 4 is 0x62 (truncated data)", "--encoding NAME"),
    "pair.txt": (b"\xfe\xff\xd8\0\0a", "pair.txt is no utf-16: byte 2 is 0xd8", "--errors replace"),
    # JSON lines
    "none.jsonl": ('{"text": "a"}\n{"body": "b", "id": 1}', "line 2 has no field 'text'", "it has: 'body', 'id'"),
    "bare.jsonl": ('{"text": "a"}\n{}', "line 2 has no field 'text'", "it has: nothing"),
    "null.jsonl": ('\n{"text": null}', "null.jsonl, line 2: field 'text' is null, not a string", "--field NAME"),
    "list.jsonl": ('{"text": ["a"]}', "line 1: field 'text' is a list, not a string", "--field NAME"),
    "truth.jsonl": ('{"text": true}', "line 1: field 'text' is true or false, not a string", "--field NAME"),
    "array.jsonl": ('["text"]', "array.jsonl, line 1 is a list, not a JSON object", OBJECT),
    "torn.jsonl": ('{"text": "a"}\n{"text": "b', "line 2 is no JSON: Unterminated string", "at column 10"),
    "words.jsonl": ("no JSON at all", "words.jsonl, line 1 is no JSON: Expecting value at column 1", OBJECT),
    "two.jsonl": ('{"text": "a"} {"text": "b"}', "line 1 is no JSON: Extra data at column 15", OBJECT),
    "deep.jsonl": ("[" * 100_000, "deep.jsonl, line 1 is no JSON", OBJECT),
    "digits.jsonl": ('{"n": ' + "9" * 5000 + "}", "line 1 is no JSON that can be read", OBJECT),
    "latin.jsonl": (b'{"text": "caf\xe9"}', "line 1 is no UTF-8: its byte 13 is 0xe9", "--encoding NAME"),
    "half.jsonl": ('{"text": "\\udc00"}', "line 1 has half of a character", "--errors replace"),
    "hostile.jsonl": ('{"\\u001b[2J\\n": 1}', "line 1 has no field 'text'", r"it has: '\x1b[2J\n'"),
    "long.jsonl": (json.dumps({LONG: 1}), "line 1 has no field 'text'", "xxx…"),
    # tables
    "none.csv": ("id,body\n1,a\n", "none.csv has no column 'text'", "its header, line 1, has: 'id', 'body'"),
    "twin.csv": ("text,text\na,b\n", "twin.csv has more than one column 'text'", "--field COLUMN"),
    "blank.csv": ("\n\n", "blank.csv has no column 'text'", "has: nothing"),
    "semi.csv": ("id;text\n1;a\n", "semi.csv has no column 'text'", "has: 'id;text'"),
    "short.csv": ("id,text\n1,a\n2\n", "short.csv, line 3: the row has 1 fields, the header 2", "in quotes"),
    "wide.csv": ("id,text\n1,a, b\n", "wide.csv, line 2: the row has 3 fields, the header 2", "in quotes"),
    "wide.tsv": ("id\ttext\n1\ta\tb\n", "wide.tsv, line 2: the row has 3 fields, the header 2", r"'\t'"),
    "open.csv": ('text\na\n"b\nc\n', "open.csv, line 3: the row cannot be read: unexpected end of data", '""'),
    "quote.csv": ('text\n"a" b\n', "quote.csv, line 2: the row cannot be read: ',' expected after '\"'", '""'),
    "mac.csv": ("text\ra\rb", "mac.csv, line 1: the row cannot be read: new-line character", OBJECT),
    # Parquet
    "none.parquet": (b"PAR1, or so it says", "none.parquet cannot be read as Parquet: ", "copy it again"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("folder", [False, True], ids=["named", "in a folder"])
def test_what_is_wrong_is_named(tmp_path, name, folder):
    content, message, hint = BAD[name]
    if name == "none.parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / "texts" / name
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if folder and name in ("pair.txt",):  # no text in the encoding that its mark tells: a binary file
        assert read_corpus([path.parent, write(tmp_path, a_txt="text") / "a.txt"], "byte", 0.1).skipped == {"binary": 1}
        return
    error = refused(lambda: read_corpus([path.parent if folder else path], "byte", 0.1), message, hint, name)
    assert len(error.message) < 250 + len(str(path))
    assert len(error.hint) < 300


@pytest.mark.parametrize("name", ["cut.gz", "null.jsonl", "short.csv"])
def test_what_is_wrong_with_standard_input_is_named(name):
    content, message, hint = BAD[name]
    data = content if isinstance(content, bytes) else content.encode()
    form = {"gz": "text"}.get(name.split(".")[1], name.split(".")[1])
    message = message.replace(name, "standard input")
    refused(
        lambda: read_corpus(["-"], "byte", 0.1, stdin=io.BytesIO(data), reading=Reading(format=form)), message, hint
    )
