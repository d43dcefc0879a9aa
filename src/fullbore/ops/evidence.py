"""Measured times made into what a selection asks for: the cost of a kernel in a scenario's steps."""

from bisect import bisect_left
from dataclasses import dataclass, field

from fullbore.ops.candidates import Expected
from fullbore.ops.contract import Job
from fullbore.ops.demand import LADDER, calls, usual_context
from fullbore.ops.estimate import SOURCES, Estimator
from fullbore.scenario.mix import Mix

# Buckets that the mix never visits still get the faster kernel where kernels may differ by tokens.
_UNVISITED = 1e-9


@dataclass(frozen=True)
class Measured:
    """``Evidence`` of a table of times for a mix of steps. ``heads``: jobs that see sampled rows alone."""

    estimator: Estimator
    mix: Mix
    heads: frozenset[Job] = frozenset()
    _known: dict[tuple[Job, str], Expected | None] = field(default_factory=dict, repr=False)

    def refusal(self, job: Job, kernel: str) -> str:
        here = self.estimator.subject(job)
        verdict = self.estimator.times.verdict(here, kernel, self.estimator.code(job, kernel))
        return verdict.reason if verdict is not None and not verdict.passed else ""

    def packed_bytes(self, job: Job, kernel: str) -> int:
        return self.estimator.packed_bytes(job, kernel)

    def expected(self, job: Job, kernel: str) -> Expected | None:
        if (job, kernel) not in self._known:
            self._known[job, kernel] = self._expect(job, kernel)
        return self._known[job, kernel]

    def usual_context(self, job: Job) -> int:
        """Of the calls that the mix makes of a job."""
        return usual_context(job, self.mix)

    def once(self, job: Job, kernel: str) -> float | None:
        """At the nearest token counts that were ever timed; the mix decides which matter."""
        times = self.estimator.times.older(self.estimator.subject(job), kernel, "")
        if not times:
            return None
        total = 0.0
        for call in calls(job, self.mix, job in self.heads):
            nearest = min(
                times, key=lambda t: (abs(t.tokens - call.tokens), abs(t.context - call.context), -t.when)
            )
            total += call.weight * nearest.median_us
        return total

    def _expect(self, job: Job, kernel: str) -> Expected | None:
        buckets, source = [0.0] * len(LADDER), "measured"
        for call in calls(job, self.mix, job in self.heads):
            known = self.estimator.of(job, kernel, call.tokens, call.context)
            if known is None:
                return None
            buckets[bisect_left(LADDER, call.tokens, 0, len(LADDER) - 1)] += call.weight * known.us
            source = max(source, known.source, key=SOURCES.index)
        us = sum(buckets)
        for bucket, tokens in enumerate(LADDER):
            known = self.estimator.of(job, kernel, tokens, self.usual_context(job))
            if known is None:
                return None
            buckets[bucket] += _UNVISITED * known.us
        return Expected(us, tuple(buckets), source)
