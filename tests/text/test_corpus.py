"""Corpora: what is read, what is left out, how it is split, and what people are told when it cannot be."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cllm_cli.errors import ConfigError, CorpusError, RunError
from cllm_cli.text import pile, sources
from cllm_cli.text.corpus import check_long_enough, check_tokens, read_corpus, restored, tokens_of
from cllm_cli.text.split import SPLIT_RULE, Document, choose_validation
from cllm_cli.text.tokenizers.base import count_bytes
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.text.tokenizers.char import CharTokenizer

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks and blocks of a few bytes, so that small texts take every path of large ones."""
    monkeypatch.setattr("cllm_cli.text.corpus.CHUNK", 5)
    monkeypatch.setattr(pile, "BLOCK", 16)
    monkeypatch.setattr(pile, "PIECE", 3)


def write(folder: Path, **files: bytes | str) -> Path:
    """Files in a folder: `a_txt="…"` is a.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(["tree", "möwe", "sun", "猫", "🎈", "and"]) for _ in range(count))


def expected_tokens(texts: list[bytes], spec: str, alphabet: str, end: int | None) -> list[int]:
    """The oracle: ids by Python's own decoding, a list of ints."""
    ids: list[int] = []
    for text in texts:
        ids += list(text) if spec == "byte" else [alphabet.index(char) for char in text.decode()]
        ids += [] if end is None else [end]
    return ids


# --- One document ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.usefixtures("small_steps")
def test_one_document_is_split_at_its_end(tmp_path, spec):
    text = words(1, 300)
    write(tmp_path, a_txt=text)
    corpus = read_corpus([tmp_path / "a.txt"], spec, 0.1)
    whole = np.concatenate([corpus.train, corpus.val])
    assert whole.tolist() == expected_tokens([text.encode()], spec, "".join(sorted(set(text))), None)
    assert corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.val) == text
    assert abs(corpus.val.size - 0.1 * whole.size) <= 3
    assert (corpus.documents, corpus.tokenizer.end_of_text, corpus.notices, corpus.skipped) == (1, None, [], {})
    assert corpus.train.dtype == corpus.val.dtype == np.uint8
    assert corpus.train.flags.c_contiguous
    assert corpus.val.flags.c_contiguous
    assert corpus.train_bytes == len(corpus.tokenizer.decode_bytes(corpus.train))
    assert corpus.val_bytes == len(corpus.tokenizer.decode_bytes(corpus.val))


@pytest.mark.parametrize("char", ["é", "猫", "🎈"])
def test_no_cut_within_a_character(tmp_path, char):
    for length in range(4, 40):
        text = "x" * (length % 5) + char * length
        path = write(tmp_path, a_txt=text) / "a.txt"
        for fraction in (0.1, 0.5, 0.77):
            corpus = read_corpus([path], "byte", fraction)
            assert corpus.train.tobytes().decode() + corpus.val.tobytes().decode() == text
            assert corpus.val.size - round(fraction * len(text.encode())) in range(4)


def test_bytes_that_are_no_utf8_are_cut_where_the_fraction_says(tmp_path):
    for data in (b"\x80" * 50, b"\xff" * 50, b"a\x80" * 25, b"\xc3\x80\x80\x80\x80" * 10, bytes(range(200, 250))):
        corpus = read_corpus([write(tmp_path, a_txt=data) / "a.txt"], "byte", 0.3)
        assert (corpus.train.size, corpus.val.size) == (35, 15)
        assert corpus.train.tobytes() + corpus.val.tobytes() == data


def test_both_sides_get_something_of_the_shortest_texts(tmp_path):
    for text in ("ab", "abc", "é"):
        for fraction in (0.001, 0.5, 0.999):
            corpus = read_corpus([write(tmp_path, a_txt=text) / "a.txt"], "byte", fraction)
            assert corpus.train.size
            assert corpus.val.size


