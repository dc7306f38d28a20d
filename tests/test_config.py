"""Settings: each declared once, merged by precedence, checked one by one."""

from __future__ import annotations

import inspect
import math
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import tomli_w

from cllm_cli.commands.options import ALIASES, known_name
from cllm_cli.config import (
    Settings,
    flag_of,
    make_settings,
    merge,
    setting_of,
    stated,
    type_of,
)
from cllm_cli.config_file import LARGEST_FILE, read_config, read_toml
from cllm_cli.errors import ConfigError, UsageError
from cllm_cli.main import COMMANDS
from cllm_cli.presets import PRESETS, preset

FIELDS = {item.name: item for item in fields(Settings)}
EXAMPLES = {int: 3, float: 0.5, str: "x", bool: True, tuple: ("x", "y")}


@pytest.mark.parametrize("item", fields(Settings), ids=lambda item: item.name)
def test_every_setting_has_a_flag_a_help_and_a_toml_key(item, tmp_path):
    assert item.name in inspect.signature(COMMANDS["train"]).parameters
    assert setting_of(item).help
    example = setting_of(item).choices[-1] if setting_of(item).choices else EXAMPLES[type_of(item)]
    (tmp_path / "some.toml").write_text(tomli_w.dumps({item.name: example}))
    settings = make_settings(read_config(tmp_path / "some.toml"))
    assert getattr(settings, item.name) == example
    assert stated(settings)[item.name] == example


def test_flags_and_aliases_are_unambiguous():
    flags = {flag_of(name)[2:] for name in FIELDS} | {"out", "tokens"}
    assert not ALIASES.keys() & flags
    assert set(ALIASES.values()) <= flags


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("n_layer", "n-layer"),
        ("batch_size", "batch-size"),
        ("learning_rate", "lr"),
        ("max-iters", "steps"),
        ("max_steps", "steps"),
        ("out_dir", "out"),
        ("output-dir", "out"),
        ("max_new_tokens", "tokens"),
        ("gradient_accumulation_steps", "grad-accum"),
        ("max_grad_norm", "grad-clip"),
        ("warmup_steps", "warmup"),
        ("val_split", "val-fraction"),
        ("anything", "anything"),
    ],
)
def test_names_that_people_bring_along(name, known):
    assert known_name(name) == known


# merge


def test_later_layers_win_and_none_says_nothing():
    assert merge({"lr": 1.0, "seed": 1}, {"lr": 2.0}, {"seed": None}) == {"lr": 2.0, "seed": 1}


def test_dashes_and_aliases_are_the_same_setting():
    assert merge({"n-layer": 1}, {"n_layer": 2}) == {"n_layer": 2}
    assert merge({"lr": 1.0}, {"learning_rate": 2.0}) == {"lr": 2.0}


def test_a_later_length_replaces_an_earlier_one_of_any_kind():
    assert merge({"steps": 5}, {"epochs": 1.0}) == {"epochs": 1.0}
    assert merge({"minutes": 5.0}, {"max_iters": 1}, {"lr": 1.0}) == {"steps": 1, "lr": 1.0}


def test_two_lengths_in_one_layer_stay_for_whoever_resolves_them_to_refuse():
    assert merge({"steps": 5, "epochs": 1.0}) == {"steps": 5, "epochs": 1.0}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("n_layers", "'n_layer'"), ("batchsize", "'batch_size'"), ("max_iter", "'steps'"), ("learningrate", "'lr'")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(ConfigError) as found:
        merge({name: 1})
    assert name in found.value.message
    assert found.value.hint == f"did you mean {hint}?"
    assert not isinstance(found.value, UsageError)


def test_a_name_that_is_near_none_gets_the_whole_list():
    with pytest.raises(ConfigError) as found:
        merge({"xyzzy": 1})
    assert found.value.hint.startswith("known: arch, batch_size")


def test_a_very_long_name_is_not_repeated():
    with pytest.raises(ConfigError) as found:
        merge({"x" * 10**6: 1})
    assert len(found.value.message) < 100


# make_settings


def test_defaults_are_those_of_the_declaration():
    assert make_settings() == Settings()
    assert make_settings({"seed": 5}, {"lr": 1}).seed == 5


