"""Results of guidellm's JSON report: one for each of its benchmarks (a sweep has several).

Its words differ from ours: its "inter token latency" is our TPOT, and its "time per output token" holds
the time to the first token too. Its rates are means over the seconds of its window; ours are tokens by all
the time.
"""

from collections.abc import Mapping
from typing import Any

from fullbore.results.identity import Machine, Server
from fullbore.results.result import Asked, Result
from fullbore.scenario.metrics import Figures, Spread, littles_law
from fullbore.scenario.samples import Certainty

REMARKS = (
    "TPOT is what guidellm calls inter-token latency; it keeps no gaps between chunks",
    "throughput is its total of tokens by its measured time, not its mean of rates",
)


def recognises(report: Mapping[str, Any]) -> bool:
    """Whether guidellm wrote this."""
    return isinstance(report.get("metadata"), dict) and "guidellm_version" in report["metadata"]


def read(report: Mapping[str, Any], source: str) -> tuple[Result, ...]:
    """KeyError and TypeError where it is malformed."""
    version = report["metadata"]["guidellm_version"]
    backend = report.get("config", {}).get("spec", {}).get("backend", {})
    server = Server(url=str(backend.get("target") or ""), model=str(backend.get("model") or ""))
    return tuple(_result(each, server, f"guidellm {version}", source) for each in report["benchmarks"])


def _result(benchmark: Mapping[str, Any], server: Server, tool: str, source: str) -> Result:
    metrics = benchmark["metrics"]
    strategy = benchmark["config"]["strategy"]
    closed = strategy["type_"] in ("concurrent", "synchronous")
    concurrency = int(strategy.get("streams") or 1) if closed else None
    rate_s = None if closed else strategy.get("rate")
    totals = metrics["request_totals"]
    ok = int(totals["successful"])
    inputs, outputs = (_total(metrics, key) for key in ("prompt_token_count", "output_token_count"))
    lengths = f"{inputs / max(1, ok):.4g} tokens in, {outputs / max(1, ok):.4g} out on average"
    times = benchmark["scheduler_metrics"]
    duration_s = float(times["measure_end_time"]) - float(times["measure_start_time"])
    return Result(
        scenario=Asked(strategy["type_"], f"{strategy['type_']}: {lengths}"),
        concurrency=concurrency,
        rate_s=rate_s,
        server=server,
        client=Machine(),
        figures=_figures(metrics, ok, inputs, outputs, duration_s, concurrency),
        certainty=Certainty(),
        timeline=None,
        itl=None,
        records=(),
        lag_ms=None,
        tool=tool,
        remarks=REMARKS,
        source=source,
    )


def _figures(
    metrics: Mapping[str, Any],
    ok: int,
    inputs: float,
    outputs: float,
    duration_s: float,
    concurrency: int | None,
) -> Figures:
    failed = int(metrics["request_totals"]["errored"])
    ttft, tpot = (_spread(metrics, key) for key in ("time_to_first_token_ms", "inter_token_latency_ms"))
    latency = _spread(metrics, "request_latency", 1e3)
    law = None
    if concurrency and ttft and tpot and outputs and duration_s > 0:
        times_s = ttft.mean / 1e3, tpot.mean / 1e3
        law = littles_law(outputs / duration_s, outputs / ok, *times_s, concurrency)

    def per_second(amount: float) -> float | None:
        return amount / duration_s if duration_s > 0 else None

    return Figures(
        requests_ok=ok,
        requests_failed=failed,
        requests_cancelled=int(metrics["request_totals"]["incomplete"]),
        failures={"errored": failed} if failed else {},
        duration_s=duration_s,
        input_tokens=round(inputs),
        output_tokens=round(outputs),
        asked_input_tokens=None,
        asked_output_tokens=None,
        tokens_per_chunk=None,
        ttft_ms=ttft,
        tpot_ms=tpot,
        itl_ms=None,
        latency_ms=latency,
        output_tok_s=per_second(outputs),
        input_tok_s=per_second(inputs),
        total_tok_s=per_second(inputs + outputs),
        peak_output_tok_s=None,
        steady=None,
        requests_s=per_second(ok),
        nominal_concurrency=concurrency,
        concurrency=per_second(ok * latency.mean / 1e3) if latency else None,
        littles_law=law,
        good_requests=None,
        goodput_requests_s=None,
    )


def _total(metrics: Mapping[str, Any], key: str) -> float:
    return float(metrics[key]["successful"]["total_sum"])


def _spread(metrics: Mapping[str, Any], key: str, factor: float = 1.0) -> Spread | None:
    found = metrics[key]["successful"]
    if not found["count"]:
        return None
    at = found["percentiles"]
    values = [factor * value for value in (found["mean"], at["p50"], at["p90"], at["p99"], found["max"])]
    return Spread(found["count"], *values)
