"""``latents`` in one pass over the tokens (csrc/latents.cpp)."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.cpu.kernel import CpuKernel
from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.pointwise import angles


class Norms(NamedTuple):
    """``weights``: [q + latent] float32, the queries' first."""

    weights: Tensor
    q: int
    latent: int
    eps: float


class CpuLatents(CpuKernel):
    operator = "latents"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run, self._call = self.struct_function("fb_latents", "PqPqqPPfqqqPPPqPqP", result=ctypes.c_int)

    def pack(self, q_norm: Tensor | None, kv_norm: Tensor, eps: float) -> Norms:
        q = kv_norm[:0] if q_norm is None else q_norm
        return Norms(torch.cat([q.float(), kv_norm.float()]), len(q), len(kv_norm), eps)

    def run(
        self, packed: Norms, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x: [tokens, n >= q + latent + rope]; cos, sin: [tokens, rope / 2] float32; cache: [pages,
        page_size, latent + rope]; slots: [tokens] int64 -> [tokens, q] and ``cache``, written.

        IndexError: a slot that the cache does not have; nothing is written then.
        """
        weights, q, latent, eps = packed
        (tokens, width), (pages, page_size, row), pairs = x.shape, cache.shape, cos.shape[1]
        if not (x.dtype is cache.dtype is self.dtype) or width < q + row:
            expected = f"{self.dtype} [tokens, at least {q + row}] and a cache of the same type"
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {expected}")
        if row != latent + 2 * pairs or not cache.is_contiguous():
            expected = f"[pages, page_size, {latent + 2 * pairs}], contiguous"
            raise ValueError(f"the cache has shape {list(cache.shape)}, expected {expected}")
        if slots.dtype is not torch.int64 or slots.shape[0] != tokens:
            raise ValueError(f"slots are {slots.dtype} {list(slots.shape)}, expected torch.int64 [{tokens}]")
        x, slots = (each if each.stride(-1) == 1 else each.contiguous() for each in (x, slots))
        cos, sin = angles(cos, sin, tokens)
        out = x.new_empty(tokens, q)
        norm = weights.data_ptr()
        refused = self._run(
            self._call(
                *(self.pool_address, self.is_bf16, x.data_ptr(), x.stride(0), width - row),
                *(norm, norm + 4 * q, eps, q, latent, pairs, cos.data_ptr(), sin.data_ptr()),
                *(cache.data_ptr(), pages * page_size, slots.data_ptr(), tokens, out.data_ptr()),
            )
        )
        if refused:
            rows = pages * page_size
            raise IndexError(f"slots reach from {slots.min()} to {slots.max()}; the cache has {rows} rows")
        return out, cache
