"""Nothing goes into the binary whose licence is not found."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

bundled = pytest.importorskip("tools.release.bundled", reason="pip install -e '.[release]'")


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


def test_what_a_package_brings_is_no_library_of_the_system(tmp_path):
    for name in ("libpython3.11.so.1.0", "libz.so.1", "libown.so.2", "numpy.libs/libown.so.2"):
        (tmp_path / "_internal" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "_internal" / name).touch()
    assert [path.name for path in bundled.libraries(tmp_path)] == ["libz.so.1"]


@pytest.fixture
def package(tmp_path):
    """Makes a package `thing 1.0` of lines of its metadata and bills of materials that its wheel brings."""

    def made(*lines, **bills):
        folder = tmp_path / "thing-1.0.dist-info"
        (folder / "sboms").mkdir(parents=True)
        (folder / "METADATA").write_text("\n".join(["Name: thing", "Version: 1.0", *lines]), "utf-8")
        for name, components in bills.items():
            (folder / "sboms" / f"{name}.json").write_text(json.dumps({"components": components}), "utf-8")
        record = ["thing-1.0.dist-info/METADATA,,", *(f"thing-1.0.dist-info/sboms/{name}.json,," for name in bills)]
        (folder / "RECORD").write_text("\n".join(record), "utf-8")
        return metadata.PathDistribution(folder)

    return made


def test_what_is_compiled_into_a_package_is_part_of_it(package, tmp_path):
    found = bundled._package(
        package(
            "License-Expression: Apache-2.0",
            rust=[
                {"name": "two", "version": "2", "purl": "pkg:cargo/two@2", "licenses": [{"expression": "MIT OR Zlib"}]},
                {"name": "thing", "version": "0.9", "purl": "pkg:cargo/thing@0.9", "licenses": []},
            ],
            wheel=[
                {"name": "thing", "version": "1.0", "purl": "pkg:pypi/thing@1.0?file_name=thing.whl"},
                {"name": "one", "version": "1", "licenses": [{"license": {"id": "MIT"}}, {"license": {"name": "own"}}]},
            ],
        )
    )
    assert [(one.name, one.version, one.licence) for one in found.inside] == [
        ("one", "1", "MIT AND own"),
        ("thing", "0.9", ""),
        ("two", "2", "MIT OR Zlib"),
    ]
    (tmp_path / "binary").touch()
    (written,) = json.loads(bundled.bill_of_materials([found], tmp_path / "binary"))["components"]
    assert [one["name"] for one in written["components"]] == ["one", "thing", "two"]
    assert written["components"][2]["purl"] == "pkg:cargo/two@2"
    assert written["components"][2]["licenses"] == [{"expression": "MIT OR Zlib"}]
    text = bundled.licences_of([found])
    assert "\nthing 1.0: what its bill of materials has inside, by names of licences\n" in text
    assert "\none 1: MIT AND own\nthing 0.9: its licence is not named\ntwo 2: MIT OR Zlib\n" in text


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
