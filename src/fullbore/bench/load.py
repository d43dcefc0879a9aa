"""The load: a closed loop of requests on one server, timed, with the client's own lag beside it."""

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from fullbore.bench.client import Client, Target
from fullbore.scenario.metrics import CANCELLED, Record, Spread
from fullbore.scenario.prompt import Request, Session

LAG_SAMPLE_S = 0.01
HOPELESS = 8  # failures in a row, and two a slot, after which a server is left alone


@dataclass
class Live:
    """What a progress display may read while a load runs."""

    started_s: float = field(default_factory=time.perf_counter)
    in_flight: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0  # one a chunk, until a request ends and says how many there were
    ttft_sum_s: float = 0.0  # over ``done - failed`` requests

    def on_chunk(self) -> None:
        self.tokens += 1


@dataclass(frozen=True)
class Load:
    """What one closed loop brought. ``ended_early`` says why not every request was sent, "" when all were."""

    records: tuple[Record, ...]
    lag_ms: Spread | None
    ended_early: str = ""
    interrupted: bool = False  # by the user


async def closed_loop(
    client: Client,
    target: Target,
    sessions: Iterable[Session],
    concurrency: int,
    *,
    seconds: float = 0.0,
    live: Live | None = None,
) -> Load:
    """Keep ``concurrency`` sessions in flight until ``sessions`` are used up or ``seconds`` (0: no end) pass.

    What is in flight then still finishes. A cancelled task (Ctrl-C) ends at once and returns what it has.
    """
    live = live or Live()
    waiting = iter(sessions)
    records: list[Record] = []
    failures_in_a_row = 0
    ended_early = ""

    async def slot() -> None:
        nonlocal failures_in_a_row, ended_early
        while not ended_early:
            if seconds and time.perf_counter() - live.started_s > seconds:
                ended_early = f"no request was sent after {seconds:g} s"
                return
            session = next(waiting, None)
            if session is None:
                return
            for request in session.requests:
                record = await _one(client, target, request, live, records)
                failures_in_a_row = 0 if record.ok else failures_in_a_row + 1
                if failures_in_a_row == max(HOPELESS, 2 * concurrency):
                    ended_early = f"gave up after {failures_in_a_row} failed requests in a row"

    async with _lag() as lag_s:
        slots = [asyncio.create_task(slot()) for _ in range(concurrency)]
        interrupted = False
        try:
            await asyncio.gather(*slots)
        except asyncio.CancelledError:
            interrupted, ended_early = True, "interrupted"
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # the cancellation is answered here: what was measured is the answer
        finally:
            for each in slots:
                each.cancel()
            await asyncio.gather(*slots, return_exceptions=True)
    return Load(tuple(records), Spread.of(lag * 1e3 for lag in lag_s), ended_early, interrupted)


async def _one(client: Client, target: Target, request: Request, live: Live, records: list[Record]) -> Record:
    live.in_flight += 1
    sent_s = time.perf_counter()
    try:
        record = await client.complete(target, request, live.on_chunk)
    except asyncio.CancelledError:
        asked = (request.number, request.input_tokens, request.output_tokens)
        records.append(Record(*asked, sent_s, time.perf_counter(), outcome=CANCELLED))
        raise
    finally:
        live.in_flight -= 1
    records.append(record)
    live.done += 1
    live.tokens += record.output_tokens - len(record.chunks_s)
    if record.ok:
        live.ttft_sum_s += record.ttft_s
    else:
        live.failed += 1
    return record


@asynccontextmanager
async def _lag() -> AsyncIterator["array[float]"]:
    """How late this process wakes up for what was due, in seconds, sampled for as long as the context lasts.

    Every figure is at most about this much too late, since a chunk waits as long as a timer does.
    """
    samples = array("d")

    async def sample() -> None:
        due_s = time.perf_counter() + LAG_SAMPLE_S
        while True:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            now_s = time.perf_counter()
            samples.append(max(0.0, now_s - due_s))
            due_s = now_s + LAG_SAMPLE_S

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
