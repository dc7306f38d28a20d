"""How much of the kernels, the model, the optimizers and training the tests run, measured with the JIT off.

python tools/covered.py        a table of lines and branches; ends with 1 where a folder has less than 95 % of either

With the JIT off, kernels are Python that runs on the plain twins of the intrinsics, so that every line and branch of
them can be seen. Left out are tests marked slow, and those of the list below.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("layers", "optim", "model", "training")
THRESHOLD = 0.95
SHARES = (["layers", "optim"], ["model", "training"])  # two processes, of about the same time

# What would take minutes in Python and runs no line that others do not run, and what is about compiled code alone.
LEFT_OUT = {
    "layers/test_dropout.py::test_columns_and_rows_are_not_correlated": "400,000 numbers",
    "layers/test_dropout.py::test_the_stated_share_is_dropped_and_the_mean_stays": "800,000 numbers",
    "layers/test_every_layer.py::test_same_bits_for_every_number_of_threads": "Python has one thread",
    "layers/test_every_layer.py::test_one_signature_for_each_precision": "nothing is compiled",
    "model/test_gpt2.py::test_same_bits_for_every_number_of_threads": "Python has one thread",
    "model/test_decode.py::test_tokens_come_as_often_as_they_should": "thousands of draws, no kernels",
    "optim/test_clip.py::test_same_bits_for_every_number_of_threads": "Python has one thread",
    "optim/test_every_optimizer.py::test_same_bits_for_every_number_of_threads": "Python has one thread",
    "training/test_library.py::test_a_run_can_be_left_at_any_record_and_gone_on_with": "23 runs",
    "training/test_library.py::test_evaluations_on_a_part_take_the_same_part_each_time": "seven evaluations",
    "training/test_library.py::test_two_runs_can_be_under_way_at_once": "three runs",
    "training/test_model_folder.py": "runs of twenty steps",
    "training/test_resume.py::test_eighty_steps_are_forty_and_forty": "six runs of eighty steps",
    "training/test_resume.py::test_rates_go_on_where_they_were": "twelve runs of twenty steps",
    "training/test_step.py::test_loss_falls_with_each_optimizer": "450 steps",
}


def start(folders: list[str], data: Path) -> subprocess.Popen[str]:
    """The tests of some folders in a process of its own, whose findings go to `data`."""
    command = [sys.executable, "-m", "coverage", "run", f"--data-file={data}", "--branch"]
    command += [f"--source={','.join(f'cllm_cli/{folder}' for folder in FOLDERS)}", "-m", "pytest", "-q"]
    command += ["-W", "ignore:overflow encountered:RuntimeWarning"]  # the hash of dropout is modulo 2⁶⁴
    command += ["-W", "ignore:invalid value encountered:RuntimeWarning"]  # of the tests with NaN and infinity
    command += [word for name in LEFT_OUT for word in ("--deselect", f"tests/{name}")]
    command += [f"tests/{folder}" for folder in folders]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)


def count(files: dict[str, dict[str, dict[str, int]]], folder: str) -> tuple[int, int, int, int]:
    """Lines and branches of a folder: those covered, all."""
    found = [file["summary"] for name, file in files.items() if name.startswith(f"cllm_cli/{folder}/")]
    keys = ("covered_lines", "num_statements", "covered_branches", "num_branches")
    lines, of_lines, branches, of_branches = (sum(each[key] for each in found) for key in keys)
    return lines, of_lines, branches, of_branches


def main() -> int:
    """Runs the tests, prints the table and what is missing; gives the exit code."""
    for name in LEFT_OUT:
        file, _, test = name.partition("::")
        if f"def {test}" not in (ROOT / "tests" / file).read_text("utf-8"):
            print(f"there is no test {name}")
            return 1
    with tempfile.TemporaryDirectory() as folder:
        data = [Path(folder) / f"part-{number}" for number in range(len(SHARES))]
        running = [start(*each) for each in zip(SHARES, data, strict=True)]
        outputs = [process.communicate()[0] for process in running]
        print("\n".join(output.splitlines()[-1] for output in outputs), end="\n\n")
        if any(process.returncode for process in running):
            print("\n".join(outputs))
            return 1
        whole = f"--data-file={folder}/whole"
        coverage = [sys.executable, "-m", "coverage"]
        quiet = {"cwd": ROOT, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([*coverage, "combine", whole, *map(str, data)], **quiet)
        subprocess.run([*coverage, "json", whole, "-o", f"{folder}/found.json"], **quiet)
        files = json.loads(Path(folder, "found.json").read_text("utf-8"))["files"]
    low = False
    print(f"{'':10}{'lines':>14}{'':9}{'branches':>14}")
    for part in FOLDERS:
        lines, of_lines, branches, of_branches = count(files, part)
        shares = lines / of_lines, branches / of_branches
        low |= min(shares) < THRESHOLD
        print(
            f"{part:10}{lines:>6} of {of_lines:<5}{shares[0]:>7.1%}  {branches:>8} of {of_branches:<5}{shares[1]:>7.1%}"
        )
    print()
    for name, file in files.items():
        branches_missing = ", ".join(f"{one}→{other}" for one, other in file["missing_branches"])
        if file["missing_lines"] or branches_missing:
            print(f"{name}: lines {file['missing_lines']}, branches {branches_missing}")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
