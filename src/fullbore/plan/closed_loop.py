"""A closed loop in counts alone: who prefills, who decodes, and when, under an engine's policy.

Rivals' schedulers are described by a few rules (``Policy``); prompts and answers are lengths. Between two
events all steps are alike but for a context that grows evenly, so they are taken at once: a thousand requests
take milliseconds. ``simulator.py`` runs the real scheduler where Fullbore itself is meant.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from typing import Protocol

from fullbore.steptime.profiles import Policy
from fullbore.steptime.step import Step, pairs

SEED = 20261125


@dataclass(frozen=True)
class Load:
    """``requests`` in all; lengths are uniform from ``length_range`` times the stated ones to these."""

    input_tokens: int
    output_tokens: int
    length_range: float
    concurrency: int
    requests: int

    def lengths(self) -> list[tuple[int, int]]:
        """(prompt, answer) of each request, the same ones every time."""
        enough = 1 << (self.requests - 1).bit_length()  # few lists serve all loads of a search
        return _drawn(self.input_tokens, self.output_tokens, self.length_range, enough)[: self.requests]


@lru_cache(maxsize=64)
def _drawn(input_tokens: int, output_tokens: int, length_range: float, count: int) -> list[tuple[int, int]]:
    """Each longer list begins with the shorter ones."""
    chance = random.Random(SEED)

    def draw(most: int, least: int) -> int:
        return chance.randint(max(least, math.ceil(most * length_range)), max(least, most))

    return [(draw(input_tokens, 1), draw(output_tokens, 2)) for _ in range(count)]


class Asked(Protocol):
    """What a loop needs to know of its load."""

    @property
    def concurrency(self) -> int: ...
    @property
    def requests(self) -> int: ...
    def lengths(self) -> Sequence[tuple[int, int]]: ...


@dataclass(frozen=True)
class Outcome:
    """What the client sees, in seconds, and what the steady half of the run is made of."""

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    duration_s: float
    input_tokens: int
    output_tokens: int
    decodes: float  # sequences that decode in a step, on average over the steps that have any
    context: float  # tokens that each of them attends to
    prefill_share: float  # of the busy time


class Loop:
    """One run. Times are seconds since the first send."""

    def __init__(
        self,
        load: Asked,
        policy: Policy,
        seconds: Callable[[Step], float],
        request_s: float,
        accepted: float,
        cache_tokens: float,
    ) -> None:
        self.load, self.policy, self.seconds = load, policy, seconds
        self.poll = policy.poll_steps(load.concurrency)
        # Half of a request's time outside the engine lies before its queue, half behind its tokens.
        self.half_s = request_s / 2
        self.accepted, self.cache_tokens = accepted, cache_tokens
        self.lengths = load.lengths()
        # Cache tokens that must be free to admit each.
        self.needed = [prompt + answer * policy.reserved for prompt, answer in self.lengths]
        self.sent_s = [0.0] * load.requests
        self.first_s = [0.0] * load.requests
        self.last_s = [0.0] * load.requests
        self.next_request = 0
        self.arriving: list[tuple[float, int]] = []  # heap
        self.waiting: deque[list[int]] = deque()  # request, prompt tokens computed
        self.ending: list[tuple[int, int]] = []  # heap: decode step after which it ends, request
        self.now_s = self.prefill_s = self.busy_s = 0.0
        self.steps = 0
        self.context = 0.0
        self.reserved = 0.0  # cache tokens of all that were admitted
        self.unread = self.poll  # decode steps since the last look at new requests
        self.row_steps = self.context_steps = 0.0

    def run(self) -> Outcome:
        for _ in range(min(self.load.concurrency, self.load.requests)):
            self._send(0.0)
        while self.ending or self.waiting or self.arriving:
            if self.unread >= self.poll:
                self._receive()
            chunks, ready = self._chunks() if self.waiting else ([], [])
            if chunks:
                self._prefill(chunks, ready)
            elif self.ending:
                self._decode()
            else:
                self.now_s = max(self.now_s, self.arriving[0][0])
                self.unread = self.poll
        requests = range(self.load.requests)
        answers = [answer for _, answer in self.lengths]
        return Outcome(
            ttft_s=tuple(self.first_s[n] - self.sent_s[n] for n in requests),
            tpot_s=tuple((self.last_s[n] - self.first_s[n]) / (answers[n] - 1) for n in requests),
            duration_s=max(self.last_s),
            input_tokens=sum(prompt for prompt, _ in self.lengths),
            output_tokens=sum(answers),
            decodes=self.row_steps / max(1, self.steps),
            context=self.context_steps / max(1.0, self.row_steps),
            prefill_share=self.prefill_s / self.busy_s,
        )

    def _send(self, now_s: float) -> None:
        if self.next_request < self.load.requests:
            self.sent_s[self.next_request] = now_s
            heappush(self.arriving, (now_s + self.half_s, self.next_request))
            self.next_request += 1

    def _receive(self) -> None:
        self.unread = 0
        while self.arriving and self.arriving[0][0] <= self.now_s:
            self.waiting.append([heappop(self.arriving)[1], 0])

    def _chunks(self) -> tuple[list[tuple[int, int]], list[int]]:
        """(new, before) of the prompts' chunks in the next step, and the requests whose prompt they end."""
        room = self.policy.chunk_tokens - (len(self.ending) if self.policy.mixed else 0)
        chunks: list[tuple[int, int]] = []
        ready: list[int] = []
        while self.waiting and room > 0 and len(self.ending) + len(ready) < self.policy.most_running:
            entry = self.waiting[0]
            prompt = self.lengths[entry[0]][0]
            if entry[1] == 0:
                needed = self.needed[entry[0]]
                if (self.ending or ready) and self.reserved + needed > self.cache_tokens:
                    break
                self.reserved += needed
            new = min(prompt - entry[1], room)
            chunks.append((new, entry[1]))
            entry[1] += new
            room -= new
            if entry[1] == prompt:
                ready.append(self.waiting.popleft()[0])
        return chunks, ready

    def _prefill(self, chunks: Sequence[tuple[int, int]], ready: Sequence[int]) -> None:
        running = len(self.ending) if self.policy.mixed else 0
        new, attended = 0, 0.0
        for tokens, before in chunks:
            new += tokens
            attended += pairs(tokens, before)
        context = self.context if running else 0.0
        cost_s = self.seconds(Step(running, context, new, attended, len(ready) + running))
        self._advance(cost_s)
        self.prefill_s += cost_s
        self.unread = self.poll  # engines look again after every prompt
        if running:
            self.row_steps += running
            self.context_steps += self.context
            self._tick(1)
        for request in ready:
            prompt, answer = self.lengths[request]
            self.first_s[request] = self.now_s + self.half_s
            self.context += prompt
            heappush(self.ending, (self.steps + math.ceil((answer - 1) / self.accepted), request))
        if running or ready:
            self._finish()

    def _decode(self) -> None:
        """All decode steps until one ends, or until a new request is seen."""
        running = len(self.ending)
        until_end = self.ending[0][0] - self.steps
        growth = running * self.accepted
        count = until_end
        # While somebody waits for a place, who arrives waits behind.
        if self.arriving and count > 1 and (self.poll > 1 or not self.waiting):
            # The first look at or after the next arrival.
            first_s = self.seconds(Step(running, self.context, 0, 0.0, running))
            ahead = max(1, math.ceil((self.arriving[0][0] - self.now_s) / first_s))
            looks = -(-(self.unread + ahead) // self.poll)
            count = min(count, looks * self.poll - self.unread)
        # The time is linear in the context, above what the host needs to launch a step: the middle step's,
        # times the count, is their sum.
        middle = self.context + growth * (count - 1) / 2
        self._advance(count * self.seconds(Step(running, middle, 0, 0.0, running)))
        self.row_steps += count * running
        self.context_steps += count * middle
        self._tick(count)
        if count == until_end:
            self._finish()

    def _advance(self, cost_s: float) -> None:
        self.now_s += cost_s
        self.busy_s += cost_s

    def _tick(self, count: int) -> None:
        self.steps += count
        self.unread = min(self.unread + count, self.poll)
        self.context += count * len(self.ending) * self.accepted

    def _finish(self) -> None:
        while self.ending and self.ending[0][0] <= self.steps:
            _, request = heappop(self.ending)
            prompt, answer = self.lengths[request]
            self.context = max(0.0, self.context - prompt - answer + 1) if self.ending else 0.0
            self.reserved -= self.needed[request]
            self.last_s[request] = self.now_s + self.half_s
            self._send(self.last_s[request])


def run(
    load: Asked,
    policy: Policy,
    seconds: Callable[[Step], float],
    request_s: float = 0.0,
    accepted: float = 1.0,
    cache_tokens: float = math.inf,
) -> Outcome:
    """``load`` under ``policy``. seconds: of a step. request_s: of a request outside of all steps.

    accepted: tokens that a sequence gains in a step (above 1 with MTP). cache_tokens: what fits at once;
    requests beyond it wait.
    """
    return Loop(load, policy, seconds, request_s, accepted, cache_tokens).run()
