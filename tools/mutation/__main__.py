"""Makes mistakes in the package and sees that the quick tests notice: every mutant must be killed, or be equivalent.

python -m tools.mutation [--list] [--only NAME] [--modules PART …] [--operators NAME …] [--limit N] [--all]
    [--workers N] [--out FILE]

JSON lines, one a mutant, go to FILE or standard output, the table to standard error. Exit code 1 where one survived.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

from .equivalent import reasons
from .mutants import Mutant, all_mutants, chosen
from .operators import OPERATORS
from .running import SURVIVED, Verdict, Workshop


def wanted(options: argparse.Namespace) -> list[Mutant]:
    """The mutants that the options name."""
    found = []
    for module, mutants in all_mutants().items():
        if options.only:
            found += [mutant for mutant in mutants if mutant.name in options.only]
        elif not options.modules or any(part in module for part in options.modules):
            of_operators = [mutant for mutant in mutants if mutant.operator in (options.operators or ())]
            some = of_operators if options.operators else mutants if options.all else chosen(module, mutants)
            found += some[: options.limit]
    missing = set(options.only or ()) - {mutant.name for mutant in found}
    if missing:
        raise SystemExit(f"no mutant is called {', '.join(sorted(missing))}")
    return found


def table(verdicts: list[Verdict], equivalent: dict[str, str]) -> str:
    """Markdown: per module how many mutants, killed (of these, by the compiler), equivalent, survived, and seconds."""
    lines = ["| module | mutants | killed | by the compiler | equivalent | survived | seconds |", "|" + "---|" * 7]
    total = [0.0] * 6
    for module in dict.fromkeys(verdict.mutant.module for verdict in verdicts):
        here = [verdict for verdict in verdicts if verdict.mutant.module == module]
        alive = [verdict for verdict in here if verdict.outcome == SURVIVED]
        excused = sum(verdict.mutant.name in equivalent for verdict in alive)
        killed, refused = len(here) - len(alive), sum(verdict.refused for verdict in here)
        seconds = sum(verdict.seconds for verdict in here)
        row = [len(here), killed, refused, excused, len(alive) - excused, seconds]
        total = [one + other for one, other in zip(total, row, strict=True)]
        lines.append(f"| {module} | {' | '.join(f'{value:.0f}' for value in row)} |")
    return "\n".join([*lines, f"| all | {' | '.join(f'{value:.0f}' for value in total)} |"])


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def out_to(path: Path | None) -> AbstractContextManager[TextIO]:
    return path.open("w", encoding="utf-8") if path else nullcontext(sys.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--list", action="store_true", help="show the mutants, run none")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants")
    parser.add_argument("--modules", nargs="+", metavar="PART", help="modules whose path has this in it")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, help="every mutant that these make")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many of a module")
    parser.add_argument("--all", action="store_true", help="every mutant, not a choice: hours")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="mutants at the same time"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON lines go")
    parser.add_argument("--no-check", action="store_true", help="do not run the tests without a mutant first")
    options = parser.parse_args()
    mutants = wanted(options)
    if options.list:
        for mutant in mutants:
            sys.stdout.write(f"{mutant.name}  line {mutant.line}: {mutant.was!r} → {mutant.now!r}\n")
        return 0
    from cllm_cli.kernels.jit import cache_root

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start, equivalent, verdicts = time.perf_counter(), reasons(), []
    workshop, pool = Workshop(cache_root()), ThreadPoolExecutor(options.workers)
    try:
        if not options.no_check:
            workshop.check(list(dict.fromkeys(mutant.module for mutant in mutants)))
            say(f"the tests pass without a mutant: {time.perf_counter() - start:.0f} s")
        with out_to(options.out) as out:
            for verdict in pool.map(workshop.try_out, mutants):
                verdicts.append(verdict)
                reason = equivalent.get(verdict.mutant.name)
                record = verdict.record() | ({"equivalent": reason} if reason else {})
                print(json.dumps(record, ensure_ascii=False), file=out, flush=True)
                if verdict.outcome == SURVIVED and not reason:
                    what = f"{verdict.mutant.name}: {verdict.mutant.was!r} → {verdict.mutant.now!r}"
                    say(f"survived  {what}")
    finally:
        pool.shutdown(cancel_futures=True)  # those that run are waited for
        workshop.close()
    say(table(verdicts, equivalent))
    say(f"{len(verdicts)} mutants in {(time.perf_counter() - start) / 60:.1f} minutes")
    return int(any(each.outcome == SURVIVED and each.mutant.name not in equivalent for each in verdicts))


if __name__ == "__main__":
    sys.exit(main())
