"""What the mock server does with a request: its routes, its streams, and what it remembers of them."""

from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from fullbore import __version__
from fullbore.bench.mock.lateness import Lateness
from fullbore.bench.mock.pacer import Pacer, Stream
from fullbore.bench.mock.question import Limits, Question, Refused, read
from fullbore.bench.mock.timing import Fate, Timing
from fullbore.bench.mock.wire import (
    LAST_PIECE,
    Answer,
    error,
    error_response,
    event,
    json_response,
    piece,
    stream_head,
)

RETRY_LATER = "Retry-After: 1\r\n"

Write = Callable[[bytes], None]
Cancel = Callable[[], None]


@dataclass(eq=False)
class Sent:
    """When one request came and when its chunks were written: seconds of ``time.perf_counter``.

    On Linux that is one clock for all processes of a machine: a client's times may be held against these.
    """

    number: int
    arrived_s: float
    fate: str
    input_tokens: int
    output_tokens: int
    chunks_s: "array[float]" = field(default_factory=lambda: array("d"))


class Service:
    """Requests in, bytes out. ``clock`` is asked for the time, ``wake`` told when to call ``work`` next."""

    def __init__(
        self,
        timing: Timing,
        limits: Limits,
        clock: Callable[[], float],
        wake: Callable[[float | None], None],
        remember: int = 0,
    ) -> None:
        """``remember``: of how many requests, the latest, to keep what ``/records`` shows."""
        self.timing, self.limits = timing, limits
        self.lateness = Lateness()
        self.counts: Counter[str] = Counter()
        self._pacer = Pacer(timing)
        self._records: deque[Sent] = deque(maxlen=remember)
        self._clock, self._wake = clock, wake
        self._woken_for_s: float | None = None
        self._requests = 0

    def get(self, path: str) -> bytes:
        """The whole response to a GET."""
        if path == "/v1/models":
            return json_response({"object": "list", "data": [self._model()]})
        if path in ("/health", "/ready"):
            return json_response({"status": "ready"})
        if path == "/server_info":
            return json_response(self.info())
        if path == "/records":
            return json_response(
                [{**asdict(sent), "chunks_s": list(sent.chunks_s)} for sent in self._records]
            )
        return error_response(404, f"there is no {path[:200]!r} here")

    def info(self) -> dict[str, Any]:
        """What was configured, what happened, and how well the times were kept."""
        return {
            "version": __version__,
            "engine": {"vocab_size": self.limits.vocab_size, "max_model_len": self.limits.max_model_len},
            "timing": asdict(self.timing),
            "requests": {
                "running": len(self._pacer.running),
                "waiting": len(self._pacer.waiting),
                **{fate.value: self.counts[fate.value] for fate in Fate},
                "cancelled": self.counts["cancelled"],
            },
            "late_ms": self.lateness.summary(),
        }

    def complete(self, body: bytes, chat: bool, write: Write, done: Cancel, hang_up: Cancel) -> Cancel | None:
        """Answer a completion by calling ``write``, then ``done`` when the response is whole.

        ``hang_up`` ends the connection in place of a response. What is returned cancels the answer; None
        when it is complete already.
        """
        now_s = self._clock()
        try:
            question = read(body, chat, self.limits)
        except Refused as refused:
            write(error_response(refused.status, str(refused), refused.headers))
            done()
            return None
        number, self._requests = self._requests, self._requests + 1
        fate = self.timing.fate(number)
        sent = Sent(number, now_s, fate.value, question.input_tokens, question.output_tokens)
        self._records.append(sent)
        if fate is Fate.REFUSED:
            self.counts[fate.value] += 1
            write(error_response(503, "refused, as --refuse-rate has it; try again later", RETRY_LATER))
            done()
            return None
        reply = _Reply(self, question, sent, fate, write, done, hang_up)
        stream = Stream(self.timing, number, question.input_tokens, question.output_tokens, reply.on_due)
        self._pacer.submit(stream, now_s)
        self._rewake()

        def cancel() -> None:
            if not stream.ended:
                self.counts["cancelled"] += 1
                self._pacer.cancel(stream, self._clock())
                self._rewake()

        return cancel

    def work(self, most: int) -> None:
        """Write what is due by now, up to ``most`` chunks."""
        self._woken_for_s = None
        self._pacer.advance(self._clock(), most)
        self._rewake()

    def written(self, due_s: float) -> float:
        """The time now, noted as that of a chunk which was due at ``due_s``."""
        now_s = self._clock()
        self.lateness.add(now_s - due_s)
        return now_s

    def _rewake(self) -> None:
        due_s = self._pacer.next_due_s
        if due_s != self._woken_for_s:
            self._woken_for_s = due_s
            self._wake(due_s)

    def _model(self) -> dict[str, object]:
        name = self.limits.model
        window = self.limits.max_model_len
        return {"id": name, "object": "model", "created": 0, "owned_by": "fullbore", "max_model_len": window}


class _Reply:
    """One answer on its way out."""

    __slots__ = ("_answer", "_done", "_fate", "_hang_up", "_question", "_sent", "_service", "_write")

    def __init__(
        self,
        service: Service,
        question: Question,
        sent: Sent,
        fate: Fate,
        write: Write,
        done: Cancel,
        hang_up: Cancel,
    ) -> None:
        self._service, self._question, self._sent, self._fate = service, question, sent, fate
        self._write, self._done, self._hang_up = write, done, hang_up
        self._answer = Answer(question, sent.number, service.limits.model)
        if question.stream:
            write(stream_head())

    def on_due(self, tokens: int, last: bool, due_s: float) -> None:
        if not tokens:
            self._break()
            return
        if self._question.stream:
            chunks_s = self._sent.chunks_s
            data = self._answer.chunk(tokens, not chunks_s, last)
            chunks_s.append(self._service.written(due_s))
            self._write(data)
        elif last:
            data = json_response(self._answer.whole())
            self._sent.chunks_s.append(self._service.written(due_s))
            self._write(data)
        if last:
            self._service.counts[Fate.SERVED.value] += 1
            self._done()

    def _break(self) -> None:
        self._service.counts[self._fate.value] += 1
        if self._fate is Fate.STALL:
            return
        failed = "failed, as --error-rate has it"
        if self._question.stream:
            rest = piece(event({"error": error(500, failed)})) if self._fate is Fate.ERROR else b""
            self._write(rest + LAST_PIECE)
        elif self._fate is Fate.ERROR:
            self._write(error_response(500, failed))
        else:
            self._hang_up()
            return
        self._done()
