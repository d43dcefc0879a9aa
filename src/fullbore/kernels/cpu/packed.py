"""Memory for packed weights, and the C++ packing of one matrix into it."""

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fullbore.errors import FullboreError
from fullbore.kernels.cpu.kernel import CpuKernel, I, P
from fullbore.kernels.cpu.native import Native
from fullbore.ops.formats import Weight

# as ``Format`` in csrc/matrix.h
FORMATS = {"bf16": 0, "fp8_block": 1, "int8": 2, "int4_g32": 3, "int4_g128": 4, "fp32": 5}
PANEL = 64
_HUGE_PAGE = 1 << 21


class Placed(NamedTuple):
    """A matrix, the address that its panels go to, and the bytes from one of them to the next."""

    weight: Weight
    address: int
    step: int


class PanelKernel(CpuKernel):
    """A kernel on matrices in panels (csrc/matrix.h)."""

    formats: ClassVar[tuple[str, ...]] = tuple(FORMATS)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._panel_bytes = self.function("fb_panel_bytes", I, I, result=I)
        self._pack = self.function("fb_pack", P, I, P, I)
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

    def kept_as(self, format: str) -> str:
        """What weights are packed as: float32 is rounded where activations are bfloat16, since digits on one
        side of a product are dear and of no use."""
        return "bf16" if self.is_bf16 and format == "fp32" else format

    def pack_all(self, format: str, matrices: Iterable[Placed]) -> None:
        """Write the panels of many matrices, all at once: small ones would leave threads waiting."""
        held: list[Tensor | None] = []  # until they are packed
        rows: list[tuple[int, ...]] = []  # ``Stored`` of csrc/pack.h
        for stored, address, step in matrices:
            rounded = self.kept_as(stored.format) != stored.format
            weight = Weight(stored.data.to(torch.bfloat16)) if rounded else stored
            if weight.format != format:
                raise FullboreError(
                    f"the matrices of one feed-forward are stored as {format} and as {weight.format}; "
                    "expected one format (convert the checkpoint)"
                )
            data = weight.data.contiguous()
            factor = torch.float32 if weight.integer is None else torch.bfloat16
            scale = None if weight.scale is None else weight.scale.to(factor).contiguous()
            held += data, scale
            factors = 0 if scale is None else scale.data_ptr()
            rows.append((data.data_ptr(), factors, *data.shape, address, step))
        table = torch.tensor(rows, dtype=torch.int64)
        self._pack(self.pool, FORMATS[format], table.data_ptr(), len(rows))


def panels(out: int) -> int:
    """Panels of 64 that hold ``out`` outputs."""
    return -(-out // PANEL)


def dequantise(kernel: CpuKernel, weight: Weight) -> Tensor:
    """[out, in] in the kernel's type, on all threads where it is stored as fp8_block."""
    if weight.scale is None or weight.format != "fp8_block":
        return weight.dequantise(kernel.dtype)
    data, scale = weight.data.contiguous(), weight.scale.float().contiguous()
    matrix = torch.empty(data.shape, dtype=kernel.dtype)
    run = kernel.function("fb_dequantise", P, P, P, I, I, I, P)
    run(kernel.pool, data.data_ptr(), scale.data_ptr(), *data.shape, kernel.is_bf16, matrix.data_ptr())
    return matrix
