"""Plain text: all of it is one document, or `--split-on` says what stands between two."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from cllm_cli.text.chunks import Parts
from cllm_cli.text.documents import Incoming, Reading, Source
from cllm_cli.text.formats.base import Format


def _documents(source: Source, reading: Reading) -> Iterator[Incoming]:
    if not reading.separator:
        yield Incoming(source.name, source.offset, source.chunks)
        return
    parts = Parts(source.chunks, reading.separator)
    while not parts.over:
        offset, chunks = source.offset + parts.offset, parts.part()
        first = next(chunks, b"")
        if first:
            yield Incoming(source.name, offset, itertools.chain((first,), chunks))
        elif not parts.over:  # after the last separator nothing need come
            source.skipped["empty parts"] += 1


TEXT = Format("text", _documents)
