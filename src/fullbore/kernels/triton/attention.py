"""``mla_decode`` and ``mla_prefill`` over pages.

Decode attends to the latents themselves: the key part of ``kv_b`` goes into the query and the value part
into the output (absorption; DeepSeek-V2 report, section 2.1.2), so that all heads of a tile share each row
that is read. All contexts of a step are cut into parts of one length, as many as there are programs for, and
put together by their sums of exponentials: one long context takes as many programs as many short ones.
Prefill expands the latents into keys and values first, which takes less arithmetic for many queries.
"""

from typing import Any, ClassVar, NamedTuple

import torch
import triton
from torch import Tensor

from fullbore.kernels.triton.device import Target, TritonKernel, power_of_two
from fullbore.kernels.triton.pointwise import unaligned_rows
from fullbore.kernels.triton.tiles.attention import combine_parts, decode_tile, gather_rows, prefill_tile
from fullbore.ops.attention import Heads
from fullbore.ops.contract import Job
from fullbore.ops.formats import Weight

KEYS = 64  # gathered by one program
STEP = 128  # a part's keys are a multiple of this many, as tiles are of fewer
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
    def misfits(cls, job: Job, target: Target) -> list[str]:
        return [*super().misfits(job, target), *unaligned_rows(job)]

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
    most_heads: ClassVar[int] = 64  # of a tile, each of which reads the cache once
    most_keys: ClassVar[int] = 32
    spread: ClassVar[int] = 2  # parts for each processor

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor) -> Tensor:
        """q: [rows, heads, nope + rope]; cache: [pages, page_size, width]; table: [rows, max_pages] int32;
        contexts: [rows] int32 -> [rows, heads * v], zeros for a context of 0."""
        heads, rows = packed.heads, len(q)
        heads.row.check(cache, q.dtype)
        q, contexts = q.contiguous(), contexts.contiguous()
        q_latent = torch.bmm(q[..., : heads.nope].transpose(0, 1), packed.keys)  # [heads, rows, latent]
        block_h, keys, warps = self.tile(heads)
        tiles = triton.cdiv(heads.count, block_h)
        wanted = max(1, self.spread * self.target.processors // tiles)
        places = wanted + rows, heads.count
        outputs = q.new_empty(*places, heads.latent, dtype=torch.float32)
        sums = q.new_empty(places, dtype=torch.float32)
        latents = torch.empty_like(q_latent)
        sizes, meta = self.row_sizes(heads), {"ROOM": power_of_two(rows), "STEP": STEP, "COUNT": heads.count}
        self.launch(
            decode_tile, (tiles, wanted + rows),
            q_latent, q[..., heads.nope :], cache, table, contexts, outputs, sums, latents, table.stride(0),
            heads.softmax_scale * LOG2E, rows, wanted, PAGE=cache.shape[1],
            Q_STRIDE=heads.nope + heads.rope, BLOCK_H=block_h, BLOCK_K=keys, warps=warps,
            stages=2 if self.target.roomy else 1, **meta, **sizes,
        )  # fmt: skip
        self.launch(
            combine_parts, (rows, heads.count), outputs, sums, latents, contexts, rows, wanted,
            LATENT=heads.latent, LATENT_ROOM=sizes["LATENT_ROOM"], **meta,
        )  # fmt: skip
        return torch.bmm(latents, packed.values).transpose(0, 1).reshape(rows, -1)

    def tile(self, heads: Heads) -> tuple[int, int, int]:
        """Heads and keys of a tile, and its warps: as many heads as registers hold, beside which FP8 is
        decoded in them."""
        roomy, fp8 = self.target.roomy, heads.kv_bits == 8
        fitting = (16 if fp8 else 32) if roomy else (32 if fp8 else 64)
        block_h = min(self.most_heads, fitting, power_of_two(heads.count))
        keys = 16 if not roomy and (fp8 or block_h > 32) else 32
        return block_h, min(self.most_keys, keys), 8 if roomy and block_h > 16 else 4


class TritonMlaPrefill(_TritonAttention):
    operator = "mla_prefill"
    queries: ClassVar[int] = 64  # of a tile
    keys: ClassVar[int] = 64  # of a tile
    warps: ClassVar[int] = 4
    stages: ClassVar[int] = 3

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
            prefill_tile, (triton.cdiv(tokens, self.queries), heads.count),
            q.contiguous(), expanded, rows, y, tokens, first, heads.softmax_scale * LOG2E,
            COUNT=heads.count, NOPE=heads.nope, ROPE=heads.rope, V=heads.v, LATENT=heads.latent,
            NOPE_ROOM=power_of_two(heads.nope), ROPE_ROOM=sizes["ROPE_ROOM"],
            V_ROOM=power_of_two(heads.v), BLOCK_Q=self.queries, BLOCK_K=self.keys,
            warps=self.warps, stages=self.stages,
        )  # fmt: skip
        return y
