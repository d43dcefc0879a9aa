"""The load that one process puts on a server: sessions in a closed or an open loop, timed.

In a closed loop a number of sessions is in flight, and each that ends is replaced at once. In an open loop
each begins at its time, whatever is still in flight: a slow server does not slow down what is asked of it, so
nothing that it keeps waiting is left out of the figures.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from fullbore.bench.client import Client, Target
from fullbore.bench.conversation import Conversation
from fullbore.bench.lag import lag_of
from fullbore.bench.running import allow_connections
from fullbore.scenario.metrics import CANCELLED, Record, Spread
from fullbore.scenario.prompt import Material, Request, Session

HOPELESS = 8  # failures in a row, and two for each in flight, after which a server is left alone
HOPELESS_OPEN_S = 10.0  # and in an open loop so long a time: one that is overloaded refuses many at once
PREPARE_S = 0.1  # an open loop's prompts are made so long before they are due

Source = Callable[[], Awaitable[Session | None]]
Keep = Callable[[Record], None]


@dataclass
class Live:
    """What a progress display may read while a load runs."""

    started_s: float = field(default_factory=time.perf_counter)
    in_flight: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0  # one a chunk, until a request ends and says how many there were
    ttft_sum_s: float = 0.0  # over ``done - failed`` requests

    def on_sent(self) -> None:
        self.in_flight += 1

    def on_chunk(self) -> None:
        self.tokens += 1

    def on_end(self, record: Record) -> None:
        self.in_flight -= 1
        self.done += 1
        self.tokens += record.output_tokens - len(record.chunks_s)
        if record.ok:
            self.ttft_sum_s += record.ttft_s
        else:
            self.failed += 1


@dataclass(frozen=True)
class Load:
    """What a load brought. ``ended_early`` says why not every request was sent, "" when all were."""

    records: tuple[Record, ...]
    lag_ms: Spread | None  # how late this client did what was due, see ``lag_of``
    ended_early: str = ""
    interrupted: bool = False  # by the user
    failed: bool = False  # it ended early by a fault: the server's, or one of a client process

    @property
    def late_ms(self) -> Spread | None:
        """How much later than due requests were sent by this client; None where none was due at a time."""
        due = ((record.sent_s, record.due_s) for record in self.records)
        return Spread.of(max(0.0, sent_s - due_s) * 1e3 for sent_s, due_s in due if due_s is not None)


async def drive(
    client: Client,
    target: Target,
    sessions: Iterable[Session] | Source,
    concurrency: int | None,
    *,
    material: Material | None = None,
    ramp_s: float = 0.0,
    seconds: float = 0.0,
    live: Live | None = None,
    begin_s: float | None = None,
    keep: Keep | None = None,
) -> Load:
    """Run ``sessions`` to their end, or send nothing more after ``seconds`` (0: no end).

    ``concurrency``: so many sessions at a time, begun over the first ``ramp_s``; None: each at its own
    ``start_s``. ``material``: what prompts are made of (default: the target's). ``begin_s``: the load's begin
    on the clock of ``time.perf_counter``, from which ``seconds``, ``ramp_s`` and ``start_s`` count (default:
    now). ``keep``: takes each record as soon as it is there, and the result holds none.

    What is in flight at the end still finishes. A cancelled task (Ctrl-C) ends at once and returns what it
    has. Raises UsageError where so many connections may not be had.
    """
    allow_connections(concurrency or 0)
    records: list[Record] = []
    begin_s = time.perf_counter() if begin_s is None else begin_s
    source = sessions if callable(sessions) else _source(sessions)
    run = _Run(
        client,
        target,
        material or target.material,
        live or Live(),
        keep or records.append,
        begin_s,
        seconds,
        concurrency,
    )
    interrupted = False
    async with lag_of() as lag_s:
        try:
            await asyncio.sleep(begin_s - time.perf_counter())
            await (run.open(source) if concurrency is None else run.closed(source, concurrency, ramp_s))
        except asyncio.CancelledError:
            interrupted, run.ended_early = True, "interrupted"
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # the cancellation is answered here: what was measured is the answer
    lag_ms = Spread.of(lag * 1e3 for lag in lag_s)
    failed = run.hopeless and not interrupted
    return Load(tuple(records), lag_ms, run.ended_early, interrupted, failed)


def merged(loads: Iterable[Load]) -> Load:
    """Several processes' loads as one: all records in order, and the lag of the process that lagged most."""
    loads = list(loads)
    records = sorted((record for load in loads for record in load.records), key=_place)
    lags = [load.lag_ms for load in loads if load.lag_ms is not None]
    return Load(
        records=tuple(records),
        lag_ms=max(lags, key=lambda lag: (lag.p50, lag.p99), default=None),
        ended_early=next((load.ended_early for load in loads if load.ended_early), ""),
        interrupted=any(load.interrupted for load in loads),
        failed=any(load.failed for load in loads),
    )


def _place(record: Record) -> tuple[float, int]:
    return record.ended_s, record.number


def _source(sessions: Iterable[Session]) -> Source:
    waiting = iter(sessions)

    async def following() -> Session | None:
        return next(waiting, None)

    return following


class _Run:
    """One run of sessions."""

    def __init__(
        self,
        client: Client,
        target: Target,
        material: Material,
        live: Live,
        keep: Keep,
        begin_s: float,
        seconds: float,
        concurrency: int | None,
    ) -> None:
        self.ended_early = ""
        self.hopeless = False
        self._client = client
        self._target = target
        self._material = material
        self._live = live
        self._keep = keep
        self._begin_s = begin_s
        self._end_s = begin_s + seconds if seconds else float("inf")
        self._concurrency = concurrency
        self._failures_in_a_row = 0
        self._last_good_s = begin_s

    async def closed(self, source: Source, concurrency: int, ramp_s: float) -> None:
        async def slot(number: int) -> None:
            await asyncio.sleep(self._begin_s + ramp_s * number / concurrency - time.perf_counter())
            while not self._over() and (session := await source()) is not None:
                await self._converse(session, None)

        async with asyncio.TaskGroup() as slots:
            for number in range(concurrency):
                slots.create_task(slot(number))

    async def open(self, source: Source) -> None:
        async with asyncio.TaskGroup() as running:
            while (session := await source()) is not None:
                due_s = self._begin_s + (session.start_s or 0.0)
                await asyncio.sleep(min(due_s, self._end_s) - PREPARE_S - time.perf_counter())
                if self._over(due_s):
                    return
                running.create_task(self._converse(session, due_s))

    async def _converse(self, session: Session, due_s: float | None) -> None:
        """Each turn after the answer to the one before; a failed one ends it, as nothing can follow it."""
        conversation = Conversation(self._material, session, self._client.settings.chat)
        answered_s: float | None = None
        for request in session.requests:
            if answered_s is not None:
                due_s = answered_s + request.think_s if request.think_s else None
            if self._over(due_s):
                return
            record = await self._one(request, conversation, due_s)
            if not record.ok:
                return
            answered_s = record.ended_s

    async def _one(self, request: Request, conversation: Conversation, due_s: float | None) -> Record:
        sent_s: float | None = None

        def on_sent() -> None:
            nonlocal sent_s
            sent_s = time.perf_counter()
            self._live.on_sent()

        try:
            record = await self._client.complete(
                self._target,
                request,
                conversation,
                due_s=due_s,
                on_sent=on_sent,
                on_chunk=self._live.on_chunk,
            )
        except asyncio.CancelledError:
            if sent_s is not None:
                self._live.in_flight -= 1
                asked = (request.number, conversation.tokens + request.input_tokens, request.output_tokens)
                ended = Record(*asked, sent_s, time.perf_counter(), outcome=CANCELLED, due_s=due_s)
                self._keep(replace(ended, session=conversation.number, turn=conversation.turn))
            raise
        self._live.on_end(record)
        self._keep(record)
        self._judge(record)
        return record

    def _judge(self, record: Record) -> None:
        """A server that only fails is left alone."""
        if record.ok:
            self._failures_in_a_row, self._last_good_s = 0, record.ended_s
            return
        self._failures_in_a_row += 1
        in_flight = self._live.in_flight if self._concurrency is None else self._concurrency
        patience_s = HOPELESS_OPEN_S if self._concurrency is None else 0.0
        if (
            not self.hopeless
            and self._failures_in_a_row >= max(HOPELESS, 2 * in_flight)
            and record.ended_s - self._last_good_s >= patience_s
        ):
            self.hopeless = True
            self.ended_early = f"gave up after {self._failures_in_a_row} failed requests in a row"

    def _over(self, due_s: float | None = None) -> bool:
        """Whether nothing more is sent; ``due_s``: when the next one would be."""
        if not self.ended_early and (due_s or time.perf_counter()) > self._end_s:
            self.ended_early = f"no request was sent after {self._end_s - self._begin_s:g} s"
        return bool(self.ended_early)
