"""What a call will take, from what was measured; always with how well that is known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fullbore.hardware.ceiling import Ceiling
from fullbore.ops.contract import Cost, Job, Shape
from fullbore.ops.demand import step_shape, subject
from fullbore.ops.operators import OPERATORS
from fullbore.ops.times import Subject, Times, Timing

SOURCES = ("measured", "interpolated", "assumed")  # from the best to the least


@dataclass(frozen=True)
class Estimate:
    """``source``: measured at this very count; interpolated between two; assumed: as close to the roofline
    as the nearest shape or count that was measured. ``floor_us``: the roofline's, by the ceilings of the same
    minute where it was measured."""

    us: float
    source: str
    floor_us: float


@dataclass(frozen=True)
class Estimator:
    """``codes``: (operator, kernel) -> what identifies its present code."""

    times: Times
    codes: Mapping[tuple[str, str], str]
    ceiling: Ceiling
    sizes: Shape
    _known: dict[tuple[Job, str, int, int], Estimate | None] = field(default_factory=dict, repr=False)

    def of(self, job: Job, kernel: str, tokens: int, context: int) -> Estimate | None:
        """The time of one call; None where nothing of this kernel was measured in this format and type."""
        key = job, kernel, tokens, context
        if key not in self._known:
            self._known[key] = self._look(job, kernel, tokens, context)
        return self._known[key]

    def subject(self, job: Job) -> Subject:
        return Subject.of(job, subject(job, self.sizes))

    def code(self, job: Job, kernel: str) -> str:
        return self.codes.get((job.operator, kernel), "")

    def packed_bytes(self, job: Job, kernel: str) -> int:
        """Of one set of weights as this kernel packs them; 0 where it never packed any here."""
        here, code = self.subject(job), self.code(job, kernel)
        for timing in self.times.ladder(here, kernel, code):
            return timing.packed_bytes
        own = _stored_bytes(dict(here.shape), job)
        for other in self.times.relatives(here, kernel, code):  # of another shape: as compact as that
            timing = self.times.ladder(other, kernel, code)[0]
            return round(timing.packed_bytes * own / max(1, _stored_bytes(dict(other.shape), job)))
        return 0

    def cost(self, job: Job, tokens: int, context: int) -> Cost:
        """The least that one call must do."""
        return _cost(job, subject(job, self.sizes), tokens, context)

    def _floor(self, job: Job, fixed: Shape, tokens: int, context: int) -> float:
        cost = _cost(job, fixed, tokens, context)
        arithmetic = OPERATORS[job.operator].arithmetic(job.format, job.dtype)
        return max(self.ceiling.floor_us(cost.flops, cost.bytes, arithmetic), 1e-6)

    def _look(self, job: Job, kernel: str, tokens: int, context: int) -> Estimate | None:
        here, code = self.subject(job), self.code(job, kernel)
        ladder = self.times.ladder(here, kernel, code)
        if ladder:
            return self._between(job, dict(here.shape), ladder, tokens, context)
        floor = self._floor(job, dict(here.shape), tokens, context)
        nearest: tuple[float, Estimate] | None = None
        for other in self.times.relatives(here, kernel, code):
            shape = dict(other.shape)
            there = self._floor(job, shape, tokens, context)
            distance = abs(math.log(there / floor))
            if nearest is None or distance < nearest[0]:
                known = self._between(job, shape, self.times.ladder(other, kernel, code), tokens, context)
                nearest = distance, Estimate(known.us * floor / there, "assumed", floor)
        return nearest[1] if nearest else None

    def _between(
        self, job: Job, fixed: Shape, ladder: Sequence[Timing], tokens: int, context: int
    ) -> Estimate:
        """Straight lines in the logarithms of tokens, then of context; beyond the ends, as the roofline."""
        columns = {
            at: self._along_tokens(job, fixed, [t for t in ladder if t.context == at], tokens)
            for at in {timing.context for timing in ladder}
        }
        if context in columns:
            return columns[context]
        floor = self._floor(job, fixed, tokens, context)
        below = max((at for at in columns if at < context), default=None)
        above = min((at for at in columns if at > context), default=None)
        if below is None or above is None:
            at = next(each for each in (below, above) if each is not None)
            ratio = floor / self._floor(job, fixed, tokens, at)
            return Estimate(columns[at].us * ratio, "assumed", floor)
        low, high = columns[below], columns[above]
        us = _line(below + 1, low.us, above + 1, high.us, context + 1)  # a context may be 0
        return Estimate(us, max(low.source, high.source, "interpolated", key=SOURCES.index), floor)

    def _along_tokens(self, job: Job, fixed: Shape, column: Sequence[Timing], tokens: int) -> Estimate:
        at = {timing.tokens: timing for timing in column}
        if tokens in at:
            return Estimate(at[tokens].median_us, "measured", at[tokens].floor_us)
        below = max((count for count in at if count < tokens), default=None)
        above = min((count for count in at if count > tokens), default=None)
        floor = self._floor(job, fixed, tokens, column[0].context)
        if below is not None and above is not None:
            us = _line(below, at[below].median_us, above, at[above].median_us, tokens)
            return Estimate(us, "interpolated", floor)
        nearest = at[next(each for each in (below, above) if each is not None)]
        ratio = floor / self._floor(job, fixed, nearest.tokens, nearest.context)
        return Estimate(nearest.median_us * ratio, "assumed", floor)


def _cost(job: Job, fixed: Shape, tokens: int, context: int) -> Cost:
    operator = OPERATORS[job.operator]
    return operator.cost(step_shape(operator, fixed, tokens, context), job.format, job.dtype)


def _stored_bytes(fixed: Shape, job: Job) -> int:
    """What an operator reads when it has so many tokens that it reads all weights, less the tokens."""
    many, more = (_cost(job, fixed, tokens, 0).bytes for tokens in (1 << 20, 1 << 21))
    return 2 * many - more


def _line(x0: float, y0: float, x1: float, y1: float, x: float) -> float:
    share = math.log(x / x0) / math.log(x1 / x0)
    return math.exp((1 - share) * math.log(max(y0, 1e-9)) + share * math.log(max(y1, 1e-9)))
