"""A benchmark's results for a person: the table, the checks beside it, and what to be careful about."""

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fullbore import screen
from fullbore.bench.report import Result
from fullbore.scenario.metrics import Spread

LEAST_WIDTH = 80  # columns that the tables need; a narrower terminal breaks lines, but loses no digit
PLAIN_WIDTH = 110
LITTLES_LAW_LOW, LITTLES_LAW_HIGH = 0.9, 1.02


def console(stderr: bool = False) -> Console:
    """A console for these tables."""
    return screen.console(LEAST_WIDTH, PLAIN_WIDTH, stderr)


def report(results: Sequence[Result]) -> Group:
    """Everything that is printed of ``results``: for each scenario what was measured, and its checks."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        limits = result.scenario.limits
        heading = (
            f"{result.scenario.describe()}; limits: {limits.percentile} TTFT {limits.ttft_ms:g} ms, "
            f"TPOT {limits.tpot_ms:g} ms"
        )
        groups.setdefault(heading, []).append(result)
    parts: list[Text | Table] = []
    for heading, group in groups.items():
        tables = (_table(map(_measured, group)), _table(map(_checked, group)))
        parts += [Text(f"\n{heading}\n", style="bold"), tables[0], Text(), tables[1], Text()]
    notes = [Text(f"note: {note}", style="yellow") for note in dict.fromkeys(_notes(results))]
    return Group(*parts, *notes)


def _measured(result: Result) -> dict[str, str]:
    got = result.figures
    return {
        "concurrency": str(result.concurrency),
        "TTFT\nms": _of(got.ttft_ms, "mean"),
        "TTFT\np99": _of(got.ttft_ms, "p99"),
        "TPOT\nms": _of(got.tpot_ms, "mean"),
        "TPOT\np99": _of(got.tpot_ms, "p99"),
        "ITL\np99": _of(got.itl_ms, "p99"),
        "output\ntok/s": _number(got.output_tok_s),
        "total\ntok/s": _number(got.total_tok_s),
        "requests\nok": str(got.requests_ok),
        "\nfailed": str(got.requests_failed),
        "in\nlimits": "yes" if got.keeps(result.scenario.limits) else "no",
    }


def _checked(result: Result) -> dict[str, str]:
    got, lag = result.figures, result.load.lag_ms
    ok = max(1, got.requests_ok)
    return {
        "concurrency\nachieved": _number(got.concurrency, 2),
        "Little's\nlaw": _number(got.littles_law, 2),
        "input\nasked/got": f"{got.asked_input_tokens / ok:g}/{got.input_tokens / ok:g}",
        "output\nasked/got": f"{got.asked_output_tokens / ok:g}/{got.output_tokens / ok:g}",
        "steady\ntok/s": _number(got.steady_output_tok_s),
        "peak 1 s\ntok/s": _number(got.peak_output_tok_s),
        "goodput\nreq/s": _number(got.goodput_requests_s, 2),
        "lag ms\np50/p99": f"{lag.p50:.1f}/{lag.p99:.1f}" if lag else "-",
    }


def _notes(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        got, lag = result.figures, result.load.lag_ms
        where = f"{result.scenario.name} at concurrency {result.concurrency}"
        if result.load.ended_early:
            cancelled = f"; {got.requests_cancelled} cancelled in flight" if got.requests_cancelled else ""
            yield f"{where}: {result.load.ended_early}{cancelled}"
        for kind, count in got.failures.items():
            first = next((each.error for each in result.load.records if each.outcome == kind), "")
            yield f"{where}: {count} failed, {kind}{': ' + first if first else ''}"
        if got.requests_ok and got.output_tokens != got.asked_output_tokens:
            yield f"{where}: the answers are not as long as asked (does the server know ignore_eos?)"
        if got.tokens_per_chunk is not None and not 0.99 <= got.tokens_per_chunk <= 1.01:
            yield f"{where}: {got.tokens_per_chunk:.2f} tokens a chunk, so ITL is no time per token; TPOT is"
        law = got.littles_law
        if law is not None and not LITTLES_LAW_LOW <= law <= LITTLES_LAW_HIGH:
            yield (
                f"{where}: Little's law gives {law:.2f} of the nominal concurrency: ramp and drain weigh "
                "that much (more --requests mend it)"
            )
        if lag and got.tpot_ms and lag.p50 > max(1.0, 0.05 * got.tpot_ms.mean):
            late = f"this client wakes {lag.p50:.1f} ms late (median)"
            yield f"{where}: {late}; it is short of CPU and the figures are too slow by about that"
        if not result.target.vocab_size:
            yield "the server does not say its vocabulary's size: prompts were random words (see --vocab)"


def _table(rows: Iterator[Mapping[str, str]]) -> Table:
    """A column for each key."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for row in rows:
        if not table.columns:
            for heading in row:
                table.add_column(heading, justify="right", no_wrap=True)
        table.add_row(*row.values())
    return table


def _of(spread: Spread | None, figure: str) -> str:
    return _number(getattr(spread, figure)) if spread else "-"


def _number(value: float | None, digits: int = 1) -> str:
    """Four digits say enough: 9876, 98.8, and 9.88 where two were asked for."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"
