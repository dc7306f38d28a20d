"""Nothing goes into the binary whose licence is not found."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

bundled = pytest.importorskip("tools.release.bundled", reason="pip install -e '.[release]'")
APACHE = bundled.APACHE


def test_the_licence_of_python_is_its_own_or_the_systems(tmp_path):
    standard, documents = tmp_path / "lib" / "python3.11", tmp_path / "doc"
    standard.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"python3\.11/LICENSE\.txt, .*doc/python3\.11/copyright"):
        bundled.python_licence(standard, documents)
    for place in (documents / "python3.11-minimal/copyright", documents / "python3.11/copyright", standard / "LICENSE"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        assert bundled.python_licence(standard, documents) == place


def test_a_library_without_a_licence_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "_internal").mkdir()
    (tmp_path / "_internal" / "libnobody.so.1").touch()
    monkeypatch.setattr(bundled, "_compiled_in", lambda _: [])
    with pytest.raises(LookupError, match=r"libnobody\.so\.1 .*no text of its licence found"):
        bundled.parts_of(tmp_path, tmp_path)


def test_a_library_comes_with_the_texts_that_its_licence_only_names(tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    common = Path("/usr/share/common-licenses/GPL-3")
    if not common.is_file():
        pytest.skip("these texts are where Debian has them")
    (tmp_path / "owner" / "copyright").write_text(f"in '{common}'. Yours, (see {common})\n", "utf-8")
    monkeypatch.setattr(bundled, "DOCUMENTS", tmp_path)
    monkeypatch.setattr(bundled, "_owner", lambda _: ("owner:amd64", "1-2", "origin 1-1"))
    (tmp_path / "libx.so.1").touch()
    part = bundled._library(tmp_path / "libx.so.1")
    assert [name for name, _ in part.texts] == ["copyright", "GPL-3"]
    text = bundled.licences_of([part])
    assert text.count("Version 3, 29 June 2007") == 1
    assert "\nlibx.so.1 1-2: of owner:amd64, made from the source package origin 1-1 of " in text


def test_what_a_package_brings_is_no_library_of_the_system(tmp_path):
    for name in ("libpython3.11.so.1.0", "libz.so.1", "libown.so.2", "numpy.libs/libown.so.2"):
        (tmp_path / "_internal" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "_internal" / name).touch()
    assert [path.name for path in bundled.libraries(tmp_path)] == ["libz.so.1"]


def test_what_is_compiled_into_a_package_is_part_of_it(package, tmp_path):
    zlib, apache = [{"expression": "Zlib OR BSL-1.0"}], [{"expression": APACHE}]
    both = [{"license": {"id": "MIT"}}, {"license": {"name": APACHE}}]
    found = bundled._package(
        package(
            "License-Expression: Apache-2.0",
            rust=[
                {"name": "foldhash", "version": "2", "purl": "pkg:cargo/foldhash@2", "licenses": zlib},
                {
                    "name": "thing",
                    "version": "0.9",
                    "purl": "pkg:cargo/thing@0.9",
                    "licenses": apache,
                },
            ],
            wheel=[
                {"name": "thing", "version": "1.0", "purl": "pkg:pypi/thing@1.0?file_name=thing.whl"},
                {
                    "name": "slab",
                    "version": "1",
                    "licenses": both,
                },
            ],
        )
    )
    assert [(one.name, one.version, one.licence) for one in found.inside] == [
        ("foldhash", "2", "Zlib OR BSL-1.0"),
        ("slab", "1", "MIT AND Apache-2.0"),
        ("thing", "0.9", "Apache-2.0"),
    ]
    (tmp_path / "binary").touch()
    (written,) = json.loads(bundled.bill_of_materials([found], tmp_path / "binary"))["components"]
    assert [one["name"] for one in written["components"]] == ["foldhash", "slab", "thing"]
    assert written["components"][0]["purl"] == "pkg:cargo/foldhash@2"
    assert written["components"][0]["licenses"] == zlib
    text = bundled.licences_of([found])
    assert "\ninside of thing 1.0\n" in text
    assert "\nfoldhash 2: Zlib OR BSL-1.0\nslab 1: MIT AND Apache-2.0\nthing 0.9: Apache-2.0\n" in text
    assert all(f"\n{name}, inside of thing 1.0: {name[:4]}" in text for name in ("foldhash 2", "slab 1"))


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("License-Expression: Apache-2.0", ["Apache-2.0, of which the package brings no text"]),
        ("License-Expression: Apache-1.1", []),
        ("License-Expression: Apache-2.0 AND MIT", []),
        ("Classifier: License :: OSI Approved :: Apache Software License", []),
    ],
)
def test_only_who_says_apache_2_and_nothing_else_needs_no_text(package, line, texts):
    assert [name for name, _ in bundled._package(package(line)).texts] == texts


def test_packages_of_a_binary_that_are_others_than_those_here_are_refused(tmp_path):
    here, inside = metadata.version("pytest"), tmp_path / "_internal"
    (inside / "pytest").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"not those of this environment: pytest {here}$"):
        bundled.packages(tmp_path)  # which has nothing to tell the version
    told = inside / "pytest.dist-info" / "METADATA"
    told.parent.mkdir()
    told.write_text("Name: pytest\nVersion: 0.1\n", "utf-8")
    with pytest.raises(ValueError, match=rf"not those of this environment: pytest 0\.1, pytest {here}$"):
        bundled.packages(tmp_path)
    told.write_text(f"Name: pytest\nVersion: {here}\n", "utf-8")
    assert [package.name for package in bundled.packages(tmp_path)] == ["pytest"]
