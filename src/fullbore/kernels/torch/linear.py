"""``linear`` and ``embed`` on one row-major matrix in the compute type."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.torch.rows import TorchKernel, pad, unpack
from fullbore.ops.formats import Weight


class Matrix(NamedTuple):
    """``values``: [out, in rounded up to 8]; ``columns``: in."""

    values: Tensor
    columns: int


class _RowMajor(TorchKernel):
    layout = "torch_row_major"

    def pack(self, *weights: Weight) -> Matrix:
        values = [unpack(weight, self.dtype) for weight in weights]
        return Matrix(torch.cat(values) if len(values) > 1 else values[0], weights[0].data.shape[1])


class TorchLinear(_RowMajor):
    operator = "linear"

    def run(self, packed: Matrix, x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        return F.linear(pad(x, packed.values.shape[1]), packed.values)[: len(x)]


class TorchEmbed(_RowMajor):
    operator = "embed"
    formats = ("bf16", "fp32")

    def run(self, packed: Matrix, ids: Tensor) -> Tensor:
        """ids: [tokens] -> [tokens, in]."""
        return packed.values.index_select(0, ids)[:, : packed.columns]
