"""Of what is compiled into packages, every licence's text is there, or Apache-2.0 is enough."""

from __future__ import annotations

import tomllib

import pytest

pytest.importorskip("cyclonedx", reason="pip install -e '.[release]'")

from tools.release.bundled import licences_of
from tools.release.inside import APACHE, ENTRIES, inside_of, satisfied
from tools.release.part import Part

LISTED = tomllib.loads(ENTRIES.read_text("utf-8"))["entry"]


def component(name, expression=None, version="1"):
    return {"name": name, "version": version} | ({"licenses": [{"expression": expression}]} if expression else {})


@pytest.mark.parametrize(
    ("licence", "with_apache", "with_mit"),
    [
        ("Apache-2.0", True, False),
        ("MIT OR Apache-2.0", True, True),
        ("Unlicense OR MIT", False, True),
        ("Apache-2.0 WITH LLVM-exception", False, False),
        ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", True, True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", False, False),
    ],
)
def test_an_expression_holds_for_who_keeps_to_one_of_its_choices(licence, with_apache, with_mit):
    assert satisfied(licence, [APACHE]) == with_apache
    assert satisfied(licence, ["MIT"]) == with_mit


def test_all_of_an_and_is_kept_to():
    assert satisfied("(MIT OR Apache-2.0) AND Unicode-3.0", [APACHE, "Unicode-3.0"])


def test_apache_is_enough_where_it_can_be_chosen(package):
    (part,) = inside_of(package(rust=[component("itoa", "MIT OR Apache-2.0")]))
    assert (part.licence, part.texts) == ("MIT OR Apache-2.0", [])


def test_what_can_only_be_had_otherwise_comes_with_its_text(package):
    (part,) = inside_of(package(rust=[component("slab", "MIT")]))
    ((source, text),) = part.texts
    assert source.startswith("slab-")
    assert "Carl Lerche" in text


def test_the_text_is_that_of_the_licence_it_has(package):
    found = package(rust=[component("unicode-ident", "(MIT OR Apache-2.0) AND Unicode-DFS-2016")])
    ((_, text),) = inside_of(found)[0].texts
    assert text.startswith("UNICODE, INC. LICENSE AGREEMENT")


@pytest.mark.parametrize("licence", ["MIT", "Zlib", "as we like", None])
def test_what_has_no_text_is_an_error_that_names_it(package, licence):
    with pytest.raises(LookupError, match="nobodys"):
        inside_of(package(rust=[component("nobodys", licence)]))


def test_the_text_of_another_licence_will_not_do(package):
    with pytest.raises(LookupError, match="slab can only be had under Zlib"):
        inside_of(package(rust=[component("slab", "Zlib")]))


def test_what_no_bill_names_is_named(package):
    names = {part.name: part.licence for part in inside_of(package(name="sentencepiece"))}
    assert names["protobuf-lite"] == "BSD-3-Clause"
    assert names["Abseil"] == APACHE


def test_a_package_is_not_inside_of_itself(package):
    itself = {"name": "some", "purl": "pkg:pypi/some@1"}
    assert inside_of(package(name="some", wheel=[itself])) == []


@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: ",".join(entry.get("of", [entry.get("name")]))[:30])
def test_every_entry_is_whole(entry):
    assert ("of" in entry) != ("name" in entry and "within" in entry)
    if "text" in entry:
        assert entry["source"]
        assert "opyright" in entry["text"] or "LLVM" in entry["text"]
    else:
        assert satisfied(entry["licence"], [APACHE])


def test_no_name_has_two_texts_of_a_licence():
    pairs = [(name, entry["licence"]) for entry in LISTED for name in entry.get("of", ())]
    assert len(pairs) == len(set(pairs))


def test_a_text_stands_once_with_all_that_it_is_of():
    inside = [Part("b", "2", "MIT", [("b-2/LICENSE", "as you like")]), Part("c", "", APACHE, [])]
    parts = [Part(name, "1", "MIT", [("LICENSE", name * 9)], inside=inside) for name in ("x", "y")]
    parts[1].inside.append(Part("a", "3", "MIT", [("b-2/LICENSE", "as you like")]))
    text = licences_of(parts)
    assert text.count("as you like") == 1
    assert "\na 3, b 2: b-2/LICENSE\n" in text
    assert "\nb 2: MIT\nc: Apache-2.0\n" in text
    assert text.count("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION") == 1
