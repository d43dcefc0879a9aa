"""What is printed."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.gpu.operators import Row
from benchmarks.gpu.parts import Part
from benchmarks.gpu.rivals import recorded
from fullbore.hardware.ceiling import Ceiling

Shown = Mapping[str, Any]


def _table(title: str, *headings: str) -> Table:
    shown = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        show_edge=False,
    )
    for number, heading in enumerate(headings):
        shown.add_column(heading, justify="left" if number < 3 else "right", no_wrap=True)
    return shown


def operators(rows: Sequence[Row]) -> Table:
    """A line for each kernel at each point; the ratio is to the faster of the engines on record."""
    shown = _table(
        "operators, in a graph with cold weights", "layout", "part", "kernel", "batch", "tokens", "context",
        "us", "±%", "TB/s", "TFLOP/s", "floor us", "of floor", "SGLang us", "TRT-LLM us", "ratio",
    )  # fmt: skip
    for row in rows:
        if row.refused:
            shown.add_row(row.layout, row.part, row.kernel, *[""] * 3, "refused", *[""] * 8)
            continue
        best = min((each.us for each in row.recorded), default=0.0)
        shown.add_row(
            row.layout, row.part, row.kernel, str(row.batch), str(row.tokens), str(row.context or ""),
            us(row.us), f"{50 * (row.high_us - row.low_us) / row.us:.0f}", f"{row.bytes / row.us / 1e6:.2f}",
            f"{row.flops / row.us / 1e6:.0f}", us(row.floor_us), f"{row.fraction:.0%} {row.bound}",
            *(_rival(row.recorded, name) for name in ("SGLang", "TRTLLM")),
            f"{row.us / best:.2f}" if best else "",
        )  # fmt: skip
    return shown


def floors(parts: Sequence[tuple[str, Part]], ceiling: Ceiling, steps: Sequence[tuple[int, int]]) -> Table:
    """Of each part in each step, at the figures of a data sheet."""
    shown = _table(
        "floors at an H200's data sheet", "layout", "part", "weights", "calls", "batch", "context", "MB",
        "GFLOP", "floor us", "SGLang us", "TRT-LLM us", "in a step ms",
    )  # fmt: skip
    for batch, context in steps:
        for layout, part in parts:
            operator = part.layer.job.operator
            if operator == "mla_prefill":
                continue
            tokens, at = part.tokens(batch), context if operator == "mla_decode" else 0
            cost, floor = part.cost(tokens, at), part.floor_us(ceiling, tokens, at)
            known = recorded(part.name, layout, batch, at)
            shown.add_row(
                layout, part.name, part.layer.job.format, str(part.calls), str(batch), str(at or ""),
                f"{cost.bytes / 1e6:.1f}", f"{cost.flops / 1e9:.2f}", us(floor), _rival(known, "SGLang"),
                _rival(known, "TRTLLM"), f"{part.calls * floor / 1e3:.2f}",
            )  # fmt: skip
    return shown


def rank(steps: Sequence[Shown]) -> Table:
    """A line for each step."""
    shown = _table(
        "a whole step, as the sum of its operators", "layout", "batch", "context", "operators ms", "floor ms",
        "links ms, modelled", "step ms", "without",
    )  # fmt: skip
    for step in steps:
        shown.add_row(
            step["layout"], str(step["batch"]), str(step["context"]), f"{step['operators_ms']:.2f}",
            f"{step['floor_ms']:.2f}", f"{step['links_ms']:.2f}", f"{step['total_ms']:.2f}",
            ", ".join(step["missing"]),
        )  # fmt: skip
    return shown


def serving(runs: Sequence[Shown]) -> Table:
    """A line for each scenario of each layout."""
    shown = _table(
        "the emulated rank as a server", "layout", "scenario", "ready s, cold and warm", "TPOT ms", "TTFT s",
        "output tok/s", "total tok/s",
    )  # fmt: skip
    for run in runs:
        ready = f"{run['cold_ready_s']:.1f}, {run['warm_ready_s']:.1f}"
        for scenario, figures in run["figures"].items():
            tpot, ttft = figures["tpot_ms"]["mean"], figures["ttft_ms"]["mean"] / 1e3
            shown.add_row(
                run["layout"], scenario, ready, f"{tpot:.1f}", f"{ttft:.2f}",
                f"{figures['output_tok_s']:.0f}", f"{figures['total_tok_s']:.0f}",
            )  # fmt: skip
    return shown


def us(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _rival(known: Sequence[Any], engine: str) -> str:
    """``~``: between two records."""
    for each in known:
        if each.engine.startswith(engine):
            return f"{'~' if each.between else ''}{us(each.us)}"
    return ""
