"""What `cllm doctor` does: the installation's checks one by one, then the self-test of every kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from cllm_cli.checks.installation import Finding, checks, failure, guarded

if TYPE_CHECKING:
    from cllm_cli.checks.selftest import Result


class Examination:
    """`rows()` are the events of `cllm doctor --json`; `failed` are the checks that failed, so far.

    environment: as the command found it; stream: where its results go; prepare: has all kernels compiled or loaded.
    """

    def __init__(self, environment: Mapping[str, str], stream: TextIO, prepare: Callable[[], object]) -> None:
        self.failed: list[Finding] = []
        self._environment, self._stream, self._prepare = environment, stream, prepare

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each check as it comes, then `end`. What crashes the process comes last: the kernels."""
        count = 0
        for finding in self._findings():
            count += 1
            if not finding.ok:
                self.failed.append(finding)
            yield finding.as_dict()
        yield {"event": "end", "checks": count, "failed": len(self.failed)}

    def _findings(self) -> Iterator[Finding]:
        yield from checks(self._environment, self._stream)
        ready = guarded("compiling", self._ready)
        yield ready
        if not ready.ok:
            return
        from cllm_cli.checks.selftest import self_test

        try:
            for result in self_test():
                yield _tested(result)
        except Exception as error:
            yield failure("self-test", error)

    def _ready(self) -> Finding:
        from cllm_cli.kernels.threads import use_threads
        from cllm_cli.training.machine import available_cores

        use_threads(available_cores())
        return Finding("compiling", True, f"{self._prepare()} kernels are ready")


def _tested(result: Result) -> Finding:
    case = result.case
    error = f"{result.tensor} is off by {result.error:.2g}, {result.tolerance:.2g} is allowed"
    facts = {name: getattr(result, name) for name in ("tensor", "error", "tolerance")}
    facts |= {"kernel": case.name, "dtype": case.dtype, "inputs": case.inputs}
    detail = f"{case.dtype}, {case.inputs}: {error if result.tensor else 'it ran'}"
    return Finding(case.name, result.ok, detail, facts)
