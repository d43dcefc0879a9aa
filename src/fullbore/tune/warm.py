"""What an operator takes when memory is no part of it: its weights lie in a cache.

A time with cold weights alone does not say what it would be where memory is slower or faster: bytes may have
come while something else was computed, or not. With both it does.
"""

import statistics
from typing import Any

import torch

from fullbore.ops.contract import Job, Kernel, packed_bytes
from fullbore.ops.demand import Workload, step_shape
from fullbore.ops.operators import OPERATORS
from fullbore.tune.points import Inputs, Point, timed_sizes
from fullbore.tune.timing import Clock

_READINGS, _WARM_UP = 5, 2
_CACHE_SHARE = 2  # weights and what else is used fit into this part of the last cache


class Warm:
    """One job's: with as few experts as a cache holds, and so few tokens that each has as many rows."""

    def __init__(self, job: Job, work: Workload, cache_bytes: int, clock: Clock) -> None:
        self._job, self._operator, self._clock = job, OPERATORS[job.operator], clock
        self._most_bytes = cache_bytes // _CACHE_SHARE
        self._whole = timed_sizes(work, job, 1 << 62)
        self._small = timed_sizes(work, job, self._most_bytes)
        self._inputs: Inputs | None = None
        self._packs: dict[str, Any] = {}

    def median_us(self, kernel: type[Kernel], point: Point) -> float:
        """Of one call at ``point`` of all experts; 0 where a cache does not hold what it reads."""
        share = self._small.get("experts", 1) / self._whole.get("experts", 1)
        tokens = max(1, round(point.tokens * share))
        small, whole = self._bytes(self._small, tokens, point), self._bytes(self._whole, point.tokens, point)
        if small > self._most_bytes:
            return 0.0
        if self._inputs is None:
            self._inputs = Inputs(self._job, self._small)
        made = kernel(self._job.dtype)
        if kernel.name not in self._packs:
            self._packs[kernel.name] = made.pack(*self._inputs.weights)
        pack = self._packs[kernel.name]
        if packed_bytes(pack) > self._most_bytes:
            return 0.0
        (drawn,) = self._inputs.at(Point(tokens, point.context), 1, 0)[:1]
        seen = []
        with torch.inference_mode():
            for _ in range(_WARM_UP + _READINGS):
                begin = self._clock()
                made.run(pack, *drawn)
                seen.append(self._clock() - begin)
        return 1e6 * statistics.median(seen[_WARM_UP:]) * whole / small

    def _bytes(self, sizes: Any, tokens: int, point: Point) -> int:
        shape = step_shape(self._operator, sizes, tokens, point.context)
        return max(1, self._operator.cost(shape, self._job.format, self._job.dtype).bytes)
