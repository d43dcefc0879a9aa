"""What a published figure implies, and which readings of its throughput agree with its latencies.

Everything follows from one law (Little's): with C requests in flight, each of which takes TTFT + (n - 1) TPOT
for n tokens, a server answers C / (TTFT + (n - 1) TPOT) requests a second. No queue, ramp or drain is in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fullbore.errors import UsageError

# A closed loop with ramp and drain reaches 0.9 to 1.0 of the law; a rate above it was measured elsewhere.
FITS_LOW, FITS_HIGH = 0.9, 1.02


@dataclass(frozen=True)
class OperatingPoint:
    """A server in a steady state; lengths are means, in tokens."""

    concurrency: float
    input_tokens: float
    output_tokens: float
    ttft_s: float
    tpot_s: float

    @property
    def latency_s(self) -> float:
        return self.ttft_s + (self.output_tokens - 1) * self.tpot_s

    @property
    def requests_s(self) -> float:
        return self.concurrency / self.latency_s

    @property
    def output_tok_s(self) -> float:
        return self.requests_s * self.output_tokens

    @property
    def input_tok_s(self) -> float:
        return self.requests_s * self.input_tokens

    @property
    def total_tok_s(self) -> float:
        return self.output_tok_s + self.input_tok_s

    def people(self, active: float, requests_h: float) -> float:
        """How many are served if a share ``active`` works in the busy hour, each with ``requests_h``."""
        return self.requests_s * 3600 / (active * requests_h)


@dataclass(frozen=True)
class Claim:
    """What was published; one of the last four may be missing. ``tok_s``: whatever it counts."""

    input_tokens: float
    output_tokens: float
    concurrency: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    tok_s: float | None = None


@dataclass(frozen=True)
class Reading:
    """One way to understand a claimed throughput, and what the operating point gives if read so."""

    words: str
    tok_s: float
    ratio: float  # the claim to that

    @property
    def fits(self) -> bool:
        return FITS_LOW <= self.ratio <= FITS_HIGH


@dataclass(frozen=True)
class Needed:
    """An operating point with one thing changed so that it gives the claimed throughput."""

    words: str
    point: OperatingPoint


def solve(claim: Claim) -> OperatingPoint:
    """The operating point of ``claim``; a missing figure follows from the throughput, read as output tok/s.

    UsageError where more than one is missing, or no positive figure could stand in its place.
    """
    given = {
        "--concurrency": claim.concurrency,
        "--ttft": claim.ttft_s,
        "--tpot": claim.tpot_s,
        "--claimed": claim.tok_s,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) > 1:
        raise UsageError(
            f"{' and '.join(missing)} are missing; three of {', '.join(given)} give the fourth (Little's law)"
        )
    n, concurrency, ttft_s, tpot_s = claim.output_tokens, claim.concurrency, claim.ttft_s, claim.tpot_s
    request_s = n / claim.tok_s if claim.tok_s else 0.0  # between two answers of the server
    if concurrency is None:
        concurrency = ((ttft_s or 0.0) + (n - 1) * (tpot_s or 0.0)) / request_s
    elif ttft_s is None:
        ttft_s = concurrency * request_s - (n - 1) * (tpot_s or 0.0)
    elif tpot_s is None:
        if n < 2:
            raise UsageError("--tpot is missing, and --output 1 says nothing of it: give 2 tokens or more")
        tpot_s = (concurrency * request_s - ttft_s) / (n - 1)
    solved = OperatingPoint(concurrency, claim.input_tokens, n, ttft_s or 0.0, tpot_s or 0.0)
    if min(solved.ttft_s, solved.tpot_s) <= 0:
        raise UsageError(
            f"no {missing[0]} above 0 gives --claimed {claim.tok_s:g} as output tok/s: a request would last "
            f"{concurrency * request_s:.3g} s with {concurrency:g} in flight, and the rest of it takes longer"
        )
    return solved


def readings(point: OperatingPoint, claimed_tok_s: float, devices: int) -> list[Reading]:
    """What a throughput may have counted, the closest to the claim first."""
    half = replace(
        point, input_tokens=point.input_tokens / 2, output_tokens=max(1.0, point.output_tokens / 2)
    )
    found = [
        ("output tokens", point.output_tok_s),
        ("input and output tokens", point.total_tok_s),
        ("input tokens", point.input_tok_s),
        ("output tokens while they stream, prompts left out", point.concurrency / point.tpot_s),
        (
            "output tokens, lengths drawn from 0 to the stated ones (range ratio 0: half of them on average)",
            half.output_tok_s,
        ),
        ("input and output tokens, lengths drawn so", half.total_tok_s),
    ]
    if devices > 1:
        found += [
            (f"output tokens of one of {devices} devices", point.output_tok_s / devices),
            (f"input and output tokens of one of {devices} devices", point.total_tok_s / devices),
            (f"output tokens, the stated concurrency being that of each of {devices} devices",
             point.output_tok_s * devices),
            (f"input and output tokens, the stated concurrency being that of each of {devices} devices",
             point.total_tok_s * devices),
        ]  # fmt: skip
    every = [Reading(words, tok_s, claimed_tok_s / tok_s) for words, tok_s in found]
    return sorted(every, key=lambda reading: max(reading.ratio, 1 / reading.ratio))


def needed(point: OperatingPoint, claimed_tok_s: float) -> list[Needed]:
    """How ``point`` would have to differ to give the claim, one thing at a time, where that can be."""
    return [Needed(words, found) for words, found in _needed(point, claimed_tok_s) if _possible(found)]


def _needed(point: OperatingPoint, claimed_tok_s: float) -> Iterator[tuple[str, OperatingPoint]]:
    sum_tokens = point.input_tokens + point.output_tokens
    for what, tokens, rate in (
        ("output tokens", point.output_tokens, point.output_tok_s),
        ("input and output tokens", sum_tokens, point.total_tok_s),
    ):
        yield (
            f"another concurrency, counting {what}",
            replace(point, concurrency=point.concurrency * claimed_tok_s / rate),
        )
        latency_s = point.concurrency * tokens / claimed_tok_s
        if point.output_tokens > 1 and latency_s > point.ttft_s:
            tpot_s = (latency_s - point.ttft_s) / (point.output_tokens - 1)
            several = f" (or {point.tpot_s / tpot_s:.3g} tokens a chunk, the stated one being between chunks)"
            yield f"another TPOT, counting {what}{several}", replace(point, tpot_s=tpot_s)
    # Prefill-heavy mixes, with the latencies as stated. TTFT would grow with the prompts, so these flatter.
    longer = claimed_tok_s / point.requests_s - point.output_tokens
    yield "longer prompts, counting input and output tokens", replace(point, input_tokens=longer)
    latency_s = point.concurrency * sum_tokens / claimed_tok_s
    output = 1 + (latency_s - point.ttft_s) / point.tpot_s
    yield (
        "more input and less output of the same sum, counting both",
        replace(point, input_tokens=sum_tokens - output, output_tokens=output),
    )


def _possible(point: OperatingPoint) -> bool:
    return point.input_tokens > 0 and point.output_tokens >= 1 and min(point.ttft_s, point.tpot_s) > 0
