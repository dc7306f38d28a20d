"""What is published of a version, made around the binary under test: complete, and what it says of itself is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import cllm_cli
from binary.conftest import SAMPLE

ROOT = Path(__file__).parents[2]
VERSION = cllm_cli.__version__
BINARY = f"cllm-{VERSION}-linux-x86_64"
KERNELS = f"cllm-{VERSION}-cp{sys.version_info.major}{sys.version_info.minor}-none-manylinux_2_17_x86_64.whl"
PLAIN = f"cllm-{VERSION}-py3-none-any.whl"
SOURCES = f"cllm-{VERSION}.tar.gz"
COMPILED_IN = {"CPython", "PyInstaller", "zstd", "musl", "Zig"}


@pytest.fixture(scope="module")
def release(binary, tmp_path_factory):
    """The folder of everything."""
    pytest.importorskip("cyclonedx", reason="pip install -e '.[release]'")
    out = tmp_path_factory.mktemp("release")
    command = [sys.executable, "-m", "tools.release", "--out", out, "--binary", binary]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def bill(release):
    return json.loads((release / f"{BINARY}.cdx.json").read_text("utf-8"))


def test_everything_is_there_and_has_its_checksum(release, binary):
    made = {path.name for path in release.iterdir()}
    told = {f"{BINARY}.cdx.json", f"{BINARY}.licences.txt", f"cllm-{VERSION}-man.tar.gz", "SHA256SUMS"}
    assert made == told | {BINARY, KERNELS, PLAIN, SOURCES}
    listed = [line.split("  ")[1] for line in (release / "SHA256SUMS").read_text("utf-8").splitlines()]
    assert listed == sorted(made - {"SHA256SUMS"})
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=release, check=True)
    assert (release / BINARY).read_bytes() == binary.read_bytes()


def test_the_bill_of_materials_is_one_and_names_what_is_in_the_binary(release, bill, cllm):
    from cyclonedx.model.bom import Bom

    assert len(Bom.from_json(bill).components) == len(bill["components"])
    (digest,) = bill["metadata"]["component"]["hashes"]
    line = f"{digest['content']}  {BINARY}\n"
    assert line in (release / "SHA256SUMS").read_text("utf-8")
    versions = {part["name"]: part["version"] for part in bill["components"]}
    said = json.loads(cllm("--version", "--json").stdout)
    for name in ("numba", "llvmlite", "numpy", "typer", "rich", "safetensors"):
        assert versions[name] == said[name]
    assert said["extras"].items() <= versions.items()
    assert versions["CPython"] == said["python"]
    assert (versions["PyInstaller"], versions["Zig"]) == (metadata.version("pyinstaller"), metadata.version("ziglang"))
    # Whatever lies in the folder: as a library of the system, or within a package's folder.
    (folder,) = cllm.cache.glob("*/_internal")
    assert {one.name: one.version for one in metadata.distributions(path=[str(folder)])}.items() <= versions.items()
    assert {"libstdc++.so.6", "libgomp.so.1.0.0"} <= versions.keys()
    inside = {part["name"]: {one["name"] for one in part.get("components", ())} for part in bill["components"]}
    assert {name for name, names in inside.items() if "pyo3" in names} == {"tokenizers", "pydantic_core", "safetensors"}


def test_every_part_has_a_version_and_a_licence_whose_text_is_there(release, bill):
    from tools.release.inside import APACHE, satisfied

    text = (release / f"{BINARY}.licences.txt").read_text("utf-8")
    rule = "=" * 100
    heads = {head for block in text.split(f"{rule}\n")[1::2] for head in block.splitlines()}
    titles = {head.rpartition(": ")[0] for head in heads}
    assert {part["name"] for part in bill["components"]} > COMPILED_IN
    for part in bill["components"]:
        whole = f"{part['name']} {part['version']}"
        assert part["version"]
        assert part["licenses"]
        assert whole in titles
        for one in part.get("components", ()):
            name = " ".join([one["name"], *([one["version"]] if "version" in one else ())])
            (licence,) = [each.get("expression") or next(iter(each["license"].values())) for each in one["licenses"]]
            assert f"\n{name}: {licence}\n" in text
            assert satisfied(licence, [APACHE]) or f"{name}, inside of {whole}" in titles
    of_parts = ("PYTHON SOFTWARE FOUNDATION LICENSE", "Bootloader Exception", "Meta Platforms", "Rich Felker")
    for phrase in (*of_parts, "Makoto Matsumoto", "Version 3, 29 June 2007", "Version 2.1, February 1999"):
        assert phrase in text


def test_a_binary_of_another_source_is_refused(release, tmp_path):
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\nmkdir -p $CLLM_CACHE_DIR/binary/x && touch $CLLM_CACHE_DIR/binary/x/cllm\n", "utf-8")
    other.chmod(0o700)
    command = [sys.executable, "-m", "tools.release", "--out", tmp_path / "out", "--binary", other]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is not of this source" in done.stderr


def test_the_wheel_with_kernels_starts_without_compiling(release, tmp_path):
    with zipfile.ZipFile(release / PLAIN) as plain, zipfile.ZipFile(release / KERNELS) as wheel:
        assert not any("/compiled/" in name for name in plain.namelist())
        record = f"cllm-{VERSION}.dist-info/RECORD"
        more = set(wheel.namelist()) - set(plain.namelist())
        assert more
        assert all(name.startswith("cllm_cli/compiled/x86-64-v") for name in more)
        assert all(name in wheel.read(record).decode() for name in more)
    packages = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", packages]
    subprocess.run([*install, release / KERNELS], check=True)
    (tmp_path / "cache").write_text("no folder", "utf-8")
    variables = {"PYTHONPATH": str(packages), "CLLM_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DUMP_BYTECODE": "1"}
    command = [sys.executable, "-P", "-m", "cllm_cli", "doctor", "--json"]
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lineno=" not in done.stdout
    assert "compiled kernels are not kept" not in done.stderr
    checks = {row["name"]: row for row in map(json.loads, done.stdout.splitlines()) if row["event"] == "check"}
    assert checks["install"]["install"] == "wheel"
    assert checks["cache"]["detail"].endswith("it is not needed: no kernel has to be compiled")


def test_the_sources_and_the_man_page_are_whole(release):
    with tarfile.open(release / SOURCES) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"cllm_cli/main.py", "tools/release/__main__.py", "tests/conftest.py", "LICENSE", "README.md"} <= names
    assert {"requirements.lock", ".ci/run", "tools/release/inside.toml", "tools/binary/launcher.zig"} <= names
    assert f"sample_data/{next(SAMPLE.glob('*.txt')).name}" in names
    with tarfile.open(release / f"cllm-{VERSION}-man.tar.gz") as archive:
        made = {Path(member.name).name for member in archive.getmembers() if member.isfile()}
        assert {member.mtime for member in archive.getmembers()} == {0}
    assert made == {"cllm.1", "cllm.bash", "_cllm", "cllm.fish"}