@pytest.mark.parametrize("spec", ["byte", "char"])
def test_a_byte_order_mark_is_dropped(tmp_path, spec):
    write(tmp_path, a_txt=BOM + b"abc\xef\xbb\xbf.", b_txt=b"abc\xef\xbb\xbf.")
    with_mark, without = (read_corpus([tmp_path / name], spec, 0.3) for name in ("a.txt", "b.txt"))
    assert with_mark.train.tolist() == without.train.tolist()
    assert with_mark.fingerprint == without.fingerprint
    assert with_mark.train_bytes + with_mark.val_bytes == 7


def test_the_byte_tokenizer_takes_any_bytes(tmp_path):
    data = random.Random(4).randbytes(3000)
    corpus = read_corpus([write(tmp_path, a_bin=data) / "a.bin"], "byte", 0.1)
    assert corpus.train.tobytes() + corpus.val.tobytes() == data


def test_char_knows_the_characters_of_the_validation_text_too(tmp_path):
    write(tmp_path, a_txt="aaa bbb", v_txt="zzé")
    corpus = read_corpus([tmp_path / "a.txt"], "char", 0.1, val=tmp_path / "v.txt")
    assert corpus.tokenizer.decode(range(corpus.tokenizer.vocab_size)) == " abzé"
    assert corpus.tokenizer.decode(corpus.val) == "zzé"


