"""Norms, ``rope``, ``latents``, ``greedy`` and ``embed``: each row one program, computed in float32."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.triton.device import Matrix, Target, TritonKernel, power_of_two
from fullbore.kernels.triton.tiles.pointwise import embed_row, greedy_row, latents_row, norm_row, rope_heads
from fullbore.ops.cache import GROUP, CacheRow
from fullbore.ops.contract import Job
from fullbore.ops.formats import Weight
from fullbore.ops.greedy import NOT_FINITE

VALUES = 4096  # of a row, in one go
HEADS = 8  # of a tile of ``rope``


class Norm(NamedTuple):
    """``weight``: [width] float32."""

    weight: Tensor
    eps: float


class Norms(NamedTuple):
    """``q``: [q] float32, q may be 0; ``kv``: [latent] float32."""

    q: Tensor
    kv: Tensor
    eps: float
    row: CacheRow


class _Pointwise(TritonKernel):
    formats: ClassVar[tuple[str, ...]] = ("none",)
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16", "float32")


class _Norm(_Pointwise):
    layout = "triton_norm"

    def pack(self, weight: Tensor, eps: float) -> Norm:
        return Norm(self.to_device(weight.to(torch.float32, copy=True)), eps)

    def norm(self, packed: Norm, x: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + other, or x, and its norm."""
        weight, eps = packed
        x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        width, room = x.shape[-1], power_of_two(x.shape[-1])
        added = x if other is None else other.contiguous()
        total = x if other is None else torch.empty_like(x)
        self.launch(
            norm_row, (x.numel() // width,), x, added, weight, total, y, eps,
            WIDTH=width, ROOM=room, ADD=other is not None, warps=8 if room > 2048 else 4,
        )  # fmt: skip
        return total, y


class TritonRmsNorm(_Norm):
    operator = "rms_norm"

    def run(self, packed: Norm, x: Tensor) -> Tensor:
        """x: [tokens, width] -> [tokens, width]."""
        return self.norm(packed, x, None)[1]


class TritonAddRmsNorm(_Norm):
    operator = "add_rms_norm"

    def run(self, packed: Norm, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, y: [tokens, width] -> x + y and its norm, both [tokens, width]."""
        return self.norm(packed, x, y)


class TritonRope(_Pointwise):
    operator = "rope"

    def run(self, packed: None, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [tokens, heads, width]; cos, sin: [tokens, dim / 2] float32 -> [tokens, heads, width]."""
        x = x.contiguous()
        y = torch.empty_like(x)
        tokens, heads, width = x.shape
        turned = cos.shape[-1]
        self.launch(
            rope_heads, (tokens, -(-heads // HEADS)), x, cos.contiguous(), sin.contiguous(), y,
            HEADS=heads, WIDTH=width, TURNED=turned, STILL_ROOM=power_of_two(width - 2 * turned),
            PAIRS_ROOM=power_of_two(turned), BLOCK_H=HEADS,
        )  # fmt: skip
        return y


class TritonLatents(_Pointwise):
    operator = "latents"
    layout = "triton_latents"

    @classmethod
    def misfits(cls, job: Job, target: Target) -> list[str]:
        return unaligned_rows(job)

    def pack(self, q_norm: Tensor | None, kv_norm: Tensor, eps: float, row: CacheRow) -> Norms:
        q = kv_norm[:0] if q_norm is None else q_norm
        q, kv = (self.to_device(norm.to(torch.float32, copy=True)) for norm in (q, kv_norm))
        return Norms(q, kv, eps, row)

    def run(
        self, packed: Norms, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x: [tokens, n >= q + latent + rope]; cos, sin: [tokens, rope / 2] float32; cache: [pages,
        page_size, width of a row]; slots: [tokens] int64 -> [tokens, q] and ``cache``, written.

        A slot outside the cache is not written: the host, which could raise, never waits for its value.
        """
        q_norm, kv_norm, eps, row = packed
        row.check(cache, x.dtype)
        x = x if x.stride(-1) == 1 else x.contiguous()
        tokens, n = x.shape
        q = x.new_empty(tokens, len(q_norm))
        self.launch(
            latents_row, (tokens,), x, cos.contiguous(), sin.contiguous(), q_norm, kv_norm, q, cache,
            slots.contiguous(), cache.shape[0] * cache.shape[1], x.stride(0), eps,
            Q=len(q_norm), LATENT=row.latent, ROPE=row.rope, WIDTH=row.width, BITS=row.bits, N=n,
            Q_ROOM=power_of_two(max(1, len(q_norm))), GROUPS_ROOM=power_of_two(row.groups, 1), GROUP=GROUP,
            PAIRS_ROOM=power_of_two(row.rope // 2),
        )  # fmt: skip
        return q, cache


class TritonGreedy(_Pointwise):
    operator = "greedy"

    def pack(self, vocab: int) -> None:
        """Nothing is kept."""

    def run(self, packed: None, logits: Tensor) -> Tensor:
        """logits: [rows, vocab] -> [rows] int64, ``NOT_FINITE`` for a row with nan or inf."""
        rows, vocab = logits.shape
        y = torch.empty(rows, dtype=torch.int64, device=logits.device)
        self.launch(
            greedy_row, (rows,), logits.contiguous(), y, VOCAB=vocab, SIZE=min(VALUES, power_of_two(vocab)),
            NOT_FINITE=NOT_FINITE, warps=8,
        )  # fmt: skip
        return y


class TritonEmbed(_Pointwise):
    operator = "embed"
    layout = "triton_rows"
    formats: ClassVar[tuple[str, ...]] = ("bf16", "fp32")

    def pack(self, *weights: Weight) -> Matrix:
        return self.place(*weights)

    def run(self, packed: Matrix, ids: Tensor) -> Tensor:
        """ids: [tokens] -> [tokens, in]."""
        width = packed.data.shape[1]
        y = torch.empty(len(ids), width, dtype=self.dtype, device=ids.device)
        self.launch(
            embed_row, (len(ids), -(-width // VALUES)), packed.data, ids.contiguous(), y,
            WIDTH=width, SIZE=min(VALUES, power_of_two(width)),
        )  # fmt: skip
        return y


def unaligned_rows(job: Job) -> list[str]:
    """Why a cache of such rows cannot be read or written, where its factors lie at no multiple of 4 bytes."""
    shape = dict(job.shape)
    if shape.get("kv_bits") == 8 and (shape["latent"] % 4 or shape["rope"] % 2):
        sizes = f"{shape['latent']} and {shape['rope']}"
        return [f"takes FP8 rows of a multiple of 4 latents and an even number of keys, not of {sizes}"]
    return []
