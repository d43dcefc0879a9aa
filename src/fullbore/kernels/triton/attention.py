"""``mla_decode`` and ``mla_prefill`` over pages.

Decode attends to the latents themselves: the key part of ``kv_b`` goes into the query and the value part
into the output (absorption; DeepSeek-V2 report, section 2.1.2), so that all heads of a tile share each row
that is read. Contexts are split over programs, whose results are put together by their sums of exponentials.
Prefill expands the latents into keys and values first, which takes less arithmetic for many queries.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fullbore.kernels.triton.device import TritonKernel, power_of_two
from fullbore.kernels.triton.pointwise import unaligned_rows
from fullbore.kernels.triton.tiles.attention import combine_splits, decode_tile, gather_rows, prefill_tile
from fullbore.ops.attention import Heads
from fullbore.ops.contract import Job
from fullbore.ops.formats import Weight

KEYS = 64  # of a tile of prefill
HEADS = 16  # of a tile of decode: the least that the hardware multiplies
QUERIES = 64  # of a tile of prefill
MOST_SPLITS = 32
LOG2E = 1.4426950408889634


class Absorbed(NamedTuple):
    """``keys``: [heads, nope, latent]; ``values``: [heads, latent, v]; ``kv_b``: [latent, heads * (nope +
    v)]; views of one bfloat16 matrix."""

    keys: Tensor
    values: Tensor
    kv_b: Tensor
    heads: Heads


class _TritonAttention(TritonKernel):
    """What the two operators share: one matrix, and the caches that they read."""

    layout = "triton_absorbed"

    @classmethod
    def unsupported(cls, job: Job) -> list[str]:
        return [*cls.unintended(job), *unaligned_rows(job)]

    def pack(self, kv_b: Weight, heads: Heads) -> Absorbed:
        matrix = self.to_device(kv_b.dequantise(torch.bfloat16))
        parts = matrix.view(heads.count, heads.nope + heads.v, heads.latent)
        return Absorbed(parts[:, : heads.nope], parts[:, heads.nope :].mT, matrix.T, heads)

    def row_sizes(self, heads: Heads) -> dict[str, Any]:
        """Of a row of the cache, for the kernels above."""
        return {
            "LATENT": heads.latent,
            "ROPE": heads.rope,
            "WIDTH": heads.row.width,
            "BITS": heads.kv_bits,
            "LATENT_ROOM": power_of_two(heads.latent),
            "ROPE_ROOM": power_of_two(heads.rope),
        }


class TritonMlaDecode(_TritonAttention):
    operator = "mla_decode"

    def keys(self, heads: Heads) -> int:
        """Of a tile: with more, one of the compilers spills registers. FP8 is decoded in them."""
        return 16 if heads.kv_bits == 8 and not self.target.roomy else 32

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor) -> Tensor:
        """q: [rows, heads, nope + rope]; cache: [pages, page_size, width]; table: [rows, max_pages] int32;
        contexts: [rows] int32 -> [rows, heads * v]."""
        heads, rows = packed.heads, len(q)
        heads.row.check(cache, q.dtype)
        q = q.contiguous()
        keys = self.keys(heads)
        q_latent = torch.bmm(q[..., : heads.nope].transpose(0, 1), packed.keys)  # [heads, rows, latent]
        tiles = triton.cdiv(heads.count, HEADS)
        most = min(MOST_SPLITS, table.shape[1] * cache.shape[1] // keys)
        splits = max(1, min(most, 2 * self.target.processors // (rows * tiles)))
        places = splits, heads.count, rows
        outputs = q.new_empty(*places, heads.latent, dtype=torch.float32)
        sums = q.new_empty(places, dtype=torch.float32)
        sizes = self.row_sizes(heads)
        self.launch(
            decode_tile, (rows, tiles, splits),
            q_latent, q[..., heads.nope :], cache, table, contexts, outputs, sums, table.stride(0),
            heads.softmax_scale * LOG2E, rows, COUNT=heads.count, SPLITS=splits, PAGE=cache.shape[1],
            Q_STRIDE=heads.nope + heads.rope, BLOCK_H=HEADS, BLOCK_K=keys,
            stages=2 if self.target.roomy else 1, **sizes,
        )  # fmt: skip
        latents = q.new_empty(heads.count, rows, heads.latent)
        self.launch(
            combine_splits, (heads.count * rows,), outputs, sums, latents, heads.count * rows,
            SPLITS=splits, LATENT=heads.latent, ROOM=sizes["LATENT_ROOM"],
        )  # fmt: skip
        return torch.bmm(latents, packed.values).transpose(0, 1).reshape(rows, -1)


class TritonMlaPrefill(_TritonAttention):
    operator = "mla_prefill"

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, pages: Tensor, first: int) -> Tensor:
        """q: [tokens, heads, nope + rope] at positions from ``first`` on; cache: [pages, page_size, width];
        pages: [n] int32 -> [tokens, heads * v]."""
        heads, tokens = packed.heads, len(q)
        heads.row.check(cache, q.dtype)
        keys, sizes = first + tokens, self.row_sizes(heads)
        rows = q.new_empty(keys, heads.latent + heads.rope)
        self.launch(
            gather_rows, (triton.cdiv(keys, KEYS),), cache, pages, rows, keys,
            PAGE=cache.shape[1], BLOCK_K=KEYS, **sizes,
        )  # fmt: skip
        expanded = rows[:, : heads.latent] @ packed.kv_b  # [keys, heads * (nope + v)]
        y = q.new_empty(tokens, heads.count * heads.v)
        self.launch(
            prefill_tile, (triton.cdiv(tokens, QUERIES), heads.count),
            q.contiguous(), expanded, rows, y, tokens, first, heads.softmax_scale * LOG2E,
            COUNT=heads.count, NOPE=heads.nope, ROPE=heads.rope, V=heads.v, LATENT=heads.latent,
            NOPE_ROOM=power_of_two(heads.nope), ROPE_ROOM=sizes["ROPE_ROOM"],
            V_ROOM=power_of_two(heads.v), BLOCK_Q=QUERIES, BLOCK_K=KEYS,
        )  # fmt: skip
        return y
