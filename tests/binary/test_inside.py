"""Of what is compiled into packages, every licence's text is there, or Apache-2.0 is enough."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("cyclonedx", reason="pip install -e '.[release]'")

from tools.release.bundled import licences_of
from tools.release.inside import APACHE, ENTRIES, inside_of, satisfied, unnamed_in
from tools.release.part import Part

# Licences in which, where they come from, nobody names himself.
NOBODY = {"zmij-1.0.23/LICENSE-MIT", "target-lexicon-0.13.5/LICENSE", "compiler_builtins-0.1.139/LICENSE.txt"}
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


def test_a_licence_that_no_bill_names_is_that_of_the_entry(package):
    libgomp = {"name": "libgomp", "version": "8", "purl": "pkg:rpm/almalinux/libgomp@8"}
    (part,) = inside_of(package(files=["thing.libs/libgomp-6a29c32d.so.1.0.0"], wheel=[libgomp]))
    assert part.licence == "GPL-3.0-or-later WITH GCC-exception-3.1"
    assert "GCC RUNTIME LIBRARY EXCEPTION" in part.texts[0][1]


def test_a_library_that_is_not_in_the_package_is_not_in_it(package):
    assert inside_of(package(wheel=[{"name": "libgomp", "version": "8", "purl": "pkg:rpm/almalinux/libgomp@8"}])) == []


def test_a_crate_is_no_package_of_the_same_name(package):
    numpy = {"name": "numpy", "version": "2", "purl": "pkg:pypi/numpy@2"}
    with pytest.raises(LookupError, match="numpy has no licence"):
        inside_of(package(wheel=[numpy]))


def test_two_versions_are_two_parts(package):
    found = inside_of(package(rust=[component("syn", "MIT OR Apache-2.0", version) for version in "23"]))
    assert [(part.name, part.version) for part in found] == [("syn", "2"), ("syn", "3")]


def test_several_licences_are_all_kept_to(package):
    licences = [{"expression": "MIT OR Apache-2.0"}, {"expression": "Unicode-3.0"}]
    (part,) = inside_of(package(rust=[{"name": "unicode-ident", "version": "1", "licenses": licences}]))
    assert part.licence == "(MIT OR Apache-2.0) AND Unicode-3.0"
    assert part.texts


def test_only_json_is_a_bill(package):
    found = package(rust=[])
    (Path(found.locate_file("thing-1.0.dist-info")) / "sboms" / "bill.xml").write_text("<bill/>", "utf-8")
    with Path(found.locate_file("thing-1.0.dist-info/RECORD")).open("a", encoding="utf-8") as record:
        record.write("\nthing-1.0.dist-info/sboms/bill.xml,,\n")
    assert inside_of(found) == []


UNNAMED = {
    "CPython 3.11.7": {"incorporated software"},
    "pydantic_core 2.50.5": {"Rust's standard library", "compiler_builtins", "Unicode's tables in regex-syntax"},
    "safetensors 0.8.0": {"Rust's standard library", "compiler_builtins"},
    "sentencepiece 0.2.3": {"Abseil", "FlatBuffers", "Protobuf", "darts-clone", "libsais", "pybind11", "utf8_range"},
    "tokenizers 0.23.3": {"Oniguruma", "Rust's standard library", "Unicode's tables in regex-syntax"}
    | {"compiler_builtins", "esaxx", "sais-lite"},
}


@pytest.mark.parametrize("package", UNNAMED)
def test_what_no_bill_names_is_named(package):
    found = unnamed_in(*package.split())
    assert {part.name for part in found} == UNNAMED[package]
    assert all(part.texts or satisfied(part.licence, [APACHE]) for part in found)


def test_names_of_packages_are_compared_as_pip_does():
    assert unnamed_in("Pydantic-Core", "1") == unnamed_in("pydantic_core", "1") != []


@pytest.mark.parametrize("version", ["0.2.30", "0.2.4", "0.2"])
def test_entries_that_were_looked_up_for_another_version_are_an_error(package, version):
    with pytest.raises(LookupError, match=rf"within sentencepiece 0\.2\.3, and this is sentencepiece {version}:"):
        inside_of(package(name="sentencepiece", version=version))


@pytest.mark.parametrize("version", ["0.2.3", "0.2.3.post1"])
def test_a_version_is_known_by_its_start(version):
    assert unnamed_in("sentencepiece", version)


def test_a_package_is_not_inside_of_itself(package):
    itself = {"name": "some", "purl": "pkg:pypi/some@1"}
    assert inside_of(package(name="some", wheel=[itself])) == []


@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: ",".join(entry.get("of", [entry.get("name")]))[:30])
def test_every_entry_is_whole(entry):
    assert ("of" in entry) != ("name" in entry and "within" in entry)
    if "text" not in entry:
        assert satisfied(entry["licence"], [APACHE])
        return
    assert entry["source"]
    assert len(entry["text"]) > 500
    named = re.search(r"(?i)copyright (\(c\)|©|[12][09]\d\d)|©|: [12][09]\d\d.*Inc", entry["text"])
    assert named or entry["source"] in NOBODY


def test_no_name_has_two_texts_of_a_licence():
    pairs = [(name, entry["licence"]) for entry in LISTED for name in entry.get("of", ())]
    assert len(pairs) == len(set(pairs))


def test_a_text_stands_once_with_all_that_it_is_of():
    inside = [Part("b", "2", "MIT", [("b-2/LICENSE", "as you like")]), Part("c", "", APACHE, [])]
    parts = [Part(name, "1", "MIT", [("LICENSE", name * 9)], inside=[*inside]) for name in ("x", "y")]
    parts[1].inside.append(Part("a", "3", "MIT", [("b-2/LICENSE", "as you like")]))
    text = licences_of(parts)
    assert text.count("as you like") == 1
    assert (
        "\nb 2, inside of x 1: b-2/LICENSE\nb 2, inside of y 1: b-2/LICENSE\na 3, inside of y 1: b-2/LICENSE\n" in text
    )
    assert "\nb 2: MIT\nc: Apache-2.0\n" in text
    assert text.count("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION") == 1
