"""`cllm doctor`: is this installation sound, and what to report where it is not."""

from __future__ import annotations

import os
import sys

from cllm_cli.commands.options import Cpu, Debug, Json, Quiet


def doctor(cpu: Cpu = None, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Check the installation and every kernel; shows what to report in an issue."""
    environment = dict(os.environ)  # as it was found: what is imported below adds to it

    from cllm_cli.checks.examination import Examination
    from cllm_cli.commands.preparing import every_call, prepare
    from cllm_cli.errors import CheckFailed
    from cllm_cli.reporting.examination import show_examination
    from cllm_cli.training.records import json_line

    examination = Examination(environment, sys.stdout, lambda: prepare(every_call(), quiet or json))
    if json:
        for row in examination.rows():
            sys.stdout.write(json_line(row) + "\n")
            sys.stdout.flush()
    else:
        show_examination(examination.rows(), sys.stdout)
    if examination.failed:
        first = examination.failed[0]
        raise CheckFailed(f"{first.name}: {first.detail}", "to report it, copy everything that stands above")
