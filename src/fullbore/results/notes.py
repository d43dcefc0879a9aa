"""What a reader of results must be careful about."""

from collections.abc import Iterator, Sequence

from fullbore.results.result import Result

LITTLES_LAW_LOW, LITTLES_LAW_HIGH = 0.9, 1.02


def notes(results: Sequence[Result]) -> list[str]:
    """One sentence each, without repetition."""
    return list(dict.fromkeys(note for result in results for note in _notes(result)))


def _notes(result: Result) -> Iterator[str]:
    got, lag = result.figures, result.lag_ms
    where = f"{result.scenario.name} at {result.point}"
    if result.server.emulated:
        yield emulation_note(result)
    if result.simulated:
        yield f"simulated, not measured: {result.simulated.describe()}"
    if result.ended_early:
        cancelled = f"; {got.requests_cancelled} cancelled in flight" if got.requests_cancelled else ""
        yield f"{where}: {result.ended_early}{cancelled}"
    for kind, count in got.failures.items():
        first = next((each.error for each in result.records if each.outcome == kind), "")
        yield f"{where}: {count} failed, {kind}{': ' + first if first else ''}"
    if got.requests_ok and got.asked_output_tokens not in (None, got.output_tokens):
        yield f"{where}: the answers are not as long as asked (does the server know ignore_eos?)"
    if got.tokens_per_chunk is not None and not 0.99 <= got.tokens_per_chunk <= 1.01:
        yield f"{where}: {got.tokens_per_chunk:.2f} tokens a chunk, so ITL is no time per token; TPOT is"
    yield from _law(result, where)
    if lag and lag.p50 is not None and got.tpot_ms and lag.p50 > max(1.0, 0.05 * got.tpot_ms.mean):
        late = f"this client wakes {lag.p50:.1f} ms late (median)"
        yield f"{where}: {late}; it is short of CPU and the figures are too slow by about that"
    late_ms = result.late_ms
    if (
        late_ms
        and late_ms.p99 is not None
        and got.ttft_ms
        and late_ms.p99 > max(5.0, 0.05 * got.ttft_ms.mean)
    ):
        yield f"{where}: requests were sent {late_ms.p99:.0f} ms late (p99): this client is short of CPU"
    if result.prompts == "random words" and result.server.url:
        yield "prompts were random words: the server does not say its vocabulary's size (see --vocab)"
    for remark in result.remarks:
        yield f"{result.tool}: {remark}"


def emulation_note(result: Result) -> str:
    """What is emulated, and what the figures are then of."""
    groups = result.server.groups
    of = f"; figures are of the server: {groups} times what this one of its groups did" if groups > 1 else ""
    return f"{result.server.emulated}{of}"


def _law(result: Result, where: str) -> Iterator[str]:
    """Whether the load was what it says. People who think between turns are not in flight meanwhile."""
    law = result.figures.littles_law
    thinks = any(record.turn for record in result.records)
    if law is None or thinks or LITTLES_LAW_LOW <= law <= LITTLES_LAW_HIGH:
        return
    if result.concurrency is not None:
        yield (
            f"{where}: Little's law gives {law:.2f} of the nominal concurrency: ramp and drain weigh "
            "that much (more --requests mend it)"
        )
    elif law < LITTLES_LAW_LOW:
        yield f"{where}: the server did not keep up; or the load was short (more --requests tell)"
