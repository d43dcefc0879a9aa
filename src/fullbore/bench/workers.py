"""A load driven by several client processes at once, where one could not read all that comes in time.

Each has its share of the places and of the sessions, and all begin at the same moment of the clock that they
share. The union of requests is the same for any number of processes, as the parent draws them all.
"""

import asyncio
import math
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from typing import IO

from fullbore.bench.client import Client, Target
from fullbore.bench.load import Live, Load, drive, merged
from fullbore.bench.worker_messages import (
    Begin,
    Done,
    Ended,
    Job,
    Next,
    NoMore,
    Progress,
    Ready,
    Refused,
    ToWorker,
    described,
    frame,
    from_worker,
    receive,
)
from fullbore.errors import FullboreError
from fullbore.hardware.limits import usable_cores
from fullbore.scenario.metrics import Record
from fullbore.scenario.prompt import Material, Session

STREAMS = 512  # that one process reads without lagging
START_S = 60.0  # within which a process must be ready
LEAD_S = 0.05  # from the last one's readiness to the load's begin
STOP_S = 10.0  # for ending after it was told to
LONGEST_COMPLAINT = 500  # characters of what a process said as it died


def processes_for(concurrency: int | None) -> int:
    """One for each ``STREAMS`` in flight, but no more than there are cores; one where that is not known."""
    return max(1, min(math.ceil((concurrency or 1) / STREAMS), usable_cores()))


async def drive_across(
    processes: int,
    client: Client,
    target: Target,
    sessions: Iterable[Session],
    concurrency: int | None,
    *,
    material: Material | None = None,
    ramp_s: float = 0.0,
    seconds: float = 0.0,
    live: Live | None = None,
) -> Load:
    """As ``load.drive``, with the load shared out to so many processes (0: as ``processes_for`` says).

    Raises FullboreError when they do not start. One that dies later ends the load early; what the others
    measured until then is kept, and so is what it sent before.
    """
    processes = min(processes or processes_for(concurrency), concurrency or processes)
    if processes <= 1:
        return await drive(
            client,
            target,
            sessions,
            concurrency,
            material=material,
            ramp_s=ramp_s,
            seconds=seconds,
            live=live,
        )
    live = live or Live()
    job = Job(client.settings, target, described(material or target.material), concurrency, ramp_s, seconds)
    async with _started(job, processes) as workers:
        live.started_s = time.perf_counter() + LEAD_S
        for worker in workers:  # their places begin in turns
            worker.tell(Begin(live.started_s + ramp_s * worker.number / (concurrency or 1)))
        return await _gather(workers, sessions, live)


@dataclass(eq=False)
class _Worker:
    """One process, and what it has said so far."""

    number: int
    process: "subprocess.Popen[bytes]"
    complaint: IO[bytes]  # its standard error
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    records: list[Record] = field(default_factory=list)
    live: Live = field(default_factory=Live)
    done: Done | None = None

    def tell(self, message: ToWorker) -> None:
        if not self.writer.is_closing():
            self.writer.write(frame(message))

    async def listen(self, heard: Callable[[], None]) -> None:
        """Until it is done. Raises FullboreError when it ends otherwise."""
        while (message := await receive(self.reader, from_worker)) is not None:
            if isinstance(message, Ended):
                self.records.append(message.whole())
            elif isinstance(message, Progress | Done):
                self.live = message.live
                heard()
            if isinstance(message, Refused):
                raise FullboreError(message.reason)
            if isinstance(message, Done):
                self.done = message
                return
        raise FullboreError(await self.death())

    async def death(self) -> str:
        """What is known about why it is gone."""
        code = await asyncio.to_thread(_ended, self.process)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self.complaint.seek(0)
        words = self.complaint.read().decode("utf-8", "replace").split()
        why = f": {' '.join(words)[-LONGEST_COMPLAINT:]}" if words else ""
        return f"client process {self.number + 1} {how}; what it had in flight is lost{why}"

    def load(self) -> Load:
        done = self.done or Done(self.live, None, "", False)
        return Load(tuple(self.records), done.lag_ms, done.ended_early, failed=done.failed)


async def _gather(workers: Sequence[_Worker], sessions: Iterable[Session], live: Live) -> Load:
    """Deal ``sessions`` out in turns, and hear what comes of them."""

    def sum_up() -> None:
        for each in fields(Live)[1:]:  # all but the begin, which they share
            setattr(live, each.name, sum(getattr(worker.live, each.name) for worker in workers))

    dealing = asyncio.create_task(_deal(workers, sessions))
    listening = [asyncio.create_task(worker.listen(sum_up)) for worker in workers]

    def end_with(task: "asyncio.Task[None]") -> None:
        """Workers would wait for ever for what cannot be dealt; ``await dealing`` then says why."""
        if not task.cancelled() and task.exception() is not None:
            for each in listening:
                each.cancel()

    dealing.add_done_callback(end_with)
    ended_early, interrupted = "", False
    try:
        await asyncio.wait(listening, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        interrupted, ended_early = True, "interrupted"
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()  # as in ``drive``
    dealing.cancel()
    with suppress(asyncio.CancelledError):
        await dealing
    for worker in workers:
        worker.process.terminate()  # not a message, which would wait behind the sessions; no matter if done
    _, hung = await asyncio.wait(listening, timeout=STOP_S)
    for each in hung:
        each.cancel()
    problems = [str(each.exception()) for each in listening if each not in hung and each.exception()]
    if problems and not any(worker.records for worker in workers):
        raise FullboreError(problems[0])
    load = merged(worker.load() for worker in workers)
    if not interrupted and not problems:
        return load
    return replace(
        load,
        ended_early=ended_early or problems[0],
        interrupted=interrupted,
        failed=not interrupted,
    )


async def _deal(workers: Sequence[_Worker], sessions: Iterable[Session]) -> None:
    """Waits while a worker has enough ahead. One that is gone or done takes nothing more."""
    for number, session in enumerate(sessions):
        worker = workers[number % len(workers)]
        with suppress(ConnectionError):
            worker.tell(Next(session))
            await worker.writer.drain()
    for worker in workers:
        worker.tell(NoMore())


@asynccontextmanager
async def _started(job: Job, processes: int) -> AsyncIterator[list[_Worker]]:
    """All ready; none is left running when the context ends."""
    workers: list[_Worker] = []
    try:
        for number in range(processes):
            workers.append(await _start(number))
        for worker in workers:
            share = job.concurrency and _share(job.concurrency, processes, worker.number)
            worker.tell(Job(job.settings, job.target, job.material, share, job.ramp_s, job.seconds))
        try:
            async with asyncio.timeout(START_S):
                for worker in workers:
                    greeting = await receive(worker.reader, from_worker)
                    if not isinstance(greeting, Ready):
                        raise FullboreError(await worker.death())
        except TimeoutError as error:
            raise FullboreError(
                f"{processes} client processes were not ready within {START_S:g} s; use fewer --processes"
            ) from error
        yield workers
    finally:
        for worker in workers:
            worker.writer.close()  # on which it ends, if it has not yet
        for worker in workers:
            await asyncio.to_thread(_ended, worker.process)
            worker.complaint.close()


async def _start(number: int) -> _Worker:
    ours, theirs = socket.socketpair()
    complaint = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "fullbore.bench.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=complaint,
            stderr=complaint,
            pass_fds=(theirs.fileno(),),
            process_group=0,  # Ctrl-C in a terminal is for this process alone
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return _Worker(number, process, complaint, reader, writer)


def _share(whole: int, parts: int, number: int) -> int:
    return whole // parts + (number < whole % parts)


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Its exit code; it is killed if it does not come to its end by itself."""
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
