"""A built binary, and a home that it has unpacked itself in."""

from __future__ import annotations

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

VARIABLE = "CLLM_TEST_BINARY"
SAMPLE = Path(__file__).parents[2] / "sample_data"


@pytest.fixture(scope="session")
def binary() -> Path:
    """The file under test."""
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no binary; python -m tools.binary builds one")
    return Path(os.environ[VARIABLE]).resolve()


@pytest.fixture
def package(tmp_path):
    """Makes a package, `thing 1.0` or another, of lines of its metadata and of the bills that its wheel brings.

    A bill is its list of components; `files` are further files that the package lists.
    """

    def made(*lines, name="thing", version="1.0", files=(), **bills):
        folder = tmp_path / f"{name}-{version}.dist-info"
        (folder / "sboms").mkdir(parents=True)
        (folder / "METADATA").write_text("\n".join([f"Name: {name}", f"Version: {version}", *lines]), "utf-8")
        for bill, components in bills.items():
            (folder / "sboms" / f"{bill}.json").write_text(json.dumps({"components": components}), "utf-8")
        record = [f"{folder.name}/METADATA,,", *(f"{folder.name}/sboms/{bill}.json,," for bill in bills)]
        record += [f"{file},," for file in files]
        (folder / "RECORD").write_text("\n".join(record), "utf-8")
        return metadata.PathDistribution(folder)

    return made


class Caller:
    """Runs a program with a home of its own and nothing else in the environment."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program, self.home = program, home

    @property
    def cache(self) -> Path:
        """Where it unpacks itself."""
        return self.home / ".cache" / "cllm" / "binary"

    def environment(self, **more: str) -> dict[str, str]:
        """What the program sees."""
        return {"HOME": str(self.home), "PATH": "/nonexistent", "LANG": "C", **more}

    def __call__(self, *arguments: str | Path, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.program, *map(str, arguments)],
            env=self.environment(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture(scope="session")
def cllm(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """The program, from a folder that it cannot write to."""
    home = tmp_path_factory.mktemp("home")
    shelf = tmp_path_factory.mktemp("shelf")
    shelved = shelf / "cllm"
    shelved.hardlink_to(binary) if binary.stat().st_dev == shelf.stat().st_dev else shelved.symlink_to(binary)
    shelf.chmod(0o500)
    return Caller(shelved, home)
