"""One of several client processes: ``python -m fullbore.bench.worker FD``, started by ``bench.workers``.

Its part of the load comes on the socket FD, and its records go back there. It ends when its part is done, on
SIGTERM with what it has until then, and when its parent is gone; Ctrl-C is for the parent to judge.
"""

import asyncio
import signal
import socket
import sys
from contextlib import suppress

from fullbore.bench.client import Client
from fullbore.bench.load import Live, drive
from fullbore.bench.running import run
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
    frame,
    material_of,
    receive,
    to_worker,
)
from fullbore.errors import FullboreError
from fullbore.scenario.prompt import Session

PROGRESS_S = 0.2
AHEAD = 256  # sessions that are read before they are needed


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return run(_work(socket.socket(fileno=int(arguments[0]))))


async def _work(parent: socket.socket) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=parent)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    job = await receive(reader, to_worker)
    if not isinstance(job, Job):
        return 1
    writer.write(frame(Ready()))
    begin = await receive(reader, to_worker)
    if not isinstance(begin, Begin):
        return 1
    try:
        last: Done | Refused = await _drive(job, begin.begin_s, stop, reader, writer)
    except FullboreError as error:
        last = Refused(str(error))
    with suppress(ConnectionError):
        writer.write(frame(last))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    return 0


async def _drive(
    job: Job,
    begin_s: float,
    stop: asyncio.Event,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> Done:
    """The load of this process; every record is sent as soon as it is there, and none is kept."""
    waiting: asyncio.Queue[Session | None] = asyncio.Queue(AHEAD)
    live = Live(begin_s)
    settings = job.settings

    async def following() -> Session | None:
        session = await waiting.get()
        if session is None:
            waiting.put_nowait(None)  # for the others who wait
        return session

    async def report() -> None:
        """Until nobody is there to listen."""
        while not writer.is_closing():
            writer.write(frame(Progress(live)))
            await asyncio.sleep(PROGRESS_S)

    async def obey() -> None:
        """Until nobody is there to tell. Waits while enough is ahead."""
        while isinstance(message := await receive(reader, to_worker), Next | NoMore):
            await waiting.put(message.session if isinstance(message, Next) else None)

    async def stopped() -> None:
        await stop.wait()

    client = Client(
        settings.url, settings.api_key, settings.timeout_s, settings.endpoint, settings.extra_body
    )
    load = asyncio.create_task(
        drive(
            client,
            job.target,
            following,
            job.concurrency,
            material=material_of(job.material),
            ramp_s=job.ramp_s,
            seconds=job.seconds,
            live=live,
            begin_s=begin_s,
            keep=lambda record: writer.write(frame(Ended.of(record))),
        )
    )
    ends = [asyncio.create_task(end) for end in (report(), obey(), stopped())]
    await asyncio.wait([load, *ends], return_when=asyncio.FIRST_COMPLETED)
    load.cancel()  # which it answers with what there is; nothing happens to one that is done
    for end in ends:
        end.cancel()
    done = await load
    return Done(live, done.lag_ms, done.ended_early, done.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
