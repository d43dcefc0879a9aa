"""``linear`` on panels of 64 outputs (csrc/linear.cpp)."""

from typing import NamedTuple

from torch import Tensor

from fullbore.kernels.cpu.kernel import I, P
from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.packed import FORMATS, PanelKernel, Placed, panels
from fullbore.ops.formats import Weight


class Panels(NamedTuple):
    """``memory``: uint8; an [out, in] matrix in panels. The numbers are those that a call needs."""

    memory: Tensor
    address: int
    format: int
    out: int
    columns: int


class CpuLinear(PanelKernel):
    operator = "linear"
    layout = "cpu_panels"

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._linear = self.function("fb_linear", P, P, I, I, I, I, P, I, P)

    def pack(self, weight: Weight) -> Panels:
        out, in_ = weight.data.shape
        step = self.panel_bytes(weight.format, in_)
        memory = self.room(panels(out) * step)
        self.pack_all(weight.format, [Placed(weight, memory.data_ptr(), step)])
        return Panels(memory, memory.data_ptr(), FORMATS[weight.format], out, in_)

    def run(self, packed: Panels, x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        _, address, format, out, columns = packed
        rows = x.shape[0]
        x = x.contiguous()
        y = x.new_empty(rows, out)
        pool, bf16 = self.pool, self.is_bf16
        self._linear(pool, address, format, out, columns, bf16, x.data_ptr(), rows, y.data_ptr())
        return y
