"""``mla_prefill`` and ``mla_decode``; ``csrc/mla.h`` says how they are computed."""

import ctypes
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.cpu.kernel import I, P
from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.packed import FORMATS, PanelKernel, Placed, dequantise, panels
from fullbore.ops.attention import Heads
from fullbore.ops.cache import CacheRow
from fullbore.ops.formats import BLOCK, Weight

_STEP = 32  # latents are padded to a multiple of this: kValueStep

_FAULTS = {
    1: (ValueError, "a row sees no keys; its context must count at least itself"),
    2: (IndexError, "a page number is missing or not a page of the cache"),
    3: (MemoryError, "no memory for the queries of this step"),
}


class Sizes(ctypes.Structure):
    """``MlaWeights`` of ``csrc/projections.h``."""

    _fields_: ClassVar[Any] = [
        *((name, ctypes.c_void_p) for name in ("key", "value")),
        ("format", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("heads", "nope", "rope", "v", "latent", "kv_bits")),
        ("scale", ctypes.c_float),
    ]


class Absorbed(NamedTuple):
    """``key``, ``value``: uint8; W_UK and W_UV of every head in panels, as in ``csrc/projections.h``."""

    key: Tensor
    value: Tensor
    sizes: Sizes


def _rows(weight: Weight, begin: int, count: int) -> Weight:
    """``count`` rows; multiples of 128 where blocks have factors."""
    scale = None if weight.scale is None else weight.scale[begin // BLOCK :][: count // BLOCK]
    return Weight(weight.data[begin : begin + count], scale)


def _transposed(weight: Weight) -> Weight:
    return Weight(weight.data.T, None if weight.scale is None else weight.scale.T)


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


class _LatentAttention(PanelKernel):
    layout = "cpu_absorbed"
    entry: ClassVar[str]
    request: ClassVar[tuple[Any, ...]]  # types of what an operator is given beside queries and cache

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        shared = P, P, I, P, I, I, P, I, I
        self._run = self.function(self.entry, *shared, *self.request, P, result=ctypes.c_int)
        self.pair: int = self.function("fb_mla_pair", result=ctypes.c_int)() if self.is_bf16 else 1

    def pack(self, kv_b: Weight, heads: Heads) -> Absorbed:
        weight = self._splittable(kv_b, heads)
        latents = heads.latent + -heads.latent % _STEP
        order = _mixed_order(latents) if self.pair == 2 else torch.arange(latents)
        keys, values = [], []
        for begin in range(0, heads.count * (heads.nope + heads.v), heads.nope + heads.v):
            keys.append(_transposed(_rows(weight, begin, heads.nope)))
            mixed = _rows(weight, begin + heads.nope, heads.v)
            values.append(Weight(F.pad(mixed.data, (0, latents - heads.latent))[:, order], mixed.scale))
        key, value = self._panels(keys), self._panels(values)
        counts = heads.count, heads.nope, heads.rope, heads.v, heads.latent, heads.kv_bits
        sizes = Sizes(key.data_ptr(), value.data_ptr(), FORMATS[weight.format], *counts, heads.softmax_scale)
        return Absorbed(key, value, sizes)

    def _splittable(self, kv_b: Weight, heads: Heads) -> Weight:
        """``kv_b`` as it is stored where its parts can be packed so; else its values in this kernel's type.

        They can where no block of one factor reaches over a border between heads, or between key and value.
        """
        if kv_b.format == "fp8_block" and heads.nope % BLOCK == 0 and heads.v % BLOCK == 0:
            return Weight(kv_b.data.view(torch.uint8), kv_b.scale)
        return kv_b if kv_b.format == "bf16" else Weight(dequantise(self, kv_b))

    def _panels(self, matrices: list[Weight]) -> Tensor:
        """The panels of each, one after the other; all have one shape and format."""
        out, in_ = matrices[0].data.shape
        step = self.panel_bytes(matrices[0].format, in_)
        room = self.room(len(matrices) * panels(out) * step)
        place = room.data_ptr()
        placed = [Placed(matrix, place + i * panels(out) * step, step) for i, matrix in enumerate(matrices)]
        self.pack_all(matrices[0].format, placed)
        return room

    def attend(self, packed: Absorbed, q: Tensor, cache: Tensor, *request: Any) -> Tensor:
        """The operator on what both are given, and ``request``."""
        sizes = packed.sizes
        tokens, heads, width = q.shape
        if q.dtype is not self.dtype:
            raise TypeError(f"q is {q.dtype}, expected {self.dtype}")
        if (heads, width) != (sizes.heads, sizes.nope + sizes.rope):
            expected = f"[tokens, {sizes.heads}, {sizes.nope + sizes.rope}]"
            raise ValueError(f"q has shape {list(q.shape)}, expected {expected}")
        CacheRow(sizes.latent, sizes.rope, sizes.kv_bits).check(cache, self.dtype)
        q = _dense(q)
        out = torch.empty(tokens, heads * sizes.v, dtype=self.dtype)
        at = q.data_ptr(), q.stride(0), q.stride(1), cache.data_ptr(), cache.shape[0], cache.shape[1]
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
        """q: [rows, heads, nope + rope]; cache: [pages, page_size, width of a row];
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
        width of a row]; pages: [n] int32 -> [tokens, heads * v].

        IndexError: a page that ``pages`` or the cache does not have.
        """
        pages = _int32(pages)
        return self.attend(packed, q, cache, pages.data_ptr(), len(pages), first, len(q))
