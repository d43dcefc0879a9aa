"""A scenario on the scheduler that serves, in virtual time.

The classes are those of the engine: what is admitted, preempted and found in the prefix tree is decided by
the same code. Only the device is missing: a step takes as long as ``step_s`` says. Its records are those
of a live benchmark, so the same figures, tables and plots are made of them.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from fullbore.engine.messages import Emitted, Sampling, Submit
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Sampled, Step
from fullbore.errors import IntegrityError
from fullbore.scenario.metrics import CANCELLED, Record
from fullbore.scenario.prompt import Request, Segment, Session

GREEDY = Sampling(temperature=0.0, ignore_eos=True)
ANSWER = 0  # the token of every answer: what matters is only that turns of one conversation share it
FILL = 1  # the token of every segment, but for its first, which is its own
TOKEN = Sampled(ANSWER)


@dataclass(frozen=True)
class Server:
    """What ``fullbore serve`` would be started with, and where its time goes beside the steps.

    ``host_s``: from a client's send until the request is in the scheduler's queue, and from a token's step
    until the client has it, together.
    """

    pages: int
    page_size: int = 16
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_queued: int = 1024
    max_model_len: int = 163840
    prefix_caching: bool = True
    host_s: float = 0.0

    def scheduler(self) -> Scheduler:
        return Scheduler(
            self.pages,
            self.page_size,
            self.max_num_seqs,
            self.max_num_batched_tokens,
            self.max_queued,
            self.max_model_len,
            (),
            self.prefix_caching,
        )


@dataclass(frozen=True)
class Simulated:
    """``records`` in the order they ended; ``steps`` and ``busy_s`` of the engine in ``ended_s`` seconds."""

    records: tuple[Record, ...]
    steps: int
    busy_s: float
    ended_s: float
    preemptions: int


def simulate(
    sessions: Iterable[Session],
    server: Server,
    step_s: Callable[[Step], float],
    concurrency: int = 0,
    ramp_s: float = 0.0,
    until_s: float = float("inf"),
) -> Simulated:
    """Run ``sessions`` to their end. ``step_s``: seconds that a step takes.

    ``concurrency``: sessions in flight in a closed loop, begun one after the other over ``ramp_s``; 0: an
    open loop, whose sessions say when they start. No request is sent after ``until_s``.
    """
    run = _Run(server, step_s, until_s)
    waiting = iter(sessions)
    if concurrency:
        for place in range(concurrency):
            session = next(waiting, None)
            if session is None:
                break
            run.begin(session, ramp_s * place / concurrency)
        run.replace_from = waiting
    else:
        for session in waiting:
            run.begin(session, session.start_s or 0.0)
    run.to_the_end()
    counts = run.scheduler.stats()
    return Simulated(tuple(run.records), counts.steps, run.busy_s, run.now_s, counts.preemptions)


@dataclass(slots=True)
class _Flight:
    """A request that was sent."""

    session: Session
    turn: int
    prompt: list[int]
    sent_s: float
    chunks_s: "array[float]" = field(default_factory=lambda: array("d"))


class _Run:
    """One simulation under way. Ties in time are broken by order of arrival, never by a clock or a hash."""

    def __init__(self, server: Server, step_s: Callable[[Step], float], until_s: float) -> None:
        self.scheduler = server.scheduler()
        self.records: list[Record] = []
        self.now_s = self.busy_s = 0.0
        self.replace_from: Iterator[Session] = iter(())
        self._host_s = server.host_s
        self._step_s = step_s
        self._until_s = until_s
        self._due: list[tuple[float, int, Session, int, list[int]]] = []  # heap; turn and its history
        self._arrivals = 0
        self._flying: dict[int, _Flight] = {}
        self._decodes: tuple[int, ...] = ()  # those of the last step, and where their tokens are noted
        self._streams: list[Callable[[float], None]] = []
        self._content: dict[str, int] = {}  # the first token of every segment that was seen

    def begin(self, session: Session, start_s: float) -> None:
        """The first request of ``session`` is sent at ``start_s``."""
        self._schedule(start_s, session, 0, [])

    def to_the_end(self) -> None:
        scheduler = self.scheduler
        while True:
            while self._due and self._due[0][0] <= self.now_s:
                self._send(*heappop(self._due))
            step = scheduler.plan()
            if step is not None:
                taken_s = self._step_s(step) if step.decodes.requests or step.others else 0.0
                self.now_s += taken_s
                self.busy_s += taken_s
                self._receive(step)
                for event in scheduler.commit_alike(step, TOKEN):
                    self._end(event)
            elif self._due:
                self.now_s = self._due[0][0]
            elif self._flying:
                raise IntegrityError(f"{len(self._flying)} simulated requests never end")
            else:
                return

    def _schedule(self, at_s: float, session: Session, turn: int, history: list[int]) -> None:
        if at_s <= self._until_s:
            self._arrivals += 1
            heappush(self._due, (at_s, self._arrivals, session, turn, history))

    def _send(self, at_s: float, number: int, session: Session, turn: int, history: list[int]) -> None:
        wish = session.requests[turn]
        prompt = history + self._tokens(wish.prompt)
        self._flying[number] = _Flight(session, turn, prompt, at_s)
        refused = self.scheduler.submit(Submit(number, prompt, wish.output_tokens, GREEDY))
        if refused is not None:
            self._end(refused)

    def _tokens(self, prompt: Iterable[Segment]) -> list[int]:
        """Token ids that are equal where segments are, and nowhere else."""
        tokens: list[int] = []
        for segment in prompt:
            tokens.append(self._content.setdefault(segment.seed, FILL + 1 + len(self._content)))
            tokens += [FILL] * (segment.tokens - 1)
        return tokens

    def _receive(self, step: Step) -> None:
        """A token of every row of ``step`` that samples."""
        decodes = step.decodes.requests
        if decodes is not self._decodes:  # most steps decode for the same requests as the one before
            self._decodes = decodes
            self._streams = [self._flying[number].chunks_s.append for number in decodes]
        now_s = self.now_s + self._host_s
        for append in self._streams:
            append(now_s)
        for row in step.others:
            if row.samples:
                self._flying[row.request].chunks_s.append(now_s)

    def _end(self, event: Emitted) -> None:
        flight = self._flying.pop(event.request)
        session, turn = flight.session, flight.turn
        wish: Request = session.requests[turn]
        ended_s = self.now_s + self._host_s
        served = event.finish == "length"
        self.records.append(
            Record(
                number=wish.number,
                asked_input=len(flight.prompt),
                asked_output=wish.output_tokens,
                sent_s=flight.sent_s,
                ended_s=ended_s,
                chunks_s=flight.chunks_s,
                input_tokens=len(flight.prompt),
                output_tokens=len(flight.chunks_s),
                outcome="ok" if served else event.finish or CANCELLED,
                error=event.error,
                due_s=session.start_s if not turn else None,
                session=session.number,
                turn=turn,
            )
        )
        if served and turn + 1 < len(session.requests):
            history = flight.prompt + [ANSWER] * len(flight.chunks_s)
            pause_s = session.requests[turn + 1].think_s
            self._schedule(ended_s + pause_s, session, turn + 1, history)
            return
        replacement = next(self.replace_from, None)
        if replacement is not None:
            self.begin(replacement, ended_s)
