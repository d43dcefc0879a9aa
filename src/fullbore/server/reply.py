"""Sends generated answers: as server-sent events or as one JSON object, until done, gone, late or failed."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fullbore.server.answers import Answers, SlowReader, Usage
from fullbore.server.choice import Piece, join
from fullbore.server.errors import ApiError, deadline_exceeded, failed
from fullbore.server.lifecycle import Lifecycle
from fullbore.server.limits import Limits

log = logging.getLogger("fullbore.server")
DONE = b"data: [DONE]\n\n"


class Format(Protocol):
    """How one endpoint writes its answers."""

    def chunks(self, piece: Piece) -> list[dict[str, object]]: ...
    def usage_chunk(self, usage: Usage) -> dict[str, object]: ...
    def whole(self, pieces: list[Piece], usage: Usage) -> dict[str, object]: ...


class Reply(Response):
    """An HTTP answer that is generated while it is sent.

    Nothing is sent before the first token, so that a refusal or a deadline before it has its own status.
    Whatever happens, the engine's requests have ended when the call returns.
    """

    def __init__(
        self,
        make: Callable[[], Answers],
        form: Format,
        stream: bool,
        include_usage: bool,
        lifecycle: Lifecycle,
        limits: Limits,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers=dict(headers))
        self._make = make
        self._form = form
        self._stream = stream
        self._include_usage = include_usage
        self._lifecycle = lifecycle
        self._limits = limits
        self._extra = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._began = False
        self._sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = self._make()
        self._lifecycle.entered(answers)
        try:
            async with answers:
                work = asyncio.create_task(self._work(answers, send))
                gone = asyncio.create_task(_gone(receive))
                try:
                    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (work, gone):
                        task.cancel()
                    await asyncio.gather(work, gone, return_exceptions=True)
                if not work.cancelled():
                    work.result()
        except SlowReader as error:
            log.warning("request aborted: %s", error)
            abort = scope.get("extensions", {}).get("fullbore.abort")
            if abort is not None:
                abort()
        finally:
            self._lifecycle.left(answers)

    async def _work(self, answers: Answers, send: Send) -> None:
        limit_s = self._limits.request_timeout_s
        try:
            async with asyncio.timeout(limit_s or None):
                await (self._events(answers, send) if self._stream else self._object(answers, send))
        except TimeoutError:
            await self._fail(deadline_exceeded(limit_s, self._began), send)
        except ApiError as error:
            await self._fail(error, send)
        except SlowReader:
            raise
        except Exception as error:
            log.error("request failed", exc_info=error)
            await self._fail(failed(f"the request failed in the server: {type(error).__name__}"), send)

    async def _events(self, answers: Answers, send: Send) -> None:
        async for batch in answers.batches():
            self._began = True
            chunks = [chunk for piece in batch for chunk in self._form.chunks(piece)]
            if chunks:
                await self._send_events(b"".join(map(_event, chunks)), send)
        last = _event(self._form.usage_chunk(answers.usage())) if self._include_usage else b""
        await self._send_events(last + DONE, send, more=False)

    async def _object(self, answers: Answers, send: Send) -> None:
        pieces: dict[int, list[Piece]] = {}
        async for batch in answers.batches():
            self._began = True
            for piece in batch:
                pieces.setdefault(piece.index, []).append(piece)
        joined = [join(pieces[index]) for index in sorted(pieces)]
        body = msgspec.json.encode(self._form.whole(joined, answers.usage()))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self._sending = True
        await self._put(
            send, {"type": "http.response.start", "status": 200, "headers": headers + self._extra}
        )
        await self._put(send, {"type": "http.response.body", "body": body})

    async def _send_events(self, data: bytes, send: Send, more: bool = True) -> None:
        if not self._sending:
            self._sending = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),  # or a proxy may hold the events back
            ]
            await self._put(
                send, {"type": "http.response.start", "status": 200, "headers": headers + self._extra}
            )
        await self._put(send, {"type": "http.response.body", "body": data, "more_body": more})

    async def _fail(self, error: ApiError, send: Send) -> None:
        """As a status while that can be chosen, else as an event that OpenAI's clients raise."""
        if not self._sending:
            raise error
        if self._stream:
            await self._send_events(_event(error.envelope()) + DONE, send, more=False)

    async def _put(self, send: Send, message: dict[str, object]) -> None:
        """``send`` waits while the connection's buffer is full, so a wait is a reader that takes nothing."""
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                await send(message)
        except TimeoutError as error:
            raise SlowReader(f"the reader took nothing for {self._limits.send_timeout_s:g} s") from error


def _event(chunk: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


async def _gone(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
