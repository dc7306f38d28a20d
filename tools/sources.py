"""A package's source distribution, downloaded as it is: `pip download` would run its build to learn its name.

It is looked for in the indexes that pip is set to use (`pip config list`: index-url and extra-index-url; what is set of
find-links and no-index is not looked at), and it must have one of the hashes of requirements.lock.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import http.client
import re
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
PYPI = "https://pypi.org/simple"
PATIENCE = 60  # seconds without a byte


def indexes() -> list[str]:
    """The addresses of the package indexes that pip is set to use; a variable goes before a file."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    settings = {name: ast.literal_eval(value) for name, value in re.findall(r"^(\S+?)=(.*)$", said, re.MULTILINE)}

    def of(name: str, default: str = "") -> list[str]:
        return str(settings.get(f":env:.{name}", settings.get(f"global.{name}", default))).split()

    return [*of("index-url", PYPI), *of("extra-index-url")]


def read(address: str) -> bytes:
    """What is at an address; USER:PASSWORD@ in it is sent. Raises OSError, HTTPException, ValueError."""
    parts = urllib.parse.urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if user:
        plain = ":".join(map(urllib.parse.unquote, user.partition(":")[::2]))
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(plain.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return bytes(answer.read())


def shown(address: str) -> str:
    """An address without USER:PASSWORD@."""
    return re.sub(r"//[^/]*@", "//", address)


def link(name: str, version: str) -> str:
    """The address of NAME-VERSION.tar.gz, with `#sha256=` where the index tells it. Raises FileNotFoundError."""
    seen = []
    for index in indexes():
        page = f"{index.rstrip('/')}/{name}/"
        address = page + "index.html" if page.startswith("file:") else page
        try:
            text = read(address).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException, ValueError) as error:
            seen.append(f"{shown(index)} ({error})")
            continue
        found = re.search(rf"""href=["']?([^"'\s>]*\b{re.escape(f"{name}-{version}.tar.gz")}[^"'\s>]*)""", text)
        if found:
            return urllib.parse.urljoin(page, found[1])
        seen.append(shown(index))
    raise FileNotFoundError(f"{name}-{version}.tar.gz is in none of {', '.join(seen)}")


def locked(name: str) -> tuple[str, set[str]]:
    """The version and the hashes that requirements.lock has of a package."""
    found = re.search(rf"^{name}==(\S+)((?:.*\\\n)+.*)$", LOCK.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{LOCK.name} lacks {name}")
    return found[1], set(re.findall(r"sha256:([0-9a-f]{64})", found[2]))


def fetch(name: str, folder: Path) -> Path:
    """Downloads the version that is locked into `folder`; gives the file. Raises ValueError for any other content."""
    version, hashes = locked(name)
    address = link(name, version)
    content = read(address)
    if hashlib.sha256(content).hexdigest() not in hashes:
        raise ValueError(f"{shown(address)} has none of the hashes that {LOCK.name} has for {name}")
    target = folder / f"{name}-{version}.tar.gz"
    target.write_bytes(content)
    return target


def unpacked(name: str, folder: Path) -> Path:
    """The same, unpacked into `folder`: the folder of its files."""
    file = fetch(name, folder)
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    return folder / file.name.removesuffix(".tar.gz")
