"""Collectives of a rank that stands alone: the calling thread waits for as long as the link model says."""

import torch
from torch import Tensor

from fullbore.kernels.delay import wait
from fullbore.kernels.torch.rows import TorchKernel
from fullbore.ops.collectives import own_rows, seconds, turns
from fullbore.ops.drawn import drawn
from fullbore.parallel.rank import Exchange


class _Delay(TorchKernel):
    name = "delay"
    layout = "exchange"
    formats = ("none",)

    def pack(self, exchange: Exchange) -> tuple[Exchange]:
        return (exchange,)

    def pause(self, packed: tuple[Exchange], x: Tensor) -> Exchange:
        (exchange,) = packed
        wait(seconds(self.operator, exchange, x))
        return exchange


class DelayAllReduce(_Delay):
    operator = "all_reduce"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [tokens, width] -> the same tensor."""
        self.pause(packed, x)
        return x


class DelayGather(_Delay):
    operator = "gather"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [tokens, width] -> [groups * tokens, width]."""
        exchange = self.pause(packed, x)
        return torch.cat([x.roll(-turn, 1) if turn else x for turn in turns(exchange, x.shape[1])])


class DelayScatter(_Delay):
    operator = "scatter"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [groups * tokens, width] -> [tokens, width], a view."""
        return own_rows(self.pause(packed, x), x)


class DelayGatherColumns(_Delay):
    operator = "gather_columns"

    def run(self, packed: tuple[Exchange], x: Tensor) -> Tensor:
        """x: [groups * tokens, width] -> [tokens, devices * width]."""
        exchange = self.pause(packed, x)
        return own_rows(exchange, x).repeat(1, exchange.links.devices)


class TorchDrawExperts(TorchKernel):
    operator = "draw_experts"
    layout = "table"
    formats = ("none",)

    def pack(self, table: Tensor, chosen: int) -> tuple[Tensor, int]:
        return table.clone(), chosen

    def run(self, packed: tuple[Tensor, int], x: Tensor) -> Tensor:
        """x: [tokens, hidden] -> ids [tokens, chosen] int64."""
        return drawn(*packed, x)
