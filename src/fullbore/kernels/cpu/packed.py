"""Memory for packed weights, and the C++ packing of one matrix into it."""

from typing import ClassVar

import torch
from torch import Tensor

from fullbore.errors import FullboreError
from fullbore.kernels.cpu.kernel import CpuKernel, I, P
from fullbore.kernels.cpu.native import Native
from fullbore.ops.formats import Weight

# as ``Format`` in csrc/matrix.h
FORMATS = {"bf16": 0, "fp8_block": 1, "int8": 2, "int4_g32": 3, "int4_g128": 4}
PANEL = 64
_HUGE_PAGE = 1 << 21


class PanelKernel(CpuKernel):
    """A kernel on matrices in panels (csrc/matrix.h)."""

    formats: ClassVar[tuple[str, ...]] = tuple(FORMATS)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._panel_bytes = self.function("fb_panel_bytes", I, I, result=I)
        self._pack = self.function("fb_pack", P, I, P, P, I, I, P, I)
        self._huge = self.function("fb_huge", P, I)

    def panel_bytes(self, format: str, in_: int) -> int:
        """Bytes of 64 outputs."""
        return int(self._panel_bytes(FORMATS[format], in_))

    def room(self, size: int) -> Tensor:
        """[size] uint8, on large pages where it is worth one."""
        if size < 2 * _HUGE_PAGE:
            return torch.empty(size, dtype=torch.uint8)
        room = torch.empty(size + _HUGE_PAGE, dtype=torch.uint8)
        begin = -room.data_ptr() % _HUGE_PAGE
        self._huge(room.data_ptr() + begin, size)
        return room[begin : begin + size]

    def pack_into(self, place: int, step: int, weight: Weight, format: str) -> None:
        """Panels of ``weight`` to the address ``place``, ``step`` bytes from one to the next."""
        if weight.format != format:
            raise FullboreError(
                f"the matrices of one feed-forward are stored as {format} and as {weight.format}; expected "
                "one format (convert the checkpoint)"
            )
        out, in_ = weight.data.shape
        data = weight.data.contiguous()
        factor = torch.float32 if weight.integer is None else torch.bfloat16
        scale = None if weight.scale is None else weight.scale.to(factor).contiguous()
        factors = None if scale is None else scale.data_ptr()
        self._pack(self.pool, FORMATS[format], data.data_ptr(), factors, out, in_, place, step)


def panels(out: int) -> int:
    """Panels of 64 that hold ``out`` outputs."""
    return -(-out // PANEL)
