"""One HTTP/1.1 connection of the mock server: requests one after the other."""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from fullbore.bench.mock.service import Service
from fullbore.bench.mock.wire import error_response

MOST_BODY = 64 * 2**20  # bytes
MOST_UNSENT = 64 * 2**20  # bytes that wait for a client to read them
ROUTES = {"/v1/completions": False, "/v1/chat/completions": True}  # whether it is chat


class Connection(asyncio.Protocol):
    """Parses what comes and hands whole requests to the service. Most methods are httptools' callbacks."""

    def __init__(self, service: Service, open_connections: set["Connection"]) -> None:
        self._service, self._open = service, open_connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._cancel: Callable[[], None] | None = None
        self._answering = False
        self._keep = True
        self._url = b""
        self._body: list[bytes] = []
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MOST_UNSENT)
        self._open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "another protocol was offered; expected plain HTTP/1.1")
        except httptools.HttpParserError as problem:
            self._refuse(400, f"that is no HTTP request: {problem}")

    def pause_writing(self) -> None:
        """Called at ``MOST_UNSENT``: a client that reads nothing gets no more; times do not wait for it."""
        self.hang_up()

    def hang_up(self) -> None:
        """Drop the connection, with what is unsent."""
        if self._transport is not None:
            self._transport.abort()

    def on_message_begin(self) -> None:
        self._url, self._body, self._body_bytes = b"", [], 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect" and value.lower() == b"100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= MOST_BODY:
            self._body.append(body)
        else:
            self._body.clear()

    def on_message_complete(self) -> None:
        if self._answering:  # a second request before the first was answered: no client of ours does that
            self.hang_up()
            return
        self._answering = True
        self._keep = self._parser.should_keep_alive()
        method = self._parser.get_method()
        path = self._url.split(b"?", 1)[0].decode("latin-1")
        if self._body_bytes > MOST_BODY:
            self._refuse(413, f"the body has {self._body_bytes} bytes, expected at most {MOST_BODY}")
        elif path in ROUTES and method == b"POST":
            body, self._body = b"".join(self._body), []
            chat = ROUTES[path]
            # A method on its own would be set before the answer is complete, and then never be cleared.
            cancel = self._service.complete(body, chat, self._write, self._done, self.hang_up)
            self._cancel = cancel if self._answering else None
        elif path in ROUTES or method != b"GET":
            self._write(error_response(405, f"{path[:200]!r} does not take {method.decode('latin-1')}"))
            self._done()
        else:
            self._write(self._service.get(path))
            self._done()

    def _refuse(self, status: int, message: str) -> None:
        self._keep = False
        self._write(error_response(status, message, "Connection: close\r\n"))
        self._done()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _done(self) -> None:
        self._answering, self._cancel = False, None
        if not self._keep and self._transport is not None:
            self._transport.close()
