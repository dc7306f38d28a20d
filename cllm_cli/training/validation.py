"""The validation of a training run: scores on the way, the best weights, and the last word at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import replace

from cllm_cli.errors import NotFiniteError
from cllm_cli.training.checkpoint import Progress
from cllm_cli.training.evaluate import Evaluator, Score
from cllm_cli.training.records import Evaluation, Record
from cllm_cli.training.session import Session

Outcome = tuple[Progress, Evaluation | None]


class Validation:
    """Scores the validation text of a session. It yields how far it is, and gives where the run stands then.

    There is no Evaluation where there was nothing to do, or where the run was asked to stop.

    Raises NotFiniteError for a loss that is not finite. `stop` says which signal asks the run to end, 0 for none.
    """

    def __init__(self, session: Session, stop: Callable[[], int]) -> None:
        self.session, self.stop = session, stop
        corpus = session.corpus
        batch, pack = session.stepper.batch, session.settings.pack
        self.evaluator = Evaluator(session.model, corpus.val, corpus.tokenizer, batch, pack)

    def evaluate(self, progress: Progress) -> Generator[Record, None, Outcome]:
        """Scores the text, or as much of it as the settings say, and keeps the weights if they are the best so far."""
        found = yield from self._score(progress, self.session.settings.eval_batches)
        if found is None:
            return progress, None
        best = progress.best_val_loss is None or found.loss < progress.best_val_loss
        if best:
            self.session.folder.write_model(self.session.model.arena, progress.step, found.loss)
        mean = progress.loss_sum / progress.loss_count if progress.loss_count else None
        after = replace(
            progress,
            evaluated_step=progress.step,
            val_loss=found.loss,
            bits_per_byte=found.bits_per_byte,
            best_step=progress.step if best else progress.best_step,
            best_val_loss=found.loss if best else progress.best_val_loss,
            loss_sum=0.0,
            loss_count=0,
        )
        return after, _evaluation(progress.step, found, mean, best)

    def report(self, progress: Progress, final: bool) -> Generator[Record, None, Outcome]:
        """Where the present weights were scored on a part of the text or not at all: on all of it.

        At the run's final step the best weights are scored on all of it too, so that both losses mean the same.
        """
        whole = len(self.evaluator)
        if progress.evaluated_step == progress.step and (self.session.settings.eval_batches or whole) >= whole:
            return progress, None
        found = yield from self._score(progress)
        if found is None:
            return progress, None
        best = False
        if final and progress.best_step is not None:
            before = found if progress.best_step == progress.step else (yield from self._score_best(progress))
            if before is None:
                return progress, None
            best = found.loss <= before.loss
            if best:
                self.session.folder.write_model(self.session.model.arena, progress.step, found.loss)
                progress = replace(progress, best_step=progress.step)
            progress = replace(progress, best_val_loss=min(found.loss, before.loss))
        progress = replace(progress, val_loss=found.loss, bits_per_byte=found.bits_per_byte)
        return progress, _evaluation(progress.step, found, None, best)

    def _score(self, progress: Progress, batches: int | None = None) -> Generator[Record, None, Score | None]:
        """Scores the validation text, or so many batches of it; None where the run was asked to stop."""
        for found in self.evaluator.score(batches):
            if self.stop():
                return None
            if isinstance(found, Score):
                if not math.isfinite(found.loss):
                    what = f"the validation loss is not finite at step {progress.step}"
                    raise NotFiniteError(what, progress.step, validation=True)
                return found
            yield found
        return None

    def _score_best(self, progress: Progress) -> Generator[Record, None, Score | None]:
        """Scores the best weights so far; the present ones wait in the memory of the gradients, which are zero."""
        arena = self.session.model.arena
        arena.gradients[:] = arena.values
        try:
            self.session.folder.read_weights(arena)
            return (yield from self._score(progress))
        finally:
            arena.values[:] = arena.gradients
            arena.gradients.fill(0)


def _evaluation(step: int, found: Score, train_loss: float | None, best: bool) -> Evaluation:
    return Evaluation(
        step=step,
        train_loss=train_loss,
        val_loss=found.loss,
        bits_per_byte=found.bits_per_byte,
        perplexity=found.perplexity,
        accuracy=found.accuracy,
        tokens=found.tokens,
        best=best,
    )
