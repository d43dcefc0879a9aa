"""Norms, ``rope`` and ``latents``, computed in float32 and rounded once."""

import torch
from torch import Tensor

from fullbore.kernels.torch.rows import TorchKernel
from fullbore.ops.cache import CacheRow

Norm = tuple[Tensor, float]  # weight [width] float32, eps


def rms_norm(norm: Norm, x: Tensor) -> Tensor:
    """x: [tokens, width] -> [tokens, width]."""
    weight, eps = norm
    x32 = x.float()
    scale = x32.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # [tokens, 1]
    return (x32 * scale).mul_(weight).to(x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [tokens, heads, width]; cos, sin: [tokens, dim / 2] float32 -> [tokens, heads, width]."""
    start = x.shape[-1] - 2 * cos.shape[-1]
    even, odd = x[..., start::2].float(), x[..., start + 1 :: 2].float()
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([x[..., :start], turned.to(x.dtype)], dim=-1)


class _Norm(TorchKernel):
    formats = ("none",)

    def pack(self, weight: Tensor, eps: float) -> Norm:
        return weight.to(torch.float32, copy=True), eps


class TorchRmsNorm(_Norm):
    operator = "rms_norm"

    def run(self, packed: Norm, x: Tensor) -> Tensor:
        """x: [tokens, width] -> [tokens, width]."""
        return rms_norm(packed, x)


class TorchAddRmsNorm(_Norm):
    operator = "add_rms_norm"

    def run(self, packed: Norm, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, y: [tokens, width] -> x + y and its norm, both [tokens, width]."""
        total = x + y
        return total, rms_norm(packed, total)


class TorchRope(TorchKernel):
    operator = "rope"
    formats = ("none",)

    def run(self, packed: None, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [tokens, heads, width]; cos, sin: [tokens, dim / 2] float32 -> [tokens, heads, width]."""
        return rope(x, cos, sin)


class TorchLatents(TorchKernel):
    operator = "latents"
    formats = ("none",)

    def pack(
        self, q_norm: Tensor | None, kv_norm: Tensor, eps: float, row: CacheRow
    ) -> tuple[Norm | None, Norm, CacheRow]:
        q = None if q_norm is None else (q_norm.to(torch.float32, copy=True), eps)
        return q, (kv_norm.to(torch.float32, copy=True), eps), row

    def run(
        self,
        packed: tuple[Norm | None, Norm, CacheRow],
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: Tensor,
        slots: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x: [tokens, n >= q + latent + rope]; cos, sin: [tokens, rope / 2] float32; cache: [pages,
        page_size, width of a row]; slots: [tokens] int64 -> [tokens, q] and ``cache``, written.
        """
        q_norm, kv_norm, row = packed
        latent, key = torch.split(x[:, -row.latent - row.rope :], [row.latent, row.rope], dim=-1)
        rows = row.encode(rms_norm(kv_norm, latent), rope(key[:, None], cos, sin)[:, 0])
        cache.view(-1, row.width).index_copy_(0, slots, rows)
        return x[:, :0] if q_norm is None else rms_norm(q_norm, x[:, : len(q_norm[0])]), cache
