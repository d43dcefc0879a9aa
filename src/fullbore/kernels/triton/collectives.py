"""Collectives of a rank that stands alone, waited for on the device, and experts drawn there.

The wait is a kernel like others: the host does not stop, and a graph that holds it waits as long each time it
is replayed. It counts from its kernel's start, as the link model's time does from that of a real exchange.
"""

from typing import ClassVar

import torch
from torch import Tensor

from fullbore.kernels import delay
from fullbore.kernels.triton.device import INTERPRETED, TritonKernel, power_of_two
from fullbore.kernels.triton.tiles.collectives import draw_row, spread_rows, wait
from fullbore.ops.collectives import own_rows, seconds
from fullbore.parallel.rank import Exchange

COLUMNS = 1024  # copied together
ROWS = 32  # of a tile of draws
_NS, _AMD_TICKS = 1e9, 1e8  # of the clocks, a second


class _Delay(TritonKernel):
    name = "triton_delay"
    layout = "exchange"
    formats: ClassVar[tuple[str, ...]] = ("none",)
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)

    def pack(self, exchange: Exchange) -> tuple[Exchange]:
        return (exchange,)

    def ticks(self, exchange: Exchange, x: Tensor) -> int:
        return round(seconds(self.operator, exchange, x) * (_AMD_TICKS if self.target.amd else _NS))

    def pause(self, packed: tuple[Exchange], x: Tensor) -> Exchange:
        (exchange,) = packed
        if INTERPRETED:  # which has no clock of a device
            delay.wait(seconds(self.operator, exchange, x))
        else:
            self.launch(wait, (1,), self.ticks(exchange, x), AMD=self.target.amd, warps=1)
        return exchange

    def spread(self, exchange: Exchange, x: Tensor, y: Tensor, rows: tuple[int, ...], groups: int) -> Tensor:
        """``y`` filled with rows of ``x`` while the time passes. rows: base, each, among, of_group."""
        base, each, among, of_group = rows
        if INTERPRETED:
            delay.wait(seconds(self.operator, exchange, x))
        self.launch(
            spread_rows, (1 + y.numel() // x.shape[1],), x, y, self.ticks(exchange, x), base, exchange.own,
            each, among, of_group, WIDTH=x.shape[1], GROUPS=groups, SIZE=COLUMNS, WAITS=not INTERPRETED,
            AMD=self.target.amd,
        )  # fmt: skip
        return y


class TritonAllReduce(_Delay):
    operator = "all_reduce"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [tokens, width] -> the same tensor."""
        self.pause(packed, x)
        return x


class TritonGather(_Delay):
    operator = "gather"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [tokens, width] -> [groups * tokens, width]."""
        (exchange,), x, tokens = packed, x.contiguous(), len(x)
        y = x.new_empty(exchange.groups * tokens, x.shape[1])
        return self.spread(exchange, x, y, (0, 1, max(1, tokens), max(1, tokens)), exchange.groups)


class TritonScatter(_Delay):
    operator = "scatter"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [groups * tokens, width] -> [tokens, width], a view."""
        return own_rows(self.pause(packed, x), x)


class TritonGatherColumns(_Delay):
    operator = "gather_columns"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [groups * tokens, width] -> [tokens, devices * width]."""
        (exchange,), x = packed, x.contiguous()
        tokens, devices = len(x) // exchange.groups, exchange.links.devices
        y = x.new_empty(tokens, devices * x.shape[1])
        first = exchange.own * tokens
        return self.spread(exchange, x, y, (first, devices, max(1, tokens), max(1, tokens * devices)), 1)


class TritonDrawExperts(TritonKernel):
    operator = "draw_experts"
    layout = "triton_table"
    formats: ClassVar[tuple[str, ...]] = ("none",)
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)

    def pack(self, table: Tensor, chosen: int) -> tuple[Tensor, int]:
        return self.to_device(table.clone()), chosen

    def run(self, packed: tuple[Tensor, int], x: Tensor) -> Tensor:
        """x: [tokens, hidden] -> ids [tokens, chosen] int64."""
        (table, chosen), x = packed, x.contiguous()
        ids = x.new_empty(len(x), chosen, dtype=torch.int64)
        self.launch(
            draw_row, (-(-len(x) // ROWS),), x, table, ids, len(x),
            HIDDEN=x.shape[1], SLOTS=len(table), K=chosen, K_ROOM=power_of_two(chosen, 1), BLOCK_T=ROWS,
        )  # fmt: skip
        return ids
