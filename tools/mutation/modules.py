"""What is mutated, what is not, and which tests should see it.

A module's tests come in stages: first those that see most of its mistakes soonest, wider ones for what survives. A
stage is a list of test files and, after -k, which of their tests.
"""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    files: tuple[str, ...]
    chosen: str = ""


LAYER = "tests/layers/test_every_layer.py"
LAWS = "tests/layers/test_layer_laws.py"
WHOLE = ("tests/model", "tests/training/test_step.py")
PRODUCTS = ("tests/kernels/test_simd.py", "tests/kernels/test_gemm.py")
FOLDER = ("tests/training/test_run_folder.py", "tests/training/test_model_folder.py")
CORPORA = ("tests/text/test_sources.py", "tests/text/test_reading.py", "tests/text/test_formats.py")
PLAIN = Stage(("tests/kernels/test_jit_off.py",))  # Python notices what Numba forgives


def layer_stages(names: str, *own: str) -> list[Stage]:
    """Gradients and oracle first, then every law of the layer."""
    return [
        Stage((LAYER,), f"({names}) and (finite or oracle)"),
        Stage((*own, LAYER), f"({names}) or test_attention or test_cross or test_dropout or test_embed"),
        Stage((LAWS,), names.replace("-N", "").replace("-B", "")),
        PLAIN,
    ]


MODULES: dict[str, list[Stage]] = {
    "config_file.py": [Stage(("tests/test_config.py",)), Stage(("tests/training/test_run_folder.py",))],
    "kernels/bits.py": [Stage(("tests/kernels/test_simd.py", "tests/kernels/test_math.py")), PLAIN],
    "kernels/cores.py": [Stage(("tests/kernels/test_cores.py",))],
    "kernels/gemm.py": [
        Stage(("tests/kernels/test_gemm.py",)),
        Stage(("tests/kernels/test_gemm_every_size.py",)),
        Stage((LAYER,), "attention-B and (finite or oracle)"),
        PLAIN,
    ],
    "kernels/gemv.py": [Stage(PRODUCTS), Stage(("tests/kernels/test_gemm_every_size.py",)), PLAIN],
    "kernels/math.py": [Stage(("tests/kernels/test_math.py",)), PLAIN],
    "kernels/packing.py": [
        Stage(("tests/kernels/test_packing.py",)),
        Stage(("tests/kernels/test_gemm_every_size.py",)),
        PLAIN,
    ],
    "kernels/pointers.py": [Stage(("tests/kernels/test_simd.py", "tests/kernels/test_packing.py")), PLAIN],
    "kernels/reduce.py": [
        Stage(("tests/kernels/test_reduce.py",)),
        Stage((LAYER,), "(linear-N or layernorm or cross_entropy) and finite"),
        PLAIN,
    ],
    "kernels/simd.py": [
        Stage(PRODUCTS),
        Stage(("tests/kernels/test_packing.py", "tests/kernels/test_registers.py")),
        PLAIN,
    ],
    "layers/attention.py": layer_stages("attention-B", "tests/layers/test_attention.py"),
    "layers/cross_entropy.py": layer_stages("cross_entropy-N", "tests/layers/test_cross_entropy.py"),
    "layers/dropout.py": layer_stages("dropout-N", "tests/layers/test_dropout.py"),
    "layers/embedding.py": layer_stages("embedding-N", "tests/layers/test_embeddings.py"),
    "layers/gelu.py": layer_stages("gelu-N"),
    "layers/head.py": layer_stages("last-B or head-N"),
    "layers/layernorm.py": layer_stages("layernorm-N"),
    "layers/linear.py": layer_stages("linear-N or linear_nobias-N"),
    "layers/positions.py": layer_stages("positions-B", "tests/layers/test_embeddings.py"),
    "layers/residual.py": layer_stages("split-N or add-N"),
    "model/decode.py": [Stage(("tests/model/test_decode.py",))],
    "model/gpt2.py": [Stage(WHOLE)],
    "model/init.py": [Stage(("tests/model/test_gpt2.py", "tests/model/test_arena.py")), Stage(WHOLE)],
    "model/plan.py": [Stage(("tests/model/test_program.py",)), Stage(WHOLE)],
    "model/recompute.py": [Stage(("tests/model/test_program.py",))],
    "model/workspace.py": [Stage(("tests/model/test_program.py",)), Stage(WHOLE)],
    "optim/adam_embed.py": [Stage(("tests/optim/test_every_optimizer.py",)), Stage(("tests/training/test_step.py",))],
    "optim/adamw.py": [Stage(("tests/optim/test_every_optimizer.py",)), Stage(("tests/training/test_step.py",))],
    "optim/base.py": [Stage(("tests/optim/test_every_optimizer.py",)), Stage(("tests/training/test_step.py",))],
    "optim/clip.py": [Stage(("tests/optim/test_clip.py",)), Stage(("tests/training/test_step.py",))],
    "optim/schedule.py": [Stage(("tests/optim/test_schedules.py",))],
    "optim/sgd.py": [Stage(("tests/optim/test_every_optimizer.py",)), Stage(("tests/training/test_step.py",))],
    "text/batches.py": [Stage(("tests/text/test_batches.py",))],
    "text/chunks.py": [Stage(("tests/text/test_chunks.py",)), Stage(CORPORA)],
    "text/cuts.py": [Stage(("tests/text/test_cuts.py",)), Stage(("tests/text/test_batches.py",))],
    "text/mapped.py": [Stage(("tests/text/test_mapped.py", "tests/reliability/test_cut_stores.py"))],
    "text/sources.py": [Stage(("tests/text/test_sources.py",)), Stage(("tests/commands/test_reading_flags.py",))],
    "text/split.py": [Stage(("tests/text/test_split.py",)), Stage(CORPORA)],
    "text/store.py": [
        Stage(("tests/text/test_store.py",)),
        Stage(("tests/text/test_tokenized.py", "tests/commands/test_tokenize_command.py")),
    ],
    "text/tokenized.py": [Stage(("tests/text/test_tokenized.py",)), Stage(("tests/commands/test_stores.py",))],
    "training/checkpoint.py": [
        Stage(("tests/training/test_checkpoint.py", *FOLDER)),
        Stage(("tests/training/test_resume.py", "tests/training/test_loop.py")),
    ],
    "training/durable.py": [Stage(("tests/training/test_durable.py",)), Stage(FOLDER)],
    "training/folder_lock.py": [Stage(FOLDER)],
    "training/metrics.py": [Stage(("tests/training/test_metrics.py",)), Stage(("tests/training/test_loop.py",))],
    "training/recovery.py": [
        Stage(("tests/training/test_recovery.py",)),
        Stage(("tests/training/test_not_finite.py",)),
    ],
    "training/run_folder.py": [Stage(FOLDER), Stage(("tests/training/test_loop.py", "tests/training/test_session.py"))],
    "training/json_files.py": [
        Stage(("tests/training/test_json_files.py",)),
        Stage(FOLDER),
        Stage(("tests/reliability/test_hostile_files.py",)),
    ],
    "training/tensor_files.py": [
        Stage(("tests/training/test_tensor_files.py",)),
        Stage(FOLDER),
        Stage(("tests/reliability/test_hostile_files.py",)),
    ],
    "training/session.py": [
        Stage(("tests/training/test_session.py", "tests/training/test_memory.py")),
        Stage(("tests/training/test_resume.py", "tests/training/test_library.py", "tests/training/test_not_finite.py")),
        Stage(
            (
                "tests/training/test_loop.py",
                "tests/training/test_run_folder.py",
                "tests/commands/test_resume_command.py",
            )
        ),
    ],
    "training/step.py": [
        Stage(("tests/training/test_step.py",)),
        Stage(("tests/training/test_resume.py", "tests/training/test_allocations.py")),
    ],
}

