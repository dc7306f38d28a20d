"""What a run does where a number is not finite or the loss jumps: stop, leave the step out, or go back.

Going back means the last whole checkpoint, or the start where there is none, and the batches that come after those that
failed. It follows from the checkpoint that was there, so a run that goes back is as repeatable as its checkpoints are:
those by steps are, those by time are not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from cllm_cli.errors import NotFiniteError, RunError, TrainingError
from cllm_cli.training import checkpoint
from cllm_cli.training.checkpoint import Progress
from cllm_cli.training.records import Record, RolledBack, Skipped, Spike
from cllm_cli.training.session import Session, restore

WINDOW = 128  # steps whose losses a new one is compared with
SPIKE = 6.0  # standard deviations above their mean
MOST_SKIPPED = 10  # steps in a row
MOST_ROLLBACKS = 3  # without a new checkpoint in between


class Recovery:
    """The policy of `session`'s settings, and what it has to remember."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.losses = deque(session.progress.recent_losses, WINDOW)
        self._skipped = self._rollbacks = 0

    def learn(self, step: int, loss: float) -> Spike | None:
        """Takes the loss of a step that was good; gives a record where it stands out."""
        self._skipped = 0
        z = deviation(self.losses, loss) if len(self.losses) == WINDOW else 0.0
        self.losses.append(loss)
        return Spike(step, loss, z) if z > SPIKE else None

    def saved(self) -> None:
        """A new checkpoint is there to go back to."""
        self._rollbacks = 0

    def recover(self, error: NotFiniteError, progress: Progress) -> tuple[Progress, Record]:
        """Where the run goes on from after `error`, and what is to be told. Raises TrainingError where it does not."""
        policy = self.session.settings.on_nan
        if policy == "skip" and not error.spoiled and self._skipped < MOST_SKIPPED:
            self._skipped += 1
            if error.validation:
                return replace(progress, evaluated_step=progress.step), Skipped(error.step, error.message)
            position = self.session.stepper.sampler.position
            return replace(progress, step=error.step, position=position), Skipped(error.step, error.message)
        if policy != "stop" and self._rollbacks < MOST_ROLLBACKS:
            return self.roll_back(error.step, error.message, progress)
        raise self._final(error)

    def at_the_end(self, error: NotFiniteError) -> Record:
        """What is to be told where the last word on the validation text is not finite. Raises TrainingError."""
        if self.session.settings.on_nan == "skip":
            return Skipped(error.step, error.message)
        raise self._final(error)

    def roll_back(self, step: int, why: str, progress: Progress) -> tuple[Progress, Record]:
        """Goes back from `step` to the last checkpoint, and on with other batches. The best model so far stays so."""
        session = self.session
        self._rollbacks += 1
        position = session.stepper.sampler.position
        found, passed = restore(session)
        restored = replace(
            found or Progress(),
            position=position,
            best_step=progress.best_step,
            best_val_loss=progress.best_val_loss,
        )
        self.losses = deque(restored.recent_losses, WINDOW)
        return restored, RolledBack(step, restored.step, "; ".join([why, *(f"passed over: {each}" for each in passed)]))

    def may_roll_back(self) -> bool:
        """Whether a loss that jumped is a reason to go back, as far as the settings and earlier tries go."""
        return self.session.settings.on_spike == "rollback" and self._rollbacks < MOST_ROLLBACKS

    def _final(self, error: NotFiniteError) -> TrainingError:
        try:
            path = checkpoint.newest(self.session.folder)[0]
        except RunError:  # what ended the run is what has to be told
            path = None
        where = f"{path} is whole: --resume --on-nan rollback goes on from it with other batches; or " if path else ""
        return TrainingError(error.message, f"{where}{error.hint}")


def deviation(losses: deque[float], loss: float) -> float:
    """How many standard deviations `loss` lies above the mean of `losses`; 0 where they do not differ."""
    mean = math.fsum(losses) / len(losses)
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in losses) / len(losses))
    return (loss - mean) / spread if spread else 0.0
