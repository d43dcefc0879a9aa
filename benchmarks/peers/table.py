"""One table of all that was measured."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from benchmarks.peers.results import Measurement, Point, Results
from fullbore.scenario.metrics import Spread

OURS = "fullbore"
NOISY = 0.1  # cores; on two cores a tenth of one taken by others already shows in every figure


def report(results: Results) -> Group:
    """The table, its notes, and what failed."""
    best = least_disturbed(results.measurements)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for heading in HEADINGS:
        left = heading in ("load", "peer", "weights")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    previous: Point | None = None
    for measurement in sorted(best, key=_order):
        point = measurement.point
        if previous and point != previous:
            table.add_section()
        table.add_row(*_row(measurement, best, results.count(measurement.peer, point)))
        previous = point
    parts: list[Table | Text] = [Text(f"{results.cpu}, {results.cores} cores\n", style="bold")]
    parts.append(table if best else Text("nothing was measured yet"))
    if any(each.load.other > NOISY for each in best):
        parts.append(Text(f"!  others took more than {NOISY:g} cores: too slow by at least that share"))
    versions = {each.peer: each.version for each in best}
    parts += [Text(f"{peer}: {versions[peer]}", style="dim") for peer in sorted(versions)]
    for failure in results.failures:
        parts.append(Text(f"failed: {failure.peer}: {failure.doing}: {failure.error}", style="red"))
    return Group(*parts)


HEADINGS = (
    "load",
    "in\nflight",
    "peer",
    "weights",
    "output\ntok/s",
    "x best of\nclass / any",
    "TTFT\nms",
    "TTFT\np99",
    "TPOT\nms",
    "ITL\np99",
    "peak RSS\nMiB",
    "other\ncores",
    "runs",
)


def least_disturbed(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Of each peer at each load the measurement during which others took least of the machine."""
    best: dict[tuple[str, Point], Measurement] = {}
    for each in measurements:
        known = best.get((each.peer, each.point))
        if known is None or each.load.other < known.load.other:
            best[each.peer, each.point] = each
    return list(best.values())


def _order(measurement: Measurement) -> tuple[str, str, int, int, int, int, float]:
    point = measurement.point
    speed = measurement.figures.output_tok_s or 0.0
    lengths = point.input_tokens, point.output_tokens, point.concurrency, point.requests
    return (point.model, point.scenario, *lengths, -speed)


def _row(measurement: Measurement, all_: Sequence[Measurement], runs: int) -> tuple[str, ...]:
    point, got, load = measurement.point, measurement.figures, measurement.load
    # Several tokens in a chunk: a gap between chunks is no time of a token.
    one_each = got.tokens_per_chunk is not None and 0.99 <= got.tokens_per_chunk <= 1.01
    return (
        f"{point.scenario} {point.input_tokens}/{point.output_tokens}",
        str(point.concurrency),
        measurement.peer,
        measurement.weights,
        _number(got.output_tok_s),
        _ratios(measurement, all_),
        _of(got.ttft_ms, "mean"),
        _of(got.ttft_ms, "p99"),
        _of(got.tpot_ms, "mean"),
        _of(got.itl_ms, "p99") if one_each else "-",
        f"{measurement.peak_rss_mib:.0f}",
        f"{load.other:.2f}{'!' if load.other > NOISY else ''}",
        str(runs),
    )


def _ratios(measurement: Measurement, all_: Sequence[Measurement]) -> str:
    """Of ours: output tok/s over the best peer's, of the same class of weights and of any."""
    if not measurement.peer.startswith(OURS):
        return ""
    peers = [each for each in all_ if each.point == measurement.point and not each.peer.startswith(OURS)]
    same = [each for each in peers if each.weights == measurement.weights]
    return f"{_ratio(measurement, same)} / {_ratio(measurement, peers)}"


def _ratio(measurement: Measurement, others: Sequence[Measurement]) -> str:
    fastest = max((each.figures.output_tok_s or 0.0 for each in others), default=0.0)
    return f"{(measurement.figures.output_tok_s or 0.0) / fastest:.2f}" if fastest else "-"


def _of(spread: Spread | None, figure: str) -> str:
    return _number(getattr(spread, figure)) if spread else "-"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}"