# What decides speed and memory but no result: sizes of blocks, and what a way to share out work costs. Neither their
# own values are mutated, nor what is assigned to them, nor the functions that choose them.
TUNING: dict[str, set[str]] = {
    "kernels/gemm.py": {"KC", "STEP", "block_rows", "cost"},
    "kernels/gemv.py": {"LINE", "ROWS", "AHEAD", "ahead", "line"},
    "kernels/packing.py": {"AHEAD", "fetch_panel"},
    "kernels/pointers.py": {"emit_prefetch"},
    "kernels/reduce.py": {"CHUNKS"},
    "kernels/simd.py": {"TILES", "UNROLL", "block_bytes"},
    "layers/attention.py": {"STRIP", "shares"},
    "layers/cross_entropy.py": {"LOGITS", "LEAST_ROWS", "MOST_ROWS", "chunk_rows"},
    "layers/embedding.py": {"COLUMNS"},
    "text/batches.py": {"AHEAD"},
    "text/chunks.py": {"CHUNK"},
    "text/cuts.py": {"PIECE"},
    "text/store.py": {"PIECE"},
}

# Calls that ask for speed and change no result, by the last two parts of their names.
ADVICE = {"compact", "prefetch", "emit_prefetch", "fetch_panel", "attributes.add"}

# Default settings are a choice as well.
TUNED_ARGUMENTS = {"defaults"}

# Declarations are data: what they say is what the generic tests ask for.
DECLARATIONS = {"Layer", "Registry", "Entry"}
