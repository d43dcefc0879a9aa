"""From the tuner's table to the operators of a step. Operators need torch, which is imported by the call."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fullbore.errors import FullboreError
from fullbore.hardware.cpu import last_level_cache_bytes
from fullbore.steptime.measured import CHUNKS, DECODES, SAMPLED, TOKENS, OperatorTimes, Reading
from fullbore.steptime.step import ACTIVATIONS, ARITHMETIC, CACHE, EXPERTS, WEIGHTS

if TYPE_CHECKING:
    from fullbore.hardware.ceiling import Ceiling
    from fullbore.ops.contract import Job
    from fullbore.ops.demand import Workload
    from fullbore.ops.estimate import Estimator
    from fullbore.ops.selection import Selection
    from fullbore.ops.times import Subject

_COLD = 2  # times the last cache, from which on weights are read from memory in every step
# What an operator reads; others read activations.
_READ = {
    "moe_ffn": EXPERTS,
    "linear": WEIGHTS,
    "swiglu": WEIGHTS,
    "route": WEIGHTS,
    "mla_decode": CACHE,
    "mla_prefill": CACHE,
}
_ASSUMED = 1.15  # quartiles of a time that is another shape's


class TimesMissing(FullboreError):
    """Kernels that a model needs were never timed here."""


def operator_times(
    work: "Workload", selection: "Selection", estimator: "Estimator", ceiling: "Ceiling"
) -> tuple[OperatorTimes, ...]:
    """The times of each job of ``work`` by the kernels of ``selection``, on a machine of ``ceiling`` now.

    TimesMissing, which names all of them, where kernels were never timed.
    """
    from fullbore.ops.operators import OPERATORS

    readings = {job: tuple(_readings(job, selection, estimator)) for job in work.jobs}
    missing = {f"{job.operator} by {selection.choices[job].names}" for job in work.jobs if not readings[job]}
    if missing:
        raise TimesMissing(
            f"never timed on this machine with the present code: {', '.join(sorted(missing))} "
            "(run: fullbore tune MODEL)"
        )

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

        def kind(tokens: int, context: int) -> str:
            cost = estimator.cost(job, tokens, context)
            bound = ceiling.bound(cost.flops, cost.bytes, arithmetic)
            return _READ.get(job.operator, ACTIVATIONS) if bound == "read" else ARITHMETIC

        names = operator.shapes[0]
        sees = SAMPLED if job in work.heads else TOKENS
        sees = CHUNKS if "first" in names else DECODES if "context" in names else sees
        return OperatorTimes(job.operator, uses[job], sees, readings[job], floor_us, kind, cold)

    return tuple(one(job) for job in work.jobs)


def _readings(job: "Job", selection: "Selection", estimator: "Estimator") -> Iterator[Reading]:
    """Of each kernel at the counts that it computes; where there were too many experts to draw, what fewer of
    them say."""
    choice, here = selection.choices[job], estimator.subject(job)
    for kernel in dict.fromkeys(choice.kernels):
        name, code = kernel.name, estimator.code(job, kernel.name)
        ladder = estimator.times.ladder(here, name, code)
        for t in ladder:
            if choice.at(t.tokens) is kernel:
                floor_us, warm_us = max(t.floor_us, 1e-6), t.warm_us if t.bound == "read" else 0.0
                yield Reading(t.tokens, t.context, t.median_us, t.low_us, t.high_us, floor_us, warm_us)
        relatives = [] if ladder else _with_fewer_experts(estimator, here, name, code)
        points = {
            (t.tokens, t.context) for other in relatives for t in estimator.times.ladder(other, name, code)
        }
        for tokens, context in sorted(points):
            known = estimator.of(job, name, tokens, context)
            if known and choice.at(tokens) is kernel:
                wide = known.us * _ASSUMED
                yield Reading(tokens, context, known.us, known.us / _ASSUMED, wide, known.floor_us)


def _with_fewer_experts(estimator: "Estimator", here: "Subject", name: str, code: str) -> list["Subject"]:
    """Any other shape's times would be a guess."""

    def others(subject: "Subject") -> dict[str, int]:
        return {key: size for key, size in subject.shape if key != "experts"}

    return [other for other in estimator.times.relatives(here, name, code) if others(other) == others(here)]
