"""One HTTP request and its answer, whose bytes are handed on with the time at which they came.

Made for hundreds of streams in one process: no task wakes for a piece, the parser (httptools) is C, and the
clock is read before anything else is done. ``benchmarks/client.py`` compares.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 30.0
LONGEST_REFUSAL = 2**16  # bytes of an answer other than 200 that are kept, for its reason

Take = Callable[[bytes, float], bool]


class NoConnectionError(ConnectionError):
    """Nobody answers there, or not in time, or not with a certificate to be trusted."""


class Silence(TimeoutError):
    """The server was connected, and then brought nothing for too long."""


@dataclass(frozen=True)
class Answered:
    """How an exchange ended. ``refusal``: the body of an answer other than 200, or of its beginning."""

    status: int
    ended_s: float
    refusal: bytes = b""


class Peer:
    """A server to exchange with. Its name is looked up once, not for every connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.path = parts.path  # of the URL itself, without the slash at its end
        self._host = parts.hostname or ""
        self._name = parts.netloc.rpartition("@")[2].encode()
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._addresses: list[str] = []
        self._look_up = asyncio.Lock()

    async def post(
        self, path: str, headers: dict[str, str], body: bytes, take: Take, silence_s: float
    ) -> Answered:
        """Send ``body`` and give each piece of a 200's body to ``take``, until that says True or it ends.

        Raises NoConnectionError, Silence when nothing comes for ``silence_s``, ConnectionError when the
        answer breaks off, ValueError when it is not HTTP, and what ``take`` raises.
        """
        lines = {"Host": self._name.decode(), **headers, "Content-Length": str(len(body))}
        # One connection for each request: one kept alive may be closed by the server as it is used again.
        lines["Connection"] = "close"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        request = f"POST {self.path}{path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
        exchange = _Exchange(request, take, silence_s)
        try:
            await self._connect(exchange)
            return await exchange.ended
        finally:
            exchange.close()

    async def _connect(self, exchange: "_Exchange") -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                async with self._look_up:
                    if not self._addresses:
                        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                        self._addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
                for place, address in enumerate(self._addresses):
                    try:
                        await loop.create_connection(
                            lambda: exchange,
                            address,
                            self._port,
                            ssl=self._tls,
                            server_hostname=self._host if self._tls else None,
                        )
                    except OSError:
                        if place + 1 == len(self._addresses):
                            raise
                    else:
                        self._addresses = [address]  # the others were tried in vain
                        return
        except TimeoutError as error:
            raise NoConnectionError(f"no connection within {CONNECT_SECONDS:g} s") from error
        except OSError as error:
            raise NoConnectionError(_reason(error)) from error


def _reason(error: OSError) -> str:
    """In the system's words, as event loops have their own; numbers of look-ups and of TLS are no errno."""
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return str(error)
    return os.strerror(error.errno)


class _Exchange(asyncio.Protocol):
    """``ended``: how it went, once it has."""

    def __init__(self, request: bytes, take: Take, silence_s: float) -> None:
        self._request = request
        self._take = take
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Answered] = self._loop.create_future()
        self._parser: Any = httptools.HttpResponseParser(self)  # its callbacks are the on_* below
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._now_s = 0.0
        self._length_said = False  # else the body ends where the connection does
        self._headers_read = False
        self._refusal = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class
        self._transport.write(self._request)
        self._now_s = time.perf_counter()
        self._timer = self._loop.call_later(self._silence_s, self._watch)

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(ValueError("the server wants to go on in another protocol than HTTP"))
        except httptools.HttpParserError as error:
            self._fail(ValueError(f"the server does not speak HTTP: {error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._length_said = True

    def on_headers_complete(self) -> None:
        self._headers_read = True

    def on_body(self, piece: bytes) -> None:
        if self.ended.done():
            return
        if self._parser.get_status_code() != 200:
            self._refusal += piece[: LONGEST_REFUSAL - len(self._refusal)]
            return
        try:
            if self._take(piece, self._now_s):
                self._end()
        except Exception as error:  # noqa: BLE001  of whatever kind: the parser would only say that one came
            self._fail(error)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:  # else it announces the answer
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._headers_read and not self._length_said:
            self._end()
        where = "in the middle of" if self._headers_read else "before"
        self._fail(ConnectionResetError(str(error or f"the connection was closed {where} the answer")))

    def close(self) -> None:
        """Let go of the connection, whatever may still come."""
        self.ended.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._parser = None  # the two hold each other, and with them the prompt

    def _watch(self) -> None:
        """One timer for a stream, not one for each piece: it looks when the last one came."""
        quiet_s = time.perf_counter() - self._now_s
        if quiet_s >= self._silence_s:
            self._fail(Silence(f"nothing came for {self._silence_s:g} s"))
        else:
            self._timer = self._loop.call_later(self._silence_s - quiet_s, self._watch)

    def _end(self) -> None:
        if not self.ended.done():
            status = self._parser.get_status_code()
            self.ended.set_result(Answered(status, self._now_s, bytes(self._refusal)))

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
