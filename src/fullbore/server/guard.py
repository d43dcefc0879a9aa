"""What every request passes before its route: a request id, the Host header, the key, and the access log.

The log names the path without its query and never a header or a body.
"""

import logging
import time
import uuid
from collections.abc import Collection
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fullbore.server.auth import Keys
from fullbore.server.errors import ApiError, failed
from fullbore.server.limits import Limits

log = logging.getLogger("fullbore.access")
errors_log = logging.getLogger("fullbore.server")
OPEN_PATHS = frozenset(("/health", "/ready", "/ping"))  # what an orchestrator polls without a key


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or address) is this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class HostCheck:
    """Against DNS rebinding: a web page may point its own name at this machine, and then read our answers.

    Only a server bound to loopback is checked; others are reached under names that it cannot know.
    """

    def __init__(self, bound: str, allowed: Collection[str] = ()) -> None:
        self._checked = is_loopback(bound)
        self._allowed = {name.lower() for name in allowed}

    def check(self, header: bytes | None) -> None:
        if not self._checked:
            return
        name = _host_name((header or b"").decode("latin-1"))
        if not is_loopback(name) and name not in self._allowed:
            message = (
                f"the Host header names {name[:100]!r}, expected localhost or a loopback address, as this "
                "server is bound to loopback (use --host to serve other names)"
            )
            raise ApiError(403, message, kind="permission_error", code="host_not_allowed")


def _host_name(header: str) -> str:
    """The name in ``name``, ``name:port``, ``[v6]`` or ``[v6]:port``."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header


class Guard:
    """Outermost ASGI application."""

    def __init__(self, app: ASGIApp, hosts: HostCheck, limits: Limits) -> None:
        self._app = app
        self._hosts = hosts
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"), self._limits)
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        status = 0

        async def send_labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                labelled = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": labelled}
            await send(message)

        try:
            self._hosts.check(headers.get(b"host"))
            await self._app(scope, receive, send_labelled)
        except ApiError as error:
            await send_error(error, send_labelled)
        except Exception as error:  # noqa: BLE001 - the last line: no fault of one request ends the server
            errors_log.error("unexpected error, request %s", request_id, exc_info=error)
            if not status:
                message = f"the server failed on this request: {type(error).__name__}"
                await send_error(failed(message), send_labelled)
        finally:
            path = scope.get("raw_path", b"").partition(b"?")[0][:200].decode("latin-1")
            client = (scope.get("client") or ("-",))[0]
            shown = status or "gone"
            seconds = time.monotonic() - began
            level = (
                logging.DEBUG if scope["path"] in OPEN_PATHS else logging.INFO
            )  # polls would drown the rest
            log.log(level, "%s %s %s %s %.3fs %s", client, scope["method"], path, shown, seconds, request_id)


class KeyCheck:
    """Asks for a key on every path but the few that an orchestrator polls."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._keys.check(dict(scope["headers"]).get(b"authorization"))
            except ApiError as error:
                await send_error(error, send)
                return
        await self._app(scope, receive, send)


async def send_error(error: ApiError, send: Send) -> None:
    body = error.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(header: bytes | None, limits: Limits) -> str:
    """The client's own, if it can be repeated in a header and a log; else a fresh one."""
    if header and len(header) <= limits.name_chars:
        text = header.decode("latin-1")
        if text.isascii() and text.isprintable() and " " not in text:
            return text
    return f"req-{uuid.uuid4().hex}"
