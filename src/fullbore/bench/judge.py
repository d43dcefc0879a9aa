"""Whether a point of a search keeps the limits, and how sure that is."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fullbore.scenario.confidence import Interval, mean_interval, percentile_interval, share_above
from fullbore.scenario.metrics import CANCELLED, Record
from fullbore.scenario.scenario import Limits

Run = tuple[Record, ...]


@dataclass(frozen=True)
class Point:
    """What was measured at one ``value``, a concurrency or a rate. Each run has its own clock."""

    value: float
    runs: tuple[Run, ...]

    @property
    def requests(self) -> int:
        """Requests that ended, well or badly."""
        return sum(record.outcome != CANCELLED for run in self.runs for record in run)


@dataclass(frozen=True)
class Judged:
    """A point against the limits. ``load``: its worst figure by its limit; inf where it failed."""

    value: float
    keeps: bool
    sure: bool  # whether it is at the confidence that was asked for
    load: float
    why: str
    requests: int
    failed: int
    ttft_ms: Interval | None
    tpot_ms: Interval | None
    output_tok_s: float
    total_tok_s: float


def judge(point: Point, limits: Limits, error: float) -> Judged:
    """``error``: the most that a verdict that calls itself sure may be wrong with."""
    ended = [[record for record in run if record.outcome != CANCELLED] for run in point.runs]
    ok = [sorted((r for r in run if r.ok), key=lambda record: record.sent_s) for run in ended]
    bad = [record for run in ended for record in run if not record.ok]
    every = [record for run in ok for record in run]
    together = max(map(_together, ok), default=1.0)
    ttfts = [record.ttft_s * 1e3 for record in every]
    tpots = [tpot_s * 1e3 for record in every if (tpot_s := record.tpot_s) is not None]
    found = [
        _limit(name, values, limit, limits.percentile, together, error)
        for name, values, limit in (("TTFT", ttfts, limits.ttft_ms), ("TPOT", tpots, limits.tpot_ms))
        if values
    ]
    duration_s = math.fsum(_duration_s(run) for run in ok)
    output = sum(record.output_tokens for record in every)
    total = output + sum(record.input_tokens for record in every)
    breaking = [each for each in found if each.load > 1]
    worst = max(found, key=lambda each: each.load, default=None)
    if bad or worst is None:
        keeps, sure, load, why = False, True, math.inf, _failures(bad, point.requests)
    elif breaking:
        keeps, sure = False, any(each.breaks for each in breaking)
        load, why = worst.load, "; ".join(each.words for each in breaking)
    else:
        keeps, sure, load, why = True, all(each.holds for each in found), worst.load, worst.words
    intervals = {each.name: each.interval for each in found}
    return Judged(
        value=point.value,
        keeps=keeps,
        sure=sure,
        load=load,
        why=why,
        requests=point.requests,
        failed=len(bad),
        ttft_ms=intervals.get("TTFT"),
        tpot_ms=intervals.get("TPOT"),
        output_tok_s=output / duration_s if duration_s else 0.0,
        total_tok_s=total / duration_s if duration_s else 0.0,
    )


@dataclass(frozen=True)
class _Limit:
    name: str
    interval: Interval
    load: float
    holds: bool  # each of the two with the error that was asked for; where neither, it is not sure
    breaks: bool
    words: str


def _limit(
    name: str, values: Sequence[float], limit: float, percentile: str, together: float, error: float
) -> _Limit:
    if percentile == "mean":
        interval = mean_interval(values, together, error)
        holds, breaks = interval.high <= limit, interval.low > limit
    else:
        percent = float(percentile.removeprefix("p"))
        interval = percentile_interval(values, percent, together, error)
        above, most = share_above(values, limit, together, error), 1 - percent / 100
        holds, breaks = above.high <= most, above.low > most
    words = f"{percentile} {name} {interval.estimate:.4g} ms of {limit:g}"
    return _Limit(name, interval, interval.estimate / limit, holds, breaks, words)


def _failures(bad: Sequence[Record], requests: int) -> str:
    if not bad:
        return "no request ended"
    kinds = Counter("no tokens" if record.outcome == "ok" else record.outcome for record in bad)
    listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(3))
    return f"{len(bad)} of {requests} requests failed: {listed}"


def _together(run: Sequence[Record]) -> float:
    """How many of the run's requests were in flight at once, on average."""
    duration_s = _duration_s(run)
    return math.fsum(record.latency_s for record in run) / duration_s if duration_s else 1.0


def _duration_s(run: Sequence[Record]) -> float:
    if not run:
        return 0.0
    return max(record.ended_s for record in run) - min(record.sent_s for record in run)
