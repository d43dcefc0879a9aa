"""The HTTP process's handle on the engine process: requests go in, their tokens come out, step by step.

Every request is an asynchronous iterator; leaving it early, by break, cancellation or an error, aborts the
request in the engine. When the engine dies or falls silent, every open iterator ends with an error event and
a new engine is started. No torch.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from fullbore.engine.messages import (
    Abort,
    Command,
    Emitted,
    FlushCache,
    Outputs,
    Ready,
    Report,
    Sampling,
    Shutdown,
    Stats,
    Submit,
)
from fullbore.engine.options import EngineOptions
from fullbore.engine.supervised import PROGRAM, TICK_S, EngineProcess, Pulse
from fullbore.errors import CapacityError, FullboreError

START_ATTEMPTS = 5  # in a row, after which the engine stays down
_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 30.0
_STEADY_S = 60.0  # an engine that lived this long is worth an immediate restart
_CLOSE_S = 5.0
_UNREAD = 1024  # events that wait for one reader before its request is given up
_log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
Stream = asyncio.Queue[Emitted]


class EngineClient:
    """Made by ``start``, ended by ``close``; for use within one event loop.

    ``ready``: what the engine said of itself. ``stats``: its latest. ``alive``: it takes requests.
    ``last_progress``: ``time.monotonic()`` of the last report that showed a step or had no work, so that a
    growing distance to now means work that does not move. ``failure``: why the engine stays down, or "".
    """

    def __init__(
        self,
        options: EngineOptions,
        on_progress: OnProgress | None,
        hang_s: float,
        program: Sequence[str],
        unread: int,
    ) -> None:
        self._options = options
        self._on_progress = on_progress
        self._hang_s = hang_s
        self._program = program
        self._unread = unread
        self._engine: EngineProcess | None = None
        self._open: dict[int, Stream] = {}
        self._numbered = 0
        self._closing = False
        self._supervisor: asyncio.Task[None] | None = None
        self._dropped = 0  # messages of engines that are gone
        self._stats = Stats()
        self._ready: Ready | None = None
        self.alive = False
        self.last_progress = time.monotonic()
        self.restarts = 0
        self.failure = ""

    @classmethod
    async def start(
        cls,
        options: EngineOptions,
        on_progress: OnProgress | None = None,
        *,
        hang_s: float = 120.0,
        program: Sequence[str] = PROGRAM,
        unread: int = _UNREAD,
    ) -> "EngineClient":
        """Start the engine process and wait until its model is loaded; ``on_progress(done, total)`` in bytes.

        An engine without any report for ``hang_s`` seconds is killed and started anew; it must exceed the
        longest step. Raises EngineStartError (a FullboreError) with the engine's own words.
        """
        client = cls(options, on_progress, hang_s, program, unread)
        await client._launch()
        client._supervisor = asyncio.create_task(client._supervise(), name="engine supervisor")
        return client

    @property
    def ready(self) -> Ready:
        if self._ready is None:
            raise CapacityError("the engine has not started")
        return self._ready

    @property
    def stats(self) -> Stats:
        """The engine's latest, with the messages that this side had to drop."""
        dropped = self._dropped + (self._engine.wire.dropped if self._engine else 0)
        return msgspec.structs.replace(self._stats, dropped_messages=self._stats.dropped_messages + dropped)

    @property
    def pid(self) -> int:
        """Of the engine process; 0 while there is none."""
        return self._engine.pid if self._engine else 0

    async def generate(
        self, prompt: list[int], max_tokens: int, sampling: Sampling, salt: str = ""
    ) -> AsyncGenerator[Emitted, None]:
        """The request's events; the last one has ``finish`` set. Nothing is sent before one is asked for.

        CapacityError when the engine is down. A reader that falls too many events behind gets those that wait
        and then ``abort``. Use ``contextlib.aclosing`` so that leaving early aborts at once.
        """
        if not self.alive:
            raise CapacityError(
                f"the engine is down: {self.failure}" if self.failure else "engine is restarting (try again)"
            )
        self._numbered += 1
        request = self._numbered
        stream = self._open[request] = Stream()
        try:
            self._send(Submit(request, prompt, max_tokens, sampling, salt))
            while True:
                event = await stream.get()
                yield event
                if event.finish:
                    return
        finally:
            if self._open.pop(request, None) is not None:
                self._send(Abort(request))

    async def flush(self) -> None:
        """Forget every unused prefix; requests made after this call see it done."""
        self._send(FlushCache())

    async def close(self) -> None:
        """End the engine: unfinished requests get ``abort``. Returns when the process is gone; idempotent."""
        self._closing = True
        supervisor = self._supervisor
        if supervisor is not None and not supervisor.done():
            self._send(Shutdown())
            await asyncio.wait({supervisor}, timeout=_CLOSE_S if self.alive else 0.0)
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor

    def _send(self, command: Command) -> None:
        if self._engine is not None and not self._engine.wire.send(command):
            _log.error("the engine has left too many messages unread; it is killed")
            self._engine.kill()

    async def _launch(self) -> None:
        """A process with a loaded model, or EngineStartError and none."""
        self._engine = EngineProcess(self._options, self._program)
        try:
            self._ready = await self._engine.become_ready(self._on_progress)
        except BaseException:
            await self._discard("error", "engine died")
            raise
        self._stats = Stats(pages_total=self._ready.pages)
        self.last_progress = time.monotonic()
        self.alive = not self._closing

    async def _discard(self, finish: str, error: str) -> None:
        """The engine is gone, or goes now; every open request ends with this."""
        self.alive = False
        self._stats = msgspec.structs.replace(self._stats, running=0, waiting=0, pages_used=0)
        streams, self._open = self._open, {}
        for request, stream in streams.items():
            stream.put_nowait(Emitted(request, -1, finish, error=error))
        engine, self._engine = self._engine, None
        if engine is not None:
            self._dropped += engine.wire.dropped
            await engine.destroy()

    async def _supervise(self) -> None:
        """Keep an engine running until ``close`` is called or there is no use; then nothing is left of it."""
        try:
            await self._keep_running()
        finally:
            if self._closing:
                await self._discard("abort", "the server was shut down")
            else:
                await self._discard("error", "engine died")

    async def _keep_running(self) -> None:
        backoff_s = _BACKOFF_S
        while True:
            born = time.monotonic()
            reason = await self._serve()
            if self._closing:
                return
            _log.error("the engine process %s; %d requests are lost", reason, len(self._open))
            await self._discard("error", "engine died")
            if time.monotonic() - born >= _STEADY_S:
                backoff_s = _BACKOFF_S
            for attempt in range(1, START_ATTEMPTS + 1):
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
                try:
                    await self._launch()
                except (FullboreError, OSError) as error:
                    _log.error("start %d of %d of a new engine failed: %s", attempt, START_ATTEMPTS, error)
                    reason = str(error)
                else:
                    self.restarts += 1
                    break
            else:
                self.failure = f"{START_ATTEMPTS} starts failed, the last because {reason}"
                return

    async def _serve(self) -> str:
        """Deliver reports until the engine is gone; how it ended."""
        engine = self._engine
        if engine is None:
            return "was never started"
        pulse = Pulse(self._hang_s)
        while True:
            ended = engine.ended
            reports = await engine.wire.receive(TICK_S)
            for report in reports:
                self._deliver(report)
            if reports:
                pulse.heard()
            elif ended:
                return engine.ending
            elif pulse.is_lost():
                engine.kill()
                return f"gave no sign of life for {self._hang_s:g} s and was killed"

    def _deliver(self, report: Report) -> None:
        if not isinstance(report, Outputs):
            return
        for event in report.events:
            stream = self._open.get(event.request)
            if stream is None:
                continue
            stream.put_nowait(event)
            if event.finish:
                del self._open[event.request]
            elif stream.qsize() > self._unread:
                del self._open[event.request]
                self._send(Abort(event.request))
                behind = f"its reader fell {self._unread} events behind"
                stream.put_nowait(Emitted(event.request, -1, "abort", error=behind))
        stats = report.stats
        if stats.steps != self._stats.steps or not (stats.running or stats.waiting):
            self.last_progress = time.monotonic()
        self._stats = stats
