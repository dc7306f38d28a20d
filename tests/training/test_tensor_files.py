"""Weights from safetensors files that anyone may have written: checked before memory is taken for them."""

from __future__ import annotations

import functools
import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from cllm_cli.errors import RunError
from cllm_cli.model.build import ModelConfig, parameter_shapes
from cllm_cli.training import tensor_files
from cllm_cli.training.tensor_files import (
    check_model,
    check_only_model,
    check_tensors,
    copy_tensors,
    open_tensors,
    read_tokens,
)

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path):
    """A file of one tensor, `w`."""
    save_file({"w": WEIGHTS}, tmp_path / "some.safetensors")
    return tmp_path / "some.safetensors"


def fits(shapes, path):
    return functools.partial(check_tensors, shapes=shapes, path=path)


def opened(path):
    with open_tensors(path) as tensors:
        return tensors.get_tensor("w")


def hashed(values):
    return {"sha256": hashlib.sha256(values.tobytes()).hexdigest()}


def test_weights_that_are_replaced_while_they_are_looked_at_are_read_anew(path, monkeypatch):
    """As a run that is trained does; what is compared would be the old file's header and the new one's data."""
    save_file({"w": WEIGHTS}, path, hashed(WEIGHTS))
    real, new = tensor_files.data_hash, [WEIGHTS + 1, WEIGHTS + 2]

    def replaced(at):
        if new:
            values = new.pop(0)
            save_file({"w": values}, path.with_name("new"), hashed(values))
            path.with_name("new").replace(path)
        return real(at)

    monkeypatch.setattr(tensor_files, "data_hash", replaced)
    assert np.array_equal(opened(path), WEIGHTS + 2)


def test_tensors_that_nobody_asked_for_are_refused_before_they_are_hashed(tmp_path, monkeypatch):
    config = ModelConfig("gpt2", n_layer=1, n_head=1, n_embd=8, n_hidden=8, vocab_size=8, block_size=8)
    weights = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    path = tmp_path / "some.safetensors"
    monkeypatch.setattr(tensor_files, "data_hash", lambda _: pytest.fail("hashed"))
    check = functools.partial(check_only_model, config=config, path=path)
    save_file({**weights, "x": WEIGHTS}, path, hashed(WEIGHTS))
    with pytest.raises(RunError, match="has tensors that such a model has not: x"), open_tensors(path, check):
        pass
    save_file({**weights, "x": WEIGHTS}, path)  # by another program, and nothing is to be hashed
    with open_tensors(path, check):
        pass


def test_a_tensor_is_read(path):
    assert np.array_equal(opened(path), WEIGHTS)


