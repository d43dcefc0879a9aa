"""``rms_norm`` and ``rope``, computed in float32 and rounded once."""

import torch
from torch import Tensor

from fullbore.kernels.torch.rows import TorchKernel

Norm = tuple[Tensor, float]


class TorchRmsNorm(TorchKernel):
    operator = "rms_norm"
    formats = ("none",)

    def pack(self, weight: Tensor, eps: float) -> Norm:
        return weight.to(torch.float32, copy=True), eps

    def run(self, packed: Norm, x: Tensor) -> Tensor:
        """x: [tokens, width] -> [tokens, width]."""
        weight, eps = packed
        x32 = x.float()
        scale = x32.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # [tokens, 1]
        return (x32 * scale).mul_(weight).to(x.dtype)


class TorchRope(TorchKernel):
    operator = "rope"
    formats = ("none",)

    def run(self, packed: None, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [tokens, heads, width]; cos, sin: [tokens, dim / 2] float32 -> [tokens, heads, width]."""
        start = x.shape[-1] - 2 * cos.shape[-1]
        even, odd = x[..., start::2].float(), x[..., start + 1 :: 2].float()
        cos, sin = cos[:, None], sin[:, None]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
        return torch.cat([x[..., :start], turned.to(x.dtype)], dim=-1)
