"""Every operator of a rank: right first, then timed in a graph with cold weights, all kernels in turns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator

from benchmarks.gpu.parts import Part
from benchmarks.gpu.rivals import Recorded, recorded
from benchmarks.layers import draw_inputs, draw_weights
from benchmarks.measuring import able
from fullbore.hardware.ceiling import Ceiling
from fullbore.ops.attention import Heads
from fullbore.ops.contract import Kernel, packed_bytes
from fullbore.ops.demand import attends
from fullbore.ops.place import moved
from fullbore.ops.registry import Registry
from fullbore.tune.gate import Gate
from fullbore.tune.graphs import Stream
from fullbore.tune.timing import Effort, Rotation, Spread, Timer, compare, copies_needed

MOST_COPIES = 64
MOST_INPUTS = 8
PAGE = 64  # tokens a page
_SEED = 7


@dataclass(frozen=True)
class Row:
    """One kernel at one point. ``tokens``: of one call; ``batch``: of the server's step. ``us`` is 0 where
    the kernel was ``refused``, with the reason."""

    layout: str
    part: str
    kernel: str
    batch: int
    tokens: int
    context: int
    calls: int
    us: float
    low_us: float
    high_us: float
    floor_us: float
    bound: str
    bytes: int
    flops: int
    refused: str = ""
    recorded: tuple[Recorded, ...] = ()

    @property
    def fraction(self) -> float:
        """Of what binds: the bandwidth measured in this run, or the peak."""
        return self.floor_us / self.us if self.us else 0.0


@dataclass(frozen=True)
class Bench:
    """``until``: seconds of ``timer`` after which no part is begun. ``place``: torch's name of the device."""

    registry: Registry
    place: str
    timer: Timer
    stream: Stream | None
    ceiling: Ceiling
    cache_bytes: int
    effort: Effort
    until: float
    tell: Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """``batch``: tokens of the server's step; ``context``: of its decodes, or before a prompt's chunk."""

    batch: int
    context: int


def measure(
    parts: Sequence[tuple[str, Part]], points: Callable[[Part], Sequence[Point]], bench: Bench
) -> Iterator[list[Row]]:
    """``parts``: with their layouts. The rows of each part's points, as they are made."""
    for number, (layout, part) in enumerate(parts):
        left = bench.until - bench.timer.now()
        if left <= 0:
            bench.tell(f"out of time: {', '.join(f'{a} {b.name}' for a, b in parts[number:])} not measured")
            return
        yield from _part(layout, part, points(part), bench, bench.timer.now() + left / (len(parts) - number))


def _part(
    layout: str, part: Part, points: Sequence[Point], bench: Bench, until: float
) -> Iterator[list[Row]]:
    job = part.layer.job
    kernels, reasons = able(part.layer, bench.registry, ())
    for reason in reasons:
        bench.tell(f"left out: {reason}")
    passed, refused = _examined(layout, part, kernels, bench)
    yield refused
    if not passed:
        return
    generator = Generator().manual_seed(_SEED)
    weights = draw_weights(part.layer, generator)
    cold = 2 * bench.cache_bytes
    packs = [_copies(kernel(job.dtype), weights, cold) for kernel in passed]
    for place, point in enumerate(points):
        if place and bench.timer.now() > until:
            bench.tell(f"out of time: {layout} {part.name} at {points[place:]} not measured")
            return
        inputs = _inputs(part, point, weights, cold, generator, bench.place)
        calls = [
            Rotation(kernel(job.dtype).run, copies, inputs)
            for kernel, copies in zip(passed, packs, strict=True)
        ]
        with torch.inference_mode(), bench.timer.steady():
            spreads = compare(calls, bench.effort, bench.timer)
        yield [
            _row(layout, part, kernel, point, spread, bench)
            for kernel, spread in zip(passed, spreads, strict=True)
        ]


def _examined(
    layout: str, part: Part, kernels: Sequence[type[Kernel]], bench: Bench
) -> tuple[list[type[Kernel]], list[Row]]:
    """Those whose numbers are right, and rows about the others."""
    gate = Gate({**part.layer.sizes, "page": PAGE}, place=bench.place, stream=bench.stream)
    passed, refused = [], []
    for kernel in kernels:
        verdict = gate.examine(part.layer.job, kernel)
        if verdict.passed:
            passed.append(kernel)
        else:
            none = Spread(0.0, 0.0, 0.0, 0)
            row = _row(layout, part, kernel, Point(0, 0), none, bench)
            refused.append(replace(row, refused=verdict.reason))
            bench.tell(f"{layout} {part.name} {kernel.name}: {verdict.reason}")
    return passed, refused


def _copies(kernel: Kernel, weights: tuple[Any, ...], cold: int) -> list[Any]:
    first = kernel.pack(*weights)
    wanted = copies_needed(packed_bytes(first), cold, cold // 2, MOST_COPIES) if packed_bytes(first) else 1
    return [first, *(kernel.pack(*weights) for _ in range(wanted - 1))]


def _inputs(
    part: Part, point: Point, weights: tuple[Any, ...], cold: int, generator: Generator, place: str
) -> list[tuple[Any, ...]]:
    """Activations come hot from the operator before; caches of keys come from memory, and each routing
    chooses other experts."""
    tokens = part.tokens(point.batch)
    if part.layer.job.operator == "mla_decode":
        first = _decode_inputs(weights[1], tokens, point.context, place)
        wanted = copies_needed(packed_bytes(first), cold, cold // 2, MOST_INPUTS)
        return [first, *(_decode_inputs(weights[1], tokens, point.context, place) for _ in range(wanted - 1))]
    wanted = MOST_INPUTS if part.layer.job.operator == "moe_ffn" else 1
    draws = (draw_inputs(part.layer, tokens, point.context, generator) for _ in range(wanted))
    return [moved(each, place) for each in draws]


def _decode_inputs(heads: Heads, rows: int, context: int, place: str) -> tuple[Any, ...]:
    """As ``mla_decode`` takes them, drawn on the device: a cache of gigabytes takes minutes on a CPU."""
    pages = -(-context // PAGE)
    row, dtype = heads.row, torch.bfloat16
    cache = row.empty(rows * pages, PAGE, dtype, place)
    for page in torch.split(cache, 1 << 10):
        values = torch.randn(page.shape[0] * PAGE, row.latent + row.rope, device=place, dtype=dtype)
        page.copy_(row.encode(values[:, : row.latent], values[:, row.latent :]).view(page.shape))
    table = torch.randperm(rows * pages, device=place).int().view(rows, pages)
    q = torch.randn(rows, heads.count, heads.nope + heads.rope, device=place, dtype=dtype)
    return q, cache, table, torch.full((rows,), context, dtype=torch.int32, device=place)


def _row(layout: str, part: Part, kernel: type[Kernel], point: Point, spread: Spread, bench: Bench) -> Row:
    tokens, context = max(1, part.tokens(point.batch)), point.context if attends(part.layer.job) else 0
    cost = part.cost(tokens, context)
    return Row(
        layout=layout,
        part=part.name,
        kernel=kernel.name,
        batch=point.batch,
        tokens=tokens,
        context=context,
        calls=part.calls,
        us=spread.median_us,
        low_us=spread.low_us,
        high_us=spread.high_us,
        floor_us=part.floor_us(bench.ceiling, tokens, context),
        bound=bench.ceiling.bound(cost.flops, cost.bytes, part.arithmetic),
        bytes=cost.bytes,
        flops=cost.flops,
        recorded=recorded(part.name, layout, point.batch, context),
    )
