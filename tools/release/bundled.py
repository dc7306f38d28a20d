"""What the binary has in it that is not ours: a bill of materials (CycloneDX), and everybody's licence."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import ziglang
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import cllm_cli
from tools.release.inside import APACHE, inside_of, unnamed_in
from tools.release.part import Part

LICENCE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
OURS = "cllm"
LICENSE = Path(__file__).parents[2] / "LICENSE"  # as it is for everybody, with nobody's name in it
NO_TEXT = "Apache-2.0, of which the package brings no text"
# What a package says, and what is so by its repository and the bill of materials in its wheel.
MEANT = {(name, "Apache Software License"): APACHE for name in ("safetensors", "tokenizers")}
DOCUMENTS = Path("/usr/share/doc")  # where Debian has the licence of each of its packages
COMMON = re.compile(r"/usr/share/common-licenses/([A-Z][\w.-]*\w)")  # texts that these only name
BOOTLOADER = "GPL-2.0-or-later WITH Bootloader-exception"


def parts_of(tree: Path, zstandard: Path) -> list[Part]:
    """All of them: `tree` is the folder that the binary unpacks, `zstandard` that of the package's sources.

    Raises LookupError and OSError where something's licence is not found, ValueError where a package is another here.
    """
    found = [*_compiled_in(zstandard), *map(_package, packages(tree)), *map(_library, libraries(tree))]
    for part in found:
        if not part.texts or not part.licence:
            raise LookupError(f"{part.name} {part.version}: {'no text of its' if part.licence else 'no'} licence found")
    return found


def packages(tree: Path) -> list[metadata.Distribution]:
    """The Python packages that something of is in the folder. Raises ValueError where they are not those of here."""
    inside = tree / "_internal"
    names = {entry.name.split(".")[0] for entry in inside.iterdir()}
    owners = metadata.packages_distributions()
    found = {owner for name in names for owner in owners.get(name, ())} - {OURS}
    here = {name: metadata.version(name) for name in found}
    brought = {package.name: package.version for package in metadata.distributions(path=[str(inside)])}
    if here != brought:
        other = sorted(f"{name} {version}" for name, version in here.items() ^ brought.items())
        raise ValueError(f"the packages of the binary are not those of this environment: {', '.join(other)}")
    return [metadata.distribution(name) for name in sorted(found, key=str.lower)]


def libraries(tree: Path) -> list[Path]:
    """The shared libraries that came from the system; Python's own is Python, and what a package has is the package."""
    inside = tree / "_internal"
    brought = {path.name for path in inside.glob("*/**/*.so*")}
    found = sorted(path for path in inside.glob("*.so*") if path.name not in brought)
    return [path for path in found if not path.name.startswith("libpython")]


def bill_of_materials(parts: Iterable[Part], binary: Path) -> str:
    """CycloneDX 1.6 in JSON."""
    root = Component(
        name=OURS,
        version=cllm_cli.__version__,
        type=ComponentType.APPLICATION,
        licenses=[LicenseFactory().make_from_string(APACHE)],
        hashes=[_hash_of(binary)],
    )
    components = [_component(part) for part in parts]
    bom = Bom(components=components)
    bom.metadata.component = root
    for component in components:
        bom.register_dependency(component)
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def licences_of(parts: Iterable[Part]) -> str:
    """Every text once, headed by all that it is of: each part and what is inside of it; and where sources come from.

    What needs no other text is named with its licence, and Apache-2.0 stands there for all that can be taken under it.
    """
    titles: dict[str, list[str]] = {}
    for part in parts:
        for name, text in part.texts:
            titles.setdefault(text, []).append(f"{_title(part)}: {name}")
        if part.inside:
            within = "".join(f"{_title(one)}: {one.licence}\n" for one in part.inside)
            titles.setdefault(within, []).append(f"inside of {_title(part)}")
        for one in part.inside:
            for name, text in one.texts:
                titles.setdefault(text, []).append(f"{_title(one)}, inside of {_title(part)}: {name}")
        if part.type == ComponentType.FILE:
            titles.setdefault(f"{_title(part)}: {part.description}\n", []).append(f"source of {_title(part)}")
    titles.setdefault(_text(LICENSE)[1], []).append(f"{APACHE}, of all that is named with it or can be taken under it")
    rule = "=" * 100
    return "\n".join("\n".join([rule, *heads, rule, "", text, ""]) for text, heads in titles.items())


