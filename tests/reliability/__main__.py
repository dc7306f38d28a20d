"""One part with its full figure, or with `--count`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

PARTS = {
    "cold_starts": 20,
    "disk_sizes": 100,
    "faults": 0,
    "flips": 2000,
    "kills": 500,
    "kills_in_a_save": 3000,
    "kills_while_compiling": 20,
    "mutations": 100_000,
    "power_loss": 10_000,
    "signals": 100,
    "soak": 1800,
}
"""A module beside this one → how often it tries, 0 where that follows from the run; `soak` for how many seconds."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    module = importlib.import_module(f".{args.part}", __package__)
    summary = module.run(PARTS[args.part] if args.count is None else args.count, args.seed)
    sys.stdout.write(json.dumps({"part": args.part, "seed": args.seed, **summary}) + "\n")
    return 1 if summary["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
