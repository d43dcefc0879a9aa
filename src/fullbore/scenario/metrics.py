"""The definition of every figure: (sent, chunk times, token counts, outcome) in, figures out.

Live and simulated runs feed the same functions. For one request: t0 = sent, t1 = its first chunk, tn = its
last chunk, n = output tokens, I = input tokens. For a run: D = wall time from the first send to the last
completion, ramp and drain included.

    TTFT          t1 - t0
    TPOT          (tn - t1) / (n - 1), of requests with n > 1
    ITL           every gap between two chunks, pooled over all requests
    output tok/s  sum n / D          input tok/s: sum I / D          total tok/s: sum (I + n) / D
    peak tok/s    output tokens of the best 1-second bucket, counted from the first send
    concurrency   sum (tn - t0) / D
    goodput       requests that met every limit / D
    steady ...    the same in the window that has neither ramp nor drain in it, see ``Steady``

These are the definitions of SGLang's ``bench_serving`` and of ``vllm bench serve``. Failed and cancelled
requests are counted and are in no mean and no rate.
"""

import math
from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fullbore.scenario.scenario import Limits

OK = "ok"
CANCELLED = "cancelled"  # by the user, before it could end: neither a success nor a failure


@dataclass(frozen=True, slots=True)
class Record:
    """What happened to one request. Times are seconds of one clock; ``chunks_s`` ascends."""

    number: int
    asked_input: int
    asked_output: int
    sent_s: float
    ended_s: float  # when its stream ended, well or badly
    chunks_s: Sequence[float] = ()  # arrival of every chunk that carried tokens
    input_tokens: int = 0  # as the server counted them
    output_tokens: int = 0
    outcome: str = OK  # ok, cancelled, or the kind of failure in a few words
    error: str = ""
    due_s: float | None = None  # when it should have been sent, where a schedule said so (open loop)
    session: int = 0  # its conversation, and which turn of that it was
    turn: int = 0
    counted: int | None = (
        None  # chunks there were, where ``chunks_s`` has only the first and the last of them
    )

    @property
    def ok(self) -> bool:
        """Whether it counts: ended well and brought at least one token."""
        return self.outcome == OK and self.output_tokens > 0 and len(self.chunks_s) > 0

    @property
    def chunks(self) -> int:
        """How many chunks carried tokens."""
        return len(self.chunks_s) if self.counted is None else self.counted

    @property
    def ttft_s(self) -> float:
        """t1 - t0, of an ok request."""
        return self.chunks_s[0] - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """(tn - t1) / (n - 1); None for a single token."""
        if self.output_tokens < 2:
            return None
        return (self.chunks_s[-1] - self.chunks_s[0]) / (self.output_tokens - 1)

    @property
    def latency_s(self) -> float:
        """tn - t0, of an ok request."""
        return self.chunks_s[-1] - self.sent_s

    def meets(self, limits: Limits) -> bool:
        """Whether this request alone kept every limit; one token has no TPOT to miss."""
        tpot_s = self.tpot_s
        return self.ttft_s * 1e3 <= limits.ttft_ms and (tpot_s is None or tpot_s * 1e3 <= limits.tpot_ms)


