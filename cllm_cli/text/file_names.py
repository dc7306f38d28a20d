"""`--files0-from`: names of files that end with a NUL, as `find -print0` writes them.

The contract is that of GNU sort and wc (coreutils manual, "sort invocation"): the last name needs no NUL, an empty name
is an error, and where the names come from standard input, `-` is none.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from cllm_cli.errors import CorpusError
from cllm_cli.text.sources import STANDARD_INPUT, TextFile, opened

HINT = "names end with a NUL, as find -print0 writes them"


def read_file_names(path: str, stdin: BinaryIO | None = None) -> list[str]:
    """The names in the file `path`, or in standard input for `-`.

    Raises CorpusError where they cannot be read, where there are none, and for an empty name or a `-` that cannot be
    meant. Whether the files are there is found when they are read.
    """
    file = TextFile(path, named=True)
    with opened(file, stdin) as stream:
        content = stream.read()
    names = content.removesuffix(b"\0").split(b"\0") if content else []
    if not names:
        raise CorpusError(f"there are no file names in {file.name}", HINT)
    for number, name in enumerate(names, start=1):
        if not name:
            raise CorpusError(f"name {number} in {file.name} is empty", HINT)
        if name == STANDARD_INPUT.encode() and path == STANDARD_INPUT:
            raise CorpusError(
                f"name {number} in {file.name} is -: standard input has the names already",
                "write ./- for a file of this name, or keep the names in a file",
            )
    return [os.fsdecode(name) for name in names]
