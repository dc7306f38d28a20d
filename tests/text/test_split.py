"""Several documents: whole, in order, on one side each, whatever else the corpus holds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from text_files import expected_tokens, many, write

from cllm_cli.text.corpus import read_corpus, tokens_of
from cllm_cli.text.split import SPLIT_RULE, Document, Documents, choose_validation


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


def test_a_hash_at_the_fraction_itself_is_for_training():
    documents = [Document(0, 1, 1, bytes([first, *bytes(31)])) for first in (0x7F, 0x80, 0x81)]
    assert choose_validation(documents, 0.5) == ([True, False, False], "")


@pytest.mark.parametrize("wanted", [False, True])
def test_no_side_stays_empty_and_the_fallback_takes_the_fittest_size(wanted):
    sizes = [700, 90, 210]
    sides, notice = choose_validation(numbered_documents(sizes, wanted, 0.2), 0.2)
    # 210 of 1,000 are nearest to 0.2 for validation; 700 of 1,000 are nearest to 0.8 for training.
    assert sides == ([False, True, True] if wanted else [False, False, True])
    assert f"chose no document for {'training' if wanted else 'validation'}:" in notice


def test_the_fallback_takes_all_copies_along():
    first, second = numbered_documents([10, 500], False, 0.1)
    sides, _ = choose_validation([first, second, first, first], 0.1)
    assert sides == [True, False, True, True]


def test_the_fallback_weighs_all_copies():
    first, second, third = numbered_documents([100, 120, 580], False, 0.12)
    sides, _ = choose_validation([first, first, first, second, third], 0.12)
    assert sides == [False, False, False, True, False]


def test_documents_that_are_all_alike_are_split_all_the_same(tmp_path):
    write(tmp_path, a_txt="same", b_txt="same", c_txt="same")
    corpus = read_corpus([tmp_path], "byte", 0.1)
    assert (corpus.train.size, corpus.val.size) == (10, 5)
    assert any("same text" in notice for notice in corpus.notices)


def test_documents_come_back_as_they_were_put_in():
    put = [Document(n * 2**33, n * 2**33 + 5, n, hashlib.sha256(bytes([n])).digest()) for n in range(7)]
    documents = Documents()
    assert not documents
    for document in put:
        documents.append(document)
    assert list(documents) == put
    assert (documents[-1], documents[2:5], documents[::-2]) == (put[-1], put[2:5], put[::-2])
    for index in (7, -8):
        with pytest.raises(IndexError):
            documents[index]


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
