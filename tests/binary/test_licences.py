"""Nothing goes into the binary whose licence is not found."""

from __future__ import annotations

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
