"""How sure a run's figures are, and whether two runs differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fullbore.scenario.confidence import Interval, mean_interval, ratio_interval
from fullbore.scenario.metrics import Record, Steady
from fullbore.scenario.timeline import Timeline

ERROR = 0.025  # on each side: intervals hold the truth in 95 of 100 runs
FIGURES = ("ttft_ms", "tpot_ms", "output_tok_s")


@dataclass(frozen=True)
class Sample:
    """Values in the order of time, of which ``together`` neighbours depend on each other."""

    values: tuple[float, ...]
    together: float

    def mean(self) -> Interval | None:
        """None with too few values to say."""
        return _known(mean_interval(self.values, self.together, ERROR)) if self.values else None


@dataclass(frozen=True)
class Certainty:
    """95 % intervals of means; None where the run is too short to say. Throughput's is of the steady
    window."""

    ttft_ms: Interval | None = None
    tpot_ms: Interval | None = None
    output_tok_s: Interval | None = None


def samples(records: Sequence[Record], steady: Steady | None, steps: Timeline | None) -> Mapping[str, Sample]:
    """What the means of ``FIGURES`` are taken over; one that the run does not have is left out.

    Requests that are in flight together share steps of the server, and seconds that one request spans
    share it.
    """
    ok = sorted((record for record in records if record.ok), key=lambda record: record.sent_s)
    if not ok:
        return {}
    busy_s = math.fsum(record.latency_s for record in ok)
    span_s = max(record.chunks_s[-1] for record in ok) - ok[0].sent_s
    in_flight = busy_s / span_s if span_s > 0 else float(len(ok))
    found = {
        "ttft_ms": Sample(tuple(record.ttft_s * 1e3 for record in ok), in_flight),
        "tpot_ms": Sample(
            tuple(record.tpot_s * 1e3 for record in ok if record.tpot_s is not None), in_flight
        ),
    }
    if steady is not None and steps is not None:
        first, last = math.ceil(steady.begin_s / steps.step_s), math.floor(steady.end_s / steps.step_s)
        rates = tuple(tokens / steps.step_s for tokens in steps.output_tokens[first:last])
        found["output_tok_s"] = Sample(rates, busy_s / len(ok) / steps.step_s)
    return {name: sample for name, sample in found.items() if sample.values}


def certainty(records: Sequence[Record], steady: Steady | None, steps: Timeline | None) -> Certainty:
    """The intervals of one run."""
    return Certainty(**{name: sample.mean() for name, sample in samples(records, steady, steps).items()})


def ratio(above: Sample | None, below: Sample | None) -> Interval | None:
    """Of two means, with its 95 % interval; None where one of the runs cannot say."""
    if above is None or below is None or not (sum(above.values) > 0 and sum(below.values) > 0):
        return None
    return _known(ratio_interval(above.values, below.values, (above.together, below.together), ERROR))


def _known(interval: Interval) -> Interval | None:
    return interval if 0 < interval.high - interval.low < math.inf or interval.low == interval.high else None
