"""The engine's loop: take commands, plan a step, launch it, commit, report.

What a request brings cannot end the loop: its numbers are checked before the scheduler sees them, a row
that fails is found and ended alone, and the others go on with the same tokens. What does leave the loop is an
error in our own bookkeeping (IntegrityError and whatever else the scheduler raises): pages may then be shared
wrongly, and the only safe answer is a fresh engine. It is too where a device does nothing any more.
"""

import logging
import math
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from msgspec.structs import replace

from fullbore.engine.messages import Abort, Command, Emitted, FlushCache, Outputs, Report, Shutdown, Submit
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Row, Sampled, Step
from fullbore.hardware.device import DeviceLostError

HEARTBEAT_S = 0.5
_log = logging.getLogger(__name__)


class Handle(Protocol):
    """A launched step."""

    def sampled(self) -> Mapping[int, Sampled]: ...


class Runner(Protocol):
    """What executes steps: the model on a device, or a stand-in for tests and simulation."""

    def launch(self, step: Step) -> Handle: ...


class Wire(Protocol):
    """The engine's end of the sockets."""

    @property
    def dropped(self) -> int: ...

    def receive(self, timeout_s: float) -> list[Command]: ...

    def send(self, report: Report) -> None: ...


class Loop:
    """Serves until it is told to end.

    ``lookahead`` 0 commits a step before the next is planned; 1 plans and launches the next while the device
    still works on the one before.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, wire: Wire, vocab_size: int, lookahead: int = 0
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._wire = wire
        self._vocab_size = vocab_size
        self._lookahead = lookahead
        self._flying: deque[tuple[Step, Handle | None]] = deque()  # None: its launch failed
        self._events: list[Emitted] = []
        self._beat = -math.inf  # when the last Outputs were sent
        self._draining = False
        self._ending = False
        self._quiet = False  # the last turn found nothing to do
        self._checked = True  # nothing happened since the last integrity check

    def drain(self) -> None:
        """End when no request is left (may be called from a signal handler)."""
        self._draining = True

    def run(self) -> None:
        """Serve until Shutdown, or, after ``drain``, until idle."""
        while not self._ending:
            self.turn()
        self._events += self._scheduler.end_all("abort", "the engine was shut down")
        self._report()

    def turn(self) -> None:
        """One round: commands, at most one launch, at most one commit, at most one message."""
        if self._quiet and self._scheduler.idle:
            if not self._checked:
                self._scheduler.check()
                self._checked = True
            if self._draining:
                self._ending = True
                return
        for command in self._wire.receive(self._patience_s() if self._quiet else 0.0):
            self._obey(command)
        if self._ending:
            return
        step = self._scheduler.plan()
        if step is not None:
            self._checked = False
            self._flying.append((step, self._launch(step)))
        if self._flying and (step is None or len(self._flying) > self._lookahead):
            self._commit()
        self._quiet = step is None and not self._flying
        if self._events or time.monotonic() - self._beat >= HEARTBEAT_S:
            self._report()

    def _report(self) -> None:
        """Send what happened since the last report, or a heart-beat."""
        self._wire.send(Outputs(self._events, self._scheduler.stats(self._wire.dropped)))
        self._events = []
        self._beat = time.monotonic()

    def _patience_s(self) -> float:
        """How long a loop with nothing to do may wait for a command before the next heart-beat is due."""
        return min(max(0.0, self._beat + HEARTBEAT_S - time.monotonic()), HEARTBEAT_S)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Submit):
            problem = unusable(command, self._vocab_size)
            if problem:
                event: Emitted | None = Emitted(command.request, -1, "error", error=problem)
            else:
                event = self._scheduler.submit(_seeded(command))
        elif isinstance(command, Abort):
            event = self._scheduler.abort(command.request)
        elif isinstance(command, FlushCache):
            self._scheduler.flush()
            event = None
        else:
            self._ending = self._ending or isinstance(command, Shutdown)
            event = None
        if event is not None:
            self._events.append(event)

    def _launch(self, step: Step) -> Handle | None:
        try:
            return self._runner.launch(step)
        except DeviceLostError:
            raise
        except Exception:  # noqa: BLE001 - whatever a row makes the model raise must not end the engine
            _log.exception("step %d with %d rows failed at its launch", step.number, len(step.rows))
            return None

    def _commit(self) -> None:
        """Take in what the oldest step in flight gave."""
        step, handle = self._flying.popleft()
        sampled: Mapping[int, Sampled] | None = None
        if handle is not None:
            try:
                sampled = handle.sampled()
            except DeviceLostError:
                raise
            except Exception:  # noqa: BLE001 - as in _launch
                _log.exception("step %d with %d rows failed", step.number, len(step.rows))
        if sampled is None:
            sampled, failed = self._rescue(step)
            for request, reason in failed.items():
                self._events += self._scheduler.fail([request], reason)
            # What was launched on top of a failed step may have read what was not there.
            self._flying = deque((later, None) for later, _ in self._flying)
        self._events += self._scheduler.commit(step, sampled)

    def _rescue(self, step: Step) -> tuple[dict[int, Sampled], dict[int, str]]:
        """Run a failed step again in halves, and their halves: (results, why each row that fails alone does).

        Halves also need less memory, which is the remedy when that was short.
        """
        sampled: dict[int, Sampled] = {}
        failed: dict[int, str] = {}
        parts = _halves(step.rows)
        while parts:
            rows = parts.pop()
            try:
                # ``started`` was taken in when the step was launched; ``ended`` waits for the last part.
                part = Step(step.number, rows)
                sampled.update(self._runner.launch(part).sampled())
            except DeviceLostError:
                raise
            except Exception as error:  # noqa: BLE001 - as in _launch
                if len(rows) > 1:
                    parts += _halves(rows)
                    continue
                for row in rows:
                    _log.error("request %d fails alone: %s: %s", row.request, type(error).__name__, error)
                    failed[row.request] = f"the model failed on this request ({type(error).__name__})"
        self._runner.launch(Step(step.number, (), (), step.ended)).sampled()
        return sampled, failed


def _halves(rows: tuple[Row, ...]) -> list[tuple[Row, ...]]:
    """Two, or the one row that there is."""
    middle = len(rows) // 2
    return [part for part in (rows[:middle], rows[middle:]) if part]


def _seeded(submit: Submit) -> Submit:
    """With a seed where tokens are drawn and none was given: chosen here, once, the same for every rank."""
    sampling = submit.sampling
    if sampling.seed is not None or sampling.temperature == 0:
        return submit
    seed = int.from_bytes(os.urandom(8))
    return replace(submit, sampling=replace(sampling, seed=seed))


def unusable(submit: Submit, vocab_size: int) -> str:
    """Why this request cannot be computed, or "". The server checked it before: this guards against its bugs.

    A token outside the vocabulary would fail a whole step, and on some devices the device.
    """
    wish = submit.sampling
    ids = (*submit.prompt, *wish.stop_token_ids, *wish.logit_bias)
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        return f"token ids range from {min(ids)} to {max(ids)}: expected 0 to {vocab_size - 1}"
    # NaN fails every comparison, so each range is stated as what must hold.
    ranges = {
        "temperature": (wish.temperature, 0.0 <= wish.temperature < math.inf),
        "top_p": (wish.top_p, 0.0 < wish.top_p <= 1.0),
        "min_p": (wish.min_p, 0.0 <= wish.min_p <= 1.0),
        "presence_penalty": (wish.presence_penalty, math.isfinite(wish.presence_penalty)),
        "frequency_penalty": (wish.frequency_penalty, math.isfinite(wish.frequency_penalty)),
        "repetition_penalty": (wish.repetition_penalty, 0.0 < wish.repetition_penalty < math.inf),
        "logit_bias": (wish.logit_bias, all(map(math.isfinite, wish.logit_bias.values()))),
    }
    wrong = [f"{name} is {value}" for name, (value, holds) in ranges.items() if not holds]
    return ", ".join(wrong)
