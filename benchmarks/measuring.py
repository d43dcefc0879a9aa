"""Timing every kernel of one layer in turns, with the machine's ceilings probed on both sides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Generator

from benchmarks.layers import Layer, draw_inputs, draw_weights, fewer_experts
from fullbore.hardware.ceiling import Ceiling, Probes
from fullbore.ops.contract import Cost, Kernel, packed_bytes
from fullbore.ops.demand import attends, step_shape, subject
from fullbore.ops.formats import value_bytes
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry
from fullbore.tune.pinning import pinned
from fullbore.tune.timing import Clock, ClockTimer, Effort, Rotation, Spread, compare, copies_needed

MOST_COPIES = 64
MOST_INPUTS = 32
ROUTINGS = 8  # so many draws of experts take turns
COLD_CACHES = 4  # weights rotate over so many times the last-level cache
STEADY = 0.15  # the two probes of a ceiling may differ by so much
_SEED = 7


@dataclass(frozen=True)
class Row:
    """One kernel at one point. ``floor_us``: no implementation takes less at the probed ceilings."""

    model: str
    operator: str
    layer: str
    format: str
    dtype: str
    tokens: int
    context: int
    kernel: str
    time: Spread
    flops: int
    bytes: int
    floor_us: float
    bound: str  # which ceiling makes the floor: read or flops
    read_gb_s: float
    peak_gflop_s: float
    steady: bool  # the ceilings were the same before and after

    @property
    def fraction(self) -> float:
        """Of the ceiling that binds; above 1 where a cache gave the bytes."""
        return self.floor_us / self.time.median_us

    @property
    def gb_s(self) -> float:
        return self.bytes / self.time.median_us / 1e3

    @property
    def gflop_s(self) -> float:
        return self.flops / self.time.median_us / 1e3


@dataclass(frozen=True)
class Bench:
    """``most_bytes``: what packed weights of all kernels may take together; ``patience_s``: a kernel whose
    single call takes longer is read once."""

    registry: Registry
    probes: Probes
    cache_bytes: int
    most_bytes: int
    effort: Effort
    patience_s: float
    clock: Clock


def able(layer: Layer, registry: Registry, wanted: Sequence[str]) -> tuple[list[type[Kernel]], list[str]]:
    """The layer's kernels (of those ``wanted``, all where that is empty), and why the others are not."""
    found, reasons = [], []
    for entry in registry.on(layer.job.device).candidates(layer.job.operator):
        if wanted and entry.name not in wanted:
            continue
        try:
            kernel = entry.load()
        except ImportError as error:
            reasons.append(f"{entry.name} {entry.operator}: cannot be imported: {error}")
            continue
        if refused := kernel.unsupported(layer.job):
            reasons.append(f"{entry.name} {entry.operator}: {'; '.join(refused)}")
        else:
            found.append(kernel)
    return found, reasons


def measure(
    layer: Layer,
    kernels: Sequence[type[Kernel]],
    tokens: Sequence[int],
    contexts: Sequence[int],
    bench: Bench,
) -> Iterator[list[Row]]:
    """The rows of each point, as soon as it is measured."""
    job = layer.job
    layer = fewer_experts(layer, bench.most_bytes, len(kernels) * value_bytes(job.dtype))
    generator = Generator().manual_seed(_SEED)
    weights = draw_weights(layer, generator)
    cold = COLD_CACHES * bench.cache_bytes
    packs = [_copies(kernel(job.dtype), weights, cold) for kernel in kernels]
    del weights
    for context in contexts if attends(job) else (0,):
        for count in tokens:
            inputs = _inputs(layer, count, context, cold, generator)
            before = bench.probes.measure()
            times = _times(job.dtype, kernels, packs, inputs, bench)
            after = bench.probes.measure()
            cost = _cost(layer, count, context, inputs)
            yield [
                _row(layer, count, context, kernel.name, time, cost, before, after)
                for kernel, time in zip(kernels, times, strict=True)
            ]


def _copies(kernel: Kernel, weights: tuple[Any, ...], cold: int) -> list[Any]:
    first = kernel.pack(*weights)
    wanted = copies_needed(packed_bytes(first), cold, cold // 2, MOST_COPIES) if packed_bytes(first) else 1
    return [first, *(kernel.pack(*weights) for _ in range(wanted - 1))]


def _inputs(
    layer: Layer, tokens: int, context: int, cold: int, generator: Generator
) -> list[tuple[Any, ...]]:
    """Activations come hot from the operator before; a cache of keys comes from memory."""
    first = draw_inputs(layer, tokens, context, generator)
    wanted = 1
    if attends(layer.job):
        wanted = copies_needed(packed_bytes(first), cold, cold // 2, MOST_INPUTS)
    elif layer.job.operator == "moe_ffn":
        wanted = ROUTINGS
    return [first, *(draw_inputs(layer, tokens, context, generator) for _ in range(wanted - 1))]


def _times(
    dtype: str, kernels: Sequence[type[Kernel]], packs: Sequence[list[Any]], inputs: list[Any], bench: Bench
) -> list[Spread]:
    with torch.inference_mode():
        calls = [
            Rotation(kernel(dtype).run, copies, inputs) for kernel, copies in zip(kernels, packs, strict=True)
        ]
        once = []
        for call in calls:  # also makes the pools of threads, which must exist to be pinned
            call()
            begin = bench.clock()
            call()
            once.append(bench.clock() - begin)
        quick = [place for place, taken in enumerate(once) if taken <= bench.patience_s]
        spreads = [Spread.of([taken]) for taken in once]
        with pinned():
            found = compare([calls[place] for place in quick], bench.effort, ClockTimer(bench.clock))
        for place, spread in zip(quick, found, strict=True):
            spreads[place] = spread
    return spreads


def _cost(layer: Layer, tokens: int, context: int, inputs: list[Any]) -> Cost:
    """Of a call; for experts, of those that the drawn tokens chose."""
    job, operator = layer.job, OPERATORS[layer.job.operator]
    shape = step_shape(operator, subject(job, layer.sizes), tokens, context)
    if job.operator == "moe_ffn":
        shape = {**shape, "touched": round(mean(len(ids.unique()) for _, ids, _ in inputs))}
    return operator.cost(shape, job.format, job.dtype)


def _row(
    layer: Layer,
    tokens: int,
    context: int,
    kernel: str,
    time: Spread,
    cost: Cost,
    before: Ceiling,
    after: Ceiling,
) -> Row:
    job = layer.job
    arithmetic = OPERATORS[job.operator].arithmetic(job.format, job.dtype)
    ceiling = Ceiling(
        mean((before.read, after.read)),
        {name: mean((before.flops[name], after.flops[name])) for name in before.flops},
    )
    pairs = ((before.read, after.read), (before.peak(arithmetic), after.peak(arithmetic)))
    return Row(
        model=layer.model,
        operator=job.operator,
        layer=layer.describe(),
        format=job.format,
        dtype=job.dtype,
        tokens=tokens,
        context=context,
        kernel=kernel,
        time=time,
        flops=cost.flops,
        bytes=cost.bytes,
        floor_us=ceiling.floor_us(cost.flops, cost.bytes, arithmetic),
        bound=ceiling.bound(cost.flops, cost.bytes, arithmetic),
        read_gb_s=ceiling.read / 1e9,
        peak_gflop_s=ceiling.peak(arithmetic) / 1e9,
        steady=all(abs(a - b) <= STEADY * max(a, b) for a, b in pairs),
    )
