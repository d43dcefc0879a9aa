"""The mock server on a clock that a test moves: every time is exact, and a busy machine changes none."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fullbore.bench.mock.question import Limits
from fullbore.bench.mock.service import Service
from fullbore.bench.mock.timing import Timing
from fullbore.scenario.metrics import Record


@dataclass(eq=False)
class Exchange:
    """One request and what came back: body pieces with the time of each."""

    number: int
    sent_s: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended_s: float | None = None
    hung_up: bool = False
    cancel: Callable[[], None] | None = None

    @property
    def raw(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def body(self) -> Any:
        return json.loads(self.raw.split(b"\r\n\r\n", 1)[1])

    def events(self) -> list[tuple[float, Any]]:
        """What each ``data:`` line says, and when it came."""
        lines = [(time_s, line) for time_s, data in self.pieces for line in data.split(b"\n")]
        return [
            (time_s, "DONE" if line[6:] == b"[DONE]" else json.loads(line[6:]))
            for time_s, line in lines
            if line.startswith(b"data: ")
        ]


class VirtualMock:
    """Requests go in with ``send``; ``run`` moves the clock to each moment at which something happens."""

    def __init__(self, timing: Timing, limits: Limits | None = None) -> None:
        self.now_s = 1000.0  # no special moment
        self.due_s: float | None = None
        self.service = Service(timing, limits or Limits(), lambda: self.now_s, self._wake, remember=10**6)
        self.exchanges: list[Exchange] = []
        self._ended: deque[Exchange] = deque()

    def send(self, body: dict[str, Any], chat: bool = False) -> Exchange:
        exchange = Exchange(len(self.exchanges), self.now_s)
        self.exchanges.append(exchange)

        def done() -> None:
            exchange.ended_s = self.now_s
            self._ended.append(exchange)

        def hang_up() -> None:
            exchange.hung_up = True
            done()

        def write(data: bytes) -> None:
            exchange.pieces.append((self.now_s, data))

        exchange.cancel = self.service.complete(json.dumps(body).encode(), chat, write, done, hang_up)
        return exchange

    def run(self, on_end: Callable[[], None] = lambda: None, most: int = 1000) -> None:
        """Until nothing is due any more; ``on_end`` is called after each response that ended."""
        while True:
            while self._ended:
                self._ended.popleft()
                on_end()
            if self.due_s is None:
                return
            self.ring(0.0, most)

    def ring(self, late_s: float = 0.0, most: int = 1000) -> None:
        """Wake the server as its alarm does, once, ``late_s`` after the moment that it was set to."""
        if self.due_s is not None:
            self.now_s, self.due_s = max(self.now_s, self.due_s + late_s), None
            self.service.work(most)

    def _wake(self, due_s: float | None) -> None:
        self.due_s = due_s


def closed_loop(timing: Timing, concurrency: int, count: int, inputs: int, outputs: int) -> list[Record]:
    """``count`` requests of a client that takes no time, as a benchmark's client would note them."""
    world = VirtualMock(timing)
    body = {"prompt": [1] * inputs, "max_tokens": outputs, "stream": True}
    body["stream_options"] = {"include_usage": True}

    def send_next() -> None:
        if len(world.exchanges) < count:
            world.send(body)

    for _ in range(concurrency):
        send_next()
    world.run(on_end=send_next, most=1)  # so that what has ended is replaced before anything else happens
    return [_record(exchange, inputs, outputs) for exchange in world.exchanges]


def _record(exchange: Exchange, inputs: int, outputs: int) -> Record:
    asked = (exchange.number, inputs, outputs, exchange.sent_s)
    if exchange.status != 200:
        return Record(*asked, exchange.sent_s, outcome=f"http {exchange.status}")
    events = exchange.events()
    chunks_s = [time_s for time_s, event in events if event != "DONE" and event.get("choices")]
    usage = next((event["usage"] for _, event in events if event != "DONE" and event.get("usage")), {})
    outcome = "ok"
    if exchange.ended_s is None:
        outcome = "stall"
    elif any("error" in event for _, event in events):
        outcome = "error"
    elif not usage:
        outcome = "stop"
    return Record(
        *asked,
        exchange.ended_s or exchange.sent_s,
        chunks_s,
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        outcome,
    )
