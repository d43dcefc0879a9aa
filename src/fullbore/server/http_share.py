"""What the HTTP process spends on a request and on each of its tokens, in CPU time of one core.

Everything is as in service but the engine, whose steps take no work, and clients that only read. They live in
a thread of their own, whose time is not counted. ``python -m fullbore.server.http_share MODEL`` prints one
JSON object: ``{"request_us": ..., "token_us": ...}``; the planner asks so.
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException

import msgspec

from fullbore.engine.messages import Emitted, Outputs, Ready, Sampling, Stats
from fullbore.errors import FullboreError
from fullbore.model.config import load_config
from fullbore.model.locate import locate
from fullbore.server.app import create_app
from fullbore.server.auth import Keys
from fullbore.server.service import Service, Settings
from fullbore.server.serving import Server, bind, uvicorn_config
from fullbore.server.tokenizer import Tokenizer

STREAMS, PROMPT, FEW, MANY = 16, 100, 8, 72  # requests at once, tokens of each, of an answer
STEP_S = 0.002  # between two steps, so that every token is sent by itself
_TURNS = 3  # of which the least counts


@dataclass(frozen=True)
class HttpShare:
    """Microseconds of one core, for each request and for each token that it gets."""

    request_us: float
    token_us: float


class HollowEngine:
    """Gives every open request a token each step, by way of the bytes that a step's message has."""

    def __init__(self, vocab_size: int) -> None:
        self.ready = Ready(vocab_size, 1 << 17, 16, 1 << 13, [], "", "bfloat16", 1)
        self.stats = Stats()
        self.alive = True
        self._open: dict[int, tuple[asyncio.Queue[Emitted], int]] = {}  # its events, and how many are left
        self._vocab = vocab_size
        self._numbered = 0

    @property
    def last_progress(self) -> float:
        return time.monotonic()

    async def generate(
        self, prompt: list[int], max_tokens: int, sampling: Sampling, salt: str = ""
    ) -> AsyncGenerator[Emitted]:
        """One event a step, as ``EngineClient`` yields them."""
        self._numbered += 1
        queue: asyncio.Queue[Emitted] = asyncio.Queue()
        self._open[self._numbered] = queue, max_tokens
        while True:
            event = await queue.get()
            yield event
            if event.finish:
                return

    async def steps(self) -> None:
        """For ever."""
        step = 0
        while True:
            await asyncio.sleep(STEP_S)
            if len(self._open) < STREAMS:  # all begin together
                continue
            while self._open:
                step += 1
                self._step(step)
                await asyncio.sleep(STEP_S)

    def _step(self, step: int) -> None:
        events = [
            Emitted(number, (7 * number + 13 * step) % self._vocab, "" if left > 1 else "length")
            for number, (_, left) in self._open.items()
        ]
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(Outputs(events, self.stats)), type=Outputs)
        for event in sent.events:
            queue, left = self._open.pop(event.request)
            queue.put_nowait(event)
            if left > 1:
                self._open[event.request] = queue, left - 1

    async def flush(self) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Nothing runs."""


def http_share(model: str) -> HttpShare:
    """For the tokenizer of ``model``; about a second."""
    folder = locate(model)
    vocab_size = load_config(folder).vocab_size
    tokenizer = Tokenizer.load(folder, vocab_size)
    with bind("127.0.0.1", 0) as listener:
        few_s, many_s = asyncio.run(_measure(tokenizer, vocab_size, listener))
    token_s = max(0.0, many_s - few_s) / (STREAMS * (MANY - FEW))
    return HttpShare(1e6 * max(0.0, few_s / STREAMS - FEW * token_s), 1e6 * token_s)


async def _measure(tokenizer: Tokenizer, vocab_size: int, listener: socket.socket) -> tuple[float, float]:
    """CPU seconds of this thread for all requests, with short and with long answers."""
    service, engine = Service(Settings(served=("model",)), tokenizer), HollowEngine(vocab_size)
    server = Server(uvicorn_config(create_app(service, Keys([])), service.settings.limits))
    service.attach(engine)
    tasks = [asyncio.create_task(server.serve(sockets=[listener])), asyncio.create_task(engine.steps())]
    try:
        found = []
        for tokens in (FEW, MANY):
            taken = []
            for _ in range(_TURNS):
                done = asyncio.Event()
                loop = asyncio.get_running_loop()
                port = listener.getsockname()[1]
                clients = _Clients(port, vocab_size, tokens, partial(loop.call_soon_threadsafe, done.set))
                begin = time.thread_time()
                clients.start()
                await done.wait()
                taken.append(time.thread_time() - begin)
                if clients.refused:
                    raise FullboreError(f"the server refused its own client: {clients.refused[:300]}")
            found.append(min(taken))
        return found[0], found[1]
    finally:
        server.should_exit = True
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service.close()


class _Clients(threading.Thread):
    """Send all requests at once and read until all are answered; then call ``done``."""

    def __init__(self, port: int, vocab_size: int, tokens: int, done: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._port, self._vocab, self._tokens, self._done = port, vocab_size, tokens, done
        self.refused = ""

    def run(self) -> None:
        asked = {"model": "model", "stream": True, "max_tokens": self._tokens, "ignore_eos": True}
        connections = [HTTPConnection("127.0.0.1", self._port) for _ in range(STREAMS)]
        try:
            for number, each in enumerate(connections):
                prompt = [(17 * number + place) % self._vocab for place in range(PROMPT)]
                body = json.dumps({**asked, "temperature": 0.0, "prompt": prompt})
                each.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            for each in connections:
                response = each.getresponse()
                text = response.read()
                if response.status != 200:
                    self.refused = text.decode()
        except (OSError, HTTPException) as error:
            self.refused = str(error)
        finally:
            for each in connections:
                each.close()
            self._done()


def main(argv: Sequence[str]) -> int:
    """One JSON object on stdout."""
    print(json.dumps(asdict(http_share(argv[0]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
