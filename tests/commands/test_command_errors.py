"""Every error that a user can cause: exit code, one line that says what, one that says what to do, nothing touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

DEEP = "[" * 100_000
LONG = "9" * 5000


@pytest.fixture
def things(text, run):
    """Texts and folders of every unfit kind, beside text.txt and the run `run`."""
    Path("empty.txt").touch()
    Path("short.txt").write_text("hello")
    Path("one.txt").write_text("x")
    Path("mark.txt").write_bytes(b"\xef\xbb\xbf")
    Path("latin.txt").write_bytes(b"caf\xe9 " * 200)
    Path("torn.txt").write_bytes("abc…".encode()[:-1])
    Path("none").mkdir()
    Path("binary").mkdir()
    Path("binary", "data").write_bytes(bytes(1000))
    Path("full").mkdir()
    Path("full", "thesis.tex").write_text("precious")
    Path("project").mkdir()
    Path("project", "config.toml").write_text("title = 'not ours'\n")
    Path("project", "data").mkdir()
    Path("project", "data", "precious.csv").write_text("1,2\n")
    Path("dangling").symlink_to("nowhere")
    for name, content in TOML.items():
        Path(f"{name}.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return Path()


@pytest.fixture
def untouched(things, contents):
    """Fails unless everything is afterwards as it was before."""
    before = contents(things)
    yield
    after = contents(things)
    assert after.keys() == before.keys()
    assert after == before


TOML = {
    "garbage": b"\x00\xff\xfe not toml",
    "truncated": "n_layer = 2\nn_embd = ",
    "deep": f"n_layer = {DEEP}",
    "long": f"n_layer = {LONG}",
    "hexadecimal": f"n_layer = 0x{LONG}",
    "huge": f"lr = 0x{LONG}",
    "typed": "n_layer = 'two'",
    "listed": "n_layer = [1, 2]",
    "fraction": "n_layer = 2.5",
    "truth": "n_layer = true",
    "number": "tokenizer = 1",
    "table": "[n_layer]\nx = 1",
    "unknown": "n_layers = 2",
    "alias": "learning_rat = 2",
    "zero": "n_layer = 0",
    "infinite": "lr = inf",
    "nan": "lr = nan",
    "twice": "n_layer = 1\nn_layer = 2",
    "lengths": "steps = 2\nminutes = 1.0",
    "surrogate": 'val = "\\ud800"',
}

TRAIN = {
    # text
    "nowhere.txt": ("no file or folder nowhere.txt",),
    "tex.txt": ("no file or folder tex.txt", "did you mean text.txt?"),
    "empty.txt": ("empty.txt is empty",),
    "mark.txt": ("mark.txt is empty",),
    "none": ("no text in none",),
    "binary": ("no text in binary", "1 binary"),
    "dangling": ("no file or folder dangling",),
    "text.txt nowhere.txt": ("nowhere.txt",),
    "one.txt": ("too short",),
    "text.txt --block-size 9999": ("too short", "--block-size"),
    "short.txt --block-size 8": ("too short", "--block-size"),
    "text.txt --val one.txt": ("validation text is too short",),
    "text.txt --val nowhere.txt": ("nowhere.txt",),
    "text.txt --val empty.txt": ("empty.txt is empty",),
    "latin.txt --tokenizer char": ("latin.txt is no UTF-8: byte 3 is 0xe9", "--tokenizer byte"),
    "torn.txt --tokenizer char": ("torn.txt is no UTF-8: byte 3",),
    "- -": ("standard input",),
    "- --val -": ("standard input",),
    # names
    "text.txt --tokenizer chars": ("unknown tokenizer 'chars'", "did you mean 'char'?"),
    "text.txt --tokenizer byte:300": ("300", "--tokenizer byte"),
    "text.txt --preset nanoo": ("unknown preset 'nanoo'", "did you mean 'nano'?"),
    "text.txt --optimizer adam": ("unknown optimizer 'adam'", "did you mean 'adamw'?"),
    "text.txt --schedule cosin": ("unknown schedule 'cosin'", "did you mean 'cosine'?"),
    "text.txt --arch gpt3": ("unknown architecture 'gpt3'", "did you mean 'gpt2'?"),
    # settings that do not fit together
    "text.txt --n-embd 10 --n-head 4": ("10", "not divisible by 4 heads", "--n-head"),
    "text.txt --lr 0.001 --min-lr 0.01": ("--min-lr 0.01 is above --lr 0.001",),
    "text.txt --steps 5 --epochs 1": ("--steps", "--epochs"),
    "text.txt --epochs 1 --minutes 1": ("--epochs", "--minutes"),
    "text.txt --steps 5 --minutes 1": ("--steps", "--minutes"),
    "text.txt --vocab-size 255": ("--vocab-size 255",),
    # folders
    "text.txt -o text.txt": ("text.txt is no folder",),
    "text.txt -o text.txt/run --dropout 0": ("text.txt/run",),
    "text.txt -o dangling": ("dangling is no folder",),
    "text.txt -o full": ("full is not empty and no run",),
    "text.txt -o full --force": ("full is not empty and no run",),
    "text.txt -o project": ("project is not empty and no run",),
    "text.txt -o project --force": ("project is not empty and no run",),
    "text.txt -o run": ("there is a run in run", "--resume", "--force"),
    "text.txt -o nowhere --resume": ("there is no run in nowhere",),
    "text.txt -o none --resume": ("there is no run in none",),
    "text.txt -o run --resume --force": ("--resume and --force exclude each other",),
    "text.txt -o run --resume --init-from run": ("--resume and --init-from exclude each other",),
    "text.txt -o new --init-from nowhere": ("there is no run in nowhere",),
    "text.txt -o new --init-from run --n-layer 2 --dropout 0": ("run", "--init-from"),
    "text.txt -o new --init-from run --tokenizer char": ("--init-from", "--tokenizer"),
    # another run than the one that is to go on
    "text.txt -o run --resume --n-layer 2": ("--n-layer 2", "(1)"),
    "text.txt -o run --resume --lr 0.5": ("--lr 0.5",),
    "text.txt -o run --resume --batch-size 5": ("--batch-size 5",),
    "text.txt -o run --resume --tokenizer char": ("--tokenizer char",),
    "text.txt -o run --resume --seed 5": ("--seed 5",),
    "text.txt -o run --resume --preset nano": ("--n-layer 4",),
    "short.txt -o run --resume": ("the corpus is not the one",),
    # a file of settings
    "text.txt --config nowhere.toml": ("cannot read nowhere.toml",),
    "text.txt --config none": ("cannot read none",),
    "text.txt --config garbage.toml": ("garbage.toml is no valid TOML",),
    "text.txt --config truncated.toml": ("truncated.toml is no valid TOML",),
    "text.txt --config deep.toml": ("deep.toml is no valid TOML",),
    "text.txt --config long.toml": ("long.toml is no valid TOML",),
    "text.txt --config hexadecimal.toml": ("hexadecimal.toml", "--n-layer"),
    "text.txt --config huge.toml": ("huge.toml", "--lr"),
    "text.txt --config typed.toml": ("typed.toml", "'n_layer' must be a whole number, not 'two'"),
    "text.txt --config listed.toml": ("listed.toml", "n_layer", "[1, 2]"),
    "text.txt --config fraction.toml": ("fraction.toml", "n_layer", "2.5"),
    "text.txt --config truth.toml": ("truth.toml", "n_layer", "True"),
    "text.txt --config number.toml": ("number.toml", "'tokenizer' must be a string, not 1"),
    "text.txt --config table.toml": ("table.toml", "n_layer"),
    "text.txt --config unknown.toml": ("unknown.toml: unknown setting 'n_layers'", "did you mean 'n_layer'?"),
    "text.txt --config alias.toml": ("alias.toml: unknown setting 'learning_rat'", "did you mean 'lr'?"),
    "text.txt --config zero.toml": ("zero.toml: --n-layer must be at least 1, not 0",),
    "text.txt --config infinite.toml": ("infinite.toml: --lr must be a finite number",),
    "text.txt --config nan.toml": ("nan.toml: --lr must be a finite number",),
    "text.txt --config twice.toml": ("twice.toml is no valid TOML",),
    "text.txt --config lengths.toml": ("--steps", "--minutes"),
    "text.txt --config surrogate.toml": ("surrogate.toml is no valid TOML",),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("line", TRAIN)
def test_train_says_what_is_wrong_and_touches_nothing(cllm, line):
    cllm("train", *line.split(), stdin=b"some text from a pipe").assert_error(1, *TRAIN[line])


OTHERS = {
    "eval nowhere": ("there is no run in nowhere",),
    "eval none": ("there is no run in none",),
    "eval text.txt": ("there is no run in text.txt",),
    "eval run nowhere.txt": ("no file or folder nowhere.txt",),
    "eval run empty.txt": ("empty.txt is empty",),
    "eval run one.txt": ("too short", "2"),
    "eval run none": ("no text in none",),
    "generate nowhere": ("there is no run in nowhere",),
    "generate none": ("there is no run in none",),
    "profile nowhere": ("there is no run in nowhere",),
    "profile --preset nanoo": ("unknown preset 'nanoo'", "did you mean 'nano'?"),
    "profile run --preset nano": ("exclude each other",),
    "profile run --trace t.json --batch-size 1,2": ("--trace is of one size",),
    "profile run --recompute all": ("unknown --recompute 'all'", "known: block, cheap, none"),
    "gradcheck --layer layernrom": ("unknown layer 'layernrom'", "did you mean 'layernorm'?"),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("line", OTHERS)
def test_other_commands_say_what_is_wrong(cllm, line):
    cllm(*line.split()).assert_error(1, *OTHERS[line])


OUT_OF_RANGE = {
    "0": "--n-layer --n-head --n-embd --n-hidden --block-size --vocab-size --batch-size --grad-accum --steps --epochs "
    "--minutes --schedule-steps --stop-after --lr --lr-embed --eps --eval-every --eval-batches --log-every "
    "--save-every --val-fraction --threads",
    "-1": "--n-layer --steps --dropout --min-lr --warmup --weight-decay --grad-clip --seed --sample-every",
    "1": "--dropout --val-fraction --beta1 --beta2 --momentum",
}
USAGE = [
    *(f"train text.txt {flag} {value}" for value, flags in OUT_OF_RANGE.items() for flag in flags.split()),
    "train text.txt --decay-fraction 1.1",
    f"train text.txt --seed {2**63}",
    "train text.txt --n-layer 1.5",
    "train text.txt --n-layer two",
    "train text.txt --lr fast",
    "train text.txt --lr nan",
    "train text.txt --epochs inf",
    "train text.txt --minutes inf",
    f"train text.txt --steps {LONG}",
    f"train text.txt --n-layer {10**9}",
    f"train text.txt --threads {10**6}",
    "train text.txt --n-layer",
    "train --steps 5",
    "train text.txt --verbose",
    "eval",
    "eval run --batch-size 0",
    "eval run --threads 0",
    "generate",
    "generate run more",
    "generate run --tokens 0",
    "generate run --tokens -5",
    "generate run --temperature -1",
    "generate run --temperature nan",
    "generate run --top-k -1",
    "generate run --top-p 1.5",
    "generate run --top-p -0.5",
    "generate run --seed -1",
    "profile --steps 0",
    "profile --batch-size 0",
    "profile --batch-size 1,,2",
    "profile --block-size four",
]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("line", USAGE, ids=lambda line: line[:60])
def test_wrong_usage_is_2(cllm, line):
    cllm(*line.split()).assert_error(2)


# What is wrong with a number is told with its flag and its bound


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--n-layer 0", ("--n-layer must be at least 1, not 0",)),
        ("--n_layer=0", ("--n-layer must be at least 1, not 0",)),
        ("--max-iters 0", ("--steps must be at least 1, not 0",)),
        ("--dropout 1", ("--dropout must be less than 1, not 1",)),
        ("--lr 0", ("--lr must be greater than 0, not 0",)),
        ("--decay-fraction 1.5", ("--decay-fraction must be at most 1, not 1.5",)),
    ],
)
def test_a_bound_is_named(cllm, text, flags, words):
    cllm("train", text, *flags.split()).assert_error(2, *words)


def test_usage_is_judged_before_content(cllm):
    cllm("train", "nowhere.txt", "--config", "nowhere.toml", "--lr", "0").assert_error(2)


# A damaged run


def cut(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def garbage(content):
    return b"\x89garbage\x00\xff" * 50


def nested(content):
    return b"x = " + DEEP.encode()


def nested_json(content):
    return DEEP.encode()


def endless_header(content):
    return b"\xff" * 8 + content[8:]


def deep_header(content):
    return len(DEEP).to_bytes(8, "little") + DEEP.encode()


FILES = {
    "config.toml": (cut, garbage, nested, emptied),
    "tokenizer.json": (cut, garbage, nested_json, emptied),
    "model.safetensors": (cut, garbage, emptied, endless_header, deep_header),
    "data/tokens.safetensors": (cut, garbage, emptied, endless_header, deep_header),
    "data/corpus.json": (cut, garbage, nested_json, emptied),
}
READERS = {
    "eval run": ("config.toml", "tokenizer.json", "model.safetensors", "data/tokens.safetensors"),
    "generate run": ("config.toml", "tokenizer.json", "model.safetensors"),
    "generate run --check-copy": ("data/corpus.json",),
    "train text.txt -o run --resume --dropout 0": ("config.toml", "tokenizer.json", "data/corpus.json"),
    "train text.txt -o new --init-from run --dropout 0": ("config.toml", "tokenizer.json", "model.safetensors"),
}
DAMAGES = [(line, file, damage) for line, files in READERS.items() for file in files for damage in FILES[file]]


@pytest.mark.parametrize(("line", "file", "damage"), DAMAGES)
def test_a_damaged_run_is_told_by_its_file(cllm, run, contents, line, file, damage):
    path = run / file
    path.write_bytes(damage(path.read_bytes()))
    before = contents(Path())
    cllm(*line.split()).assert_error(1, *(["run"] if file == "config.toml" else [Path(file).stem]))
    assert contents(Path()) == before


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("config.toml", "n_layer = 1", "n_layer = 'one'"),
        ("config.toml", "n_layer = 1", "n_layers = 1"),
        ("config.toml", "n_layer = 1", "n_layer = 2"),
        ("config.toml", "n_layer = 1", "n_layer = 1000000000"),
        ("config.toml", "n_layer = 1", f"n_layer = {LONG}"),
        ("config.toml", "n_layer = 1", f"n_layer = 0x{LONG}"),
        ("config.toml", "n_embd = 16", "n_embd = 18"),
        ("config.toml", "n_head = 2", "n_head = 3"),
        ("config.toml", "vocab_size = 256", "vocab_size = 5"),
        ("config.toml", "block_size = 8", "block_size = 16"),
        ("config.toml", 'arch = "gpt2"', 'arch = "gpt5"'),
        ("tokenizer.json", "byte", "bite"),
        ("tokenizer.json", "256", LONG),
        ("tokenizer.json", "256", "1e400"),
        ("tokenizer.json", "256", "true"),
        ("tokenizer.json", "null", "7"),
    ],
)
def test_a_run_that_was_changed_by_hand_is_refused(cllm, run, file, before, after):
    path = run / file
    content = path.read_text("utf-8")
    assert before in content
    path.write_text(content.replace(before, after), "utf-8")
    for command in ("eval", "generate"):
        cllm(command, run).assert_error(1)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_weights_of_another_type_are_refused(cllm, run, dtype):
    tensors = load_file(run / "model.safetensors")
    save_file({name: values.astype(dtype) for name, values in tensors.items()}, run / "model.safetensors")
    for command in ("eval", "generate"):
        cllm(command, run).assert_error(1, "model.safetensors", "not F32")


@pytest.mark.parametrize("file", ["model.safetensors", "data/tokens.safetensors"])
def test_one_flipped_bit_is_seen(cllm, run, file):
    path = run / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    cllm("eval", run).assert_error(1, Path(file).name, "damaged")


def test_an_unknown_key_in_a_runs_settings_is_named_with_the_nearest(cllm, run):
    config = run / "config.toml"
    _, _, text = config.read_text("utf-8").partition("\n")  # without the hash of what follows
    config.write_text(text.replace("n_layer", "n_layers"), "utf-8")
    cllm("eval", run).assert_error(1, "config.toml", "unknown setting 'n_layers'", "did you mean 'n_layer'?")


def test_the_tokenizer_of_another_run_is_refused_before_it_reads_beyond_the_weights(cllm, text, tiny, run):
    cllm("train", text, "-o", "char", "--tokenizer", "char", *tiny).assert_done()
    Path("char/tokenizer.json").write_bytes((run / "tokenizer.json").read_bytes())
    for command in ("eval", "generate"):
        cllm(command, "char").assert_error(1, "tokenizer.json has 256 ids")


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "data/tokens.safetensors"])
def test_a_missing_file_is_named(cllm, run, file):
    (run / file).unlink()
    cllm("eval", run).assert_error(1, file)


# Folders that may not be written


@pytest.fixture
def sealed(tmp_path):
    """A folder in which nobody can write, not even root."""
    place = tmp_path / "sealed"
    place.mkdir()
    if os.geteuid():
        place.chmod(0o500)
        yield place
        place.chmod(0o700)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("root writes everywhere, and may mount nothing here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_folder_that_may_not_be_written_is_an_error(cllm, text, sealed):
    for folder in (sealed / "run", sealed):
        cllm("train", text, "-o", folder, "--dropout", "0").assert_error(1, str(folder), "--out")
    assert not list(sealed.iterdir())


# What only looks like an error


def test_a_character_that_the_tokenizer_does_not_know_is_named(cllm, text, tiny):
    cllm("train", text, "-o", "char", "--tokenizer", "char", *tiny, "--quiet").assert_done()
    cllm("generate", "char", "--prompt", "é").assert_error(1, "(U+00E9)", "--tokenizer byte")
    Path("other.txt").write_text("né", "utf-8")
    cllm("eval", "char", "other.txt").assert_error(1, "other.txt", "(U+00E9)", "--tokenizer byte")


def test_debug_shows_the_traceback_before_the_error(cllm):
    found = cllm("train", "nowhere.txt", "--debug")
    assert found.code == 1
    assert found.err.startswith("Traceback")
    assert [line.split(":")[0] for line in found.err.splitlines()[-2:]] == ["error", "hint"]


def test_names_in_messages_do_not_reach_the_terminal_raw(cllm):
    found = cllm("train", "evil\x1b[31m\nname").assert_error(1)
    assert "\x1b" not in found.err


def test_a_loss_that_is_not_finite_ends_the_run(cllm, text, tiny):
    found = cllm("train", text, "-o", "out", *tiny, "--lr", "1e9", "--optimizer", "sgd", "--grad-clip", "0", "--quiet")
    assert found.code == 1
    assert "not finite" in found.err
    assert "smaller --lr" in found.err
