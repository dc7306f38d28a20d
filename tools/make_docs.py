"""Writes docs/cli.md from the declarations that the command line itself is made of; `--check` only compares.

python tools/make_docs.py [--check]
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from cllm_cli.commands.options import metavar_of
from cllm_cli.config import Settings, flag_of, setting_of
from cllm_cli.layers import LAYERS
from cllm_cli.model import ARCHITECTURES
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.schedule import SCHEDULES
from cllm_cli.presets import PRESETS
from cllm_cli.registry import Registry
from cllm_cli.text.formats import FORMATS
from cllm_cli.text.tokenizers import TOKENIZERS

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

EXIT_CODES = {
    "0": "done",
    "1": "an error: one line `error: …` and a `hint: …`; `--debug` shows the traceback",
    "2": "wrong usage: a missing argument, an unknown command or flag, a number out of its range",
    "3": "a check failed",
    "130, 143, 129": "ended by SIGINT, SIGTERM, SIGHUP, after everything was saved",
    "141": "whoever read the output closed it",
}

ENVIRONMENT = {
    "CLLM_CPU": "for which CPU kernels are compiled, as `--cpu` says it",
    "CLLM_CACHE_DIR": "where compiled kernels are kept: a folder that only you can write to (default: `cllm` in `$XDG_CACHE_HOME`, or in `~/.cache`)",
    "OMP_NUM_THREADS, NUMBA_NUM_THREADS": "no more threads than this, unless `--threads` says otherwise; results do not depend on it",
    "OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY": "where threads run; without any of them each has a core to itself while kernels run",
    "NO_COLOR, TERM=dumb": "plain text",
    "TMPDIR": "where what does not fit into memory waits; a folder in memory (tmpfs) saves none; and compiled kernels, for the time of a command, where no folder can keep them (one that is killed leaves them to the next to remove)",
}

TEXT = """# The command line

<!-- Made by tools/make_docs.py. -->

    cllm train CORPUS...          CORPUS: a file, a folder (read recursively), or - for standard input
    cllm eval RUN [TEXT...]       RUN: a run folder; TEXT likewise files, folders or -, or a token store; none: the run's validation text
    cllm generate RUN             text to standard output as it is produced
    cllm tokenize CORPUS... -o FILE   the corpus as a token store, which cllm train FILE maps
    cllm inspect PATH...          what is in a text, a run, a token store or a tokenizer.json
    cllm gradcheck [RUN]          every layer and whole small models, or a run's; --layer NAME for one; --flow: how gradients flow
    cllm profile [RUN]            where a step's time and memory go; --preset NAME without a run
    cllm warmup                   every kernel compiled now, for training, evaluation, generation and checks
    cllm doctor                   is the installation sound, and does every kernel compute what it should
    cllm --version [--json]       the version; with --json all about the build

Standard output carries results only; progress, tables and warnings go to standard error. With `--json` standard output is
JSON lines, one object an event. `--quiet` silences progress. `NO_COLOR`, `TERM=dumb` and a pipe give plain text. `_` may be
written for `-` in every flag. Where kernels run, `--cpu LEVEL` says for which CPU: `native`, `x86-64-v3` or `x86-64-v4`. A build may bring
kernels of levels along, and takes the highest that the CPU has; without them every CPU compiles for itself.

| exit code | |
|---|---|
{exit_codes}

| variable | |
|---|---|
{environment}

## train

CORPUS is text, or one token store that `cllm tokenize` has written, known by its content.

