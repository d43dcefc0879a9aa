"""A wire, and a device that is as late as it may be: whoever looks before waiting sees garbage."""

import random
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from fullbore.engine.messages import Command, Emitted, Outputs, Report
from fullbore.engine.stream import Arrays, Work

GARBAGE = 77


class LateStream:
    """Work is done when somebody waits for it, or some of it before, as ``seed`` says; arrays are read then.

    What goes to the host arrives with the wait, not with the work. A piece of work that fails makes the next
    event fail, and what was run between the two is left out.
    """

    def __init__(self, seed: int = 0) -> None:
        self.waits = 0
        self._random = random.Random(seed)
        self._queue: deque[Work | LateEvent] = deque()
        self._arriving: list[Callable[[], object]] = []
        self._failure: Exception | None = None

    def run(self, work: Work) -> None:
        self._queue.append(work)
        for _ in range(self._random.choice([0, 0, 0, 1, 2])):
            self._advance()

    def record(self) -> "LateEvent":
        event = LateEvent(self)
        self._queue.append(event)
        return event

    def to_device(self, arrays: Arrays) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def to_host(self, tensor: Tensor) -> Tensor:
        host, value = torch.full_like(tensor, GARBAGE), tensor.clone()
        self._arriving.append(lambda: host.copy_(value))
        return host

    def capture(self, work: Work) -> Work:
        work()
        return work

    def finish(self, event: "LateEvent") -> None:
        while not event.reached:
            self._advance()

    @torch.inference_mode()
    def _advance(self) -> None:
        if not self._queue:
            return
        first = self._queue.popleft()
        if isinstance(first, LateEvent):
            first.reach(self._arriving, self._failure)
            self._arriving, self._failure = [], None
        elif self._failure is None:
            try:
                first()
            except Exception as error:  # noqa: BLE001 - raised by the next event
                self._failure = error


class LateEvent:
    def __init__(self, stream: LateStream) -> None:
        self.reached = False
        self._stream = stream
        self._arriving: list[Callable[[], object]] = []
        self._failure: Exception | None = None

    def reach(self, arriving: list[Callable[[], object]], failure: Exception | None) -> None:
        self.reached, self._arriving, self._failure = True, arriving, failure

    def wait(self) -> None:
        self._stream.waits += 1
        self._stream.finish(self)
        if self._failure is not None:
            raise self._failure
        with torch.inference_mode():
            for arrive in self._arriving:
                arrive()
        self._arriving = []


class Wire:
    """Hands out requests at the first look; keeps what is sent."""

    dropped = 0

    def __init__(self, commands: list[Command]) -> None:
        self.commands, self.reports = commands, list[Report]()

    def receive(self, timeout_s: float) -> list[Command]:
        commands, self.commands = self.commands, []
        return commands

    def send(self, report: Report) -> None:
        self.reports.append(report)

    def events(self, request: int) -> list[Emitted]:
        outputs = [report for report in self.reports if isinstance(report, Outputs)]
        return [event for output in outputs for event in output.events if event.request == request]
