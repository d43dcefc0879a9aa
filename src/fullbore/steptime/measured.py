"""The step time of a machine whose operators were timed: their sum, and what the host adds.

A time is kept as a multiple of the roofline's floor of the minute it was read in. Between token counts and
contexts the multiple is interpolated, not the time, so that the kink where arithmetic takes over from memory
stays where it is; beyond them the nearest multiple holds. The floor itself is that of the ceilings probed
now, so that a machine whose memory has become slower since gets slower times.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fullbore.steptime.step import ACTIVATIONS, HOST, Interval, Step, StepCost, pairs

# Which tokens of a step an operator sees.
TOKENS, SAMPLED, DECODES, CHUNKS = "tokens", "sampled", "decodes", "chunks"

# Contexts at which attention is looked up; straight lines between them (they differ by a fifth).
_CONTEXTS = tuple(dict.fromkeys(round(2 ** (power / 4)) for power in range(81)))
_QUARTILE = 0.6744897501960817  # the normal quantile that a quarter lies above
_BEYOND = 0.1  # deviation of the logarithm for each factor of e beyond what was measured
_MOST_KEPT = 50_000  # times by token counts; chunks of prompts come in any size


@dataclass(frozen=True)
class Reading:
    """One call as it was timed, in microseconds: median and quartiles, and the floor of that minute. warm_us:
    with weights in a cache; 0 where that is not known."""

    tokens: int
    context: int
    us: float
    low_us: float
    high_us: float
    floor_us: float
    warm_us: float = 0.0


@dataclass(frozen=True)
class Known:
    """``us`` of one call, with the standard deviation of its logarithm."""

    us: float
    deviation: float


@dataclass(frozen=True)
class OperatorTimes:
    """One operator at one shape, ``uses`` times in the network, on ``sees`` of a step's tokens.

    floor_us(tokens, context): of the roofline at the present ceilings. kind(tokens, context): what that floor
    is made of (see ``step.py``). readings: at least one. cold: what it reads is in no cache, so that a
    reading under its floor says that memory was faster then than when it was probed, and not that this
    operator needs less.
    """

    operator: str
    uses: int
    sees: str
    readings: tuple[Reading, ...]
    floor_us: Callable[[int, int], float]
    kind: Callable[[int, int], str] = lambda tokens, context: ACTIVATIONS
    cold: bool = False

    def of(self, tokens: int, context: int) -> Known:
        """One call on so many tokens, each attending to ``context`` (or after as many)."""
        columns: dict[int, dict[int, tuple[float, float]]] = {}
        for reading in self.readings:
            columns.setdefault(reading.context, {})[reading.tokens] = self._multiple(reading)
        along = {at + 1: _between(column, tokens) for at, column in columns.items()}  # a context may be 0
        multiple, deviation = _between(along, context + 1)
        return Known(math.exp(multiple) * self.floor_us(tokens, context), deviation)

    def _multiple(self, reading: Reading) -> tuple[float, float]:
        """Logarithm of time over floor at the present ceilings, and its deviation."""
        now = self.floor_us(reading.tokens, reading.context)
        us = _moved(reading, now)
        spread = math.log(max(reading.high_us, reading.us) / max(min(reading.low_us, reading.us), 1e-9))
        multiple = max(us / now, 1.0) if self.cold else us / now
        return math.log(multiple), spread / (2 * _QUARTILE)


def _moved(reading: Reading, now_us: float) -> float:
    """The time of a reading where its floor is ``now_us``.

    What is computed takes as long as with warm weights, and what is read as long as the floor; a share of the
    shorter is hidden behind the longer, the same share now as then. Where the warm time is not known, nothing
    is: what the floor explains of a time follows the floor, the rest stays as it was.
    """
    then = min(reading.floor_us, reading.us)
    computed = min(reading.warm_us or reading.us - then, reading.us)
    shorter, longer = sorted((then, computed))
    shown = min(1.0, (reading.us - longer) / shorter) if shorter > 0 else 0.0
    now = then * now_us / reading.floor_us
    rest = max(0.0, reading.us - longer - shown * shorter)
    return max(now, computed) + shown * min(now, computed) + rest


def _between(known: dict[int, tuple[float, float]], at: int) -> tuple[float, float]:
    """Value and deviation at ``at``: a straight line over the logarithm of the key, flat beyond the ends.

    A line may be wrong by as much as a quarter of what its ends differ by; more where it goes on alone.
    """
    if at in known:
        return known[at]
    below = max((key for key in known if key < at), default=None)
    above = min((key for key in known if key > at), default=None)
    if below is not None and above is not None:
        share = math.log(at / below) / math.log(above / below)
        (low, one), (high, other) = known[below], known[above]
        bend = share * (1 - share) * abs(high - low)
        return (1 - share) * low + share * high, math.hypot(max(one, other), bend)
    end = below if below is not None else above
    if end is None:
        raise ValueError("an operator without a reading")
    value, deviation = known[end]
    return value, math.hypot(deviation, _BEYOND * abs(math.log(at / end)))


@dataclass(frozen=True)
class Host:
    """What is done around the operators of a step, in microseconds: scheduler, network's Python, tensors,
    sampler, messages. ``step_us``: of each step; ``row_us``: of each row in it.

    ``token_us``: of processors that the operators' threads then lack, for each sampled token: the HTTP
    process, and a client on this machine.
    """

    step_us: float
    row_us: float
    token_us: float = 0.0

    def us(self, rows: int, sampled: int) -> float:
        return self.step_us + self.row_us * rows + self.token_us * sampled


@dataclass
class MeasuredStepTime:
    """Times of steps by a table; asked as ``model.StepTime`` is."""

    operators: Sequence[OperatorTimes]
    host: Host
    _sums: dict[tuple[int, int, int, int], float] = field(default_factory=dict, repr=False)
    _curves: dict[tuple[str, int], list[float | None]] = field(default_factory=dict, repr=False)

    def seconds(self, step: Step) -> float:
        """The expected time of ``step``; about two microseconds once its counts were seen."""
        if not step.decodes and not step.prefill_tokens:
            return 0.0
        key = step.decodes, step.prefill_tokens, step.sampled, step.chunks
        us = self._sums.get(key)
        if us is None:
            if len(self._sums) >= _MOST_KEPT:
                self._sums.clear()
            us = self._sums[key] = self._fixed_us(step)
        if step.decodes:
            us += self._along(DECODES, step.decodes, step.context / step.decodes)
        if step.prefill_tokens:
            count, tokens, first = _chunk(step)
            us += count * self._along(CHUNKS, tokens, first)
        return us * 1e-6

    def of(self, step: Step) -> StepCost:
        """The time of ``step`` with its interval, and what it is spent on."""
        terms: dict[str, float] = {}
        wide_us = 0.0  # errors of one minute are those of one machine: they add up
        for times, calls, tokens, context in self._calls(step):
            known, kind = times.of(tokens, context), times.kind(tokens, context)
            us = times.uses * calls * known.us
            terms[kind] = terms.get(kind, 0.0) + us * 1e-6
            wide_us += us * known.deviation
        terms[HOST] = self.host.us(_rows(step), step.sampled) * 1e-6 if terms else 0.0
        seconds = sum(terms.values())
        deviation = wide_us * 1e-6 / seconds if seconds else 0.0
        return StepCost(Interval.spread(seconds, deviation), terms)

    def operators_s(self, step: Step) -> dict[str, float]:
        """What each operator takes of ``step``, by name; the host's share is not in it."""
        taken: dict[str, float] = {}
        for times, calls, tokens, context in self._calls(step):
            us = times.uses * calls * times.of(tokens, context).us
            taken[times.operator] = taken.get(times.operator, 0.0) + us * 1e-6
        return taken

    def floor_s(self, step: Step) -> float:
        """The sum of the operators' floors at the present ceilings."""
        return sum(
            times.uses * calls * times.floor_us(tokens, context) * 1e-6
            for times, calls, tokens, context in self._calls(step)
        )

    def _calls(self, step: Step) -> Iterable[tuple[OperatorTimes, int, int, int]]:
        """(operator, calls in a layer, tokens, context) of all that are made."""
        for times in self.operators:
            if times.sees == DECODES and step.decodes:
                yield times, 1, step.decodes, round(step.context / step.decodes)
            elif times.sees == CHUNKS and step.prefill_tokens:
                count, tokens, first = _chunk(step)
                yield times, count, tokens, round(first)
            elif times.sees == TOKENS and (tokens := step.decodes + step.prefill_tokens):
                yield times, 1, tokens, 0
            elif times.sees == SAMPLED and step.sampled:
                yield times, 1, step.sampled, 0

    def _fixed_us(self, step: Step) -> float:
        """All that does not depend on a context."""
        return self.host.us(_rows(step), step.sampled) + sum(
            times.uses * calls * times.of(tokens, context).us
            for times, calls, tokens, context in self._calls(step)
            if times.sees in (TOKENS, SAMPLED)
        )

    def _along(self, sees: str, tokens: int, context: float) -> float:
        """Attention of so many tokens, all layers of it."""
        curve = self._curves.setdefault((sees, tokens), [None] * len(_CONTEXTS))
        place = min(max(bisect_right(_CONTEXTS, context), 1), len(_CONTEXTS) - 1)
        below, above = _CONTEXTS[place - 1], _CONTEXTS[place]
        low, high = (self._at(curve, sees, tokens, each) for each in (place - 1, place))
        return low + (high - low) * (context - below) / (above - below)

    def _at(self, curve: list[float | None], sees: str, tokens: int, place: int) -> float:
        known = curve[place]
        if known is None:
            known = curve[place] = sum(
                times.uses * times.of(tokens, _CONTEXTS[place]).us
                for times in self.operators
                if times.sees == sees
            )
        return known


def _rows(step: Step) -> int:
    return step.decodes + (max(1, step.chunks) if step.prefill_tokens else 0)


def _chunk(step: Step) -> tuple[int, int, float]:
    """The prompts of a step as so many chunks alike: (how many, tokens of each, tokens before each)."""
    count = max(1, step.chunks)
    tokens = max(1, round(step.prefill_tokens / count))
    own = pairs(tokens, 0)
    return count, tokens, max(0.0, (step.prefill_pairs / count - own) / tokens)