def python_licence(standard: Path, documents: Path = DOCUMENTS) -> Path:
    """The file with Python's licence, by the folder of its library. Raises FileNotFoundError.

    Python puts it there; a system may have moved it to what it tells of its packages.
    """
    places = [folder / name for folder in (standard, standard.parent) for name in ("LICENSE.txt", "LICENSE")]
    places += [documents / name / "copyright" for name in (standard.name, f"{standard.name}-minimal", "python3")]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"the licence of Python is in none of {', '.join(map(str, places))}")


def _compiled_in(zstandard: Path) -> list[Part]:
    """What is no package, or is compiled into the launcher or PyInstaller's bootloader."""
    zig = Path(ziglang.__file__).parent
    zstd, musl = zstandard / "zstd", zig / "lib" / "libc" / "musl"
    header, version = (zstd / "zstd.h").read_text("utf-8"), (musl / "src" / "internal" / "version.h").read_text("utf-8")
    of_zstd = ".".join(re.findall(r"^#define ZSTD_VERSION_(?:MAJOR|MINOR|RELEASE) +(\d+)", header, re.MULTILINE))
    installer = metadata.distribution("pyinstaller")
    own = python_licence(Path(sysconfig.get_path("stdlib")))
    return [
        Part(
            "CPython",
            platform.python_version(),
            "Python-2.0",
            [_text(own)],
            type=ComponentType.PLATFORM,
            inside=unnamed_in("CPython", platform.python_version()),
        ),
        Part("PyInstaller", installer.version, BOOTLOADER, _texts(installer), "its bootloader, and run-time hooks"),
        Part("zstd", of_zstd, "BSD-3-Clause", [_text(zstd / "LICENSE")], "in the launcher, and in zstandard"),
        Part("musl", version.split('"')[1], "MIT", [_text(musl / "COPYRIGHT")], "C library, in the launcher"),
        Part(
            "Zig", metadata.version("ziglang"), "MIT", [_text(zig / "LICENSE")], "std and compiler_rt, in the launcher"
        ),
    ]


def _package(package: metadata.Distribution) -> Part:
    told = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
    named = [line for line in package.metadata.get_all("Classifier", []) if line.startswith("License :: ")]
    said = told if told and "\n" not in told else " AND ".join(line.rpartition(" :: ")[2] for line in named)
    said = MEANT.get((package.name, said), said)
    texts = _texts(package) or ([(NO_TEXT, _text(LICENSE)[1])] if said == APACHE else [])
    purl = PackageURL("pypi", None, package.name.lower(), package.version)
    return Part(package.name, package.version, said, texts, purl=purl, inside=inside_of(package))


def _title(part: Part) -> str:
    return f"{part.name} {part.version}".strip()


def _component(part: Part) -> Component:
    return Component(
        name=part.name,
        version=part.version or None,
        type=part.type,
        description=part.description or None,
        purl=part.purl,
        licenses=[LicenseFactory().make_from_string(part.licence)] if part.licence else (),
        hashes=part.hashes,
        components=map(_component, part.inside),
    )


def _library(path: Path) -> Part:
    owner, version, source = _owner(path.name)
    file = DOCUMENTS / owner.split(":")[0] / "copyright"
    texts = [_text(file)] if owner and file.is_file() else []
    named = {found[0] for _, text in texts for found in COMMON.finditer(text)}
    texts += [_text(Path(common)) for common in sorted(named)]
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    told = f"of {owner}, made from the source package {source} of {system}"
    said = f"as the copyright file of {owner} says"
    return Part(path.name, version, said, texts, told, ComponentType.FILE, hashes=[_hash_of(path)])


def _texts(package: metadata.Distribution) -> list[tuple[str, str]]:
    """The licences that a package brings along."""
    files = [Path(str(package.locate_file(file))) for file in package.files or () if LICENCE.search(file.name)]
    return [_text(file) for file in files if file.suffix not in (".py", ".pyc")]


def _text(file: Path) -> tuple[str, str]:
    return file.name, file.read_text("utf-8", "replace")


def _owner(name: str) -> tuple[str, str, str]:
    """The system's package that a library is of, its version and its source; empty where no package manager tells."""
    try:
        done = subprocess.run(["dpkg", "-S", f"*/{name}"], capture_output=True, text=True, check=True)
        owner = done.stdout.splitlines()[0].split(": ")[0].split(",")[0]
        query = ["dpkg-query", "-W", "-f", "${Version}\n${source:Package} ${source:Version}", owner]
        version, source = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "", "", ""
    return owner, version, source


def _hash_of(path: Path) -> HashType:
    with path.open("rb") as file:
        return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.file_digest(file, "sha256").hexdigest())
