"""``sample``: each row one program, thresholds by halving instead of a sort."""

from typing import ClassVar

import torch
from torch import Tensor

from fullbore.kernels.triton.device import TritonKernel, power_of_two
from fullbore.kernels.triton.tiles.sample import sample_row
from fullbore.ops.sample import COLDEST

VALUES = 4096  # of a row, in one go


class TritonSample(TritonKernel):
    operator = "sample"
    formats: ClassVar[tuple[str, ...]] = ("none",)
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16", "float32")

    def pack(self, vocab: int) -> None:
        """Nothing is kept."""

    def run(
        self,
        packed: None,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        uniform: Tensor,
    ) -> Tensor:
        """logits: [rows, vocab]; the rest as the operator's reference takes it -> [rows] int64, any token for
        a row with nan."""
        rows, vocab = logits.shape
        y = torch.empty(rows, dtype=torch.int64, device=logits.device)
        asked = (each.contiguous() for each in (temperature, top_k, top_p, min_p, uniform))
        self.launch(
            sample_row, (rows,), logits.contiguous(), *asked, y, VOCAB=vocab,
            SIZE=min(VALUES, power_of_two(vocab)), SHIFT=16 if logits.dtype is torch.bfloat16 else 0,
            COLDEST=COLDEST, warps=16,
        )  # fmt: skip
        return y
