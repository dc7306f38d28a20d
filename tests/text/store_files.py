"""Token stores for tests, written without the command line, and loaded as training loads them."""

from __future__ import annotations

from cllm_cli.text.corpus import read_corpus
from cllm_cli.text.tokenized import corpus_chunks, load_corpus


def stored(path, sources, spec="byte", fraction=0.25, how=None, **more):
    """A store of a corpus, written without the command; and the corpus. `how` are the settings of how it was read."""
    corpus = read_corpus(sources, spec, fraction, contents=True, **more)
    path.write_bytes(b"".join(corpus_chunks(corpus, spec, None if "val" in more else fraction, how)))
    return corpus


def load(path, spec="byte", fraction=0.25):
    return load_corpus([path], spec, fraction)
