"""The results of `cllm doctor` for people: whole lines, since they are to be copied into a report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.text import Text

from cllm_cli.printable import one_line
from cllm_cli.reporting.quantities import count
from cllm_cli.reporting.tables import Printer, Row


def show_examination(rows: Iterable[Row], stream: TextIO) -> None:
    """A line for each check as it comes; kernels that compute what they should are one line together."""
    printer = Printer(stream)
    kernels, wrong, worst = set(), 0, 0.0
    for row in rows:
        kernel = row.get("kernel")
        if kernel:
            kernels.add(kernel)
            wrong += not row["ok"]
            worst = max(worst, row["error"] / row["tolerance"] if row["ok"] and row["tolerance"] else 0.0)
        if row["event"] == "end":
            if kernels:
                found = f"{wrong} wrong" if wrong else f"all right, errors up to {100 * worst:.0f} % of what is allowed"
                printer.show(_line("self-test", not wrong, f"{len(kernels)} kernels, {found}"))
            failed = row["failed"]
            verdict = (f"{count(failed)} failed", "bold red") if failed else ("all passed", "bold green")
            printer.show(Text.assemble(f"{count(row['checks'])} checks, ", verdict))
        elif not kernel or not row["ok"]:
            printer.show(_line(row["name"], row["ok"], row["detail"]))


def _line(name: str, ok: bool, detail: str) -> Text:
    mark = ("ok  ", "green") if ok else ("FAIL", "bold red")
    return Text.assemble(mark, "  ", (f"{one_line(name):<11}", "dim"), "  ", one_line(detail))
