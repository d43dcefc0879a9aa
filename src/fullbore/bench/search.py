"""The search for the limit: which point to measure next, and what the measured ones say. No HTTP, no clock.

``next_ask`` is a function of what was measured alone, so a search goes on from a file as if it had never
stopped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fullbore.bench.judge import Judged, Point, Run, judge
from fullbore.scenario.confidence import fewest_requests
from fullbore.scenario.scenario import Limits

LOOKS = 3  # at a point that is not decided, each with twice the requests of all before
GROWTH = 4.0  # from one point to the next, at most, while nothing has broken the limits


@dataclass(frozen=True)
class Effort:
    """How many requests decide a point; ``confidence``: that the limit is where the answer says."""

    confidence: float = 0.95
    per_slot: int = 4
    fewest: int = 8

    @property
    def error(self) -> float:
        """Of one look. The answer rests on two verdicts, each after so many looks (Bonferroni)."""
        return (1 - self.confidence) / 2 / LOOKS

    def first(self, slots: float, percentile: str) -> int:
        """Requests of the first look, with ``slots`` in flight at once."""
        least = 0 if percentile == "mean" else fewest_requests(float(percentile[1:]), self.error)
        return max(self.fewest, math.ceil(self.per_slot * slots), least)


@dataclass(frozen=True)
class FindLimit:
    """Where to look for the highest concurrency that keeps the limits, from ``first`` on."""

    first: int = 1
    most: int = 4096
    resolution: float = 0.02  # the answer is that close, relative to itself, or 1


@dataclass(frozen=True)
class Sweep:
    """These concurrencies, in this order."""

    values: tuple[int, ...]


@dataclass(frozen=True)
class Ask:
    """What to measure next."""

    value: int
    requests: int


@dataclass(frozen=True)
class Answer:
    """``limit``: the highest point that keeps the limits, None if none did; ``broken``: the lowest that
    does not."""

    limit: Judged | None
    broken: Judged | None
    done: bool  # or there is more to measure
    sure: bool  # both verdicts are
    stopped: str  # why it ended before its time, "" where it did not
    curve: tuple[Judged, ...]  # in the order of concurrency


def add(points: Sequence[Point], value: float, run: Run) -> tuple[Point, ...]:
    """``points`` with one more run, as the last one if it is at a new value."""
    if any(point.value == value for point in points):
        return tuple(
            Point(point.value, (*point.runs, run)) if point.value == value else point for point in points
        )
    return (*points, Point(value, (run,)))


def next_ask(points: Sequence[Point], plan: FindLimit | Sweep, limits: Limits, effort: Effort) -> Ask | None:
    """The next measurement; None when the answer is there, or when at some point no request succeeded."""
    return _next_ask(_judged(points, limits, effort), plan, limits, effort)


def answer(points: Sequence[Point], plan: FindLimit | Sweep, limits: Limits, effort: Effort) -> Answer:
    """What is known by now."""
    curve = _judged(points, limits, effort)
    limit, broken = _bracket(curve)
    sides = [each for each in (limit, broken) if each]
    stopped = _stopped(curve)
    return Answer(
        limit=limit,
        broken=broken,
        done=_next_ask(curve, plan, limits, effort) is None,
        sure=bool(sides) and not stopped and all(each.sure for each in sides),
        stopped=stopped,
        curve=tuple(sorted(curve, key=lambda each: each.value)),
    )


def _judged(points: Sequence[Point], limits: Limits, effort: Effort) -> list[Judged]:
    """In the order of measuring."""
    return [judge(point, limits, effort.error) for point in points]


def _stopped(curve: Sequence[Judged]) -> str:
    """Why the search cannot go on: the server may be dead where nothing succeeds. "" where it can."""
    dead = next((each for each in curve if each.requests and each.failed == each.requests), None)
    return f"at {dead.value:g} in flight {dead.why}" if dead else ""


def _next_ask(curve: Sequence[Judged], plan: FindLimit | Sweep, limits: Limits, effort: Effort) -> Ask | None:
    for judged in curve:
        more = _more(judged, plan, limits, effort)
        if more:
            return Ask(int(judged.value), more)
    if _stopped(curve):
        return None
    if isinstance(plan, Sweep):
        measured = {each.value for each in curve}
        value = next((value for value in plan.values if value not in measured), None)
    else:
        value = _next_value(curve, plan)
    return None if value is None else Ask(value, effort.first(value, limits.percentile))


def _more(judged: Judged, plan: FindLimit | Sweep, limits: Limits, effort: Effort) -> int:
    """Requests that a point lacks: those that a look needs, or more where it is not decided."""
    first = effort.first(judged.value, limits.percentile)
    looks = [first * 2**look for look in range(1 if isinstance(plan, Sweep) else LOOKS)]
    missing = next((look - judged.requests for look in looks if look > judged.requests), 0)
    hopeless = judged.requests and judged.failed
    if not missing or hopeless or (judged.requests >= first and judged.sure):
        return 0
    return max(missing, min(first, math.ceil(2 * judged.value)))


def _bracket(curve: Sequence[Judged]) -> tuple[Judged | None, Judged | None]:
    """The lowest point that breaks the limits, and the highest below it that keeps them."""
    broken = min((each for each in curve if not each.keeps), key=lambda each: each.value, default=None)
    below = [each for each in curve if each.keeps and (broken is None or each.value < broken.value)]
    return max(below, key=lambda each: each.value, default=None), broken


def _next_value(curve: Sequence[Judged], plan: FindLimit) -> int | None:
    """``curve`` in the order of measuring."""
    low, high = _bracket(curve)
    if low is None and high is None:
        return min(plan.first, plan.most)
    if low is None:
        if high is None or high.value <= 1:
            return None
        guess = high.value / high.load if math.isfinite(high.load) else 0.0
        return int(max(1, min(high.value // 2, max(high.value / GROWTH**2, guess))))
    if high is None:
        return _beyond(curve, low, plan)
    gap = max(1, int(plan.resolution * low.value))
    if high.value - low.value <= gap:
        return None
    guess = _between(curve, low, high)
    return int(min(high.value - gap, max(low.value + gap, round(guess))))


def _beyond(curve: Sequence[Judged], low: Judged, plan: FindLimit) -> int | None:
    """Further up, as far as the line through the two highest points says, but at least half as far again."""
    if low.value >= plan.most:
        return None
    below = max((each for each in curve if each.value < low.value), key=lambda each: each.value, default=None)
    guess = 2 * low.value
    if below is not None:
        slope = (low.load - below.load) / (low.value - below.value)
        guess = low.value + (1 - low.load) / slope if slope > 0 else math.inf
    return int(min(plan.most, max(low.value + 1, 1.5 * low.value, min(GROWTH * low.value, guess))))


def _between(curve: Sequence[Judged], low: Judged, high: Judged) -> float:
    """Where the line through both ends meets the limit; their middle while one of them failed.

    The line alone creeps along a bent curve from one end. Each time an end is kept once more, its distance
    from the limit counts half (the Illinois method: Dowell and Jarratt, BIT 11, 1971).
    """
    if not math.isfinite(high.load):
        return math.sqrt(low.value * high.value)
    order = [each.value for each in curve]
    since = {each.value: len(order) - 1 - order.index(each.value) for each in (low, high)}
    under = (1 - low.load) / 2 ** max(0, since[low.value] - 1)
    over = (high.load - 1) / 2 ** max(0, since[high.value] - 1)
    return low.value + (high.value - low.value) * (under / (under + over) if under + over else 0.5)
