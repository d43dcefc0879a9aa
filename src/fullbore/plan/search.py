"""The best way to run a model on a server under the limits of some scenarios, and why the others lost.

Ways are ranked by the geometric mean of the most requests in flight inside each scenario's limits, so that
none is bought at another's expense. Exact under one assumption: what breaks a limit with n in flight breaks
it with more. A way is then out as soon as a simulation shows that it cannot reach what the best so far has.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fullbore.errors import CapacityError, FullboreError
from fullbore.plan.demand import Demand
from fullbore.plan.space import Unfit
from fullbore.plan.trial import MOST_IN_FLIGHT, Trial

KEPT = 5  # ways whose limits are found exactly, for the ranking and the front
_FRONT_CONCURRENCIES = (1, 4, 16, 64, 256)


@dataclass(frozen=True)
class Ranked:
    """A way, and the most in flight inside the limits of each demand, in their order."""

    trial: Trial
    limits: tuple[int, ...]

    @property
    def score(self) -> float:
        """Their geometric mean."""
        return math.pow(math.prod(self.limits), 1 / len(self.limits))


@dataclass(frozen=True)
class Spot:
    """A point of the front: what one way reaches with so many in flight."""

    trial: Trial
    concurrency: int
    tpot_ms: float
    ttft_ms: float
    output_tok_s: float


@dataclass(frozen=True)
class Found:
    """``ranked``: best first. ``tried``: ways that fit. ``outdone``: those that were soon out."""

    demands: tuple[Demand, ...]
    ranked: tuple[Ranked, ...]
    tried: int
    outdone: int
    unfit: tuple[Unfit, ...]

    @property
    def best(self) -> Ranked:
        """The winner."""
        return self.ranked[0]


def search(ways: Iterable[Trial | Unfit], demands: Sequence[Demand], kept: int = KEPT) -> Found:
    """The ``kept`` best ways. CapacityError where none fits; FullboreError, with the floor, where none keeps
    the limits with even one request in flight."""
    ranked: list[Ranked] = []
    fitting: list[Trial] = []
    unfit: list[Unfit] = []
    for way in ways:
        (unfit if isinstance(way, Unfit) else fitting).append(way)  # type: ignore[arg-type]
    if not fitting:
        raise CapacityError(_nothing_fits(unfit))
    # A good guess first, so that most others are out soon; ties keep the order of the space.
    order = {id(trial): place for place, trial in enumerate(fitting)}
    guesses = {id(trial): _guess(trial, demands) for trial in fitting}
    outdone = 0
    for trial in sorted(fitting, key=lambda each: (-guesses[id(each)], order[id(each)])):
        limits = _limits(trial, demands, ranked[-1] if len(ranked) >= kept else None)
        if limits is None:
            outdone += 1
            continue
        ranked.append(Ranked(trial, limits))
        ranked.sort(key=lambda each: (-each.score, -_rate(each, demands), order[id(each.trial)]))
        del ranked[kept:]
    if not ranked or ranked[0].score == 0:
        raise FullboreError(_nothing_keeps(fitting, demands))
    return Found(tuple(demands), tuple(ranked), len(fitting), outdone, tuple(unfit))


def _guess(trial: Trial, demands: Sequence[Demand]) -> float:
    return math.prod(float(trial.decode_limit(demand)) for demand in demands)


def _limits(trial: Trial, demands: Sequence[Demand], last: Ranked | None) -> tuple[int, ...] | None:
    """Of each demand; None when their geometric mean is below that of ``last``.

    A way that keeps no limit where ``last`` is at its own is worse in every demand: one simulation of each
    shows it. Another has its limits found one by one, until one shows that the rest cannot make up for it.
    """
    if last is None:
        return tuple(trial.limit(demand) for demand in demands)
    ahead = [trial.keeps(demand, most) for demand, most in zip(demands, last.limits, strict=True)]
    if not any(ahead):
        return None
    found: dict[int, int] = {}
    asked = math.prod(last.limits)
    # Those that are ahead first, so that what the last one must reach is known and needs one simulation.
    for place in sorted(range(len(demands)), key=lambda place: not ahead[place]):
        if len(found) == len(demands) - 1 and asked:
            needed = math.ceil(asked / math.prod(found.values()))
            if needed > MOST_IN_FLIGHT or not trial.keeps(demands[place], needed):
                return None
        found[place] = trial.limit(demands[place])
        if not found[place] and asked:
            return None
    return tuple(found[place] for place in range(len(demands)))


def _rate(ranked: Ranked, demands: Sequence[Demand]) -> float:
    """Output tokens a second inside the limits, as a product over the demands."""
    pairs = zip(demands, ranked.limits, strict=True)
    return math.prod(ranked.trial.at(demand, count).output_tok_s if count else 0.0 for demand, count in pairs)


def why_lost(best: Ranked, other: Ranked, demands: Sequence[Demand]) -> str:
    """What ``other`` breaks, or how it is slower, where ``best`` is at its limit."""
    for demand, mine, its in zip(demands, best.limits, other.limits, strict=True):
        if its < mine:
            seen, limits = other.trial.at(demand, mine), demand.limits
            broken = [
                f"{name} {value:,.0f} ms instead of {limit:,.0f}"
                for name, value, limit in (
                    ("TPOT", seen.tpot_ms, limits.tpot_ms),
                    ("TTFT", seen.ttft_ms, limits.ttft_ms),
                )
                if value > limit
            ]
            return f"{demand.name} with {mine} in flight: {' and '.join(broken)}"
    for demand, mine in zip(demands, best.limits, strict=True):
        ours, theirs = best.trial.at(demand, mine), other.trial.at(demand, mine)
        if theirs.output_tok_s < ours.output_tok_s:
            return f"{demand.name}: {1 - theirs.output_tok_s / ours.output_tok_s:.1%} fewer tokens a second"
    return "the same figures; the winner is the simpler, or came first"


def front(found: Found, demand: Demand) -> list[Spot]:
    """What no other way and concurrency beats in TPOT, TTFT and output together, slowest output first."""
    spots = []
    place = found.demands.index(demand)
    for entry in found.ranked:
        counts = {count for count in _FRONT_CONCURRENCIES if count <= 2 * entry.limits[place]}
        for count in sorted(counts | {entry.limits[place]} - {0}):
            seen = entry.trial.at(demand, count)
            spots.append(Spot(entry.trial, count, seen.tpot_ms, seen.ttft_ms, seen.output_tok_s))
    kept: list[Spot] = []
    for spot in sorted(spots, key=lambda each: (-each.output_tok_s, each.tpot_ms, each.ttft_ms)):
        if not any(other.tpot_ms <= spot.tpot_ms and other.ttft_ms <= spot.ttft_ms for other in kept):
            kept.append(spot)
    return kept[::-1]


def _nothing_fits(unfit: Sequence[Unfit]) -> str:
    """The reason of the setting that comes closest, which is the last layout's narrowest format."""
    return f"none of {len(unfit)} settings fits into memory; the last: {unfit[-1].why}"


def _nothing_keeps(fitting: Sequence[Trial], demands: Sequence[Demand]) -> str:
    words = []
    for demand in demands:
        if any(trial.keeps(demand, 1) for trial in fitting):
            continue
        fastest = min(fitting, key=lambda each: each.at(demand, 1).tpot_ms)
        soonest = min(fitting, key=lambda each: each.at(demand, 1).ttft_ms)
        limits = demand.limits
        words.append(
            f"{demand.name} (TPOT {limits.tpot_ms:g} ms, TTFT {limits.ttft_ms:g} ms) cannot be kept with "
            f"even one request in flight: the least TPOT is {fastest.at(demand, 1).tpot_ms:.1f} ms, of which "
            f"memory alone is {fastest.floor_ms(demand, 1):.1f} ms (the floor), and the least TTFT is "
            f"{soonest.at(demand, 1).ttft_ms:.0f} ms"
        )
    if not words:
        words.append("no one setting keeps the limits of all scenarios; plan for one --scenario at a time")
    return "; ".join(words)