@pytest.mark.usefixtures("small_steps")
def test_ids_widen_where_the_text_asks_for_it(tmp_path):
    """The 257th character comes late: what was stored in one byte before must come out right."""
    text = "".join(chr(0x100 + i // 7) for i in range(7 * 300)) + "abc" * 50
    corpus = read_corpus([write(tmp_path, a_txt=text) / "a.txt"], "char", 0.2)
    assert corpus.train.dtype == np.uint16
    assert corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.val) == text


# --- Several documents -----------------------------------------------------------------------------------------------


def many(folder: Path, count: int, seed: int = 0) -> dict[str, bytes]:
    """Numbered documents, and what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{index:03}.txt": words(seed + index, 5 + index % 13).encode() for index in range(count)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.usefixtures("small_steps")
def test_several_documents_stay_whole_in_order_and_end_with_the_end_of_text(tmp_path, spec):
    contents = many(tmp_path, 80)
    corpus = read_corpus([tmp_path], spec, 0.2)
    # The rule in its own words: the first eight bytes of SHA-256 as a fraction of 2**64, below the fraction asked for.
    held_out = {n for n, c in contents.items() if int(hashlib.sha256(c).hexdigest()[:16], 16) < 0.2 * 2**64}
    assert 0 < len(held_out) < 80
    alphabet = "".join(sorted(set(b"".join(contents.values()).decode())))
    end = 256 if spec == "byte" else len(alphabet)
    assert corpus.tokenizer.end_of_text == end
    assert corpus.tokenizer.vocab_size == end + 1
    for tokens, size, side in ((corpus.val, corpus.val_bytes, True), (corpus.train, corpus.train_bytes, False)):
        texts = [content for name, content in contents.items() if (name in held_out) == side]
        assert tokens.tolist() == expected_tokens(texts, spec, alphabet, end)
        assert size == sum(map(len, texts))
        assert tokens.dtype == corpus.tokenizer.dtype
        assert tokens.flags.c_contiguous
    assert corpus.documents == 80


def test_the_end_of_text_makes_byte_tokens_wider_only_where_there_are_several(tmp_path):
    write(tmp_path, a_txt="some text", b_txt="")
    assert read_corpus([tmp_path], "byte", 0.1).train.dtype == np.uint8
    write(tmp_path, b_txt="other text")
    assert read_corpus([tmp_path], "byte", 0.1).train.dtype == np.uint16


def test_adding_documents_moves_no_other_one(tmp_path):
    contents = many(tmp_path, 60)
    val = read_corpus([tmp_path], "byte", 0.3).val.astype(np.uint8).tobytes()
    write(tmp_path, aaa_txt="a new one", zzz_txt="another new one")
    after = read_corpus([tmp_path], "byte", 0.3).val.astype(np.uint8).tobytes()
    for content in contents.values():
        assert (content in val) == (content in after)


def test_copies_stay_on_one_side_and_are_reported(tmp_path):
    many(tmp_path / "a", 40)
    many(tmp_path / "b", 40)
    corpus = read_corpus([tmp_path / "a", tmp_path / "b"], "byte", 0.3)
    train, val = (side.astype(np.uint16).tolist() for side in (corpus.train, corpus.val))

    def documents(tokens):
        parts, current = [], []
        for token in tokens:
            if token == 256:
                parts.append(bytes(current))
                current = []
            else:
                current.append(token)
        return parts

    assert not set(documents(train)) & set(documents(val))
    assert any("40 of 80 documents are exact copies" in notice for notice in corpus.notices)


def numbered_documents(sizes: list[int], wanted: bool, fraction: float) -> list[Document]:
    """Documents of these sizes whose hashes all fall on one side."""
    found: list[Document] = []
    number = 0
    while len(found) < len(sizes):
        digest = hashlib.sha256(str(number).encode()).digest()
        number += 1
        if (int.from_bytes(digest[:8], "big") / 2**64 < fraction) == wanted:
            found.append(Document(0, 0, sizes[len(found)], digest))
    return found


@pytest.mark.parametrize("wanted", [False, True])
def test_no_side_stays_empty_and_the_fallback_takes_the_fittest_size(wanted):
    sizes = [700, 90, 210]
    sides, notice = choose_validation(numbered_documents(sizes, wanted, 0.2), 0.2)
    # 210 of 1,000 are nearest to 0.2 for validation; 700 of 1,000 are nearest to 0.8 for training.
    assert sides == ([False, True, True] if wanted else [False, False, True])
    assert notice


def test_the_fallback_takes_all_copies_along():
    first, second = numbered_documents([10, 500], False, 0.1)
    sides, _ = choose_validation([first, second, first, first], 0.1)
    assert sides == [True, False, True, True]


def test_documents_that_are_all_alike_are_split_all_the_same(tmp_path):
    write(tmp_path, a_txt="same", b_txt="same", c_txt="same")
    corpus = read_corpus([tmp_path], "byte", 0.1)
    assert (corpus.train.size, corpus.val.size) == (10, 5)
    assert any("same text" in notice for notice in corpus.notices)


def test_a_lopsided_split_is_reported(tmp_path):
    write(tmp_path, a_txt="x" * 1000, b_txt="y" * 900)
    corpus = read_corpus([tmp_path], "byte", 0.01)
    assert any("of the text, not 1.0%" in notice for notice in corpus.notices)


def test_val_file_is_the_whole_validation_text(tmp_path):
    many(tmp_path / "docs", 5)
    write(tmp_path, v_txt="for validation")
    corpus = read_corpus([tmp_path / "docs"], "byte", 0.1, val=tmp_path / "v.txt")
    assert corpus.val.tolist() == list(b"for validation")
    assert corpus.val.tolist() == tokens_of([tmp_path / "v.txt"], corpus.tokenizer).tokens.tolist()
    assert corpus.train.tolist().count(256) == 5
    assert corpus.documents == 6
    assert corpus.val_bytes == 14
    alone = read_corpus([tmp_path / "docs" / "000.txt"], "byte", 0.1, val=tmp_path / "v.txt")
    assert alone.tokenizer.end_of_text is None
    assert alone.train.tobytes() == (tmp_path / "docs" / "000.txt").read_bytes()
    assert alone.val.tobytes() == b"for validation"


def test_a_val_file_that_is_trained_on_is_reported(tmp_path):
    path = write(tmp_path, a_txt="some text") / "a.txt"
    corpus = read_corpus([path], "byte", 0.1, val=path)
    assert any("also in the training text" in notice for notice in corpus.notices)


# --- The fingerprint -------------------------------------------------------------------------------------------------


def test_the_fingerprint_follows_content_order_and_bounds_alone(tmp_path):
    a = write(tmp_path / "a", x_txt="one", y_txt="two")
    b = write(tmp_path / "b", p_txt="one", q_txt="two")
    same = read_corpus([a], "byte", 0.1).fingerprint
    assert len(same) == 64
    assert read_corpus([b], "char", 0.5).fingerprint == same
    others = [
        read_corpus([a / "y.txt", a / "x.txt"], "byte", 0.1).fingerprint,
        read_corpus([a / "x.txt"], "byte", 0.1, val=a / "y.txt").fingerprint,
        read_corpus([write(tmp_path / "c", x_txt="onet", y_txt="wo")], "byte", 0.1).fingerprint,
        read_corpus([write(tmp_path / "d", x_txt="onetwo") / "x.txt"], "byte", 0.1).fingerprint,
    ]
    assert len({same, *others}) == 5


def test_the_rule_and_the_fingerprint_stay_as_they_are(tmp_path):
    """Runs store both; another rule needs another SPLIT_RULE, and then another value here."""
    write(tmp_path / "docs", a_txt="one", b_txt="another")
    write(tmp_path, v_txt="third")
    corpus = read_corpus([tmp_path / "docs"], "byte", 0.25, val=tmp_path / "v.txt")
    assert SPLIT_RULE == corpus.split_rule == 1
    parts = [(b"text", b"one"), (b"text", b"another"), (b"val ", b"third")]
    told = b"".join(mark + len(t).to_bytes(8, "little") + hashlib.sha256(t).digest() for mark, t in parts)
    assert corpus.fingerprint == hashlib.sha256(b"cllm corpus, split rule 1\n" + told).hexdigest()


# --- Folders, standard input, what is left out -----------------------------------------------------------------------


def test_a_folder_is_read_in_the_byte_order_of_its_names(tmp_path):
    write(tmp_path / "b", one_txt="3")
    write(tmp_path, Z_txt="1", a_txt="2", c_txt="5")
    write(tmp_path / "b" / "deep" / "er", x_txt="2.5")
    (tmp_path / "é.txt").write_text("6")
    files = sources.find_files([tmp_path]).files
    names = [Path(file.path).relative_to(tmp_path).as_posix() for file in files]
    assert names == ["Z.txt", "a.txt", "b/deep/er/x.txt", "b/one.txt", "c.txt", "é.txt"]


def test_what_is_no_text_is_left_out_and_counted(tmp_path):
    write(tmp_path, a_txt="text", b_bin=b"x" * 65_000 + b"\0", c_txt="", d_txt=BOM, late_txt=b"x" * 65_536 + b"\0")
    write(tmp_path / ".git", config="hidden")
    (tmp_path / ".hidden").write_text("hidden")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path)
    write(tmp_path / "runs" / "first", config_toml="steps = 1", metrics_jsonl="{}")
    corpus = read_corpus([tmp_path], "byte", 0.1)
    assert corpus.documents == 2
    assert corpus.skipped == {"binary": 1, "empty": 2, "hidden": 2, "no regular file": 3, "in a run folder": 2}
    assert corpus.notices[0] == "left out: 1 binary, 2 empty, 2 hidden, 2 in a run folder, 3 no regular file"


def test_a_link_to_a_file_is_read(tmp_path):
    write(tmp_path / "real", a_txt="text")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.txt").symlink_to(tmp_path / "real" / "a.txt")
    corpus = read_corpus([tmp_path / "links"], "byte", 0.5)
    assert corpus.train.tobytes() + corpus.val.tobytes() == b"text"


def test_a_file_that_is_named_is_read_even_if_it_looks_binary(tmp_path):
    write(tmp_path, _hidden=b"a\0b", u_txt="text".encode("utf-16"))
    assert read_corpus([tmp_path / ".hidden"], "byte", 0.5).notices == [
        f"{tmp_path}/.hidden looks like a binary file; it is read as it is"
    ]
    assert "looks like UTF-16" in read_corpus([tmp_path / "u.txt"], "byte", 0.5).notices[0]


@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.usefixtures("small_steps")
def test_standard_input_is_read_like_a_file(tmp_path, spec):
    text = words(2, 100)
    path = write(tmp_path, a_txt=text) / "a.txt"
    piped = read_corpus(["-"], spec, 0.1, stdin=io.BytesIO(text.encode()))
    named = read_corpus([path], spec, 0.1)
    assert (piped.train.tolist(), piped.val.tolist()) == (named.train.tolist(), named.val.tolist())
    assert piped.fingerprint == named.fingerprint
    assert piped.from_stdin
    assert not named.from_stdin
    assert list(piped.stored_tokens()) == ["train", "val"]
    assert list(named.stored_tokens()) == ["val"]


def test_the_process_own_standard_input_is_the_default(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped text")))
    corpus = read_corpus(["-"], "byte", 0.5)
    assert corpus.train.tobytes() + corpus.val.tobytes() == b"piped text"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CorpusError, match="standard input is closed"):
        read_corpus(["-"], "byte", 0.5)


def test_a_pipe_can_be_named(tmp_path):
    """As in `cllm train <(zcat text.gz)`."""
    code = "from cllm_cli.text.corpus import read_corpus; print(read_corpus(['/dev/stdin'], 'char', 0.5).train.size)"
    done = subprocess.run([sys.executable, "-c", code], input=b"some text!", capture_output=True, check=True)
    assert done.stdout == b"5\n"


# --- Text for a tokenizer that exists --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), ByteTokenizer(True), CharTokenizer("ab"), CharTokenizer("ab", True)]
)
@pytest.mark.usefixtures("small_steps")
def test_tokens_of_uses_the_ids_of_the_tokenizer(tmp_path, tokenizer):
    a, b = (write(tmp_path, a_txt=BOM + b"ab" * 40, b_txt="ba" * 30) / name for name in ("a.txt", "b.txt"))
    one = tokens_of([a], tokenizer)
    assert one.tokens.tolist() == tokenizer.encode("ab" * 40).tolist()
    assert (one.bytes, one.documents, one.tokens.dtype) == (80, 1, tokenizer.dtype)
    both = tokens_of([a, b], tokenizer)
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    assert both.tokens.tolist() == [*tokenizer.encode("ab" * 40), *end, *tokenizer.encode("ba" * 30), *end]
    assert both.bytes == count_bytes(both.tokens, tokenizer) == 140
    assert [notice for notice in both.notices if "no end-of-text id" in notice] == both.notices
    assert len(both.notices) == (not end)


def test_tokens_of_refuses_what_the_tokenizer_does_not_know(tmp_path):
    path = write(tmp_path, a_txt="abba\x1b[2J") / "a.txt"
    with pytest.raises(CorpusError, match=r"a\.txt has a character .* '\\x1b' \(U\+001B\) at byte 4"):
        tokens_of([path], CharTokenizer("ab"))


def test_tokens_of_needs_two_tokens():
    with pytest.raises(CorpusError, match="has 1 token, a score needs 2"):
        tokens_of(["-"], ByteTokenizer(), stdin=io.BytesIO(b"x"))


# --- Errors ----------------------------------------------------------------------------------------------------------


def refused(action, *fragments: str) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        action()
    error = caught.value
    for fragment in fragments:
        assert fragment in error.message + "\n" + error.hint
    assert error.hint
    assert error.message.isprintable()
    assert error.hint.isprintable()
    return error


def test_missing_files_are_answered_with_the_nearest(tmp_path):
    write(tmp_path, corpus_txt="text")
    refused(
        lambda: read_corpus([tmp_path / "korpus.txt"], "byte", 0.1), "there is no file", "did you mean", "corpus.txt?"
    )
    refused(lambda: read_corpus([tmp_path / "no" / "such"], "byte", 0.1), "there is no file or folder", "CORPUS is")
    refused(lambda: read_corpus([""], "byte", 0.1), "there is no file or folder ''")
    refused(lambda: read_corpus(["a\0b"], "byte", 0.1), r"a\x00b")
    refused(lambda: read_corpus([], "byte", 0.1), "no text was named")


def test_all_sources_are_looked_for_before_any_is_read(tmp_path):
    path = write(tmp_path, a_txt="text") / "a.txt"
    untouched = io.BytesIO(b"text")
    refused(lambda: read_corpus(["-", path, tmp_path / "none"], "byte", 0.1, stdin=untouched), "there is no file")
    refused(lambda: read_corpus(["-"], "byte", 0.1, val=tmp_path / "none", stdin=untouched), "there is no file")
    assert untouched.tell() == 0


def test_names_are_safe_to_print(tmp_path):
    hostile = tmp_path / "a\x1b[2J\n\u202e\udcff.txt"
    refused(lambda: read_corpus([hostile], "byte", 0.1), r"a\x1b[2J\n\u202e\udcff.txt")
    hostile.write_bytes(b"\xff")
    refused(lambda: read_corpus([hostile], "char", 0.1), r"a\x1b[2J\n\u202e\udcff.txt is no UTF-8")
    hostile.write_bytes(b"")
    refused(lambda: read_corpus([hostile], "byte", 0.1), r"a\x1b[2J\n\u202e\udcff.txt is empty")
    hostile.write_bytes(b"a\0")
    assert all(notice.isprintable() for notice in read_corpus([hostile], "byte", 0.1).notices)


def test_what_the_system_refuses_is_named(tmp_path, monkeypatch):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    refused(lambda: read_corpus([loop], "byte", 0.1), "cannot read", "loop")
    path = write(tmp_path, a_txt="text") / "a.txt"

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    refused(lambda: read_corpus([tmp_path], "byte", 0.1), "cannot read", "Permission denied", "check its permissions")
    monkeypatch.setattr(Path, "open", denied)
    refused(lambda: read_corpus([path], "byte", 0.1), "a.txt: Permission denied")


def test_an_error_while_reading_is_named():
    class Broken(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    refused(lambda: read_corpus(["-"], "byte", 0.1, stdin=Broken()), "cannot read standard input: Input/output error")


def test_emptiness_is_named(tmp_path):
    path = write(tmp_path / "files", a_txt="", b_txt=BOM) / "a.txt"
    refused(lambda: read_corpus([path], "byte", 0.1), "a.txt is empty")
    refused(lambda: read_corpus(["-"], "byte", 0.1, stdin=io.BytesIO()), "standard input is empty")
    refused(lambda: read_corpus([tmp_path / "files"], "byte", 0.1), "no text in", "left out: 2 empty")
    (tmp_path / "bare").mkdir()
    refused(lambda: read_corpus([tmp_path / "bare"], "byte", 0.1), "no text in")
    full = write(tmp_path, a_txt="text") / "a.txt"
    refused(lambda: read_corpus([full, tmp_path / "bare"], "byte", 0.1), "no text in", "bare")
    refused(lambda: read_corpus([full], "byte", 0.1, val=path), "files/a.txt is empty")
    write(tmp_path / "bare", a_bin=b"\0", _x="x")
    refused(lambda: read_corpus([tmp_path / "bare"], "byte", 0.1), "left out: 1 binary, 1 hidden")


def test_char_needs_utf8_and_says_where(tmp_path):
    write(tmp_path, a_txt="fine", b_txt=BOM + "größe".encode("latin-1"))
    refused(lambda: read_corpus([tmp_path], "char", 0.1), "b.txt is no UTF-8: byte 5 is 0xf6", "--tokenizer byte")
    assert read_corpus([tmp_path], "byte", 0.1).documents == 2


def test_standard_input_is_read_only_once(tmp_path):
    refused(lambda: read_corpus(["-", "-"], "byte", 0.1, stdin=io.BytesIO(b"text")), "only once")
    refused(lambda: read_corpus(["-"], "byte", 0.1, val="-", stdin=io.BytesIO(b"text")), "both training and validation")


def test_an_unknown_tokenizer_is_refused_before_reading():
    with pytest.raises(ConfigError):
        read_corpus(["-"], "word", 0.1, stdin=None)


def test_a_text_shorter_than_a_window_is_refused_with_numbers(tmp_path):
    corpus = read_corpus([write(tmp_path, a_txt="x" * 1000) / "a.txt"], "byte", 0.1)
    check_long_enough(corpus, 899)
    refused(lambda: check_long_enough(corpus, 900), "900 tokens", "900 needs 901", "--block-size 899")
    short = read_corpus([tmp_path / "a.txt"], "byte", 0.001)
    refused(lambda: check_long_enough(short, 64), "1 token,", "--val-fraction")
    one = read_corpus([write(tmp_path, b_txt="x") / "b.txt"], "byte", 0.1)
    assert "block-size" not in refused(lambda: check_long_enough(one, 1), "0 tokens").hint


# --- What a run stores -----------------------------------------------------------------------------------------------


def test_a_piped_corpus_comes_back_from_what_a_run_stores():
    corpus = read_corpus(["-"], "char", 0.2, stdin=io.BytesIO(words(3, 50).encode()))
    facts = json.loads(json.dumps(corpus.facts()))
    again = restored(facts, corpus.tokenizer, **corpus.stored_tokens())
    assert again.facts() == corpus.facts()
    assert again.train.tolist() == corpus.train.tolist()
    assert again.val.tolist() == corpus.val.tolist()


def test_stored_tokens_that_do_not_fit_are_refused():
    corpus = read_corpus(["-"], "char", 0.2, stdin=io.BytesIO(b"abcabc" * 20))
    facts, train, val = corpus.facts(), corpus.train, corpus.val
    broken = [
        ({}, train, val),
        (facts | {"documents": True}, train, val),
        (facts | {"fingerprint": 5}, train, val),
        (facts | {"val_bytes": 1.0}, train, val),
        (facts | {"val_bytes": corpus.val_bytes + 1}, train, val),
        (facts, train[:-1], val),
        (facts, train.astype(np.uint16), val),
        (facts, train.reshape(2, -1), val),
        (facts, np.full_like(train, 3), val),
    ]
    for case in broken:
        with pytest.raises(RunError):
            restored(case[0], corpus.tokenizer, *case[1:])
    with pytest.raises(RunError):
        check_tokens(train[::2], corpus.tokenizer)
    restored(facts, corpus.tokenizer, train, val)


# --- Size ------------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from cllm_cli.text.corpus import read_corpus
read_corpus([sys.argv[3]], sys.argv[1], 0.1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = read_corpus(sys.argv[2:3], sys.argv[1], 0.1)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 - corpus.train.nbytes - corpus.val.nbytes, corpus.train.nbytes + corpus.val.nbytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["byte", "char"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_large_corpus_takes_little_more_than_its_tokens(tmp_path, spec, kind):
    text = words(5, 40_000).encode()
    repeats = 200_000_000 // len(text)
    large = tmp_path / "large"
    if kind == "folder":
        large.mkdir()
    for part in range(1 if kind == "file" else 20):
        with (large if kind == "file" else large / f"{part}.txt").open("wb") as file:
            file.write(str(part).encode())
            for _ in range(repeats if kind == "file" else repeats // 20):
                file.write(text)
    small = write(tmp_path, small_txt=text) / "small.txt"
    done = subprocess.run([sys.executable, "-c", MEASURE, spec, large, small], capture_output=True, check=True)
    beyond, tokens = map(int, done.stdout.split())
    assert tokens > 100_000_000
    assert beyond < 50 * 2**20
