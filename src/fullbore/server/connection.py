"""A TCP connection that speaks HTTP within limits: size, number and time of a request's headers.

uvicorn with httptools has no such limits of its own. The application finds ``fullbore.abort`` in the scope's
extensions: it drops the connection together with what is still unsent.

A request may offer another protocol (Java's client offers h2c with its first one). It is answered in this
one, and has a body like any other, which the parser would leave to the other protocol.
"""

import asyncio
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fullbore.server.errors import ApiError
from fullbore.server.limits import Limits


class HeadersRefused(Exception):
    """Stops the parser; ``ApiError`` says why."""


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn, with these limits."""

    class BoundedProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._refusal: ApiError | None = None
            self._timer: asyncio.TimerHandle | None = None
            self._in_head = False
            self._fed = b""  # what the parser was given last
            self._head_bytes = 0  # that the parser was fed since the head began
            self._header_bytes = 0  # of complete headers
            self._resuming = False  # the parser is told again how long the body is
            self._unparsed = b""  # what follows the head of a request that offered another protocol

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            while data:
                self._unparsed, self._fed = b"", data
                super().data_received(data)
                data = self._unparsed
            if self._in_head:
                self._head_bytes += len(self._fed)
                if self._head_bytes > limits.header_bytes and not self.transport.is_closing():
                    self._refuse(_too_large(limits))

        def _unsupported_upgrade_warning(self) -> None:
            """Called while the parser's exception is handled: it says where the head ends."""
            upgrade = sys.exception()
            if not isinstance(upgrade, httptools.HttpParserUpgrade):
                return
            self._unparsed = self._fed[upgrade.args[0] :]
            framing = [line for line in self.headers if line[0] in (b"content-length", b"transfer-encoding")]
            head = b"".join(b"%b: %b\r\n" % line for line in framing)
            self.parser = httptools.HttpRequestParser(self)
            self._resuming = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + head + b"\r\n")
            self._resuming = False

        def on_message_begin(self) -> None:
            if self._resuming:
                return
            super().on_message_begin()
            self.scope["extensions"] = {"fullbore.abort": self.transport.abort}  # type: ignore[dict-item]
            self._in_head = True
            self._head_bytes = 0
            self._header_bytes = 0
            self._start_timer()

        def on_url(self, url: bytes) -> None:
            if self._resuming:
                return
            super().on_url(url)
            self._count(len(url))

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._resuming:
                return
            super().on_header(name, value)
            self._count(len(name) + len(value))

        def on_headers_complete(self) -> None:
            if self._resuming:
                return
            self._in_head = False
            self._stop_timer()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            if not self.parser.should_upgrade():  # else its body is still to come
                super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            refusal = self._refusal
            self._refuse(refusal or ApiError(400, msg, code="invalid_http"))

        def _count(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > limits.header_bytes or len(self.headers) > limits.headers:
                self._refusal = _too_large(limits)
                raise HeadersRefused(self._refusal.message)

        def _start_timer(self) -> None:
            self._stop_timer()
            self._timer = self.loop.call_later(limits.header_timeout_s, self._late)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            message = f"the request's headers did not arrive within {limits.header_timeout_s:g} s"
            self._refuse(ApiError(408, message, kind="timeout_error", code="header_timeout"))

        def _refuse(self, error: ApiError) -> None:
            self._stop_timer()
            self._in_head = False
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete:  # else it would land inside another answer
                body = error.encode()
                head = STATUS_LINE[error.status] + (
                    f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                    "connection: close\r\n\r\n"
                ).encode("ascii")
                self.transport.write(head + body)
            self.transport.close()

    return BoundedProtocol


def _too_large(limits: Limits) -> ApiError:
    message = f"the headers are larger than {limits.header_bytes} bytes or more than {limits.headers}"
    return ApiError(431, message, code="headers_too_large")
