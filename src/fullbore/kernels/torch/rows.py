"""Making the bits of a row independent of its neighbours.

A BLAS picks its inner loop by the number of rows: 1, 2, 3, 5 or 7 rows come out with other last bits than 8
do, but every multiple of 8 comes out alike, and so does every position within it (measured over MKL's float32
``mm`` and ``bmm`` for inner sizes from 1 to 1536; inner sizes that are not a multiple of 4 broke it for
outputs narrower than 10, so those are padded as well). Zeros appended to an inner size add exact zeros.
torch's ``exp`` gives an element the same bits anywhere, ``silu`` and ``sigmoid`` do not (their vector and
their tail loops differ), hence the two formulas below.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.ops.contract import Kernel
from fullbore.ops.draws import WEIGHT_FORMATS
from fullbore.ops.formats import Weight

MULTIPLE = 8


def up(size: int) -> int:
    """The next multiple of 8."""
    return -(-size // MULTIPLE) * MULTIPLE


def pad(x: Tensor, columns: int) -> Tensor:
    """x: [..., rows, at most columns] -> [..., up(rows), columns], zeros appended; x itself where it fits."""
    below, right = -x.shape[-2] % MULTIPLE, columns - x.shape[-1]
    return F.pad(x, (0, right, 0, below)) if below or right else x


def unpack(weight: Weight, dtype: torch.dtype, into: Tensor | None = None) -> Tensor:
    """[out, in] -> a fresh [out, up(in)] in ``dtype``, or the upper left corner of ``into`` (then zeroed)."""
    rows, columns = weight.data.shape
    if into is None:
        if weight.scale is not None and columns == up(columns):
            return weight.dequantise(dtype)
        into = torch.zeros(rows, up(columns), dtype=dtype)
    into[:rows, :columns] = weight.data if weight.scale is None else weight.dequantise(dtype)
    return into


def sigmoid(x: Tensor) -> Tensor:
    """Elementwise, the same bits at any position (float32)."""
    return torch.exp(-x).add_(1.0).reciprocal_()


def gated(both: Tensor) -> Tensor:
    """both: [rows, 2 * inter], gate then up -> silu(gate) * up: [rows, inter]."""
    gate, up_ = both.chunk(2, dim=-1)
    if both.dtype != torch.float32:
        return F.silu(gate) * up_
    return torch.exp(-gate).add_(1.0).reciprocal_().mul_(gate).mul_(up_)


class TorchKernel(Kernel):
    """What the torch kernels have in common."""

    name = "torch"
    layout = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    formats: ClassVar[tuple[str, ...]] = WEIGHT_FORMATS
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
