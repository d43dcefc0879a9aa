"""The truth: how long the mock server takes for what, and which requests go wrong."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum

from fullbore.errors import UsageError


class Fate(Enum):
    """How a request ends."""

    SERVED = "served"
    REFUSED = "refused"  # 503 with Retry-After
    ERROR = "error"  # an error event in place of a chunk
    STOP = "stop"  # the stream ends as if it were complete, but says no finish_reason
    STALL = "stall"  # nothing comes any more, and nobody hangs up


@dataclass(frozen=True)
class Timing:
    """What every figure of a measurement must come out as.

    A request that is alone gets its first token ``ttft_s + input_tokens * ttft_per_token_s`` after its last
    byte came, and each further token ``tpot_s`` after the one before; for more than one see ``tpot_with``.
    The first chunk carries one token, each later one ``tokens_per_chunk`` (the last what is left), so that
    (tn - t1) / (n - 1) is ``tpot_s`` whatever the chunks' size.
    """

    ttft_s: float = 0.2
    tpot_s: float = 0.02
    ttft_per_token_s: float = 0.0
    jitter: float = 0.0  # of the gaps between chunks, relative; see ``jitters``
    tokens_per_chunk: int = 1
    max_running: int = 0  # requests served at a time, the others wait in order of arrival; 0: no limit
    slowdown: float = 0.0  # of TPOT, for each request beside this one
    refuse_rate: float = 0.0
    error_rate: float = 0.0
    stop_rate: float = 0.0
    stall_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "seed" and not 0 <= value < float("inf"):
                raise UsageError(f"{field.name} is {value}, expected a number from 0 on")
        if self.tokens_per_chunk < 1:
            raise UsageError(f"tokens_per_chunk is {self.tokens_per_chunk}, expected 1 or more")
        if self.jitter > 1:
            raise UsageError(f"jitter is {self.jitter:g}, expected at most 1: a gap is never below zero")
        rates = sum(rate for _, rate in self._rates)
        if rates > 1:
            raise UsageError(f"the rates of failures sum to {rates:g}, expected at most 1")

    @property
    def _rates(self) -> tuple[tuple[Fate, float], ...]:
        return (
            (Fate.REFUSED, self.refuse_rate),
            (Fate.ERROR, self.error_rate),
            (Fate.STOP, self.stop_rate),
            (Fate.STALL, self.stall_rate),
        )

    def prefill_s(self, input_tokens: int) -> float:
        """From the start of a request's turn to its first token: TTFT, where nothing has to wait."""
        return self.ttft_s + input_tokens * self.ttft_per_token_s

    def tpot_with(self, running: int) -> float:
        """Seconds a token while ``running`` requests are served, this one and those in prefill included."""
        return self.tpot_s * (1 + self.slowdown * (running - 1))

    def latency_s(self, input_tokens: int, output_tokens: int, running: int = 1) -> float:
        """From the start of a request's turn to its last token, with ``running`` served all the while."""
        return self.prefill_s(input_tokens) + (output_tokens - 1) * self.tpot_with(running)

    def requests_s(self, input_tokens: int, output_tokens: int, concurrency: int) -> float:
        """Throughput of a closed loop of alike requests in its steady state, if the client takes no time."""
        running = min(concurrency, self.max_running or concurrency)
        return running / self.latency_s(input_tokens, output_tokens, running)

    def fate(self, number: int) -> Fate:
        """How the request with this number (from 0, in order of arrival) ends; the same in every run."""
        draw = random.Random(f"fate {self.seed} {number}").random()
        for fate, rate in self._rates:
            if draw < rate:
                return fate
            draw -= rate
        return Fate.SERVED

    def jitters(self, number: int) -> Iterator[float]:
        """Factors of one request's gaps, uniform in 1 +- ``jitter``.

        They come in pairs 1 + u, 1 - u, so every two gaps take what two exact ones would: ITL spreads, while
        the TPOT of a request with an even number of gaps is exact.
        """
        if not self.jitter:
            while True:
                yield 1.0
        draws = random.Random(f"jitter {self.seed} {number}")
        while True:
            off = self.jitter * (2 * draws.random() - 1)
            yield 1 + off
            yield 1 - off
