"""Times that mean something: cold weights, warm code, candidates in turns.

- Weights are as cold as in service: each call takes the next of several packed copies, which together exceed
  twice the last-level cache, or the whole model where that is smaller.
- Candidates take turns (A B A B ...), so that a machine that drifts drifts for all of them.
- A call too short for the clock is repeated within one reading.

How one reading is made is a ``Timer``'s: here by a clock, on a GPU within a graph (``graphs.py``).
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from fullbore.tune.pinning import pinned

Call = Callable[[], object]
Clock = Callable[[], float]

SHORTEST_S = 20e-6  # below, the clock and the call of it show
MOST_LOOPS = 100  # however coarse the clock
WARM_UP, LONG_S = 4, 0.1  # calls before any is counted; two will do where they take so long together


@dataclass(frozen=True)
class Effort:
    """``seconds`` for all candidates of a point, but ``least`` to ``most`` readings of each; a single one of
    those that take more than ``hopeless`` times as long as the best."""

    seconds: float
    least: int
    most: int
    hopeless: float = float("inf")


@dataclass(frozen=True)
class Spread:
    """Of one candidate's readings, in microseconds."""

    median_us: float
    low_us: float
    high_us: float
    repeats: int

    @staticmethod
    def of(readings: Sequence[float]) -> "Spread":
        """``readings``: seconds, at least one."""
        ordered = sorted(readings)
        low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
        return Spread(1e6 * statistics.median(ordered), 1e6 * low, 1e6 * high, len(ordered))


@dataclass(frozen=True)
class Warm:
    """A call after its first ones. ``seconds``: what it took then; ``read``: measures once more, the seconds
    of one call."""

    seconds: float
    read: Callable[[], float]


class Timer(Protocol):
    """A way to say what a call takes."""

    def now(self) -> float:
        """Seconds since any moment, by which an effort ends."""
        ...

    def warm(self, call: Call, period: int) -> Warm:
        """``period``: the calls after which ``call`` reads what it has read before."""
        ...

    def steady(self) -> AbstractContextManager[object]:
        """While calls are compared."""
        ...


@dataclass(frozen=True)
class ClockTimer:
    """For kernels that have computed when they return."""

    clock: Clock = time.perf_counter

    def now(self) -> float:
        return self.clock()

    def warm(self, call: Call, period: int) -> Warm:
        seconds = _warm(call, self.clock)
        loops = max(1, min(MOST_LOOPS, round(SHORTEST_S / max(seconds, 1e-9))))
        return Warm(seconds, lambda: _reading(call, loops, self.clock) / loops)

    def steady(self) -> AbstractContextManager[object]:
        return pinned()


class Rotation:
    """A call that takes the next copy of the weights, and the next inputs, every time."""

    def __init__(
        self, run: Callable[..., object], copies: Sequence[Any], inputs: Sequence[tuple[Any, ...]]
    ) -> None:
        self._run, self._copies, self._inputs, self._turn = run, copies, inputs, 0
        self.period = max(len(copies), len(inputs))

    def __call__(self) -> object:
        turn = self._turn
        self._turn += 1
        return self._run(self._copies[turn % len(self._copies)], *self._inputs[turn % len(self._inputs)])


def copies_needed(packed_bytes: int, model_bytes: int, cache_bytes: int, most: int) -> int:
    """How many copies of packed weights make a rotation as cold as the model in service is."""
    cold = min(2 * cache_bytes, max(model_bytes, packed_bytes))
    return max(1, min(most, -(-cold // max(1, packed_bytes))))


def compare(calls: Sequence[Call], effort: Effort, timer: Timer | None = None) -> list[Spread]:
    """The spread of each call's times, measured in turns."""
    timer = timer or ClockTimer()
    begin = timer.now()
    ready = [timer.warm(call, call.period if isinstance(call, Rotation) else 1) for call in calls]
    best = min((each.seconds for each in ready), default=0.0)
    hopeless = [each.seconds > effort.hopeless * best for each in ready]
    readings: list[list[float]] = [
        [each.seconds] if lost else [] for each, lost in zip(ready, hopeless, strict=True)
    ]
    for turn in range(effort.most):
        if turn >= effort.least and timer.now() - begin > effort.seconds:
            break
        for each, seen, lost in zip(ready, readings, hopeless, strict=True):
            if not lost:
                seen.append(each.read())
    return [Spread.of(seen) for seen in readings]


def _warm(call: Call, clock: Clock) -> float:
    """Seconds of a call when it is warm: the least of several, since one alone may have been interrupted."""
    spent, seen = 0.0, list[float]()
    while len(seen) < WARM_UP and (len(seen) < 2 or spent < LONG_S):
        seen.append(_reading(call, 1, clock))
        spent += seen[-1]
    return min(seen)


def _reading(call: Call, loop: int, clock: Clock) -> float:
    begin = clock()
    for _ in range(loop):
        call()
    return clock() - begin
