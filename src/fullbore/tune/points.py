"""Where a job is timed: token counts, contexts, and the inputs there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator

from fullbore.ops.contract import DTYPES, Case, Job, Shape, packed_bytes
from fullbore.ops.demand import LADDER, Call, Workload, calls, step_shape, subject, usual_context
from fullbore.ops.operators import OPERATORS
from fullbore.ops.place import moved
from fullbore.ops.times import THOROUGH as REPEATS
from fullbore.scenario.mix import Mix
from fullbore.tune.timing import Effort, copies_needed

MOST_CACHE_BYTES = 256 << 20  # of latents in one drawn attention
MOST_INPUTS = 8
_SEED = 21


@dataclass(frozen=True)
class Mode:
    """How thoroughly. ``contexts``: beside the mix's own. ``rows``: the most that are timed with a context.
    ``tries_again``: kernels that ended a process.
    """

    name: str
    ladder: tuple[int, ...]
    contexts: tuple[int, ...]
    effort: Effort  # seconds are for each point
    total_s: float  # for all jobs, each of which gets a fair share of what is left, but one point at least
    rows: int = 64
    tries_again: bool = False


QUICK = Mode("quick", (1, 8, 64, 512), (), Effort(0.5, 5, REPEATS - 1, hopeless=4.0), 40.0)
THOROUGH = Mode("thorough", LADDER, (64, 512, 4096), Effort(2.0, REPEATS, 300), float("inf"), 512, True)
MODES = {mode.name: mode for mode in (QUICK, THOROUGH)}


@dataclass(frozen=True)
class Point:
    """``tokens`` rows with ``context`` keys, or after as many tokens; 0 where an operator knows none."""

    tokens: int
    context: int


def points(job: Job, mix: Mix, mode: Mode, sizes: Shape) -> tuple[Point, ...]:
    """What is timed of a job, what its calls in the mix are nearest to first."""
    names = OPERATORS[job.operator].shapes[0]
    contexts: tuple[int, ...] = (0,)
    if "first" in names:
        contexts = (0, *mode.contexts)
    elif "context" in names:
        contexts = tuple(sorted({usual_context(job, mix) or 512, *mode.contexts}))
    width = 4 * (names.get("latent", 0) and sum(subject(job, sizes)[part] for part in ("latent", "rope")))
    most = mode.rows if "context" in names else max(mode.ladder)
    asked = max(calls(job, mix), key=lambda call: call.weight, default=Call(1, 0, 0.0))
    found = [
        Point(tokens, context)
        for tokens in mode.ladder
        for context in contexts
        if tokens <= most and (tokens * context * width <= MOST_CACHE_BYTES or "context" not in names)
    ]
    return tuple(sorted(found, key=lambda point: abs(math.log(point.tokens / asked.tokens))))


def timed_sizes(work: Workload, job: Job, most_bytes: int) -> Shape:
    """The sizes a job is timed at: its own, with fewer experts where all of them exceed ``most_bytes``."""
    fixed = subject(job, work.sizes)
    if "experts" not in fixed or "n_group" in fixed:
        return fixed
    operator = OPERATORS[job.operator]
    whole = operator.cost(step_shape(operator, fixed, 10_000, 0), job.format, job.dtype).bytes
    each = whole // fixed["experts"]
    fitting = max(fixed.get("k", 1), most_bytes // max(1, each))
    return {**fixed, "experts": min(fixed["experts"], fitting)}


class Inputs:
    """Draws of one job: weights once where the operator can draw inputs alone."""

    def __init__(self, job: Job, fixed: Shape, place: str = "cpu") -> None:
        self._operator = OPERATORS[job.operator]
        self._job, self._fixed, self._place = job, fixed, place
        self._generator = Generator().manual_seed(_SEED)
        self.weights: tuple[Any, ...] = self._draw(Point(1, 1)).weights

    def at(self, point: Point, uses: int, cache_bytes: int) -> Sequence[tuple[Any, ...]]:
        """Sets of inputs to take in turns, as cold together as those of ``uses`` layers in service."""
        first = self._inputs(point)
        wanted = copies_needed(packed_bytes(first), uses * packed_bytes(first), cache_bytes, MOST_INPUTS)
        if "experts" in self._fixed:
            wanted = MOST_INPUTS  # each chooses other experts, whose weights are then cold
        drawn = [first, *(self._inputs(point) for _ in range(wanted - 1))]
        return [moved(each, self._place) for each in drawn]

    def _inputs(self, point: Point) -> tuple[Any, ...]:
        operator = self._operator
        if operator.draw_inputs is None:
            return self._draw(point).inputs
        shape = step_shape(operator, self._fixed, point.tokens, point.context)
        return operator.draw_inputs(shape, operator.timed, DTYPES[self._job.dtype], self._generator)

    def _draw(self, point: Point) -> Case:
        operator, job = self._operator, self._job
        shape = step_shape(operator, self._fixed, point.tokens, point.context)
        return operator.draw(shape, operator.timed, job.format, DTYPES[job.dtype], self._generator)