def test_a_pipe_is_no_file_of_tensors(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # who opens it to read need not wait
    try:
        with pytest.raises(RunError, match="no regular file"):
            opened(tmp_path / "pipe")
    finally:
        os.close(writer)


def test_a_header_of_the_largest_size_is_read_and_one_beyond_is_not(path, monkeypatch):
    header = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(tensor_files, "LARGEST_HEADER", header)
    opened(path)
    monkeypatch.setattr(tensor_files, "LARGEST_HEADER", header - 1)
    with pytest.raises(RunError, match=f"its header takes {header} bytes of {path.stat().st_size}"):
        opened(path)


def test_a_larger_file_may_have_a_larger_header(path, monkeypatch):
    monkeypatch.setattr(tensor_files, "LARGEST_HEADER", 0)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    save_file({"w": np.zeros(header * tensor_files.HEADER_SHARE // 4, np.float32)}, path)
    opened(path)


@pytest.mark.parametrize("stated", [hashlib.sha256(WEIGHTS.tobytes()).hexdigest(), None])
def test_a_file_that_is_as_it_was_written_is_read(path, stated):
    save_file({"w": WEIGHTS}, path, metadata={"sha256": stated} if stated else {})
    assert np.array_equal(opened(path), WEIGHTS)


def test_names_and_shapes_come_before_the_hash(path, monkeypatch):
    """A file of a few bytes on the disk may say that it has terabytes, which to hash takes as long as they would."""
    save_file({"w": WEIGHTS}, path, metadata={"sha256": "0" * 64})
    monkeypatch.setattr(tensor_files, "data_hash", lambda _: pytest.fail("it was hashed"))
    with pytest.raises(RunError, match="has no tensor v"), open_tensors(path, fits({"v": (1,)}, path)):
        pass


def test_what_fits_is_hashed_all_the_same(path):
    save_file({"w": WEIGHTS}, path, metadata={"sha256": "0" * 64})
    with pytest.raises(RunError, match="it is not as it was written"), open_tensors(path, fits({"w": (2, 3)}, path)):
        pass


def test_a_file_that_is_not_as_it_was_written_is_damaged(path):
    save_file({"w": WEIGHTS}, path, metadata={"sha256": "0" * 64})
    with pytest.raises(RunError, match="it is not as it was written"):
        opened(path)


def test_what_the_system_says_is_said_without_its_number(tmp_path):
    with pytest.raises(RunError) as caught:
        opened(tmp_path / "none")
    assert caught.value.message == f"cannot read {tmp_path / 'none'}: No such file or directory"


def test_what_the_library_says_is_said(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"some\.safetensors: .*not fully covered"):
        opened(path)


def test_a_file_beyond_the_address_space_is_named(path, monkeypatch):
    """A file is mapped whole, also one of 2⁴⁰ bytes that are not there."""

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(tensor_files, "safe_open", full)
    with pytest.raises(RunError, match=r"some\.safetensors: its [\d,]+ bytes do not fit into the address space"):
        opened(path)


def test_a_tensor_that_is_missing_is_told_while_the_file_is_read(path):
    with pytest.raises(RunError, match=r"cannot read .*some\.safetensors: .*other"), open_tensors(path) as tensors:
        tensors.get_tensor("other")


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"w": (2, 3), "v": (1,)}, "has no tensor v"),
        ({"w": (3, 2)}, r"w is \(2, 3\), not \(3, 2\)"),
        ({"w": (6,)}, r"w is \(2, 3\), not \(6,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(path, shapes, reason):
    with open_tensors(path) as tensors:
        with pytest.raises(RunError, match=reason):
            check_tensors(tensors, shapes, path)
        with pytest.raises(RunError, match=reason):
            copy_tensors(tensors, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)


@pytest.mark.parametrize(("count", "reason"), [(1, "has too few tensors for 2 layers: 1"), (2, "has no tensor ")])
def test_a_file_of_fewer_tensors_than_layers_is_told_at_once(path, count, reason):
    save_file({f"w{number}": WEIGHTS for number in range(count)}, path)
    config = ModelConfig("gpt2", n_layer=2, n_head=1, n_embd=4, n_hidden=16, block_size=4, vocab_size=5)
    with open_tensors(path) as tensors, pytest.raises(RunError, match=reason):
        check_model(tensors, config, path)


def test_weights_of_another_type_are_named(path):
    save_file({"w": WEIGHTS.astype(np.float64)}, path)
    with open_tensors(path) as tensors, pytest.raises(RunError, match="w is of type F64, not F32"):
        check_tensors(tensors, {"w": (2, 3)}, path)


def test_nothing_is_copied_before_all_fits(path):
    save_file({"v": WEIGHTS, "w": WEIGHTS}, path)
    targets = {"v": np.zeros((2, 3), np.float32), "w": np.zeros((3, 2), np.float32)}
    with open_tensors(path) as tensors, pytest.raises(RunError):
        copy_tensors(tensors, targets, path)
    assert not targets["v"].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_copied_only_where_they_may_be(path, bad):
    save_file({"v": WEIGHTS, "w": np.where(WEIGHTS == 3, np.float32(bad), WEIGHTS)}, path)
    targets = {name: np.zeros((2, 3), np.float32) for name in ("v", "w")}
    with open_tensors(path) as tensors:
        with pytest.raises(RunError, match="w is not finite"):
            copy_tensors(tensors, targets, path)
        copy_tensors(tensors, targets, path, finite=False)
    assert np.array_equal(targets["v"], WEIGHTS)
    assert targets["w"].tobytes() == np.where(WEIGHTS == 3, np.float32(bad), WEIGHTS).tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_tokens_are_mapped_as_they_are(path, dtype):
    tokens = np.arange(9, dtype=dtype)
    save_file({"train": tokens}, path)
    with open_tensors(path) as tensors:
        found = read_tokens(tensors, "train", path)
    assert found.dtype == dtype
    assert np.array_equal(found, tokens)


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float32])
def test_tokens_of_another_type_are_refused(path, dtype):
    save_file({"train": np.zeros(4, dtype)}, path)
    with open_tensors(path) as tensors, pytest.raises(RunError, match=r"train is of type \w+, not U8 or U16 or U32"):
        read_tokens(tensors, "train", path)


def test_types_that_numpy_has_not_are_named(path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with open_tensors(path) as tensors, pytest.raises(RunError, match="w is of type BF16, not F32"):
        check_tensors(tensors, {"w": (2,)}, path)
