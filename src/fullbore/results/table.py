"""A benchmark's results for a person: the table, the checks beside it, and what to be careful about."""

import math
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fullbore import screen
from fullbore.results.notes import notes
from fullbore.results.result import OURS, TITLES, Result
from fullbore.scenario.confidence import Interval
from fullbore.scenario.metrics import Spread

LEAST_WIDTH = 80  # columns that the tables need; a narrower terminal breaks lines, but loses no digit
PLAIN_WIDTH = 110


def console(stderr: bool = False) -> Console:
    """A console for these tables."""
    return screen.console(LEAST_WIDTH, PLAIN_WIDTH, stderr)


def report(results: Sequence[Result]) -> Group:
    """Everything that is printed of ``results``: for each scenario what was measured, and its checks."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(heading(result), []).append(result)
    parts: list[Text | Table] = []
    for title, group in groups.items():
        parts.append(Text(f"\n{title}\n", style="bold"))
        for rows in (map(_measured, group), map(_checked, group)):
            parts += [columns(rows), Text()]
        if group[0].simulated:
            parts += [columns(map(_doubted, group)), Text()]
    told = [Text(f"note: {note}", style="yellow") for note in notes(results)]
    return Group(*parts, *told)


def heading(result: Result) -> str:
    """What was asked, of whom where that is another tool's or an earlier result, and the limits."""
    limits = result.scenario.limits
    kept = (
        f"; limits: {limits.percentile} TTFT {limits.ttft_ms:g} ms, TPOT {limits.tpot_ms:g} ms"
        if limits
        else ""
    )
    origin = ("simulated" if result.simulated else "", result.tool, result.source)
    told = f" ({', '.join(filter(None, origin))})" if _elsewhere(result) else ""
    emulated = f"; {result.server.emulated}" if result.server.emulated else ""
    return f"{result.scenario.summary}{kept}{told}{emulated}"


def _elsewhere(result: Result) -> bool:
    return bool(result.source) or result.tool != OURS


def load_of(result: Result) -> str:
    """``16`` in flight, or ``2.5/s``."""
    if result.concurrency is not None:
        return str(result.concurrency)
    return "-" if result.rate_s is None else f"{result.rate_s:g}/s"


def _measured(result: Result) -> dict[str, str]:
    got, sure = result.figures, result.certainty
    kept = result.keeps_limits
    return {
        "concurrency\nor rate": load_of(result),
        "TTFT\nms": of(got.ttft_ms, "mean"),
        "\n±": half(sure.ttft_ms),
        "TTFT\np99": of(got.ttft_ms, "p99"),
        "TPOT\nms": of(got.tpot_ms, "mean"),
        " \n±": half(sure.tpot_ms),
        "TPOT\np99": of(got.tpot_ms, "p99"),
        "ITL\np99": of(got.itl_ms, "p99"),
        "output\ntok/s": number(got.output_tok_s),
        "total\ntok/s": number(got.total_tok_s),
        "ok": str(got.requests_ok),
        "\nfailed": str(got.requests_failed),
        "in\nlimits": "-" if kept is None else "yes" if kept else "no",
    }


def _checked(result: Result) -> dict[str, str]:
    got, lag, steady = result.figures, result.lag_ms, result.figures.steady
    return {
        "concurrency\nachieved": number(got.concurrency, 2),
        "Little's\nlaw": number(got.littles_law, 2),
        "input\nasked/got": _asked(got.asked_input_tokens, got.input_tokens, got.requests_ok),
        "output\nasked/got": _asked(got.asked_output_tokens, got.output_tokens, got.requests_ok),
        "steady\ntok/s": number(steady.output_tok_s if steady else None),
        "peak 1 s\ntok/s": number(got.peak_output_tok_s),
        "goodput\nreq/s": number(got.goodput_requests_s, 2),
        "lag ms\np50/p99": f"{of(lag, 'p50')}/{of(lag, 'p99')}" if lag else "-",
        "sent late\np50/p99": f"{of(result.late_ms, 'p50')}/{of(result.late_ms, 'p99')}"
        if result.late_ms
        else "-",
    }


def _doubted(result: Result) -> dict[str, str]:
    """Where the truth lies by the model's own account."""
    found = {"80 of 100 truths lie in:\nconcurrency or rate": load_of(result)}
    for name, title in TITLES.items():
        span = result.model_range(name)
        found[title.replace(" ", "\n", 1)] = f"{number(span[0])} to {number(span[1])}" if span else "-"
    return found


def _asked(asked: int | None, got: int, requests: int) -> str:
    each = max(1, requests)
    return f"{'-' if asked is None else format(asked / each, '.4g')}/{got / each:.4g}"


def columns(rows: Iterator[Mapping[str, str]]) -> Table:
    """A table with a column for each key; a column in which no row has anything is left out."""
    known = list(rows)
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    shown = [key for key in known[0] if any(row[key] != "-" for row in known)] if known else []
    for key in shown:
        table.add_column(key, justify="right", no_wrap=True)
    for row in known:
        table.add_row(*(row[key] for key in shown))
    return table


def of(spread: Spread | None, figure: str) -> str:
    """One figure of a distribution, ``-`` where it is not known."""
    return number(getattr(spread, figure)) if spread else "-"


def half(interval: Interval | None) -> str:
    """Half the width of a 95 % interval."""
    return number((interval.high - interval.low) / 2) if interval and interval.high < math.inf else "-"


def number(value: float | None, digits: int = 1) -> str:
    """Four digits say enough: 9876, 98.8, and 9.88 where two were asked for."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"
