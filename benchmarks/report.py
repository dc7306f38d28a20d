"""What the benchmarks found, as Markdown tables and pictures.

    python benchmarks/report.py speed.jsonl sweep.jsonl … [--pictures FOLDER]

Reads the JSON lines of speed.py from any number of files. Standard output: a table for each task, and one for each
sweep. FOLDER gets speed.svg (how much faster than the better PyTorch side) and sweeps.svg (both sides as a size grows).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shapes import SHAPES, SWEEPS
from speed import against_torch, roof_share
from streams import Result
from worker import TASKS

COLORS = {"cllm": "#d1495b", "torch eager": "#2e4057", "torch compiled": "#66a182"}
NAMES = {"train": "training", "eval": "evaluation", "generate": "generation"}
SWEPT = {"width": "n_embd", "time": "block_size", "batch": "batch_size", "vocabulary": "vocab_size"}


def read(files: Iterable[Path]) -> list[Result]:
    """The speed records of all files."""
    records = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    return [record for record in records if record["event"] == "speed"]


def sweep_of(row: Result) -> str | None:
    """The sweep that a shape is of, if any."""
    return next((sweep for sweep, shapes in SWEEPS.items() if row["shape"] in shapes), None)


def swept_size(row: Result, sweep: str) -> int:
    """The size that this sweep changes."""
    sizes = dict(part.split("=") for part in row["shape"].partition(":")[2].split(","))
    return int(sizes[SWEPT[sweep]])


def table(rows: list[Result], first: str, labels: list[str]) -> str:
    """A Markdown table of rows; ratios are against the better PyTorch side of the same shape and task."""
    lines = [
        f"| {first} | side | ms | tokens/s | of roof | speed | peak MB | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, row in zip(labels, rows, strict=True):
        roof, ratios = roof_share(row), against_torch(row, rows)
        speed, memory = (f"{ratios[0]:.2f}×", f"{ratios[1]:.0%}") if ratios else ("", "")
        figures = f"{row['ms']:.4g} | {row['tokens_per_s']:.0f} | {'' if roof is None else f'{roof:.0%}'}"
        lines.append(f"| {label} | {row['side']} | {figures} | {speed} | {row['peak_rss'] / 1e6:.0f} | {memory} |")
    return "\n".join(lines)


def tables(records: list[Result]) -> str:
    """A table for each task, then one for each sweep."""
    parts = []
    for task in TASKS:
        rows = [row for row in records if row["task"] == task and sweep_of(row) is None]
        if rows:
            parts.append(f"**{NAMES[task].capitalize()}**\n\n" + table(rows, "shape", [row["shape"] for row in rows]))
    for sweep in SWEEPS:
        rows = [row for row in records if sweep_of(row) == sweep]
        if rows:
            labels = [str(swept_size(row, sweep)) for row in rows]
            parts.append(f"**Training over {sweep}**\n\n" + table(rows, SWEPT[sweep], labels))
    return "\n\n".join(parts)


def speed_picture(records: list[Result], path: Path) -> None:
    """Bars: how many times as many tokens a second as the better PyTorch side, by task and shape."""
    from matplotlib.figure import Figure

    bars = []
    for task in TASKS:
        for shape in SHAPES:
            for row in records:
                ratios = against_torch(row, records)
                if (row["task"], row["shape"], row["side"]) == (task, shape, "cllm") and ratios:
                    bars.append((f"{NAMES[task]}\n{shape}", ratios[0]))
    figure = Figure(figsize=(1 + 1.1 * len(bars), 3.2), layout="constrained")
    axes = figure.subplots()
    drawn = axes.bar([label for label, _ in bars], [ratio for _, ratio in bars], color=COLORS["cllm"], width=0.6)
    axes.bar_label(drawn, fmt="%.2f×", padding=2)
    axes.axhline(1, color=COLORS["torch eager"], linewidth=1.5, label="PyTorch, the better of its sides")
    axes.legend(fontsize=8, loc="upper left", frameon=False)
    axes.set_ylabel("tokens a second, relative")
    axes.margins(y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def sweeps_picture(records: list[Result], path: Path) -> None:
    """A panel for each sweep: GFLOP/s of each side as the size grows, and the machine's roof."""
    from matplotlib.figure import Figure

    found: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    roofs: dict[str, dict[int, float]] = defaultdict(dict)
    for row in records:
        sweep = sweep_of(row)
        if sweep and row["task"] == "train":
            size = swept_size(row, sweep)
            found[sweep][row["side"]].append((size, row["gflops"]))
            roofs[sweep][size] = row.get("roof_gflops", float("nan"))
    figure = Figure(figsize=(3.2 * len(found), 3.2), layout="constrained")
    panels: Any = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, sweep in zip(panels, sorted(found, key=list(SWEEPS).index), strict=True):
        sides = found[sweep]
        axes.plot(*zip(*sorted(roofs[sweep].items()), strict=True), color="grey", linestyle=":", label="FMA roof")
        for side, points in sides.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", color=COLORS.get(side), label=side)
        axes.set_xscale("log", base=2)
        axes.set_xlabel(f"{sweep} ({SWEPT[sweep]})")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("GFLOP/s")
    panels[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON lines of speed.py")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="where speed.svg and sweeps.svg go")
    options = parser.parse_args()
    records = read(options.files)
    sys.stdout.write(tables(records) + "\n")
    if options.pictures:
        import matplotlib

        matplotlib.rcParams["svg.hashsalt"] = "cllm"  # the same figures give the same file
        options.pictures.mkdir(parents=True, exist_ok=True)
        speed_picture(records, options.pictures / "speed.svg")
        sweeps_picture(records, options.pictures / "sweeps.svg")


if __name__ == "__main__":
    main()
