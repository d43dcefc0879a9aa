"""``mla_prefill``, ``mla_decode`` and ``kv_append``; ``csrc/mla.h`` says how the first two are computed."""

import ctypes
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.cpu.kernel import CpuKernel, I, P
from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.packed import dequantise
from fullbore.ops.attention import Heads
from fullbore.ops.draws import WEIGHT_FORMATS
from fullbore.ops.formats import Weight

_PANEL = 64  # columns of a panel of weights: kPanel
_STEP = 32  # latents are padded to a multiple of this: kValueStep

_FAULTS = {
    1: (ValueError, "a row sees no keys; its context must count at least itself"),
    2: (IndexError, "a page number is missing or not a page of the cache"),
    3: (MemoryError, "no memory for the queries of this step"),
}


class Sizes(ctypes.Structure):
    """``MlaWeights`` of ``csrc/mla.h``."""

    _fields_: ClassVar[Any] = [
        *((name, ctypes.c_void_p) for name in ("key", "value")),
        *((name, ctypes.c_int32) for name in ("heads", "nope", "rope", "v", "latent")),
        ("scale", ctypes.c_float),
    ]


class Absorbed(NamedTuple):
    """W_UK and W_UV of every head in panels (see ``_panels``), in the type that they are multiplied in."""

    key: Tensor
    value: Tensor
    sizes: Sizes