def test_a_whole_number_may_stand_for_a_float_and_becomes_one():
    settings = make_settings({"lr": 1, "grad_clip": 0})
    assert (settings.lr, settings.grad_clip) == (1.0, 0.0)
    assert type(settings.lr) is float


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("n_layer", "2", "must be a whole number, not '2'"),
        ("n_layer", 2.0, "must be a whole number, not 2.0"),
        ("n_layer", True, "must be a whole number, not True"),
        ("lr", "fast", "must be a number, not 'fast'"),
        ("lr", False, "must be a number, not False"),
        ("tokenizer", 1, "must be a string, not 1"),
        ("nesterov", 1, "must be true or false, not 1"),
        ("nesterov", "yes", "must be true or false, not 'yes'"),
        ("n_layer", [1] * 1000, "must be a whole number, not [1, 1,"),
        ("n_layer", {"a": 1}, "must be a whole number, not {'a': 1}"),
        ("include", "*.txt", "must be a list of strings, not '*.txt'"),
        ("exclude", ["*.txt", 1], "must be made of strings, not 1"),
    ],
)
def test_a_wrong_type_is_an_error_of_content(name, value, said):
    with pytest.raises(ConfigError) as found:
        make_settings({name: value})
    assert not isinstance(found.value, UsageError)
    assert said in found.value.message
    assert name in found.value.message
    assert len(found.value.message) < 150
    assert found.value.hint


BOUNDED = [item for item in fields(Settings) if type_of(item) in (int, float)]


@pytest.mark.parametrize("item", BOUNDED, ids=lambda item: item.name)
def test_every_number_is_bounded_on_both_sides(item):
    bounds, kind = setting_of(item), type_of(item)
    least = bounds.low if bounds.low is not None else bounds.above
    assert least is not None
    below = [least - 1] if bounds.above is None else [least - 1, least]
    above = (
        [10**400] + ([bounds.below] if bounds.below is not None else []) + ([bounds.high + 1] if bounds.high else [])
    )
    for value in below + above:
        with pytest.raises(UsageError) as found:
            make_settings({item.name: value})
        assert flag_of(item.name) in found.value.message
        assert found.value.hint
    for value in (math.nan, math.inf, -math.inf) if kind is float else ():
        with pytest.raises(UsageError, match="finite"):
            make_settings({item.name: value})
    if bounds.low is not None:
        assert getattr(make_settings({item.name: kind(bounds.low)}), item.name) == bounds.low
    if bounds.high is not None:
        assert getattr(make_settings({item.name: kind(bounds.high)}), item.name) == bounds.high


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["large", "small"])
def test_a_number_that_python_does_not_write_is_an_error_all_the_same(value):
    for name in ("n_layer", "lr"):
        with pytest.raises(UsageError):
            make_settings({name: value})
    with pytest.raises(ConfigError):
        make_settings({"tokenizer": value})


def test_text_that_no_file_can_hold_is_refused():
    with pytest.raises(ConfigError, match="--val"):
        make_settings({"val": "\udcff"})


# Presets


def test_presets_are_those_of_the_contract():
    wanted = {
        "nano": {"n_layer": 4, "n_embd": 128, "n_head": 4, "block_size": 64},
        "reference": {"n_layer": 6, "n_embd": 512, "n_head": 8, "n_hidden": 2048, "block_size": 256},
        "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12, "block_size": 1024},
    }
    assert PRESETS.keys() == wanted.keys()
    for name, sizes in wanted.items():
        assert sizes.items() <= preset(name).items()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_made_of_settings(name):
    settings = make_settings(preset(name))
    assert settings.n_embd % settings.n_head == 0


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as found:
        preset("nanno")
    assert found.value.hint == "did you mean 'nano'?"


# Files


def test_what_is_stated_reads_back_the_same(tmp_path):
    settings = make_settings({"lr": 0.1, "val": 'a "quoted" ünicode\\path', "nesterov": True, "seed": 2**63 - 1})
    settings = replace(settings, include=("*.txt", "a, 'b'"), exclude=())
    (tmp_path / "config.toml").write_bytes(tomli_w.dumps(stated(settings)).encode())
    assert make_settings(read_toml(tmp_path / "config.toml")) == settings


def test_a_file_of_the_largest_size_is_read(tmp_path):
    (tmp_path / "some.toml").write_bytes(b"seed = 7\n".ljust(LARGEST_FILE, b"#"))
    assert read_toml(tmp_path / "some.toml") == {"seed": 7}


def test_what_a_user_names_may_be_a_pipe_and_what_a_run_has_may_not(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"seed = 7\n")
    os.close(writer)
    assert read_toml(Path(f"/dev/fd/{reader}")) == {"seed": 7}
    with pytest.raises(ConfigError, match="no regular file"):
        read_toml(Path(f"/dev/fd/{reader}"), as_written=True)
    os.close(reader)


def test_a_file_of_the_wrong_kind_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(ConfigError, match="too large"):
        read_toml(path)


def test_a_number_out_of_range_in_a_file_is_content_not_usage(tmp_path):
    (tmp_path / "some.toml").write_text("n_layer = 0")
    with pytest.raises(ConfigError, match=r"some\.toml: --n-layer must be at least 1") as found:
        read_config(tmp_path / "some.toml")
    assert found.value.exit_code == 1
