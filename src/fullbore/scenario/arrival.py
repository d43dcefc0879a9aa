"""When requests are sent: a closed loop keeps a number in flight, an open loop keeps to a schedule."""

from dataclasses import dataclass

MOST_CONCURRENCY = 100_000


@dataclass(frozen=True)
class ClosedLoop:
    """``concurrency`` conversations are always in flight: each that ends is replaced at once.

    Over the first ``ramp_s`` seconds they begin one after the other instead of together.
    """

    concurrency: int
    ramp_s: float = 0.0


Arrival = ClosedLoop
