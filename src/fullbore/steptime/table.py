"""From the tuner's table to the operators of a step. Operators need torch, which is imported by the call."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fullbore.errors import FullboreError
from fullbore.hardware.cpu import last_level_cache_bytes
from fullbore.steptime.measured import CHUNKS, DECODES, SAMPLED, TOKENS, OperatorTimes, Reading

if TYPE_CHECKING:
    from fullbore.hardware.ceiling import Ceiling
    from fullbore.ops.contract import Job
    from fullbore.ops.demand import Workload
    from fullbore.ops.estimate import Estimator
    from fullbore.ops.selection import Selection

_COLD = 2  # times the last cache, from which on weights are read from memory in every step
_ASSUMED = 1.15  # quartiles of a time that is another shape's


def operator_times(
    work: "Workload", selection: "Selection", estimator: "Estimator", ceiling: "Ceiling"
) -> tuple[OperatorTimes, ...]:
    """The times of each job of ``work`` by the kernels of ``selection``, on a machine of ``ceiling`` now.

    FullboreError where a job's kernels were never timed.
    """
    from fullbore.ops.operators import OPERATORS

    uses: dict[Job, int] = {}
    for group, count in work.groups.items():
        for job in group:
            uses[job] = uses.get(job, 0) + count

    cold = work.bytes > _COLD * last_level_cache_bytes()

    def one(job: "Job") -> OperatorTimes:
        operator = OPERATORS[job.operator]
        arithmetic = operator.arithmetic(job.format, job.dtype)

        def floor_us(tokens: int, context: int) -> float:
            cost = estimator.cost(job, tokens, context)
            return max(ceiling.floor_us(cost.flops, cost.bytes, arithmetic), 1e-6)

        names = operator.shapes[0]
        sees = SAMPLED if job in work.heads else TOKENS
        sees = CHUNKS if "first" in names else DECODES if "context" in names else sees
        readings = tuple(_readings(job, selection, estimator))
        if not readings:
            raise FullboreError(
                f"{job.operator} by {selection.choices[job].names} was never timed on this machine with the "
                "present code (run: fullbore tune MODEL)"
            )
        return OperatorTimes(job.operator, uses[job], sees, readings, floor_us, cold)

    return tuple(one(job) for job in work.jobs)


def _readings(job: "Job", selection: "Selection", estimator: "Estimator") -> Iterator[Reading]:
    """Of each kernel at the counts that it computes; where this shape was never timed, what the most similar
    one says of it."""
    choice, here = selection.choices[job], estimator.subject(job)
    for kernel in dict.fromkeys(choice.kernels):
        name, code = kernel.name, estimator.code(job, kernel.name)
        ladder = estimator.times.ladder(here, name, code)
        for t in ladder:
            if choice.at(t.tokens) is kernel:
                yield Reading(t.tokens, t.context, t.median_us, t.low_us, t.high_us, max(t.floor_us, 1e-6))
        relatives = () if ladder else estimator.times.relatives(here, name, code)
        points = {
            (t.tokens, t.context) for other in relatives for t in estimator.times.ladder(other, name, code)
        }
        for tokens, context in sorted(points):
            known = estimator.of(job, name, tokens, context)
            if known and choice.at(tokens) is kernel:
                wide = known.us * _ASSUMED
                yield Reading(tokens, context, known.us, known.us / _ASSUMED, wide, known.floor_us)