def _panels(matrix: Tensor, pair: int) -> Tensor:
    """[heads, inner, columns] -> [heads, columns / 64, inner / pair, 64, pair], sizes rounded up with zeros.

    What one lane of a product takes at once, ``pair`` values along ``inner``, lies together.
    """
    heads, inner, columns = matrix.shape
    whole = F.pad(matrix, (0, -columns % _PANEL, 0, -inner % pair))
    split = whole.view(heads, whole.shape[1] // pair, pair, whole.shape[2] // _PANEL, _PANEL)
    return split.permute(0, 3, 1, 4, 2).contiguous()


def _mixed_order(latent: int) -> Tensor:
    """Where products of two interleaved bfloat16 rows leave each latent: 4 of every 8, then the other 4."""
    order = torch.arange(latent).view(-1, 4, 2, 4)  # 32 latents: 4 runs of 128 bits, each in two halves
    return order.transpose(1, 2).flatten()


def _dense(x: Tensor) -> Tensor:
    """``x`` itself where the values of a row lie side by side, as they nearly always do."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _int32(numbers: Tensor) -> Tensor:
    if numbers.dtype is not torch.int32:
        raise TypeError(f"page numbers and contexts are int32, got {numbers.dtype}")
    return _dense(numbers)


class _LatentAttention(CpuKernel):
    layout = "cpu_absorbed"
    formats = WEIGHT_FORMATS
    entry: ClassVar[str]
    request: ClassVar[tuple[Any, ...]]  # types of what an operator is given beside queries and cache

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        shared = P, P, I, P, I, I, P, I, I
        self._run = self.function(self.entry, *shared, *self.request, P, result=ctypes.c_int)
        self.pair: int = self.function("fb_mla_pair", result=ctypes.c_int)() if self.is_bf16 else 1

    def pack(self, kv_b: Weight, heads: Heads) -> Absorbed:
        dtype = torch.bfloat16 if self.pair == 2 else torch.float32
        # Split after dequantising: the borders of scale blocks are not the borders of heads.
        both = dequantise(self, kv_b).to(dtype).view(heads.count, heads.nope + heads.v, -1)
        value = F.pad(both[:, heads.nope :].mT, (0, 0, 0, -heads.latent % _STEP))  # [heads, latent, v]
        if self.pair == 2:
            value = value[:, _mixed_order(value.shape[1])]
        key, value = _panels(both[:, : heads.nope], self.pair), _panels(value, self.pair)
        counts = heads.count, heads.nope, heads.rope, heads.v, heads.latent
        return Absorbed(key, value, Sizes(key.data_ptr(), value.data_ptr(), *counts, heads.softmax_scale))

    def attend(self, packed: Absorbed, q: Tensor, cache: Tensor, *request: Any) -> Tensor:
        """The operator on what both are given, and ``request``."""
        sizes = packed.sizes
        tokens, heads, width = q.shape
        pages, page_size, latent_dim = cache.shape
        if q.dtype is not self.dtype or cache.dtype is not self.dtype:
            raise TypeError(f"q and cache are {q.dtype} and {cache.dtype}, expected {self.dtype}")
        if (heads, width) != (sizes.heads, sizes.nope + sizes.rope):
            expected = f"[tokens, {sizes.heads}, {sizes.nope + sizes.rope}]"
            raise ValueError(f"q has shape {list(q.shape)}, expected {expected}")
        if latent_dim != sizes.latent + sizes.rope or not cache.is_contiguous():
            expected = f"[pages, page_size, {sizes.latent + sizes.rope}], contiguous"
            raise ValueError(f"the cache has shape {list(cache.shape)}, expected {expected}")
        q = _dense(q)
        out = torch.empty(tokens, heads * sizes.v, dtype=self.dtype)
        at = q.data_ptr(), q.stride(0), q.stride(1), cache.data_ptr(), pages, page_size
        fault = self._run(self.pool, ctypes.byref(sizes), self.is_bf16, *at, *request, out.data_ptr())
        if fault:
            error, what = _FAULTS[fault]
            raise error(what)
        return out


class CpuMlaDecode(_LatentAttention):
    operator = "mla_decode"
    entry = "fb_mla_decode"
    request = P, I, I, P, I

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor) -> Tensor:
        """q: [rows, heads, nope + rope]; cache: [pages, page_size, latent + rope];
        table: [rows, max_pages] int32; contexts: [rows] int32 -> [rows, heads * v].

        ValueError: a context below 1. IndexError: a page that the table or the cache does not have.
        """
        table, contexts = _int32(table), _int32(contexts)
        count = q.shape[0]
        if not count == table.shape[0] == contexts.shape[0]:
            raise ValueError(f"{count} queries, {len(table)} page tables and {len(contexts)} contexts")
        rows = table.data_ptr(), table.shape[1], table.stride(0), contexts.data_ptr(), count
        return self.attend(packed, q, cache, *rows)


class CpuMlaPrefill(_LatentAttention):
    operator = "mla_prefill"
    entry = "fb_mla_prefill"
    request = P, I, I, I

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, pages: Tensor, first: int) -> Tensor:
        """q: [tokens, heads, nope + rope] of positions from ``first`` on; cache: [pages, page_size,
        latent + rope]; pages: [n] int32 -> [tokens, heads * v].

        IndexError: a page that ``pages`` or the cache does not have.
        """
        pages = _int32(pages)
        return self.attend(packed, q, cache, pages.data_ptr(), len(pages), first, len(q))


class CpuKvAppend(CpuKernel):
    operator = "kv_append"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run = self.function("fb_kv_append", P, *(P, I, I) * 2, P, I, P, I, result=ctypes.c_int)

    def run(self, packed: None, latent: Tensor, rope: Tensor, cache: Tensor, slots: Tensor) -> Tensor:
        """latent: [tokens, kv_lora_rank]; rope: [tokens, rope]; slots: [tokens] int64 -> ``cache``, written.

        IndexError: a slot that the cache does not have; nothing is written then.
        """
        if not (latent.dtype is rope.dtype is cache.dtype is self.dtype) or slots.dtype is not torch.int64:
            types = f"{latent.dtype}, {rope.dtype}, {cache.dtype} and {slots.dtype}"
            raise TypeError(f"latent, rope, cache and slots are {types}; expected {self.dtype} and int64")
        if cache.shape[2] != latent.shape[1] + rope.shape[1] or not cache.is_contiguous():
            expected = f"[pages, page_size, {latent.shape[1] + rope.shape[1]}], contiguous"
            raise ValueError(f"the cache has shape {list(cache.shape)}, expected {expected}")
        latent, rope, slots, size = _dense(latent), _dense(rope), _dense(slots), cache.element_size()
        parts: list[int] = []
        for part in (latent, rope):
            parts += part.data_ptr(), part.stride(0) * size, part.shape[1] * size
        rows = cache.shape[0] * cache.shape[1]
        if self._run(self.pool, *parts, cache.data_ptr(), rows, slots.data_ptr(), slots.shape[0]):
            raise IndexError(f"slots reach from {slots.min()} to {slots.max()}; the cache has {rows} rows")
        return cache
