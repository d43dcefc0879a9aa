"""A real server on a real loopback port, in a thread of the test, before a scripted engine."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fake_engine import FakeEngine
from model_folders import EOS, R1, small_folder, small_vocabulary

from fullbore.engine.messages import Sampling
from fullbore.server.app import create_app
from fullbore.server.auth import Keys
from fullbore.server.limits import Limits
from fullbore.server.service import Service, Settings
from fullbore.server.serving import Server, bind, uvicorn_config
from fullbore.server.tokenizer import Tokenizer

VOCABULARY = small_vocabulary()
HELLO = "hello 你好 🙂 naïve"


@cache
def tokenizer(template: str = R1) -> Tokenizer:
    with TemporaryDirectory() as folder:
        return Tokenizer.load(small_folder(Path(folder), template), VOCABULARY)


def eos() -> int:
    return next(id for id in range(VOCABULARY) if tokenizer().token_bytes(id) == EOS.encode())


def saying(text: str) -> Callable[[list[int], Sampling], list[int]]:
    """A script that answers every prompt with ``text``."""
    ids = tokenizer().encode(text)
    return lambda prompt, sampling: ids


def fake_engine(text: str = HELLO, max_model_len: int = 256) -> FakeEngine:
    return FakeEngine(saying(text), VOCABULARY, eos(), max_model_len)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Server-sent events: JSON objects, and the string [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@dataclass
class Live:
    """``loop``: the server's; call into the engine through ``call``."""

    host: str
    port: int
    service: Service
    engine: FakeEngine
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        """``body``: bytes as they are, anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"content-type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, sent, {**given, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)

    def chat(self, text: str = "hi", **fields: Any) -> Answer:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})

    def complete(self, prompt: Any = "hi", **fields: Any) -> Answer:
        return self.post("/v1/completions", {"prompt": prompt, **fields})

    def call(self, function: Callable[[], Any]) -> Any:
        async def inside() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(inside(), self.loop).result(10)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30.0) -> bool:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.002)
        return condition()

    def nothing_leaks(self, seconds: float = 30.0) -> bool:
        return self.wait_until(lambda: self.engine.open == 0 and self.service.lifecycle.open == 0, seconds)


@contextmanager
def live(
    engine: FakeEngine | None = None,
    keys: Iterable[str] = (),
    template: str = R1,
    loaded: bool = True,
    limits: Limits | None = None,
    send_buffer: int = 0,
    **settings: Any,
) -> Iterator[Live]:
    """The server without its process: no signals, no loading."""
    chosen = Settings(served=("demo", "alias"), limits=limits or Limits(), **settings)
    service = Service(replace(chosen, host=settings.get("host", "127.0.0.1")), tokenizer(template))
    secrets = Keys(keys)
    listener = bind("127.0.0.1", 0)
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # its connections inherit it
    server = Server(uvicorn_config(create_app(service, secrets), service.settings.limits))
    started: list[asyncio.AbstractEventLoop] = []
    used: list[FakeEngine] = []

    async def main() -> None:
        used.append(engine or fake_engine())
        if loaded:
            service.attach(used[0])
        started.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    while not (started and server.started):
        time.sleep(0.002)
    try:
        yield Live(
            "127.0.0.1",
            listener.getsockname()[1] if listener.fileno() >= 0 else 0,
            service,
            used[0],
            started[0],
        )
    finally:
        server.should_exit = True
        thread.join(20)
        service.close()
