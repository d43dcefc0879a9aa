"""Attention over pages: tiles of decode and of prefill, and the cache's rows decoded."""

import triton
import triton.language as tl

from fullbore.kernels.triton.tiles.numbers import product


@triton.jit
def cache_rows(
    cache, at, keep, LATENT: tl.constexpr, ROPE: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr,
    LATENT_ROOM: tl.constexpr, ROPE_ROOM: tl.constexpr,
):  # fmt: skip
    """Latents [n, LATENT_ROOM] and rotated keys [n, ROPE_ROOM] of the cache's rows ``at``, in bfloat16."""
    one = tl.arange(0, LATENT_ROOM)
    two = tl.arange(0, ROPE_ROOM)
    first = keep[:, None] & (one[None, :] < LATENT)
    second = keep[:, None] & (two[None, :] < ROPE)
    begin = at[:, None].to(tl.int64) * WIDTH
    if BITS == 8:
        # e4m3's bits, moved, are those of a float16, 256 times too small; its factor is a power of two.
        codes = tl.load(cache + begin + one[None, :], first, 0).to(tl.int16)
        small = (((codes & 0x80) << 8) | ((codes & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32)
        small = tl.where((codes & 0x7F) == 0x7F, float("nan"), small)
        GROUPS: tl.constexpr = (LATENT + 127) // 128
        ROOM: tl.constexpr = (LATENT_ROOM + 127) // 128
        group = tl.arange(0, ROOM)
        factors = (cache + begin + LATENT).to(tl.pointer_type(tl.float32))
        factor = tl.load(factors + group[None, :], keep[:, None] & (group[None, :] < GROUPS), 0.0)
        SIZE: tl.constexpr = at.shape[0]
        parts = tl.reshape(small, (SIZE, ROOM, LATENT_ROOM // ROOM)) * (256.0 * factor)[:, :, None]
        latent = tl.reshape(parts, (SIZE, LATENT_ROOM)).to(tl.bfloat16)
        turned = (cache + begin + LATENT + 4 * GROUPS).to(tl.pointer_type(tl.bfloat16))
        rope = tl.load(turned + two[None, :], second, 0.0)
    else:
        latent = tl.load(cache + begin + one[None, :], first, 0.0)
        rope = tl.load(cache + begin + LATENT + two[None, :], second, 0.0)
    return latent, rope


@triton.jit
def decode_tile(
    q_latent, q_rope, cache, table, contexts, outputs, sums, columns, scale,
    ROWS, COUNT: tl.constexpr, SPLITS: tl.constexpr, PAGE: tl.constexpr, Q_STRIDE: tl.constexpr,
    LATENT: tl.constexpr, ROPE: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr,
    LATENT_ROOM: tl.constexpr, ROPE_ROOM: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One request's heads of one tile, over one part of its keys.

    q_latent: [COUNT, ROWS, LATENT]; q_rope: [ROWS, COUNT, ...], heads Q_STRIDE apart; outputs: [SPLITS,
    COUNT, ROWS, LATENT] float32, each normalised by itself; sums: [SPLITS, COUNT, ROWS] log2 of the sum of
    exponentials.
    """
    row = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    split = tl.program_id(2)
    context = tl.load(contexts + row)
    each = tl.cdiv(tl.cdiv(context, BLOCK_K), SPLITS) * BLOCK_K
    begin = split * each
    end = tl.minimum(begin + each, context)
    one = tl.arange(0, LATENT_ROOM)
    two = tl.arange(0, ROPE_ROOM)
    known = head[:, None] < COUNT
    latents = tl.load(
        q_latent + (head[:, None] * ROWS + row) * LATENT + one[None, :], known & (one[None, :] < LATENT), 0.0
    )
    turned = tl.load(
        q_rope + (row * COUNT + head[:, None]) * Q_STRIDE + two[None, :], known & (two[None, :] < ROPE), 0.0
    )
    top = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_H,), tl.float32)
    total = tl.zeros((BLOCK_H, LATENT_ROOM), tl.float32)
    for first in range(begin, end, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K)
        keep = key < end
        page = tl.load(table + row * columns + key // PAGE, keep, 0)
        latent, rope = cache_rows(
            cache, page * PAGE + key % PAGE, keep, LATENT, ROPE, WIDTH, BITS, LATENT_ROOM, ROPE_ROOM
        )
        scores = product(latents, tl.trans(latent), tl.zeros((BLOCK_H, BLOCK_K), tl.float32))
        scores = product(turned, tl.trans(rope), scores) * scale
        scores = tl.where(keep[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        chance = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        weight = weight * fade + tl.sum(chance, 1)
        total = product(chance.to(tl.bfloat16), latent, total * fade[:, None])
        top = higher
    empty = weight == 0.0
    total = total / tl.where(empty, 1.0, weight)[:, None]
    place = (split * COUNT + head) * ROWS + row
    tl.store(
        outputs + place[:, None].to(tl.int64) * LATENT + one[None, :], total, known & (one[None, :] < LATENT)
    )
    tl.store(
        sums + place,
        tl.where(empty, float("-inf"), top + tl.log2(tl.where(empty, 1.0, weight))),
        head < COUNT,
    )


@triton.jit
def combine_splits(outputs, sums, y, count, SPLITS: tl.constexpr, LATENT: tl.constexpr, ROOM: tl.constexpr):
    """y[i] = mean of outputs[:, i] by their weights 2 ** sums[:, i]; i counts heads and rows."""
    at = tl.program_id(0)
    one = tl.arange(0, ROOM)
    top = tl.load(sums + at)
    for split in range(1, SPLITS):
        top = tl.maximum(top, tl.load(sums + split * count + at))
    weight = top * 0.0
    total = tl.zeros((ROOM,), tl.float32)
    for split in range(SPLITS):
        share = tl.exp2(tl.load(sums + split * count + at) - top)
        place = (split * count + at).to(tl.int64) * LATENT
        total += share * tl.load(outputs + place + one, one < LATENT, 0.0)
        weight += share
    tl.store(y + at.to(tl.int64) * LATENT + one, (total / weight).to(y.dtype.element_ty), one < LATENT)


@triton.jit
def gather_rows(
    cache, pages, y, keys,
    PAGE: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr,
    LATENT_ROOM: tl.constexpr, ROPE_ROOM: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[key] = the latent and the rotated key at that position, in bfloat16."""
    key = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    keep = key < keys
    page = tl.load(pages + key // PAGE, keep, 0)
    latent, rope = cache_rows(
        cache, page * PAGE + key % PAGE, keep, LATENT, ROPE, WIDTH, BITS, LATENT_ROOM, ROPE_ROOM
    )
    one = tl.arange(0, LATENT_ROOM)
    two = tl.arange(0, ROPE_ROOM)
    to = y + key[:, None].to(tl.int64) * (LATENT + ROPE)
    tl.store(to + one[None, :], latent, keep[:, None] & (one[None, :] < LATENT))
    tl.store(to + LATENT + two[None, :], rope, keep[:, None] & (two[None, :] < ROPE))


@triton.jit
def prefill_tile(
    q, expanded, rows, y, tokens, first, scale,
    COUNT: tl.constexpr, NOPE: tl.constexpr, ROPE: tl.constexpr, V: tl.constexpr, LATENT: tl.constexpr,
    NOPE_ROOM: tl.constexpr, ROPE_ROOM: tl.constexpr, V_ROOM: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One head's queries of one tile. q: [tokens, COUNT, NOPE + ROPE]; expanded: [keys, COUNT, NOPE + V];
    rows: [keys, LATENT + ROPE]; y: [tokens, COUNT, V]. Query i sees keys up to first + i."""
    head = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    one = tl.arange(0, NOPE_ROOM)
    two = tl.arange(0, ROPE_ROOM)
    three = tl.arange(0, V_ROOM)
    there = token[:, None] < tokens
    at = q + (token[:, None].to(tl.int64) * COUNT + head) * (NOPE + ROPE)
    still = tl.load(at + one[None, :], there & (one[None, :] < NOPE), 0.0)
    turned = tl.load(at + NOPE + two[None, :], there & (two[None, :] < ROPE), 0.0)
    top = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_Q,), tl.float32)
    total = tl.zeros((BLOCK_Q, V_ROOM), tl.float32)
    last = first + tl.minimum(tokens, (tl.program_id(0) + 1) * BLOCK_Q)
    for begin in range(0, last, BLOCK_K):
        key = begin + tl.arange(0, BLOCK_K)
        keep = key < last
        of = expanded + (key.to(tl.int64) * COUNT + head)[:, None] * (NOPE + V)
        keys = tl.load(of + one[None, :], keep[:, None] & (one[None, :] < NOPE), 0.0)
        values = tl.load(of + NOPE + three[None, :], keep[:, None] & (three[None, :] < V), 0.0)
        rope = tl.load(
            rows + key[:, None].to(tl.int64) * (LATENT + ROPE) + LATENT + two[None, :],
            keep[:, None] & (two[None, :] < ROPE), 0.0,
        )  # fmt: skip
        scores = product(still, tl.trans(keys), tl.zeros((BLOCK_Q, BLOCK_K), tl.float32))
        scores = product(turned, tl.trans(rope), scores) * scale
        seen = keep[None, :] & (key[None, :] <= first + token[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        chance = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        weight = weight * fade + tl.sum(chance, 1)
        total = product(chance.to(tl.bfloat16), values, total * fade[:, None])
        top = higher
    to = y + (token[:, None].to(tl.int64) * COUNT + head) * V + three[None, :]
    tl.store(to, (total / weight[:, None]).to(y.dtype.element_ty), there & (three[None, :] < V))
