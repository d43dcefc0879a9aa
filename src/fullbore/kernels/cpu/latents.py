"""``latents`` in one pass over the tokens (csrc/latents.cpp)."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.cpu.kernel import CpuKernel
from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.pointwise import angles
from fullbore.ops.cache import CacheRow


class Norms(NamedTuple):
    """``weights``: [q + latent] float32, the queries' first."""

    weights: Tensor
    q: int
    eps: float
    row: CacheRow


class CpuLatents(CpuKernel):
    operator = "latents"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run, self._call = self.struct_function("fb_latents", "PqPqqPPfqqqqPPPqPqP", result=ctypes.c_int)

    def pack(self, q_norm: Tensor | None, kv_norm: Tensor, eps: float, row: CacheRow) -> Norms:
        q = kv_norm[:0] if q_norm is None else q_norm
        return Norms(torch.cat([q.float(), kv_norm.float()]), len(q), eps, row)

    def run(
        self, packed: Norms, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x: [tokens, n >= q + latent + rope]; cos, sin: [tokens, rope / 2] float32; cache: [pages,
        page_size, width of a row]; slots: [tokens] int64 -> [tokens, q] and ``cache``, written.

        IndexError: a slot that the cache does not have; nothing is written then.
        """
        weights, q, eps, row = packed
        (tokens, width), (pages, page_size, _), kept = x.shape, cache.shape, row.latent + row.rope
        if x.dtype is not self.dtype or width < q + kept:
            expected = f"{self.dtype} [tokens, at least {q + kept}]"
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {expected}")
        if 2 * cos.shape[1] != row.rope:
            raise ValueError(f"cos has {cos.shape[1]} angles, expected {row.rope // 2}: one for two of a key")
        row.check(cache, self.dtype)
        if slots.dtype is not torch.int64 or slots.shape[0] != tokens:
            raise ValueError(f"slots are {slots.dtype} {list(slots.shape)}, expected torch.int64 [{tokens}]")
        x, slots = (each if each.stride(-1) == 1 else each.contiguous() for each in (x, slots))
        cos, sin = angles(cos, sin, tokens)
        out = x.new_empty(tokens, q)
        norm = weights.data_ptr()
        refused = self._run(
            self._call(
                *(self.pool_address, self.is_bf16, x.data_ptr(), x.stride(0), width - kept),
                *(norm, norm + 4 * q, eps, q, row.latent, row.rope // 2, row.bits),
                *(cos.data_ptr(), sin.data_ptr()),
                *(cache.data_ptr(), pages * page_size, slots.data_ptr(), tokens, out.data_ptr()),
            )
        )
        if refused:
            rows = pages * page_size
            raise IndexError(f"slots reach from {slots.min()} to {slots.max()}; the cache has {rows} rows")
        return out, cache
