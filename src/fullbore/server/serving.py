"""The HTTP process from its port to its exit code: bind, load, serve, drain."""

import asyncio
import contextlib
import errno
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from fullbore.errors import CapacityError
from fullbore.server.answers import Engine
from fullbore.server.app import create_app
from fullbore.server.auth import Keys
from fullbore.server.connection import bounded_protocol
from fullbore.server.limits import Limits
from fullbore.server.service import Service

log = logging.getLogger("fullbore.server")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 2048
LAST_WORDS_S = 5.0  # for error events to reach their clients once everything was aborted

OnProgress = Callable[[int, int], None]
StartEngine = Callable[[OnProgress], Awaitable[Engine]]


@dataclass(frozen=True)
class Console:
    """What the person at the terminal sees; every call may be a no-op."""

    progress: OnProgress  # bytes done, bytes in all
    ready: Callable[[Engine], None]
    draining: Callable[[int], None]  # open requests


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is known before a model is loaded. CapacityError: it is."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CapacityError(
            f"--host {host} is no address of this machine ({error.strerror or error})"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} on {host} is in use (stop what listens there, or choose another --port)"
        elif error.errno == errno.EACCES:
            message = (
                f"port {port} on {host} needs more rights than this user has (choose --port 1024 or above)"
            )
        else:
            message = f"cannot listen on {host} port {port}: {error.strerror}"
        raise CapacityError(message) from error
    return listener


def serve(
    service: Service,
    keys: Keys,
    listener: socket.socket,
    start_engine: StartEngine,
    console: Console,
    shutdown_timeout_s: float,
) -> int:
    """Serve until told to stop; returns the exit code.

    The first SIGINT or SIGTERM drains: what runs is finished, for at most ``shutdown_timeout_s``, and new
    requests get 503; exit code 0. A second one aborts; exit code 128 + its number. An engine that cannot
    start ends this too, with its error.
    """
    _raise_file_limit()
    app = create_app(service, keys)
    config = uvicorn_config(app, service.settings.limits)
    factory = config.get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_run(service, Server(config), listener, start_engine, console, shutdown_timeout_s))


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: it would stop listening, and new requests must be told 503."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def uvicorn_config(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bounded_protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # ours, without queries
        proxy_headers=False,  # who asks decides what is allowed, so a header must not say it
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=int(LAST_WORDS_S),
    )


async def _run(
    service: Service,
    server: Server,
    listener: socket.socket,
    start_engine: StartEngine,
    console: Console,
    shutdown_timeout_s: float,
) -> int:
    told: list[signal.Signals] = []
    stop, abort = asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        told.append(number)
        (stop if len(told) == 1 else abort).set()
        service.lifecycle.drain()

    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, partial(on_signal, number))

    def progress(done: int, total: int) -> None:
        service.loaded = done / total if total else 0.0
        console.progress(done, total)

    http = asyncio.create_task(server.serve(sockets=[listener]))
    loading = asyncio.ensure_future(start_engine(progress))
    stopping = asyncio.create_task(stop.wait())
    engine: Engine | None = None
    try:
        await _first(loading, http, stopping)
        if loading.done():
            engine = loading.result()
            service.attach(engine)
            console.ready(engine)
            await _first(http, stopping)
            if stop.is_set():
                console.draining(service.lifecycle.open)
                await _drain(service, abort, shutdown_timeout_s)
        if http.done():
            http.result()  # it ends by itself only if it failed
        return 128 + told[1] if len(told) > 1 else 0
    finally:
        server.should_exit = True
        loading.cancel()
        stopping.cancel()
        await asyncio.gather(http, loading, return_exceptions=True)
        if engine is not None:
            await engine.close()
        service.close()


async def _drain(service: Service, abort: asyncio.Event, timeout_s: float) -> None:
    """Until nothing is open, the time is up, or a second signal came; what is then open is aborted."""
    drained = asyncio.create_task(service.lifecycle.drained())
    second = asyncio.create_task(abort.wait())
    await asyncio.wait({drained, second}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        log.warning("aborting %d requests that are still open", service.lifecycle.open)
        service.lifecycle.abort()
        await asyncio.wait({drained}, timeout=LAST_WORDS_S)
    for task in (drained, second):
        task.cancel()


async def _first(*tasks: "asyncio.Future[Any]") -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def _raise_file_limit() -> None:
    """Every connection is an open file; the usual soft limit of 1024 is no limit that anyone chose."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
