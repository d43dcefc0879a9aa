"""Results of ``vllm bench serve --save-result`` and of ``sglang.bench_serving --output-file``.

Both tools descend from one program and define TTFT, TPOT, ITL and throughput as this one does. Without their
details (``--save-detailed``, ``--output-details``) only means and some percentiles are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fullbore.results.identity import Machine, Server
from fullbore.results.result import Asked, Result
from fullbore.scenario.histogram import Histogram
from fullbore.scenario.metrics import Figures, Record, Spread, figures, gaps, littles_law
from fullbore.scenario.samples import Certainty, certainty
from fullbore.scenario.scenario import Limits
from fullbore.scenario.timeline import timeline

NO_LIMITS = Limits(float("inf"), float("inf"))
# Fields that both tools write and no other.
KNOWN = ("completed", "total_input_tokens", "total_output_tokens", "mean_ttft_ms", "mean_tpot_ms", "duration")


def recognises(report: Mapping[str, Any]) -> bool:
    """Whether one of the two tools wrote this."""
    return all(key in report for key in KNOWN)


def read(report: Mapping[str, Any], source: str) -> tuple[Result, ...]:
    """The one result of a file, or of a line of SGLang's. KeyError and TypeError where it is malformed."""
    sglang = "median_e2e_latency_ms" in report
    concurrency, rate = report.get("max_concurrency"), report.get("request_rate")
    rate_s = float(rate) if rate not in (None, "inf") and float(rate) < float("inf") else None
    records = _records(report)
    ok, failed = int(report["completed"]), int(report.get("failed") or 0)
    input_tokens, output_tokens = int(report["total_input_tokens"]), int(report["total_output_tokens"])
    lengths = f"{input_tokens / max(1, ok):.4g} tokens in, {output_tokens / max(1, ok):.4g} out on average"
    name = str(report.get("dataset_name") or report.get("label") or "requests")
    timed = bool(records) and "start_times" in report
    steps = timeline(records) if timed else None
    whole = _whole(report, concurrency) if not timed else figures(records, concurrency, NO_LIMITS)
    remarks = ["its TTFT, TPOT and ITL are defined as ours; failed requests are in no figure of it"]
    if not timed:
        remarks.append("without per-request times: no timeline, no intervals, few percentiles")
    return (
        Result(
            scenario=Asked(name, f"{name}: {lengths}"),
            concurrency=concurrency,
            rate_s=rate_s,
            server=Server(model=str(report.get("model_id") or ""), software=str(report.get("backend") or "")),
            client=Machine(),
            figures=whole if timed else _with_failed(whole, failed),
            certainty=certainty(records, whole.steady, steps) if timed else Certainty(),
            timeline=steps,
            itl=Histogram.of(gap * 1e3 for each in records for gap in gaps(each.chunks_s)),
            records=records if timed else (),
            lag_ms=None,
            tool="sglang.bench_serving" if sglang else "vllm bench serve",
            remarks=tuple(remarks),
            source=source,
        ),
    )


def _records(report: Mapping[str, Any]) -> tuple[Record, ...]:
    """Of the details, where they are there. SGLang notes no times of sending, so all begin at 0."""
    columns: list[Sequence[Any]] = [
        report.get(key) or () for key in ("input_lens", "output_lens", "ttfts", "itls", "errors")
    ]
    count = len(columns[0])
    if not count or any(len(column) != count for column in columns):
        return ()
    starts = report.get("start_times") or [0.0] * count
    return tuple(
        _record(number, starts[number], *each) for number, each in enumerate(zip(*columns, strict=True))
    )


def _record(
    number: int, sent_s: float, inputs: int, outputs: int, ttft_s: float, itls_s: Sequence[float], error: str
) -> Record:
    chunks = [sent_s + ttft_s] if not error else []
    for gap_s in itls_s if not error else ():
        chunks.append(chunks[-1] + gap_s)
    return Record(
        number=number,
        asked_input=inputs,
        asked_output=outputs,
        sent_s=sent_s,
        ended_s=chunks[-1] if chunks else sent_s,
        chunks_s=chunks,
        input_tokens=inputs,
        output_tokens=outputs,
        outcome="failed" if error else "ok",
        error=error.strip().splitlines()[-1][:200] if error.strip() else "",
    )


def _whole(report: Mapping[str, Any], concurrency: int | None) -> Figures:
    """The figures that the tool computed itself."""
    count, duration_s = int(report["completed"]), float(report["duration"])
    output = report.get("output_throughput")
    total = report.get("total_token_throughput") or report.get("total_throughput")
    inputs = report.get("input_throughput") or (total - output if total and output else None)
    mean_output = report["total_output_tokens"] / max(1, count)
    law = None
    if concurrency and output and mean_output:
        times_s = report["mean_ttft_ms"] / 1e3, report["mean_tpot_ms"] / 1e3
        law = littles_law(output, mean_output, *times_s, concurrency)
    return Figures(
        requests_ok=count,
        requests_failed=0,
        requests_cancelled=0,
        failures={},
        duration_s=duration_s,
        input_tokens=int(report["total_input_tokens"]),
        output_tokens=int(report["total_output_tokens"]),
        asked_input_tokens=None,
        asked_output_tokens=None,
        tokens_per_chunk=None,
        ttft_ms=_spread(report, "ttft", count),
        tpot_ms=_spread(report, "tpot", count),
        itl_ms=_spread(report, "itl", count),
        latency_ms=_spread(report, "e2el", count) or _spread(report, "e2e_latency", count),
        output_tok_s=output,
        input_tok_s=inputs,
        total_tok_s=total if total else (inputs + output if inputs and output else None),
        peak_output_tok_s=report.get("max_output_tokens_per_s"),
        steady=None,
        requests_s=report.get("request_throughput"),
        nominal_concurrency=concurrency,
        concurrency=report.get("concurrency"),
        littles_law=law,
        good_requests=None,
        goodput_requests_s=report.get("request_goodput"),
    )


def _with_failed(whole: Figures, failed: int) -> Figures:
    return replace(whole, requests_failed=failed, failures={"failed": failed} if failed else {})


def _spread(report: Mapping[str, Any], what: str, count: int) -> Spread | None:
    """A percentile that the tool was not asked for is None."""
    mean = report.get(f"mean_{what}_ms")
    if mean is None:
        return None
    p50 = report.get(f"p50_{what}_ms", report.get(f"median_{what}_ms"))
    return Spread(count, mean, p50, report.get(f"p90_{what}_ms"), report.get(f"p99_{what}_ms"), None)
