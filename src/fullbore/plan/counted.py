"""A rival's scheduler in counts, with the time of every token: what a client would have noted of it."""

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fullbore.errors import UsageError
from fullbore.plan.closed_loop import Loop
from fullbore.scenario.metrics import Record
from fullbore.scenario.prompt import Session
from fullbore.steptime.profiles import Policy
from fullbore.steptime.step import Step


@dataclass(frozen=True)
class Drawn:
    """Single requests whose (prompt, answer) lengths were drawn already; see ``closed_loop.Asked``."""

    pairs: tuple[tuple[int, int], ...]
    concurrency: int

    @property
    def requests(self) -> int:
        return len(self.pairs)

    def lengths(self) -> Sequence[tuple[int, int]]:
        return self.pairs


def counted(
    sessions: Sequence[Session],
    concurrency: int,
    policy: Policy,
    seconds: Callable[[Step], float],
    request_s: float = 0.0,
    accepted: float = 1.0,
    cache_tokens: float = math.inf,
) -> tuple[Record, ...]:
    """The requests of ``sessions`` in a closed loop; see ``closed_loop.run`` for the rest.

    UsageError for conversations and for answers of one token: counts know nothing of either.
    """
    requests = [session.requests[0] for session in sessions]
    if any(len(session.requests) > 1 for session in sessions):
        raise UsageError(
            "conversations need --scheduler fullbore: no rules of other engines' prefix caches are known"
        )
    if any(request.output_tokens < 2 for request in requests):
        raise UsageError("answers of one token need --scheduler fullbore; expected at least 2 for TPOT")
    pairs = tuple((request.input_tokens, request.output_tokens) for request in requests)
    loop = _Noting(Drawn(pairs, concurrency), policy, seconds, request_s, accepted, cache_tokens)
    loop.run()
    return tuple(
        Record(
            number=request.number,
            asked_input=prompt,
            asked_output=answer,
            sent_s=loop.sent_s[place],
            ended_s=loop.last_s[place],
            chunks_s=loop.chunks_s(place),
            input_tokens=prompt,
            output_tokens=answer,
            session=session.number,
        )
        for place, (session, request, (prompt, answer)) in enumerate(
            zip(sessions, requests, pairs, strict=True)
        )
    )


class _Noting(Loop):
    """Notes when decode steps ran: between two events they follow each other evenly."""

    def __init__(self, load: Drawn, *others: object) -> None:
        super().__init__(load, *others)  # type: ignore[arg-type]
        self._began_s = 0.0
        self._begun = [0] * load.requests  # decode steps before a request's own first
        # Of each run of steps: how many were before it, how many it has, its begin and its end.
        self._before, self._count, self._start_s, self._end_s = (array("d") for _ in range(4))

    def chunks_s(self, place: int) -> "array[float]":
        """When the tokens of a request that ended came: its first, and one chunk for each step."""
        answer = self.lengths[place][1]
        own = self._begun[place] + 1.0 + np.arange(math.ceil((answer - 1) / self.accepted))
        before = np.frombuffer(self._before)
        at = np.searchsorted(before, own) - 1
        start_s = np.frombuffer(self._start_s)[at]
        share = (own - before[at]) / np.frombuffer(self._count)[at]
        times_s = start_s + share * (np.frombuffer(self._end_s)[at] - start_s) + self.half_s
        return array("d", [self.first_s[place], *times_s])

    def _prefill(self, chunks: Sequence[tuple[int, int]], ready: Sequence[int]) -> None:
        super()._prefill(chunks, ready)
        for request in ready:
            self._begun[request] = self.steps

    def _advance(self, cost_s: float) -> None:
        self._began_s = self.now_s
        super()._advance(cost_s)

    def _tick(self, count: int) -> None:
        self._before.append(self.steps)
        self._count.append(count)
        self._start_s.append(self._began_s)
        self._end_s.append(self.now_s)
        super()._tick(count)
