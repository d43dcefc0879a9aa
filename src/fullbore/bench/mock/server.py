"""The mock server on a port: bind, serve, and end at Ctrl-C."""

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fullbore.bench import running
from fullbore.bench.mock.alarm import Alarm
from fullbore.bench.mock.connection import Connection
from fullbore.bench.mock.question import Limits
from fullbore.bench.mock.service import Service
from fullbore.bench.mock.timing import Timing
from fullbore.errors import CapacityError

BACKLOG = 4096
# Chunks written in a row: what is written goes out only when the event loop has its turn again.
BATCH = 16


@dataclass(frozen=True)
class Options:
    """Where the server listens, what it says it serves, and how long it takes."""

    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    port: int = 8000  # 0: a free one
    remember: int = 0  # requests that GET /records shows


def serve(options: Options, on_ready: Callable[[str], None]) -> Service:
    """Serve until SIGINT or SIGTERM. ``on_ready`` gets the URL. CapacityError: the port cannot be had."""
    return running.run(_serve(options, on_ready))


async def _serve(options: Options, on_ready: Callable[[str], None]) -> Service:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    alarm = Alarm(loop, lambda: service.work(BATCH))
    service = Service(options.timing, options.limits, time.perf_counter, alarm.set, options.remember)
    connections: set[Connection] = set()
    try:
        server = await loop.create_server(
            lambda: Connection(service, connections), options.host, options.port, backlog=BACKLOG
        )
    except OSError as error:
        raise CapacityError(_cannot_listen(options, error)) from error
    on_ready(_url(options.host, server.sockets[0]))
    await stop.wait()
    server.close()
    for connection in list(connections):
        connection.hang_up()
    alarm.close()
    return service


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cannot_listen(options: Options, error: OSError) -> str:
    where = f"--host {options.host} --port {options.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use (stop what listens there, or choose another; 0 finds a free one)"
    if error.errno == errno.EACCES:
        return f"{where}: the port needs more rights than this user has (choose 1024 or above)"
    return f"{where}: cannot listen there: {error.strerror or error}"
