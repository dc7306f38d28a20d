"""What is compiled into packages: the names by their bills of materials, the licences' texts by inside.toml.

A wheel may bring a bill of what was linked into it (Rust's do), and no text of its licences.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, Licensing
from packageurl import PackageURL

from tools.release.part import Part

ENTRIES = Path(__file__).with_name("inside.toml")
APACHE = "Apache-2.0"  # which everything is taken under that can be; its text is the same for everybody


def inside_of(package: metadata.Distribution) -> list[Part]:
    """What the bills in a package name besides itself, and what inside.toml has within it.

    Raises LookupError for what can only be had under a licence whose text is not there.
    """
    found = {(part.name, part.version): part for part in [*_in_bills(package), *_unnamed(package.name)]}
    return [found[key] for key in sorted(found)]


def satisfied(licence: str, granted: Iterable[str]) -> bool:
    """Whether an expression in SPDX's terms holds for who keeps to these licences; what is none does not."""
    licensing = Licensing()
    try:
        parsed = licensing.parse(licence)
    except ExpressionError:
        return False
    terms = {term: licensing.TRUE if term.render() in granted else licensing.FALSE for term in parsed.symbols}
    return bool(parsed.subs(terms, simplify=True) == licensing.TRUE)


@cache
def _entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = tomllib.loads(ENTRIES.read_text("utf-8"))["entry"]
    return entries


def _in_bills(package: metadata.Distribution) -> Iterable[Part]:
    itself = PackageURL("pypi", None, package.name)  # which writes the name as others do: in small letters, with "-"
    files = [file for file in package.files or () if "sboms" in file.parts and file.suffix == ".json"]
    bills = [json.loads(Path(str(package.locate_file(file))).read_text("utf-8")) for file in files]
    for one in (component for bill in bills for component in bill.get("components", ())):
        purl = PackageURL.from_string(one["purl"]) if "purl" in one else None
        if purl is not None and (purl.type, purl.name) == (itself.type, itself.name):
            continue
        each = [
            said.get("expression") or said["license"].get("id") or said["license"]["name"]
            for said in one.get("licenses", ())
        ]
        licence, texts = _licence_and_texts(one["name"], " AND ".join(each))
        yield Part(one["name"], one.get("version", ""), licence, texts, purl=purl)


def _unnamed(package: str) -> Iterable[Part]:
    for entry in _entries():
        if package in entry.get("within", ()):
            texts = [(entry["source"], entry["text"])] if "text" in entry else []
            yield Part(entry["name"], "", entry["licence"], texts)


def _licence_and_texts(name: str, licence: str) -> tuple[str, list[tuple[str, str]]]:
    """The licence, where a bill names none that of inside.toml; and the text that it is passed on with.

    There is none where Apache-2.0 is enough. Raises LookupError.
    """
    if licence and satisfied(licence, [APACHE]):
        return licence, []
    for entry in _entries():
        if name in entry.get("of", ()) and (not licence or satisfied(licence, [APACHE, entry["licence"]])):
            return licence or entry["licence"], [(entry["source"], entry["text"])]
    said = f"can only be had under {licence}" if licence else "has no licence in the bill of what it is in"
    raise LookupError(f"{name} {said}; {ENTRIES.name} has no text for it")