@dataclass(frozen=True)
class Spread:
    """A distribution in six numbers; percentiles interpolate linearly between the two nearest values."""

    count: int
    mean: float
    p50: float | None  # None, as the next three, where another tool did not say it
    p90: float | None
    p99: float | None
    most: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None when there is nothing to describe."""
        ordered = array("d", values)  # sorted in place: 8 bytes a value, for there are millions of gaps
        if not ordered:
            return None
        np.frombuffer(ordered).sort()
        mean = math.fsum(ordered) / len(ordered)
        p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
        return cls(len(ordered), mean, p50, p90, p99, ordered[-1])


@dataclass(frozen=True)
class Steady:
    """What was measured while the load neither rose nor fell. Times count from the run's first send.

    In a closed loop from the first completion (every slot is at work) to the first completion that nothing
    replaces: between the two, whole requests follow each other in every slot, so prefill has its true
    share. In an open loop from one mean latency after the first send, when as many end as begin, to the
    last send.
    """

    begin_s: float
    end_s: float
    output_tok_s: float
    input_tok_s: float  # of the prompts whose first token came inside
    concurrency: float  # mean number in flight
    requests: int  # sent and ended inside; the next two are theirs
    ttft_ms: Spread | None
    tpot_ms: Spread | None


@dataclass(frozen=True)
class Figures:
    """Every figure of one run; None where the run holds nothing to compute it from."""

    requests_ok: int
    requests_failed: int
    requests_cancelled: int
    failures: Mapping[str, int]  # kind of failure -> how many
    duration_s: float
    input_tokens: int  # received by the server, over ok requests; as are the next three
    output_tokens: int
    asked_input_tokens: int | None  # None where another tool did not note it
    asked_output_tokens: int | None
    tokens_per_chunk: float | None  # where it is not 1, ITL says nothing about tokens
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    latency_ms: Spread | None
    output_tok_s: float | None
    input_tok_s: float | None
    total_tok_s: float | None
    peak_output_tok_s: float | None
    steady: Steady | None
    requests_s: float | None
    nominal_concurrency: int | None  # None in an open loop
    concurrency: float | None
    littles_law: float | None  # see ``littles_law`` and ``kept_up``
    good_requests: int | None
    goodput_requests_s: float | None

    def keeps(self, limits: Limits) -> bool:
        """Whether TTFT and TPOT at the limits' percentile are inside them, with no request failed."""
        if self.ttft_ms is None or self.requests_failed:
            return False
        ttft_ms = getattr(self.ttft_ms, limits.percentile)
        tpot_ms = 0.0 if self.tpot_ms is None else getattr(self.tpot_ms, limits.percentile)
        known = ttft_ms is not None and tpot_ms is not None
        return bool(known and ttft_ms <= limits.ttft_ms and tpot_ms <= limits.tpot_ms)


