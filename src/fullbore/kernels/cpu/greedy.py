"""``greedy`` in one pass over the logits (csrc/greedy.cpp)."""

import torch
from torch import Tensor

from fullbore.kernels.cpu.kernel import CpuKernel
from fullbore.kernels.cpu.native import Native


class CpuGreedy(CpuKernel):
    operator = "greedy"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run, self._call = self.struct_function("fb_greedy", "PqPqqqP")

    def pack(self, vocab: int) -> None:
        """Nothing is kept."""

    def run(self, packed: None, logits: Tensor) -> Tensor:
        """logits: [rows, vocab] -> [rows] int64, ``NOT_FINITE`` for a row with nan or inf."""
        rows, vocab = logits.shape
        if logits.dtype is not self.dtype or not vocab:
            expected = f"{self.dtype} [rows, at least 1]"
            raise ValueError(f"logits are {logits.dtype} {list(logits.shape)}, expected {expected}")
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        tokens = torch.empty(rows, dtype=torch.int64)
        at = logits.data_ptr(), logits.stride(0), rows, vocab, tokens.data_ptr()
        self._run(self._call(self.pool_address, self.is_bf16, *at))
        return tokens
