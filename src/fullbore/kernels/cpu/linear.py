"""``linear`` on panels of 64 outputs (csrc/linear.cpp)."""

from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.packed import FORMATS, PANEL, PanelKernel, Placed, panels
from fullbore.ops.formats import Weight


class Panels(NamedTuple):
    """``memory``: uint8; matrices of ``width`` inputs in panels, each beginning one. ``columns``: [panels, 2]
    int32, the first output of a panel and how many. The numbers are those that a call needs.
    """

    memory: Tensor
    columns: Tensor
    format: int
    panels: int
    out: int
    width: int


class CpuLinear(PanelKernel):
    operator = "linear"
    layout = "cpu_panels"

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._linear, self._call = self.struct_function("fb_linear", "PPqPqqqqPqP")

    def pack(self, *weights: Weight) -> Panels:
        format, width = self.kept_as(weights[0].format), weights[0].data.shape[1]
        step, places, out = self.panel_bytes(format, width), list[tuple[int, int]](), 0
        placed: list[Placed] = []
        memory = self.room(sum(panels(len(weight.data)) for weight in weights) * step)
        for weight in weights:
            placed.append(Placed(weight, memory.data_ptr() + len(places) * step, step))
            end = out + len(weight.data)
            places += [(begin, min(PANEL, end - begin)) for begin in range(out, end, PANEL)]
            out = end
        self.pack_all(format, placed)
        columns = torch.tensor(places, dtype=torch.int32)
        return Panels(memory, columns, FORMATS[format], len(places), out, width)

    def run(self, packed: Panels, x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        memory, columns, format, panels, out, width = packed
        rows, given = x.shape
        if x.dtype is not self.dtype or given != width:
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {self.dtype} [tokens, {width}]")
        x = x.contiguous()
        y = x.new_empty(rows, out)
        weights = memory.data_ptr(), format, columns.data_ptr(), panels, out, width
        self._linear(self._call(self.pool_address, *weights, self.is_bf16, x.data_ptr(), rows, y.data_ptr()))
        return y