def figures(records: Sequence[Record], nominal_concurrency: int | None, limits: Limits) -> Figures:
    """Every figure of one run, in whatever order its records come.

    ``nominal_concurrency``: how many were to be in flight; None in an open loop.
    """
    ok = [record for record in records if record.ok]
    cancelled = [record for record in records if record.outcome == CANCELLED]
    failures = Counter(
        "no tokens" if record.outcome == OK else record.outcome
        for record in records
        if not record.ok and record.outcome != CANCELLED
    )
    completed = [record for record in records if record.outcome != CANCELLED]
    begin_s = min((record.sent_s for record in records), default=0.0)
    duration_s = max((record.ended_s for record in completed), default=begin_s) - begin_s
    tpots_s = [record.tpot_s for record in ok if record.tpot_s is not None]
    output_tokens = sum(record.output_tokens for record in ok)
    input_tokens = sum(record.input_tokens for record in ok)
    chunks = sum(record.chunks for record in ok)
    good = sum(record.meets(limits) for record in ok)

    def per_second(amount: float) -> float | None:
        return amount / duration_s if ok and duration_s > 0 else None

    law: float | None
    if nominal_concurrency is None:
        law = kept_up(ok)
    else:
        law = _littles_law(ok, per_second(output_tokens), tpots_s, nominal_concurrency)

    return Figures(
        requests_ok=len(ok),
        requests_failed=failures.total(),
        requests_cancelled=len(cancelled),
        failures=dict(sorted(failures.items())),
        duration_s=duration_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        asked_input_tokens=sum(record.asked_input for record in ok),
        asked_output_tokens=sum(record.asked_output for record in ok),
        tokens_per_chunk=output_tokens / chunks if chunks else None,
        ttft_ms=Spread.of(record.ttft_s * 1e3 for record in ok),
        tpot_ms=Spread.of(tpot_s * 1e3 for tpot_s in tpots_s),
        itl_ms=Spread.of(gap_s * 1e3 for record in ok for gap_s in gaps(record.chunks_s)),
        latency_ms=Spread.of(record.latency_s * 1e3 for record in ok),
        output_tok_s=per_second(output_tokens),
        input_tok_s=per_second(input_tokens),
        total_tok_s=per_second(input_tokens + output_tokens),
        peak_output_tok_s=_peak(ok, begin_s),
        steady=_steady(ok, completed, nominal_concurrency),
        requests_s=per_second(len(ok)),
        nominal_concurrency=nominal_concurrency,
        concurrency=per_second(math.fsum(record.latency_s for record in ok)),
        littles_law=law,
        good_requests=good,
        goodput_requests_s=per_second(good),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear interpolation between the two nearest of ascending values (numpy's and both peers' default)."""
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def gaps(times: Sequence[float]) -> Iterable[float]:
    """The time between each chunk and the next."""
    return (later - earlier for earlier, later in pairwise(times))


def littles_law(
    output_tok_s: float, output_tokens: float, ttft_s: float, tpot_s: float, nominal_concurrency: int
) -> float:
    """output/osl x (TTFT + (osl - 1) TPOT) / nominal concurrency.

    0.95 to 1.0 in a closed loop with many requests a slot; ramp and drain lower it, and a figure above 1
    was not measured in a steady state at that concurrency.
    """
    return output_tok_s / output_tokens * (ttft_s + (output_tokens - 1) * tpot_s) / nominal_concurrency


def kept_up(ok: Sequence[Record]) -> float | None:
    """Little's law of an open loop: in flight while requests were sent / (rate x mean latency).

    Near 1 where the server keeps up with a long load; a short one has its drain in it. At a rate above
    what it can do the queue grows until the last send, and this is the share of the rate that it served.
    """
    first_s = min((record.sent_s for record in ok), default=0.0)
    last_s = max((record.sent_s for record in ok), default=0.0)
    all_s = math.fsum(record.latency_s for record in ok)
    if last_s <= first_s or all_s <= 0:  # all at once: there was no rate to keep up with
        return None
    return math.fsum(min(record.chunks_s[-1], last_s) - record.sent_s for record in ok) / all_s


def _littles_law(
    ok: Sequence[Record], output_tok_s: float | None, tpots_s: Sequence[float], nominal_concurrency: int
) -> float | None:
    if output_tok_s is None:
        return None
    mean_output = sum(record.output_tokens for record in ok) / len(ok)
    mean_ttft_s = math.fsum(record.ttft_s for record in ok) / len(ok)
    mean_tpot_s = math.fsum(tpots_s) / len(tpots_s) if tpots_s else 0.0
    return littles_law(output_tok_s, mean_output, mean_ttft_s, mean_tpot_s, nominal_concurrency)


def _peak(ok: Sequence[Record], begin_s: float) -> float | None:
    buckets: dict[int, float] = defaultdict(float)
    for record in ok:
        per_chunk = record.output_tokens / len(record.chunks_s)
        for time_s in record.chunks_s:
            buckets[math.floor(time_s - begin_s)] += per_chunk
    return max(buckets.values(), default=None)


def _steady(
    ok: Sequence[Record], completed: Sequence[Record], nominal_concurrency: int | None
) -> Steady | None:
    """None where there is no such window: in a closed loop with fewer than two requests a slot, say."""
    if not ok or len(completed) < 2 * (nominal_concurrency or 1):
        return None
    first_s = min(record.sent_s for record in completed)
    last_s = max(record.sent_s for record in completed)
    if nominal_concurrency is None:
        mean_s = math.fsum(record.latency_s for record in ok) / len(ok)
        begin_s, end_s = first_s + mean_s, last_s
    else:
        begin_s = min(record.ended_s for record in completed)
        end_s = min((record.ended_s for record in completed if record.ended_s > last_s), default=begin_s)
    if end_s <= begin_s:
        return None
    output_tokens = in_flight_s = 0.0
    for record in ok:
        inside = bisect_right(record.chunks_s, end_s) - bisect_right(record.chunks_s, begin_s)
        output_tokens += inside * record.output_tokens / len(record.chunks_s)
        in_flight_s += max(0.0, min(record.chunks_s[-1], end_s) - max(record.sent_s, begin_s))
    whole = [record for record in ok if record.sent_s >= begin_s and record.ended_s <= end_s]
    tpots_s = [record.tpot_s for record in whole if record.tpot_s is not None]
    input_tokens = sum(record.input_tokens for record in ok if begin_s < record.chunks_s[0] <= end_s)
    return Steady(
        begin_s=begin_s - first_s,
        end_s=end_s - first_s,
        output_tok_s=output_tokens / (end_s - begin_s),
        input_tok_s=input_tokens / (end_s - begin_s),
        concurrency=in_flight_s / (end_s - begin_s),
        requests=len(whole),
        ttft_ms=Spread.of(record.ttft_s * 1e3 for record in whole),
        tpot_ms=Spread.of(tpot_s * 1e3 for tpot_s in tpots_s),
    )
