"""An audit for a person: what the figures imply, which readings fit, and the floor beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fullbore.bench.audit import FITS_HIGH, FITS_LOW, Needed, OperatingPoint, Reading
from fullbore.bench.floor import Floor, Server


@dataclass(frozen=True)
class Audit:
    """Everything that was found. ``solved``: which of the stated figures was missing, "" for none."""

    point: OperatingPoint
    solved: str
    claimed_tok_s: float | None
    readings: Sequence[Reading]
    needed: Sequence[tuple[Needed, float | None]]  # with the floor of its step, in ms
    server: Server | None
    floor: Floor | None
    shares: Sequence[float]
    requests_h: Sequence[float]


def report(audit: Audit) -> Group:
    """The audit as it is printed."""
    return Group(*_parts(audit))


def _parts(audit: Audit) -> Iterator[RenderableType]:
    yield _heading("What the figures imply (Little's law)")
    yield from _implied(audit)
    yield _heading("People served, by share at work in the busy hour and requests of each of them an hour")
    yield _people(audit)
    if audit.readings:
        yield _heading(f"The claimed {audit.claimed_tok_s:g} tok/s, and what it may have counted")
        yield _readings(audit.readings)
        yield Text()
        yield from _verdict(audit)
    if audit.needed:
        yield _heading("What would give the claim, one thing changed at a time")
        yield _needed(audit.needed)
    if audit.server and audit.floor:
        yield _heading(f"The floor of {_name(audit.server)}")
        yield from _floor(audit.point, audit.server, audit.floor)
    yield Text()


def _implied(audit: Audit) -> Iterator[RenderableType]:
    point = audit.point
    rows = {
        "concurrency": f"{point.concurrency:.4g}",
        "TTFT": f"{point.ttft_s * 1e3:.4g} ms",
        "TPOT": f"{point.tpot_s * 1e3:.4g} ms",
    }
    table = _table("", "")
    for name, value in rows.items():
        how = "  solved from the claim, read as output tok/s" if name.lower() == audit.solved else ""
        table.add_row(name, value + how)
    table.add_row("tokens of a request", f"{point.input_tokens:g} in, {point.output_tokens:g} out")
    table.add_row("time of a request", f"{point.latency_s:.4g} s")
    table.add_row("output", f"{point.output_tok_s:.0f} tok/s")
    table.add_row("input", f"{point.input_tok_s:.0f} tok/s")
    table.add_row("total", f"{point.total_tok_s:.0f} tok/s")
    table.add_row("requests", f"{point.requests_s * 3600:.0f} an hour")
    yield table


def _people(audit: Audit) -> RenderableType:
    table = _table("at work", *(f"{rate:g} an hour" for rate in audit.requests_h))
    for share in audit.shares:
        table.add_row(
            f"{share * 100:g} %", *(f"{audit.point.people(share, rate):.0f}" for rate in audit.requests_h)
        )
    return table


def _readings(found: Sequence[Reading]) -> RenderableType:
    table = _table("it counted", "would be\ntok/s", "claimed is\ntimes that", "fits")
    for each in found:
        table.add_row(each.words, f"{each.tok_s:.0f}", f"{each.ratio:.2f}", "yes" if each.fits else "no")
    return table


def _verdict(audit: Audit) -> Iterator[RenderableType]:
    fitting = [each.words for each in audit.readings if each.fits]
    if fitting:
        yield Text(f"consistent, if it counted {'; or '.join(fitting)}", style="green")
        return
    closest = audit.readings[0]
    yield Text(
        f"not consistent: no reading is within {FITS_LOW:g} to {FITS_HIGH:g} times; the closest, counting "
        f"{closest.words}, is off by a factor of {max(closest.ratio, 1 / closest.ratio):.2f}. It is another "
        "operating point than these latencies.",
        style="yellow",
    )


def _needed(found: Sequence[tuple[Needed, float | None]]) -> RenderableType:
    floors = any(floor_ms is not None for _, floor_ms in found)
    table = _table(
        "changed", "in\nflight", "in / out\ntokens", "TPOT\nms", *(["floor\nms"] if floors else [])
    )  # fmt: skip
    for each, floor_ms in found:
        at = each.point
        lengths = f"{at.input_tokens:.0f} / {at.output_tokens:.0f}"
        tpot_ms = at.tpot_s * 1e3
        mark = "" if floor_ms is None or tpot_ms >= floor_ms else " !"
        cells = [f"{at.concurrency:.0f}", lengths, f"{tpot_ms:.1f}"]
        table.add_row(each.words, *cells, *([] if floor_ms is None else [f"{floor_ms:.1f}{mark}"]))
    return table


def _floor(point: OperatingPoint, server: Server, floor: Floor) -> Iterator[RenderableType]:
    tpot_ms = point.tpot_s * 1e3
    table = _table("one decode step", "ms", "TPOT is\ntimes that")

    def row(words: str, floor_ms: float | None) -> None:
        if floor_ms is not None:
            table.add_row(words, f"{floor_ms:.1f}", f"{tpot_ms / floor_ms:.2f}")

    device = server.device
    row(f"tensor parallel, at {server.bandwidth_bytes_s / 1e12:g} TB/s", floor.tensor_parallel_ms)
    if device and device.reached_bytes_s:
        reached = device.reached_bytes_s
        row(f"the same at {reached.value / 1e12:g} TB/s ({reached.source})", floor.reached_ms)
    row("nothing read twice, whatever the layout", floor.undivided_ms)
    row("arithmetic of decodes and prompts", floor.arithmetic_ms)
    yield table
    yield Text()
    yield Text(
        f"{round(point.concurrency)} decodes at a mean context of {floor.context} touch "
        f"{floor.experts_touched:.1f} experts of a layer; each byte is read from memory once."
    )
    if tpot_ms < floor.undivided_ms:
        yield Text("impossible: the TPOT is below what any layout of this server can reach", style="red")
    elif tpot_ms < floor.tensor_parallel_ms:
        yield Text("below the floor of tensor parallelism: only another layout could do it", style="yellow")
    weights, latents = floor.weight_bytes / 1e9, floor.latent_bytes / 1e9
    words = f"memory of each device: {weights:.1f} GB of weights and {latents:.1f} GB of cache"
    if floor.memory_bytes is None:
        yield Text(words)
    elif weights + latents <= floor.memory_bytes / 1e9:
        yield Text(f"{words}, of {floor.memory_bytes / 1e9:g} GB")
    else:
        only = f"{words} do not fit in {floor.memory_bytes / 1e9:g} GB under tensor parallelism"
        yield Text(only, style="yellow")


def _name(server: Server) -> str:
    return f"{server.devices} x {server.name}"


def _heading(words: str) -> Text:
    return Text(f"\n{words}\n", style="bold")


def _table(first: str, *others: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, show_header=bool(first)
    )
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right" if first else "left", no_wrap=True)
    return table
