"""One page with the plots of a benchmark: a single file that opens without a network.

Python says what is drawn (``facts``), ``html/results.js`` draws it. Results of other tools, of files and of
simulations are drawn by the same code; what they lack is left out with a word why.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fullbore.results.files import replace_file
from fullbore.results.notes import notes
from fullbore.results.result import OURS, Result
from fullbore.results.table import report
from fullbore.scenario.confidence import Interval
from fullbore.scenario.histogram import GROWTH, Histogram
from fullbore.scenario.metrics import Spread, percentile
from fullbore.screen import as_text
from fullbore.sheet.sheet import Sheet

SCRIPT = Path(__file__).with_name("html") / "results.js"
DEFINITIONS = (
    "TTFT: from sending to the first token. TPOT: (end − first token) / (tokens − 1). "
    "Throughput counts the whole run, ramp and drain included."
)
MOST_ROWS = 500  # requests of one waterfall; of more, every so-manieth is drawn
QUANTILES = 200  # points of a distribution's curve


def write_page(path: str | Path, results: Sequence[Result], title: str = "Benchmark") -> None:
    """Replace ``path`` as a whole. Raises OSError where that cannot be done."""
    replace_file(path, page(results, title))


def page(results: Sequence[Result], title: str = "Benchmark") -> str:
    """The whole file's text."""
    scenarios = "; ".join(dict.fromkeys(result.scenario.summary for result in results))
    servers = "; ".join(dict.fromkeys(result.server.describe() for result in results))
    return Sheet(
        title=title,
        subtitle=f"{scenarios} — {servers}" if results else "There are no results.",
        data={"notes": notes(results), "results": [facts(result) for result in results]},
        script=SCRIPT,
        plain=as_text(report(results)),
        made=f"fullbore. {DEFINITIONS}",
    ).text()


def facts(result: Result) -> dict[str, Any]:
    """What the page says of one result. Milliseconds and seconds as the names say; null: not known."""
    got, sure, limits = result.figures, result.certainty, result.scenario.limits
    return {
        "scenario": result.scenario.summary,
        "name": result.scenario.name,
        "point": result.point,
        "load": result.concurrency if result.concurrency is not None else result.rate_s,
        "server": result.server.describe(),
        "url": result.server.url,
        "flags": dict(result.server.flags),
        "client": result.client.describe(),
        "tool": "" if result.tool == OURS else result.tool,
        "source": Path(result.source).name,  # a page is passed around: no folders of this machine
        "remarks": list(result.remarks),
        "simulated": result.simulated.describe() if result.simulated else "",
        "limits": limits
        and {"ttft": limits.ttft_ms, "tpot": limits.tpot_ms, "percentile": limits.percentile},
        "keeps": result.keeps_limits,
        "figures": {
            "output": got.output_tok_s,
            "total": got.total_tok_s,
            "ttft": _spread(got.ttft_ms),
            "tpot": _spread(got.tpot_ms),
            "itl": _spread(got.itl_ms),
            "ok": got.requests_ok,
            "failed": got.requests_failed,
            "cancelled": got.requests_cancelled,
            "concurrency": got.concurrency,
            "littles_law": got.littles_law,
            "steady": got.steady and {"from": got.steady.begin_s, "to": got.steady.end_s},
            "goodput": got.goodput_requests_s,
        },
        "sure": {
            "output": _interval(sure.output_tok_s),
            "ttft": _interval(sure.ttft_ms),
            "tpot": _interval(sure.tpot_ms),
        },
        # Of what was simulated: where 80 of 100 truths lie by the model's own account.
        "model": {
            "output": result.model_range("output_tok_s"),
            "ttft": result.model_range("ttft_ms"),
            "tpot": result.model_range("tpot_ms"),
        },
        "curves": _curves(result),
        "timeline": _timeline(result),
        "requests": _requests(result),
    }


def _spread(spread: Spread | None) -> dict[str, float | None] | None:
    if spread is None:
        return None
    names = ("mean", "p50", "p90", "p99", "most")
    return {name: _rounded(getattr(spread, name)) for name in names}


def _interval(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _curves(result: Result) -> dict[str, list[list[float]] | None]:
    """Of each distribution: (milliseconds, share of values up to that)."""
    ok = [record for record in result.records if record.ok]
    return {
        "ttft": _curve([record.ttft_s * 1e3 for record in ok]),
        "tpot": _curve([record.tpot_s * 1e3 for record in ok if record.tpot_s is not None]),
        "itl": _stairs(result.itl),
    }


def _curve(values_ms: Sequence[float]) -> list[list[float]] | None:
    if len(values_ms) < 2:
        return None
    ordered = sorted(values_ms)
    steps = min(QUANTILES, len(ordered) - 1)
    shares = (step / steps for step in range(steps + 1))
    return [[float(f"{percentile(ordered, 100 * share):.5g}"), round(share, 4)] for share in shares]


def _stairs(histogram: Histogram | None) -> list[list[float]] | None:
    if histogram is None or len(histogram.buckets) < 2:
        return None
    total, seen, points = sum(histogram.counts), 0, []
    for bucket, count in zip(histogram.buckets, histogram.counts, strict=True):
        points.append([float(f"{GROWTH**bucket:.5g}"), round(seen / total, 4)])
        seen += count
        points.append([float(f"{GROWTH ** (bucket + 1):.5g}"), round(seen / total, 4)])
    return points


def _timeline(result: Result) -> dict[str, Any] | None:
    steps = result.timeline
    if steps is None:
        return None
    return {
        "step": steps.step_s,
        "in_flight": [round(value, 3) for value in steps.in_flight],
        "output": [round(value / steps.step_s, 2) for value in steps.output_tokens],
        "prompt": [round(value / steps.step_s, 2) for value in steps.prompt_tokens],
    }


def _requests(result: Result) -> dict[str, Any] | None:
    """One row a request in the order of sending: sent, first token, end, in seconds from the first send."""
    records = sorted(result.records, key=lambda record: (record.sent_s, record.number))
    if not records:
        return None
    every = -(-len(records) // MOST_ROWS)
    begin_s = records[0].sent_s
    rows = []
    for record in records[::every]:
        first = round(record.chunks_s[0] - begin_s, 4) if record.chunks_s else None
        fault = "" if record.ok else f"{record.outcome} {record.error}".strip()
        rows.append(
            [
                record.number,
                round(record.sent_s - begin_s, 4),
                first,
                round(record.ended_s - begin_s, 4),
                fault,
            ]
        )
    return {"rows": rows, "of": len(records)}
