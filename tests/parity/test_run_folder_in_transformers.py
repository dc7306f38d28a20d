"""A run folder is a model of transformers: GPT2LMHeadModel.from_pretrained loads it and says the same."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[parity]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[parity]'")

from cllm_cli.model.decode import Decoder, Sampling, generate  # noqa: E402 - after importorskip
from cllm_cli.training import train  # noqa: E402 - after importorskip
from cllm_cli.training.run_folder import RunFolder  # noqa: E402 - after importorskip
from parity import ours  # noqa: E402 - after importorskip

SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 48, "n_hidden": 100, "block_size": 17, "batch_size": 4}
TEXT = "".join(f"line {n} of {n * n % 97}, and {n * 7 % 13}\n" for n in range(90))


@pytest.fixture(params=["byte", "char", "char, two documents, more rows"])
def folder(request, tmp_path):
    """A run that was trained for some steps."""
    texts = [tmp_path / "one.txt", tmp_path / "two.txt"][: 2 if "two" in request.param else 1]
    for number, path in enumerate(texts):
        path.write_text(TEXT[number:], "utf-8")
    more = {"vocab_size": 97} if "rows" in request.param else {}
    settings = {"tokenizer": request.param.split(",")[0], "steps": 30, "lr": 0.01, "dropout": 0.1, "threads": 2}
    for _ in train(texts, tmp_path / "run", sample_every=0, **SIZES, **settings, **more):
        pass
    return RunFolder(tmp_path / "run")


@pytest.fixture
def loaded(folder):
    """transformers' model, after it has found every tensor that it wants and wanted every tensor that it found."""
    model, said = transformers.GPT2LMHeadModel.from_pretrained(folder.path, output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()


def test_the_logits_are_the_same(folder, loaded):
    model = folder.load_model()
    tokens = np.random.default_rng(3).integers(0, folder.read_tokenizer().vocab_size, (3, SIZES["block_size"]))
    with torch.no_grad():
        wanted = loaded(torch.tensor(tokens)).logits.numpy()
    assert np.ptp(wanted) > 1
    found = ours.logits(model, tokens)
    np.testing.assert_allclose(found["logits"], wanted, rtol=0, atol=tolerances.TRANSFORMERS)
    np.testing.assert_allclose(found["last logits"], wanted[:, -1], rtol=0, atol=tolerances.TRANSFORMERS)


def test_the_most_likely_text_is_the_same(folder, loaded):
    tokenizer, model = folder.read_tokenizer(), folder.load_model()
    prompt, length = tokenizer.encode("line ").tolist(), SIZES["block_size"]
    with torch.no_grad():
        wanted = loaded.generate(torch.tensor([prompt]), max_length=length, do_sample=False, eos_token_id=None)
    following = generate(model, prompt, Sampling(temperature=0), 0, model.config.vocab_size, None)
    assert [*prompt, *(next(following) for _ in range(length - len(prompt)))] == wanted[0].tolist()
    assert Decoder(model).read(prompt).argmax() == wanted[0, len(prompt)]
