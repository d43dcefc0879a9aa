"""Millions of times in a few hundred numbers: buckets whose bounds grow by 1 %."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

GROWTH = 1.01
LEAST_MS = 1e-3  # what is shorter is no time that a clock here can tell, and counts as this


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each bucket; bucket b holds ``GROWTH ** b`` to ``GROWTH ** (b + 1)``
    milliseconds.

    Only buckets with something in them are kept, in ascending order.
    """

    buckets: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values_ms: Iterable[float]) -> "Histogram | None":
        """None when there is nothing to count."""
        log_growth = math.log(GROWTH)
        found = Counter(math.floor(math.log(max(value, LEAST_MS)) / log_growth) for value in values_ms)
        if not found:
            return None
        buckets = tuple(sorted(found))
        return cls(buckets, tuple(found[bucket] for bucket in buckets))

    def quantile_ms(self, share: float) -> float:
        """The middle of the bucket that ``share`` of the values reach into, so right to half a percent."""
        reached = accumulate(self.counts)
        wanted = share * sum(self.counts)
        place = next(place for place, seen in enumerate(reached) if seen >= wanted)
        return float(GROWTH ** (self.buckets[place] + 0.5))
