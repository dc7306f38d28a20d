"""The training loop: a generator of records. It prints nothing; whoever iterates it shows and stores what it yields."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import cllm_cli
from cllm_cli.config import LARGEST, stated
from cllm_cli.errors import Interrupted, RunError
from cllm_cli.kernels.ahead import Call
from cllm_cli.model.decode import Decoder, Sampling, generate
from cllm_cli.training import checkpoint
from cllm_cli.training.compiling import compile_kernels
from cllm_cli.training.evaluate import Evaluator, Score
from cllm_cli.training.metrics import Metrics
from cllm_cli.training.records import Checkpointed, End, Evaluation, Notice, Pulse, Record, Sample, Start, Step
from cllm_cli.training.resolve import EVALUATION_SHARE, resolve, schedule_of
from cllm_cli.training.session import Session

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
        corpus = session.corpus
        self.evaluator = Evaluator(session.model, corpus.val, corpus.tokenizer, session.stepper.batch)
        self.saved_step = self.first_step = self.progress.step
        self.began = self.next_save = time.monotonic()

    def run(self) -> Iterator[Record]:
        """The run's records, from start to end. Raises Interrupted after everything was saved."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.session.folder.unlock)
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
            yield from self._report()
        yield self._end("interrupt" if self.stop() else self._reason())
        if self.stop():
            saved = "all is saved: --resume goes on" if self.progress.step else "nothing was trained yet"
            raise Interrupted(self.stop(), f"stopped at step {self.progress.step}", saved)

    def _steps(self) -> Iterator[Record]:
        """Trains until the last step or until asked to stop; evaluates, samples and saves when it is time to."""
        shown = time.monotonic()
        counted = first = self.first_step
        while not self.stop():
            yield from self._due()
            if self.stop() or self.progress.step >= self._last():
                break
            outcome = self.session.stepper.run(self.progress.step, schedule_of(self.settings))
            now = time.monotonic()
            step = self.progress.step + 1
            self.progress = replace(
                self.progress,
                step=step,
                position=self.session.stepper.sampler.position,
                loss_sum=self.progress.loss_sum + outcome.loss,
                loss_count=self.progress.loss_count + 1,
            )
            if step - first == 1:
                warm = now
            if step - first == 1 + TIMED_STEPS and self.settings.steps is None:
                self._fix_steps((now - warm) / TIMED_STEPS, now)
            logged = step % self.settings.log_every == 0 or step == self._last()
            if logged or now - shown >= PULSE:
                kind = Step if logged else Pulse
                seconds = (now - shown) / (step - counted)
                left = (self._last() - step) * (now - self.began) / (step - first)
                yield kind(
                    step=step,
                    loss=outcome.loss,
                    lr=outcome.rate,
                    grad_norm=outcome.norm,
                    tokens_per_s=self.session.stepper.tokens / seconds,
                    ms=1e3 * seconds,
                    epoch=self.session.stepper.sampler.epoch,
                    steps=self.settings.steps or 0,
                    seconds_left=left if self.settings.steps else None,
                )
                shown, counted = now, step

    def _due(self) -> Iterator[Record]:
        """What is to be done at the present step, before the next one."""
        step, settings = self.progress.step, self.settings
        if step == 0:
            return
        last = step >= self._final()  # not at --stop-after: the run that goes on must not know that it stopped
        if (step % (settings.eval_every or 1) == 0 or last) and self.progress.evaluated_step != step:
            yield from self._evaluate()
        if settings.sample_every and (step % settings.sample_every == 0 or last) and self.progress.sampled_step != step:
            yield from self._sample()
        by_step = step % (settings.save_every or 1) == 0 and self.saved_step != step
        if by_step or time.monotonic() >= self.next_save:
            yield from self._save()

    def _evaluate(self) -> Iterator[Record]:
        found = yield from self._score(self.settings.eval_batches)
        if found is None:
            return
        progress = self.progress
        best = math.isfinite(found.loss) and (progress.best_val_loss is None or found.loss < progress.best_val_loss)
        if best:
            self.session.folder.write_model(self.session.model.arena, progress.step, found.loss)
        mean = progress.loss_sum / progress.loss_count if progress.loss_count else None
        self.progress = replace(
            progress,
            evaluated_step=progress.step,
            val_loss=found.loss,
            bits_per_byte=found.bits_per_byte,
            best_step=progress.step if best else progress.best_step,
            best_val_loss=found.loss if best else progress.best_val_loss,
            loss_sum=0.0,
            loss_count=0,
        )
        yield self._evaluation(found, mean, best)

    def _evaluation(self, found: Score, train_loss: float | None, best: bool) -> Evaluation:
        return Evaluation(
            step=self.progress.step,
            train_loss=train_loss,
            val_loss=found.loss,
            bits_per_byte=found.bits_per_byte,
            perplexity=found.perplexity,
            accuracy=found.accuracy,
            tokens=found.tokens,
            best=best,
        )

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
            progress = replace(self.progress, metrics_bytes=self.metrics.length, seconds=self._seconds())
            path = checkpoint.save(
                session.folder, progress, session.tensors(), self.settings, session.corpus.fingerprint
            )
            self.saved_step = self.progress.step
            yield Checkpointed(self.progress.step, str(path))
        self.next_save = time.monotonic() + SAVE_EVERY

    def _score(self, batches: int | None = None) -> Generator[Record, None, Score | None]:
        """Scores the validation text, or so many batches of it; None where the run was asked to stop."""
        for found in self.evaluator.score(batches):
            if self.stop():
                return None
            if isinstance(found, Score):
                return found
            yield found
        return None

    def _report(self) -> Iterator[Record]:
        """Where the present weights were scored on a part of the validation text or not at all: on all of it.

        At the end of the run the best weights are scored on all of it too, so that both losses mean the same.
        """
        whole = len(self.evaluator)
        if self.progress.evaluated_step == self.progress.step and (self.settings.eval_batches or whole) >= whole:
            return
        found = yield from self._score()
        if found is None:
            return
        best = False
        if self.progress.step >= self._final() and self.progress.best_step is not None:
            before = found if self.progress.best_step == self.progress.step else (yield from self._score_best())
            if before is None:
                return
            best = found.loss <= before.loss
            if best:
                self.session.folder.write_model(self.session.model.arena, self.progress.step, found.loss)
                self.progress = replace(self.progress, best_step=self.progress.step)
            self.progress = replace(self.progress, best_val_loss=min(found.loss, before.loss))
        self.progress = replace(self.progress, val_loss=found.loss, bits_per_byte=found.bits_per_byte)
        yield self._evaluation(found, None, best)

    def _score_best(self) -> Generator[Record, None, Score | None]:
        """Scores the best weights so far; the present ones wait in the memory of the gradients, which are zero."""
        arena = self.session.model.arena
        arena.gradients[:] = arena.values
        try:
            self.session.folder.read_weights(arena)
            return (yield from self._score())
        finally:
            arena.values[:] = arena.gradients
            arena.gradients.fill(0)

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
        return [*self.session.stepper.calls(), *self.evaluator.calls(), *sampled]

    def _fix_steps(self, seconds: float, now: float) -> None:
        """Turns --minutes into a number of steps, which is stored: the schedule needs an end."""
        left = 60 * (self.settings.minutes or 0) - self.progress.seconds - (now - self.began)
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
