"""``sample`` by sorting: every row of the vocabulary, without a look at any value from the host."""

import torch
from torch import Tensor

from fullbore.kernels.torch.rows import TorchKernel
from fullbore.ops.sample import COLDEST


class TorchSample(TorchKernel):
    operator = "sample"
    formats = ("none",)

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
        logits, vocab = logits.float(), logits.shape[1]
        scaled = (logits - logits.amax(1, keepdim=True)) / temperature.clamp_min(COLDEST)[:, None]
        cut = (top_k < vocab) | (top_p < 1) | (min_p > 0)
        # Where all are equal a stable sort leaves them in the order of ids.
        ranked = torch.where(cut[:, None], logits, 0.0)
        order = ranked.sort(dim=1, descending=True, stable=True).indices
        share = scaled.softmax(1).gather(1, order).double()
        mass = share.cumsum(1)
        wanted = top_p[:, None] * mass.gather(1, top_k[:, None] - 1)
        kept = torch.where(top_p < 1, (mass - share < wanted).sum(1), vocab).minimum(top_k)
        kept = kept.minimum((share >= min_p[:, None] * share[:, :1]).sum(1)).clamp_min(1)[:, None]
        target = uniform[:, None] * mass.gather(1, kept - 1)
        return order.gather(1, torch.searchsorted(mass, target, right=True).minimum(kept - 1))[:, 0]
