"""``greedy`` in two reductions."""

import torch
from torch import Tensor

from fullbore.kernels.torch.rows import TorchKernel
from fullbore.ops.greedy import NOT_FINITE


class TorchGreedy(TorchKernel):
    operator = "greedy"
    formats = ("none",)

    def pack(self, vocab: int) -> None:
        """Nothing is kept."""

    def run(self, packed: None, logits: Tensor) -> Tensor:
        """logits: [rows, vocab] -> [rows] int64, ``NOT_FINITE`` for a row with nan or inf."""
        low, high = torch.aminmax(logits, dim=1)
        return torch.where(low.isfinite() & high.isfinite(), logits.argmax(1), NOT_FINITE)
