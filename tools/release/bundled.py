"""What the binary has in it that is not ours: a bill of materials (CycloneDX), and everybody's licence."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import cllm_cli

LICENCE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
OURS = "cllm"
LAUNCHER = {"zstd": "the zstd library, within the launcher", "musl": "the musl C library, within the launcher"}


def packages(tree: Path) -> list[metadata.Distribution]:
    """The Python packages that something of is in the folder."""
    names = {entry.name.split(".")[0] for entry in (tree / "_internal").iterdir()}
    owners = metadata.packages_distributions()
    found = {owner for name in names for owner in owners.get(name, ())} - {OURS}
    return [metadata.distribution(name) for name in sorted(found, key=str.lower)]


def libraries(tree: Path) -> list[Path]:
    """The shared libraries that came from the system, Python's own among them."""
    return sorted(path for path in (tree / "_internal").glob("*.so*") if not path.is_symlink())


def bill_of_materials(tree: Path, binary: Path) -> str:
    """CycloneDX 1.6 in JSON."""
    licences = LicenseFactory()
    root = Component(
        name=OURS,
        version=cllm_cli.__version__,
        type=ComponentType.APPLICATION,
        licenses=[licences.make_from_string("Apache-2.0")],
        hashes=[_hash_of(binary)],
    )
    parts = [Component(name="CPython", version=platform.python_version(), type=ComponentType.PLATFORM)]
    for package in packages(tree):
        said = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
        parts.append(
            Component(
                name=package.name,
                version=package.version,
                type=ComponentType.LIBRARY,
                purl=PackageURL("pypi", None, package.name.lower(), package.version),
                licenses=[licences.make_from_string(said)] if said and "\n" not in said else [],
            )
        )
    parts += [
        Component(name=path.name, type=ComponentType.FILE, hashes=[_hash_of(path)], version=_owner(path.name) or None)
        for path in libraries(tree)
    ]
    parts += [Component(name=name, type=ComponentType.LIBRARY, description=what) for name, what in LAUNCHER.items()]
    bom = Bom(components=parts)
    bom.metadata.component = root
    for part in parts:
        bom.register_dependency(part)
    bom.register_dependency(root, parts)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def licences_of(tree: Path, sources: Iterable[Path]) -> str:
    """The text of every licence: of Python, of each package, of the system's libraries, of what `sources` hold."""
    return "\n".join(f"{'=' * 100}\n{title}\n{'=' * 100}\n\n{text}\n" for title, text in _licences(tree, sources))


def _licences(tree: Path, sources: Iterable[Path]) -> Iterator[tuple[str, str]]:
    own = Path(sys.base_prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "LICENSE.txt"
    yield f"Python {platform.python_version()}", own.read_text("utf-8")
    for package in packages(tree):
        texts = [
            file for file in package.files or () if LICENCE.search(file.name) and file.suffix not in (".py", ".pyc")
        ]
        for file in texts:
            yield f"{package.name} {package.version}: {file.name}", file.read_text(encoding="utf-8")
        if not texts:
            said = package.metadata.get("License-Expression") or package.metadata.get("License") or "not stated"
            yield f"{package.name} {package.version}", f"Licence: {said}"
    told = set()
    for path in libraries(tree):
        owner = _owner(path.name).split(" ")[0]
        copyright_file = Path("/usr/share/doc") / owner.split(":")[0] / "copyright"
        if owner and owner not in told and copyright_file.is_file():
            told.add(owner)
            yield f"{path.name}, of {owner}", copyright_file.read_text("utf-8", "replace")
    for source in sources:
        yield f"{source.parent.name}, in the launcher", source.read_text("utf-8", "replace")


def _owner(name: str) -> str:
    """The system's package that a library is of, and its version; nothing where no package manager tells."""
    try:
        done = subprocess.run(["dpkg", "-S", f"*/{name}"], capture_output=True, text=True, check=True)
        owner = done.stdout.splitlines()[0].split(": ")[0].split(",")[0]
        shown = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", owner], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""
    return f"{owner} {shown.stdout}"


def _hash_of(path: Path) -> HashType:
    with path.open("rb") as file:
        return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.file_digest(file, "sha256").hexdigest())
