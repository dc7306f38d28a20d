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
BESIDE = {"rpm", "deb", "apk"}  # libraries of a system, which lie beside what needs them


def inside_of(package: metadata.Distribution) -> list[Part]:
    """What the bills in a package name besides itself, and what inside.toml has within it.

    Raises LookupError for what can only be had under a licence whose text is not there, and where inside.toml is of
    another version of the package.
    """
    found = {}
    for part in [*_in_bills(package), *unnamed_in(package.name, package.version)]:
        found[part.name, part.version] = part
    return [found[key] for key in sorted(found)]


def unnamed_in(name: str, version: str) -> list[Part]:
    """What inside.toml has within something of this version. Raises LookupError where it is of another version."""
    found = []
    for entry in _entries():
        within = {_canonical(package): known for package, known in entry.get("within", {}).items()}
        known = within.get(_canonical(name))
        if known is None:
            continue
        if known and not f"{version}.".startswith(f"{known}."):
            raise LookupError(
                f"{ENTRIES.name} has {entry['name']} within {name} {known}, and this is {name} {version}: "
                "see what is in it and change the entry"
            )
        texts = [(entry["source"], entry["text"])] if "text" in entry else []
        found.append(Part(entry["name"], "", entry["licence"], texts))
    return found


def satisfied(licence: str, granted: Iterable[str]) -> bool:
    """Whether an expression in SPDX's terms holds for who keeps to these licences; what is none does not."""
    licensing = Licensing()
    try:
        parsed = licensing.parse(licence)
    except ExpressionError:
        return False
    if parsed is None:  # nothing was said
        return False
    terms = {term: licensing.TRUE if term.render() in granted else licensing.FALSE for term in parsed.symbols}
    return bool(parsed.subs(terms, simplify=True) == licensing.TRUE)


@cache
def _entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = tomllib.loads(ENTRIES.read_text("utf-8"))["entry"]
    return entries


def _canonical(name: str) -> str:
    return str(PackageURL("pypi", None, name).name)  # as others write it: in small letters, with "-"


def _in_bills(package: metadata.Distribution) -> Iterable[Part]:
    files = [file for file in package.files or () if "sboms" in file.parts and file.suffix == ".json"]
    bills = [json.loads(Path(str(package.locate_file(file))).read_text("utf-8")) for file in files]
    for one in (component for bill in bills for component in bill.get("components", ())):
        purl = PackageURL.from_string(one["purl"]) if "purl" in one else None
        if purl is not None and (purl.type, purl.name) == ("pypi", _canonical(package.name)):
            continue
        beside = purl is not None and purl.type in BESIDE
        if beside and not any(one["name"] in file.name for file in package.files or ()):
            continue  # the wheel was made with it, and it was taken out again
        said = [
            each.get("expression") or each["license"].get("id") or each["license"]["name"]
            for each in one.get("licenses", ())
        ]
        licence = " AND ".join(f"({each})" if " OR " in each and len(said) > 1 else each for each in said)
        licence, texts = _licence_and_texts(one["name"], purl.type if purl else "cargo", licence)
        yield Part(one["name"], one.get("version", ""), licence, texts, purl=purl)


def _licence_and_texts(name: str, kind: str, licence: str) -> tuple[str, list[tuple[str, str]]]:
    """The licence, where a bill names none that of inside.toml; and the text that it is passed on with.

    There is none where Apache-2.0 is enough. Raises LookupError.
    """
    if satisfied(licence, [APACHE]):
        return licence, []
    for entry in _entries():
        listed = name in entry.get("of", ()) and kind == entry.get("kind", "cargo")
        if listed and (not licence or satisfied(licence, [APACHE, entry["licence"]])):
            return licence or entry["licence"], [(entry["source"], entry["text"])]
    said = f"can only be had under {licence}" if licence else "has no licence in the bill of what it is in"
    raise LookupError(f"{name} {said}; {ENTRIES.name} has no text for it")
