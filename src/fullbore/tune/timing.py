"""Times that mean something: cold weights, warm code, candidates in turns.

- Weights are as cold as in service: each call takes the next of several packed copies, which together exceed
  twice the last-level cache, or the whole model where that is smaller.
- Candidates take turns (A B A B ...), so that a machine that drifts drifts for all of them.
- Between two readings the nearest caches are swept, as other operators' weights do in a step: what is as
  short as a norm then takes up to twice as long, its Python included.
- Where nothing is swept, a call too short for the clock is repeated within one reading.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

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


def rotating(run: Callable[..., object], copies: Sequence[Any], inputs: Sequence[tuple[Any, ...]]) -> Call:
    """A call that takes the next copy of the weights, and the next inputs, every time."""
    turn = count()

    def call() -> object:
        number = next(turn)
        return run(copies[number % len(copies)], *inputs[number % len(inputs)])

    return call


def copies_needed(packed_bytes: int, model_bytes: int, cache_bytes: int, most: int) -> int:
    """How many copies of packed weights make a rotation as cold as the model in service is."""
    cold = min(2 * cache_bytes, max(model_bytes, packed_bytes))
    return max(1, min(most, -(-cold // max(1, packed_bytes))))


def compare(
    calls: Sequence[Call], effort: Effort, clock: Clock = time.perf_counter, sweep: Call | None = None
) -> list[Spread]:
    """The spread of each call's times, measured in turns. sweep: done before each reading, which is of one
    call then."""
    begin = clock()
    once = [_warm(call, clock) for call in calls]
    loops = [
        1 if sweep else max(1, min(MOST_LOOPS, round(SHORTEST_S / max(seconds, 1e-9)))) for seconds in once
    ]
    hopeless = [seconds > effort.hopeless * min(once) for seconds in once]
    readings: list[list[float]] = [
        [seconds] if lost else [] for seconds, lost in zip(once, hopeless, strict=True)
    ]
    for turn in range(effort.most):
        if turn >= effort.least and clock() - begin > effort.seconds:
            break
        for call, loop, seen, lost in zip(calls, loops, readings, hopeless, strict=True):
            if not lost:
                if sweep:
                    sweep()
                seen.append(_reading(call, loop, clock) / loop)
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
