"""What a trained model has learned: a text by heart, and no more than there is to know."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

SAMPLES = Path(__file__).parent.parent.parent / "sample_data"


@pytest.mark.slow
def test_a_kilobyte_is_learned_by_heart(run, tmp_path):
    text = tmp_path / "short.txt"
    text.write_bytes((SAMPLES / "story.txt").read_bytes()[:1024])
    # The window is long, since its first characters cannot be foreseen.
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 128, "block_size": 128, "batch_size": 4}
    for record in run("heart", text, val=str(text), steps=1000, eval_every=1000, lr=3e-3, **sizes):
        last = record
    assert last.val_loss < 0.1


def losses(records):
    """Those of the steps, and the two of the end."""
    told = [*records]
    return [each.loss for each in told if each.event == "step"] + [told[-1].val_loss, told[-1].best_val_loss]


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_one_token_at_a_time_is_learned_from(run, tokenizer):
    """Windows of one token, in batches of one: an attention that sees just itself, a mean over a single loss."""
    found = losses(run(block_size=1, batch_size=1, tokenizer=tokenizer))
    assert len(found) == 8
    assert all(0 < loss < 8 for loss in found)


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_a_text_of_one_symbol_is_learned_from(run, tmp_path, tokenizer):
    """With one token for it there is nothing to learn, and every loss is zero; bytes have 256 to choose from."""
    text = tmp_path / "one.txt"
    text.write_text("a" * 500, "utf-8")
    found = losses(run("one", text, tokenizer=tokenizer, lr=1e-2))
    assert len(found) == 8
    assert all(0 <= loss < 8 for loss in found)
    assert found[-1] <= found[0]


def surprisals(text, facts):
    """−ln of each character's probability under the source, from its third character on."""
    rows = {pair: np.array(weights) / sum(weights) for pair, weights in facts["weights"].items()}
    pairs = zip(text, text[1:], text[2:], strict=False)
    return np.array([-math.log(rows[a + b][facts["alphabet"].index(c)]) for a, b, c in pairs])


@pytest.mark.slow
def test_a_markov_source_is_learned_to_its_entropy_and_no_further(run):
    """Validation within 2 % of the entropy rate, and not below it by more than a sample of this size may lie."""
    facts = json.loads((SAMPLES / "markov.json").read_text("utf-8"))
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 32, "batch_size": 32}
    for record in run("markov", SAMPLES / "markov.txt", tokenizer="char", steps=1000, eval_every=500, lr=3e-3, **sizes):
        last = record
    text = (SAMPLES / "markov.txt").read_text("utf-8")
    validation = surprisals(text[-len(text) // 10 :], facts)
    assert last.val_loss <= 1.02 * facts["entropy"]
    # Four standard errors; and on this very text no model can know more than the source but by luck.
    error = validation.std() / math.sqrt(validation.size)
    assert last.val_loss >= facts["entropy"] - 4 * error
    assert last.val_loss >= validation.mean() - error
