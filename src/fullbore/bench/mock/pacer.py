"""When each chunk is due. It has no clock of its own: whoever calls says what time it is.

Every due time follows from the due time before it, never from when something really happened, so nothing
drifts: a chunk that is written late does not make the next one late.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable

from fullbore.bench.mock.timing import Fate, Timing

# Called with how many tokens are due (0: none, the stream breaks as its fate says), whether they are the last
# ones, and the moment at which they were due.
OnDue = Callable[[int, bool, float], None]


class Stream:
    """One request on its way through the pacer. ``number`` counts requests from 0, in order of arrival."""

    __slots__ = ("_jitters", "ended", "fate", "input_tokens", "number", "on_due", "output_tokens", "sent")

    def __init__(
        self, timing: Timing, number: int, input_tokens: int, output_tokens: int, on_due: OnDue
    ) -> None:
        self.number = number
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.on_due = on_due
        self.fate = timing.fate(number)
        self.sent = 0  # tokens
        self.ended = False
        self._jitters = timing.jitters(number)

    def next_jitter(self) -> float:
        return next(self._jitters)

    @property
    def breaks(self) -> bool:
        """Whether it goes wrong now: in the middle of its answer."""
        return self.fate is not Fate.SERVED and self.sent >= self.output_tokens // 2


class Pacer:
    """Streams in service, those waiting for a turn, and what is due next. Times are seconds of one clock."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.running: set[Stream] = set()
        self.waiting: deque[Stream] = deque()
        self._due: list[tuple[float, int, Stream]] = []  # a heap; the number keeps equal moments in order
        self._entries = itertools.count()

    @property
    def next_due_s(self) -> float | None:
        """When something has to be done next; None while nothing will happen by itself."""
        return self._due[0][0] if self._due else None

    def submit(self, stream: Stream, now_s: float) -> None:
        """A request has come: its turn begins now, or when a place is free."""
        if self.timing.max_running and len(self.running) >= self.timing.max_running:
            self.waiting.append(stream)
        else:
            self._start(stream, now_s)

    def cancel(self, stream: Stream, now_s: float) -> None:
        """Its client has gone. No effect on a stream that has ended."""
        if stream.ended:
            return
        if stream in self.running:
            self._end(stream, now_s)
        else:
            stream.ended = True
            self.waiting.remove(stream)

    def advance(self, now_s: float, most: int) -> None:
        """Do what is due by now, in order, up to ``most`` chunks."""
        for _ in range(most):
            if not self._due or self._due[0][0] > now_s:
                return
            due_s, _, stream = heapq.heappop(self._due)
            if not stream.ended:  # else its client went away
                self._send(stream, due_s)

    def _start(self, stream: Stream, start_s: float) -> None:
        self.running.add(stream)
        self._push(stream, start_s + self.timing.prefill_s(stream.input_tokens))

    def _send(self, stream: Stream, due_s: float) -> None:
        if stream.breaks:
            if stream.fate is not Fate.STALL:  # which keeps its place, as a hung request does
                self._end(stream, due_s)
            stream.on_due(0, True, due_s)
            return
        tokens = self._next_tokens(stream)
        stream.sent += tokens
        last = stream.sent == stream.output_tokens
        if last:
            self._end(stream, due_s)
        else:
            gap_s = self._next_tokens(stream) * self.timing.tpot_with(len(self.running))
            self._push(stream, due_s + gap_s * stream.next_jitter())
        stream.on_due(tokens, last, due_s)

    def _next_tokens(self, stream: Stream) -> int:
        if not stream.sent:
            return 1
        return min(self.timing.tokens_per_chunk, stream.output_tokens - stream.sent)

    def _end(self, stream: Stream, end_s: float) -> None:
        stream.ended = True
        self.running.remove(stream)
        if self.waiting:
            self._start(self.waiting.popleft(), end_s)

    def _push(self, stream: Stream, due_s: float) -> None:
        heapq.heappush(self._due, (due_s, next(self._entries), stream))