| flag | |
|---|---|
| `-o`, `--out DIR` | run folder; default runs/<corpus name>. An existing run needs `--force` or `--resume` |
| `--resume` | go on from the last checkpoint, bit for bit. Length, intervals and threads may be changed; so may what the same text is read from |
| `--force` | overwrite the run that is there |
| `--init-from RUN` | start from another run's weights, sizes and tokenizer |
| `--preset NAME` | {presets} |
| `--files0-from FILE` | instead of CORPUS: the names of its files, each ended by a NUL, from FILE or standard input (`-`); [how](#names-of-files) |
| `--config FILE` | TOML file of settings, such as a run's config.toml |
| `--json`, `--quiet`, `--debug` | |

A preset is overruled by a TOML file, a TOML file by flags. The names of a TOML file's settings are those of the flags, with `_`.
A setting without a default here is chosen for the corpus, the model or the optimizer; what was chosen is shown and stored.

{settings}

### Text

What a file's bytes say counts, not its name: gzip, bzip2, xz and zstd (`pip install 'cllm[zst]'`) are decompressed as they are read, one
level of it; UTF-16 and UTF-32 are known by their byte-order mark. Without `--encoding` other bytes stay as they are, which the tokenizer
`byte` takes all of; `--errors replace` makes them UTF-8. A file that ends in .jsonl, .ndjson, .csv, .tsv or .parquet
(`pip install 'cllm[parquet]'`), before a suffix of compression, is read row by row, each row a document whose text is in `--field`;
`--format` says it for standard input, or says otherwise. Rows without text are left out and counted. A row without the field, or one that
cannot be read, ends the command with its line. `--split-on` cuts plain text, and knows `\\n`, `\\r`, `\\t`, `\\0`, `\\xHH`, `\\uHHHH`, `\\\\`.

In folders, hidden files and what is no text are left out and counted. A pattern of `--include` or `--exclude` with a slash has to fit the
path within the folder, one without it the name; `--exclude` leaves whole folders out too. Files that are named themselves are always read.

One document gives its end to validation; several are shared out whole, by a hash of their content. Windows run across documents unless
`--no-pack` keeps each within one ([how](decisions/014-windows-within-documents.md)), for which the tokenizer needs an end-of-text id.

### Events

Losses are means in nats a token. `ms` runs from one step's start to the next, everything included. `end` is always the last line; its
`val_loss` is over the whole validation text, unless a signal or an error ended the run: then it is that of the last evaluation.

    {{"event":"start","params":…,"train_tokens":…,"val_tokens":…,"memory_bytes":{{"params":…,"grads":…,"optimizer":…,"activations":…,"total":…}},"config":{{…}}}}
    {{"event":"compile","seconds":…}}
    {{"event":"step","step":…,"loss":…,"lr":…,"grad_norm":…,"tokens_per_s":…,"ms":…}}
    {{"event":"eval","step":…,"train_loss":…,"val_loss":…,"bits_per_byte":…,"perplexity":…}}
    {{"event":"sample","step":…,"text":…}}
    {{"event":"checkpoint","step":…,"path":…}}
    {{"event":"notice","message":…}}
    {{"event":"spike","step":…,"loss":…,"z":…}}
    {{"event":"skip","step":…,"reason":…}}
    {{"event":"rollback","step":…,"to_step":…,"reason":…}}
    {{"event":"end","step":…,"val_loss":…,"best_val_loss":…,"seconds":…,"stopped":"steps|epochs|minutes|stop-after|interrupt|error"}}

### Numbers that are not finite, losses that jump

A loss, activation, gradient, weight or moment that is not finite is found in its step: no update follows from it, it is never saved, and
never shown as a loss. What `--on-nan stop` says then names the first tensor and the last whole checkpoint; `--resume --on-nan rollback` goes on
from it. `skip` leaves the step out (where its update has ruined weights already, and after 10 in a row, it goes back), `rollback` goes back to
the last checkpoint, or to the start, and on with the batches that come after those that failed; three times without a new checkpoint, then it
stops. A loss more than 6 standard deviations above the mean of the last 128 steps is a `spike`; `--on-spike rollback` goes back there too.
Checkpoints that come by time are not the same in each run, and so neither is a run that went back to one.

### A run folder

| file | |
|---|---|
| `config.toml` | the resolved settings; works with `--config` |
| `model.safetensors`, `config.json` | the weights with the best validation loss so far, as transformers' GPT-2 names and lays them out |
| `tokenizer.json` | the tokenizer, whole |
| `metrics.jsonl` | the events |
| `checkpoint/` | the last checkpoints, two of them unless `--keep` says otherwise |
| `data/` | the validation tokens; all tokens when the text came from standard input; where the text was |

### Names

{names}

### Names of files

`find … -print0 | cllm train --files0-from -` takes names as GNU sort does: each ends with a NUL, the last one need not; an empty name is an
error, and so is `-` where the names themselves come from standard input. Files or folders beside it are an error. `cllm eval`, `cllm tokenize`
and `cllm inspect` do the same.

## eval

`--encoding`, `--errors`, `--format`, `--field`, `--split-on`, `--include` and `--exclude` say how TEXT is read, as they do for `train`.
Scores every token but the first once, in consecutive windows that do not overlap, the last one shorter. Means are over tokens.

TEXT may be one token store in the ids of the run's tokenizer. All of its text is scored, training and validation tokens alike, in the order
of its documents, so that the figures are those of the text that it was made of; what `--val` named comes last.

    {{"event":"eval","tokens":…,"bytes":…,"loss":…,"perplexity":…,"bits_per_byte":…,"accuracy":…}}

### A score a line or document

`--per-line` scores each line of TEXT by itself, `--per-document` each file: `sort` finds the odd ones. A line is what stands before `\\n` or
`\\r\\n`. Each begins with the end of a text before it where the tokenizer has an end-of-text token, which a run on several documents has, so
that its first token is scored too; otherwise its first token is not scored. What is longer than the window goes on in the next
window, from an empty context.

    {{"event":"score","id":…,"file":…,"tokens":…,"bytes":…,"loss":…,"bits_per_byte":…}} …

`id` is the line's number in its file, from 1, or the document's file, or its number in a token store (which has no lines); `file` the path as it was given. `tokens` and `bytes` are those that were
scored; where there are none, as in an empty line, `loss` and `bits_per_byte` are null. Without `--json` the same in columns with a tab
between them (id, tokens, bytes, loss, bits per byte), `-` for what is not there, and for lines of several files `file:number` as the id.
Standard input is answered as it comes. No score depends on what else is read, to the last bit.

    tail -f log.txt | cllm eval RUN - --per-line | awk '$5 > 4'

### Is it copying?

`--check-copy` tells what of the text stands in the training text word for word, without `TEXT` what of the validation text does; for
`cllm generate` of the text that was written, the prompt left out. `novel` has for n = 4, 8, 16, 32, 64 the share of the text's distinct n-grams
that the training text does not have, null where the text is shorter. They are of tokens: that is what the model draws, and words are not the
same thing in every language. All figures are exact. Nothing runs across the end of a document; validation text is no training text.
Where the training text is, the run folder says: those paths, the first five of them, are told before they are opened, and have to be files or folders.

    {{"event":"copy","tokens":…,"overlap_tokens":…,"overlap_bytes":…,"overlap_at":…,"overlap_text":…,"novel":{{"4":…,"8":…,"16":…,"32":…,"64":…}}}}

`overlap_at` is the byte of the training text (its documents one after another) at which the longest overlap begins, null where there is none;
of equally long ones it is the first. Without `--json` `cllm eval` writes it after the score, `cllm generate` to standard error.

The run knows where its text was; text from standard input it has kept. `--corpus PATH` names it where it has been moved, and may be the text of
a token store that the run was trained on. A text that has changed since is an error; what `--val` named is not read.

## generate

`--prompt TEXT|-`, `--tokens N`, `--temperature`, `--top-k`, `--top-p`, `--seed`, `--stop TEXT`, `--check-copy` ([what it tells](#is-it-copying)),
`--corpus PATH`, `--json`. It ends after N tokens, before a
stop text, or at the end of a text where the tokenizer has one. Beyond the window it goes on from the window's second half.

## tokenize

`-o`, `--out FILE`, `--tokenizer SPEC`, `--val-fraction X`, `--val FILE`, `--files0-from FILE`, `--ids`, `--force`, `--json`. It reads CORPUS as `train` does, and
writes tokens, tokenizer, split and the documents' places, sizes and hashes into one file. `cllm train FILE` takes the same tokens, split
and settings from it as from the text, and so comes to the same bits; a run may go on from one with the other. Among these are those of how
the text was read (`--field`, `--encoding` and the like), so that the run finds its text again. Flags and a `--config` may repeat what the
store says. Of a tokenizer that was a file the store notes the kind, which `--config` takes with a store alone; `--tokenizer` may also be
the path of the very tokenizer that the store has. `--tokenizer RUN/tokenizer.json` writes the text in the ids of a run, for `--init-from`
and `eval`.

The file appears when all of it is on the disk. Tokens beyond 64 MiB wait in a file without a name, in the folder that TMPDIR names; a document takes some
120 bytes of memory. Training maps them. When training starts, the file's sizes are compared with its header, its SHA-256 with its content (a second or two for a GB),
and every fact that is relied on with the others. Only a token store is ever overwritten, and only with `--force`. It is read on machines of
the same byte order.

`--ids` reads files of token ids, several as one text: nanoGPT's `.bin` (uint16), and llm.c's (magic 20240520 or 20240801). They do not say
which tokenizer they are of, so `--tokenizer FILE.json` has to; [why](decisions/013-token-stores-and-files-of-ids.md). A `meta.pkl` is not read.

    {{"event":"store","path":…,"documents":…,"train_tokens":…,"val_tokens":…,"train_bytes":…,"val_bytes":…,"fingerprint":…,"split_rule":…,
     "val_fraction":…,"reading":{{…}},"skipped":{{…}},"tokenizer":…,"vocab_size":…,"tokenizer_sha256":…,"token_bytes":…,"file_bytes":…,"sha256":…}}

## inspect

`--tokenizer SPEC` (of a text; byte), `--files0-from FILE`, `--json`: one event, whose kind is that of PATH. Nothing is written. `whole` says whether a store's
checksum is right, and nothing of a run is `damaged`; the exit code is 3 where that is not so.

A text is read once and not kept, but for a hash of each document. `tokens` are those that training would have, null where the text
has none. `problems` are what hints at a wrong encoding or at copies, each with the first places where it is found: invalid UTF-8, U+FFFD,
NUL bytes, UTF-16, UTF-8 that was read as Latin-1 or Windows-1252 (`Ã©`, 1,000 of a document at most), mixed line ends, exact copies. They are for you to judge.

    {{"event":"text","documents":…,"bytes":…,"lines":…,"tokenizer":…,"tokens":…,"bytes_per_token":…,"vocab_size":…,"used_ids":…,
     "longest_lines":[{{"path":…,"line":…,"bytes":…}}],"skipped":{{…}},"notices":[…],
     "problems":[{{"problem":…,"count":…,"documents":…,"examples":[{{"path":…,"offset|copy_of|why":…}}]}}]}}
    {{"event":"run","path":…,"config":{{…}},"params":…,"layers":[{{"name":…,"params":…}}],"step":…,"steps":…,"train_loss":…,"val_loss":…,
     "best_val_loss":…,"best_step":…,"complete":…,"resumable":…,"damaged":[…],"whole":…,"files":{{…}},"file_bytes":…,"tokenizer":{{…}}}}
    {{"event":"store", …as of tokenize…, "whole":…}}
    {{"event":"tokenizer","path":…,"tokenizer":…,"vocab_size":…,"end_of_text":…,"sha256":…,"ids":[{{"id":…,"text":…,"hex":…}}]}}

`params` are those of `model.safetensors`, `step` that of the last whole checkpoint. What is in `damaged` (checkpoints, weights, the tokenizer, the
metrics, each in a sentence) leaves its figures null, or as far as they go; a run whose `config.toml` cannot be read has none to show.
Where the library of a run's tokenizer is not installed, `tokenizer` has a `note` that says so, the size that its file states, and no hash.

## warmup

Compiles every kernel into the cache (`$CLLM_CACHE_DIR`, else `~/.cache/cllm`), so that no later command has to. `--level LEVEL --out DIR`
compiles for a CPU level into a new folder instead, on whatever CPU: that is what `cllm_cli/compiled/LEVEL` of a build holds.

    {{"event":"compile","kernels":…,"seconds":…,"path":…}}

## doctor

Checks what is installed and where it runs, then [each kernel on fixed inputs](installing.md#what-cllm-doctor-checks) against stored values; nothing is sent anywhere. `--json`: an
object a check, with what it found. Exit code 3 when a check failed. Of a kernel `error` is relative to √n times the largest of the n numbers that it should write.

    {{"event":"check","name":…,"ok":…,"detail":…,…}} …
    {{"event":"check","name":…,"ok":…,"detail":…,"kernel":…,"dtype":…,"inputs":…,"tensor":…,"error":…,"tolerance":…}} …
    {{"event":"end","checks":…,"failed":…}}

`cllm --version --json` is one object, without any check. `install` is `binary`, `wheel` (one that brought compiled kernels along, for the CPU levels in `shipped`) or `plain`;
`level` the CPU that kernels are compiled for; `cache` is null where no folder is safe to keep them in.

    {{"event":"version","cllm":…,"python":…,"numba":…,"llvmlite":…,"numpy":…,"typer":…,"rich":…,"safetensors":…,"extras":{{…}},"install":…,"path":…,
     "shipped":[…],"cpu":…,"level":…,"threads":…,"threading_layer":…,"cache":…}}

## gradcheck

`--layer NAME` (may be repeated), `--float32`, `--flow`, `--seed N`, `--threads N` (1, since more of them only wait for each other; with `--flow`
all cores), `--json`. Exit code 3 when a check failed: layer, tensor,
entry, both values and the tensor's shape are named. [How it is done](correctness.md#the-gradient-check).

Without RUN every layer is checked at every sample shape, then small models of every architecture. With RUN its parameters are, with its
weights, on the first windows of its validation text, in a batch and along as many directions as take some twenty seconds at the size of
`nano`; the last line says how many. There is at least one direction and one entry of each tensor, which takes minutes for the `reference`
model and half an hour for `gpt2`. Each tensor is checked by itself. A weight that is not finite is named first, with exit code 3.

The error is |analytic − numeric| / max(|analytic|, |numeric|, RMS gradient of the tensor, 1e-8 of the whole gradient's norm). With
`--float32` gradients in float32 are compared with those in float64, which are then called `numeric`. `worst` is the check nearest its
tolerance; `directions` and `entries` are told of a run. `--seed` decides what is drawn: directions, entries, and the numbers of layers and small
models; nothing is drawn for a run's `--float32` or `--flow`.

    {{"event":"check","layer":…,"sizes":{{…}},"tensor":…,"shape":[…],"dtype":…,"error":…,"tolerance":…,"ok":…,"entry":…,"analytic":…,"numeric":…}} …
    {{"event":"end","checks":…,"failed":…,"worst":{{"layer":…,"tensor":…,"error":…,"tolerance":…}},"seconds":…}}

`--flow` takes five real optimizer steps: with RUN from its last checkpoint on, on its validation text, the folder left as it is; without, the
first steps of a new `nano` model on the source text of this package. Activations and gradients of each layer, and weights, gradients and
updates of each parameter are shown, and [what is out of the ordinary](correctness.md#gradient-flow) is named in `findings`. Where
something is not finite it ends with that step, names the first such thing, and the exit code is 3; all else that is found is for you to judge.
`dead` of `units` pass no gradient on, `massive` says whether activations are, `shut` counts gains at zero; `rates` are the learning rates.

    {{"event":"flow","kind":"layer","name":…,"layer":…,"shape":[…],"activation_rms":…,"activation_max":…,"gradient_rms":…,"gradient_max":…,
     "units":…,"dead":…,"massive":…,"findings":[…]}} …
    {{"event":"flow","kind":"parameter","name":…,"shape":[…],"weight_rms":…,"gradient_rms":…,"update_rms":…,"update_ratio":…,"shut":…,
     "findings":[…]}} …
    {{"event":"end","steps":…,"batch":…,"grad_accum":…,"time":…,"losses":[…],"rates":[…],"findings":…,"first_nonfinite":…}}

## profile

`--preset NAME`, `--batch-size N,…`, `--block-size N,…`, `--vocab-size`, `--recompute`, `--steps`, `--trace FILE`, `--json`. Times are
medians over real steps. GFLOP/s are of matrix products alone, GB/s of every tensor that a kernel reads or writes; the machine's own
figures come from our micro-kernel and from a copy, measured first.

    {{"event":"layer","name":…,"direction":"forward|recompute|backward|update","calls":…,"ms":…,"gflops":…,"gbytes_per_s":…,
     "roof_share":…,"copy_share":…}} …
    {{"event":"end","ms_per_step":…,"python_ms":…,"tokens_per_s":…,"gflops":…,"machine_gflops":…,"machine_gbytes_per_s":…,
     "roof_share":…,"alive_bytes":[…],"batch_size":…,"block_size":…,"memory_bytes":{{…}}}}

`python_ms` is the part of a step that is in no kernel. `alive_bytes` are the activations in use at each kernel run of a step. With
several sizes there is one row for each, with `"event":"size"` and the fields of `end`, and none for layers. `--trace` writes one step in
the Trace Event Format, which Perfetto and Chrome open.
"""


def page() -> str:
    """The whole page."""
    presets = "; ".join(f"`{name}`: {_sizes(values)}" for name, values in PRESETS.items())
    tables = [_settings(group) for group in dict.fromkeys(setting_of(item).group for item in fields(Settings))]
    registries: list[Registry] = [ARCHITECTURES, FORMATS, TOKENIZERS, OPTIMIZERS, SCHEDULES, LAYERS]
    names = "\n".join(_names(registry) for registry in registries)
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    variables = "\n".join(f"| {name} | {meaning} |" for name, meaning in ENVIRONMENT.items())
    return TEXT.format(
        presets=presets, settings="\n".join(tables), names=names, exit_codes=codes, environment=variables
    )


def _sizes(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _settings(group: str) -> str:
    rows = [f"**{group}**\n", "| flag | default | |", "|---|---|---|"]
    for item in fields(Settings):
        setting = setting_of(item)
        if setting.group != group:
            continue
        default = "" if item.default is None else item.default
        flag = f"{flag_of(item.name)} {metavar_of(item) or ''}".rstrip()
        rows.append(f"| `{flag}` | {default} | {setting.help} |")
    return "\n".join(rows) + "\n"


def _names(registry: Registry) -> str:
    rows = [f"- `{name}`: {entry.summary}" for name, entry in registry.items()]
    return f"**{registry.kind.capitalize()}s**\n\n" + "\n".join(rows) + "\n"


def main() -> int:
    """Writes the page, or with --check says whether it is current."""
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text("utf-8") == page() else 1
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
