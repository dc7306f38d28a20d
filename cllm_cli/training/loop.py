"""The training loop: a generator of records. It prints nothing; whoever iterates it shows and stores what it yields."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import cllm_cli
from cllm_cli.config import LARGEST, stated
from cllm_cli.errors import CorpusError, Interrupted, NotFiniteError, RunError
from cllm_cli.kernels.ahead import Call
from cllm_cli.model.decode import Decoder, Sampling, generate
from cllm_cli.training import checkpoint
from cllm_cli.training.checkpoint import Progress
from cllm_cli.training.compiling import compile_kernels
from cllm_cli.training.metrics import Metrics
from cllm_cli.training.records import (
    Checkpointed,
    End,
    Notice,
    Pulse,
    Record,
    RolledBack,
    Sample,
    Start,
    Step,
)
from cllm_cli.training.recovery import Recovery
from cllm_cli.training.resolve import EVALUATION_SHARE, resolve, schedule_of
from cllm_cli.training.session import Session
from cllm_cli.training.validation import Validation

FIRST_SAVE, SAVE_EVERY = 20.0, 240.0  # seconds: the first checkpoint comes early
PULSE = 0.5  # seconds between steps that are shown
TIMED_STEPS = 8  # after the first one, before --minutes becomes a number of steps
SAMPLE_TOKENS = 160


class Loop:
    """One run. `stop` says which signal asks it to end, 0 for none."""

    def __init__(self, session: Session, stop: Callable[[], int] = lambda: 0) -> None:
        self.session, self.stop = session, stop
        self.progress = session.progress
        self.settings = session.settings
        self.recovery = Recovery(session)
        self.validation = Validation(session, stop)
        self.saved_step = self.progress.step
        self.evaluation_seconds: float | None = None
        self.began = self.next_save = time.monotonic()

    def run(self) -> Iterator[Record]:
        """The run's records, from start to end. Raises Interrupted after everything was saved."""
        with contextlib.ExitStack() as stack:
            self.session.folder.check_held()
            self.metrics = Metrics(self.session.folder.metrics, self.progress.metrics_bytes)
            stack.callback(self.metrics.close)
            try:
                for record in self._run():
                    self.metrics.write(record)
                    yield record
            except Interrupted:
                raise
            except Exception:
                # Whoever reads the records waits for their end. A full disk may not take it.
                end = self._end("error")
                with contextlib.suppress(RunError):
                    self.metrics.write(end)
                yield end
                raise

    def _run(self) -> Iterator[Record]:
        yield self._start()
        yield from (Notice(text) for text in self.session.notices)
        for record in compile_kernels(self._calls()):
            if self.stop():
                break
            yield record
        self.began = time.monotonic()
        self.next_save = self.began + FIRST_SAVE
        yield from self._steps()
        yield from self._save()
        if not self.stop():
            final = self.progress.step >= self._final()
            try:
                self.progress, found = yield from self.validation.report(self.progress, final)
                if found:
                    yield found
            except NotFiniteError as error:
                yield self.recovery.at_the_end(error)
        yield self._end("interrupt" if self.stop() else self._reason())
        if self.stop():
            saved = "all is saved: --resume goes on" if self.progress.step else "nothing was trained yet"
            raise Interrupted(self.stop(), f"stopped at step {self.progress.step}", saved)

    def _steps(self) -> Iterator[Record]:
        """Trains until the last step or until asked to stop; evaluates, samples and saves when it is time to."""
        shown = time.monotonic()
        done = unshown = tokens = 0
        while not self.stop():
            try:
                yield from self._due()
                if self.stop() or self.progress.step >= self._last():
                    break
                outcome = self.session.stepper.run(self.progress.step, schedule_of(self.settings))
            except NotFiniteError as error:
                yield self._went_on(self.recovery.recover(error, self.progress))
                continue
            except CorpusError:  # nothing was computed from what is wrong
                yield from self._save()
                raise
            now = time.monotonic()
            done, unshown, tokens = done + 1, unshown + 1, tokens + outcome.tokens
            step = self.progress.step + 1
            self.progress = replace(
                self.progress,
                step=step,
                position=self.session.stepper.sampler.position,
                loss_sum=self.progress.loss_sum + outcome.loss,
                loss_count=self.progress.loss_count + 1,
            )
            if done == 1:
                warm = now
            if done == 1 + TIMED_STEPS and self.settings.steps is None:
                self._fix_steps((now - warm) / TIMED_STEPS, now)
            logged = step % self.settings.log_every == 0 or step == self._last()
            if logged or now - shown >= PULSE:
                kind = Step if logged else Pulse
                seconds = (now - shown) / unshown
                left = (self._last() - step) * (now - self.began) / done
                yield kind(
                    step=step,
                    loss=outcome.loss,
                    lr=outcome.rate,
                    grad_norm=outcome.norm,
                    tokens_per_s=tokens / (now - shown),
                    ms=1e3 * seconds,
                    epoch=self.session.stepper.sampler.epoch,
                    steps=self.settings.steps or 0,
                    seconds_left=left if self.settings.steps else None,
                )
                shown, unshown, tokens = now, 0, 0
            if spike := self.recovery.learn(step, outcome.loss):
                yield spike
                if self.recovery.may_roll_back():
                    yield self._went_on(self.recovery.roll_back(step, "the loss jumped", self.progress))

    def _went_on(self, outcome: tuple[Progress, Record]) -> Record:
        """Takes over where the run goes on from after trouble; gives what is to be told of it."""
        self.progress, record = outcome
        if isinstance(record, RolledBack):
            self.saved_step = record.to_step
        return record

    def _due(self) -> Iterator[Record]:
        """What is to be done at the present step, before the next one."""
        step, settings = self.progress.step, self.settings
        if step == 0:
            return
        last = step >= self._final()  # not at --stop-after: the run that goes on must not know that it stopped
        if (step % (settings.eval_every or 1) == 0 or last) and self.progress.evaluated_step != step:
            began = time.monotonic()
            self.progress, found = yield from self.validation.evaluate(self.progress)
            self.evaluation_seconds = time.monotonic() - began
            if found:
                yield found
        if settings.sample_every and (step % settings.sample_every == 0 or last) and self.progress.sampled_step != step:
            yield from self._sample()
        by_step = step % (settings.save_every or 1) == 0 and self.saved_step != step
        # Nothing is saved within an evaluation, which may take minutes.
        evaluates = (step + 1) % (settings.eval_every or 1) == 0 or step + 1 >= self._final()
        ahead = self._evaluation_seconds() if evaluates else 0.0
        if by_step or time.monotonic() + ahead >= self.next_save:
            yield from self._save()

    def _evaluation_seconds(self) -> float:
        """How long the next evaluation will take: as the last; the first by its tokens, at a third of a trained one."""
        if self.evaluation_seconds is not None:
            return self.evaluation_seconds
        done = self.progress.step - self.session.progress.step
        of_a_batch = (time.monotonic() - self.began) / max(1, done * self.settings.grad_accum)
        batches = self.settings.eval_batches or len(self.validation.evaluator)
        return of_a_batch * min(batches, len(self.validation.evaluator)) / 3

    def _sample(self) -> Iterator[Sample]:
        """What the model writes; nothing where the run was asked to stop meanwhile."""
        tokenizer, step = self.session.corpus.tokenizer, self.progress.step
        drawn = generate(
            self.session.model,
            [tokenizer.first_token()],
            Sampling(temperature=0.8, top_k=0, top_p=0.95),
            seed=self.settings.seed + step,
            vocabulary=tokenizer.vocab_size,
            end=tokenizer.end_of_text,
        )
        wanted = itertools.takewhile(lambda _: not self.stop(), itertools.islice(drawn, SAMPLE_TOKENS))
        text = tokenizer.decode(list(wanted))
        if not self.stop():
            self.progress = replace(self.progress, sampled_step=step)
            yield Sample(step, text)

    def _save(self) -> Iterator[Record]:
        """A checkpoint of the present step, unless there is one, or nothing was trained yet."""
        if self.saved_step != self.progress.step:
            session = self.session
            if self.progress.best_val_loss is None:
                session.folder.write_model(session.model.arena, self.progress.step, None)
            self.metrics.sync()
            progress = replace(
                self.progress,
                metrics_bytes=self.metrics.length,
                seconds=self._seconds(),
                recent_losses=tuple(self.recovery.losses),
            )
            path = checkpoint.save(
                session.folder, progress, session.tensors(), self.settings, session.corpus.fingerprint
            )
            self.saved_step = self.progress.step
            self.recovery.saved()
            yield Checkpointed(self.progress.step, str(path))
        self.next_save = time.monotonic() + SAVE_EVERY

    def _start(self) -> Start:
        session = self.session
        return Start(
            params=session.model.arena.count,
            train_tokens=int(session.corpus.train.size),
            val_tokens=int(session.corpus.val.size),
            memory_bytes=session.memory,
            config=stated(self.settings),
            run=str(session.folder.path),
            step=self.progress.step,
            steps=self.settings.steps or 0,
            version=cllm_cli.__version__,
        )

    def _end(self, stopped: str) -> End:
        return End(
            step=self.progress.step,
            val_loss=self.progress.val_loss,
            best_val_loss=self.progress.best_val_loss,
            seconds=self._seconds(),
            stopped=stopped,
            bits_per_byte=self.progress.bits_per_byte,
            run=str(self.session.folder.path),
            memory_bytes=self.session.memory,
        )

    def _calls(self) -> list[Call]:
        """Every kernel that the run will call, with arguments of the right types."""
        sampled = Decoder(self.session.model).calls() if self.settings.sample_every else []
        return [*self.session.stepper.calls(), *self.validation.evaluator.calls(), *sampled]

    def _fix_steps(self, seconds: float, now: float) -> None:
        """Turns --minutes into a number of steps, which is stored: the schedule needs an end."""
        left = 60 * (self.settings.minutes or 0) - self.session.progress.seconds - (now - self.began)
        per_step = seconds * (1 + EVALUATION_SHARE)
        steps = self.progress.step + min(LARGEST, max(1, math.floor(left / per_step)))
        # What nobody gave follows from the number of steps: the warm-up, and how often to evaluate and to save.
        found = resolve(replace(self.session.wanted, minutes=None, steps=steps), self.session.corpus)
        self.settings = self.session.settings = replace(found, minutes=self.settings.minutes)
        self.session.folder.write_settings(self.settings)

    def _final(self) -> int:
        return self.settings.steps or LARGEST

    def _last(self) -> int:
        return min(self._final(), self.settings.stop_after or LARGEST)

    def _reason(self) -> str:
        if self.progress.step < self._final():
            return "stop-after"
        return "minutes" if self.settings.minutes else "epochs" if self.settings.epochs else "steps"

    def _seconds(self) -> float:
        return self.session.progress.seconds + time.monotonic() - self.began
