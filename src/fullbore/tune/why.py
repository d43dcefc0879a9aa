"""One choice, told to a person: the winner, the losers with their times and reasons, the floor."""

from collections.abc import Iterator

from fullbore.ops.candidates import Loser, describe
from fullbore.ops.contract import Job
from fullbore.ops.evidence import Measured
from fullbore.ops.operators import OPERATORS
from fullbore.ops.selection import Choice
from fullbore.ops.times import Timing
from fullbore.tune.table import duration, percent


def explain(choice: Choice, evidence: Measured, tokens: int) -> Iterator[str]:
    """Lines about ``choice`` where a call has so many tokens."""
    job, context = choice.job, evidence.usual_context(choice.job)
    yield describe(job)
    kernel = choice.at(tokens).name
    yield f"  kernel {choice.names}: {choice.why}" + (
        f"; {choice.time_us:.3g} us in an average step of the scenario ({choice.source})"
        if choice.time_us is not None
        else ""
    )
    at = f"{tokens} token{'' if tokens == 1 else 's'}" + (f", context {context}" if context else "")
    yield f"  {at}:"
    rows = [(kernel, "chosen"), *((loser.kernel, _reason(loser)) for loser in choice.losers)]
    width = max(len(name) for name, _ in rows)
    for name, reason in rows:
        yield f"    {name:{width}}  {_time(job, evidence, name, tokens, context):34}  {reason}"
    yield f"    {'floor':{width}}  {_floor(job, evidence, kernel, tokens, context)}"


def _reason(loser: Loser) -> str:
    return "; ".join(loser.reasons)


def _time(job: Job, evidence: Measured, kernel: str, tokens: int, context: int) -> str:
    known = evidence.estimator.of(job, kernel, tokens, context)
    if known is None:
        return "no time"
    spread = _spread(job, evidence, kernel, tokens, context) if known.source == "measured" else known.source
    return f"{duration(known)} ({spread}), {percent(known.floor_us / known.us).strip()} of ceiling"


def _spread(job: Job, evidence: Measured, kernel: str, tokens: int, context: int) -> str:
    timing = _timing(job, evidence, kernel, tokens, context)
    if timing is None:
        return "measured"
    return f"measured {timing.repeats}x: {timing.low_us:.3g} .. {timing.high_us:.3g}"


def _floor(job: Job, evidence: Measured, kernel: str, tokens: int, context: int) -> str:
    known = evidence.estimator.of(job, kernel, tokens, context)
    if known is None:
        return "not known: no ceiling was measured (run: fullbore tune MODEL)"
    cost = evidence.estimator.cost(job, tokens, context)
    timing = _timing(job, evidence, kernel, tokens, context)
    if timing is not None and timing.bound == "flops":
        arithmetic = OPERATORS[job.operator].arithmetic(job.format, job.dtype)
        speed = f"{cost.flops / known.floor_us / 1e3:.0f} GFLOP/s"
        work = f"{cost.flops / 1e6:.3g} MFLOP at {speed} in {arithmetic}"
    else:
        work = f"{cost.bytes / 1e6:.3g} MB read at {cost.bytes / known.floor_us / 1e3:.1f} GB/s"
    return f"{known.floor_us:.3g} us by the roofline: {work}"


def _timing(job: Job, evidence: Measured, kernel: str, tokens: int, context: int) -> Timing | None:
    estimator = evidence.estimator
    ladder = estimator.times.ladder(estimator.subject(job), kernel, estimator.code(job, kernel))
    return next((t for t in ladder if (t.tokens, t.context) == (tokens, context)), None)
