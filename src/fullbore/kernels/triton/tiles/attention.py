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
def _parts(contexts, rows, wanted, ROOM: tl.constexpr, STEP: tl.constexpr):
    """(parts of each row [ROOM], keys of a part): all keys of all rows cut into about ``wanted`` parts, at
    most wanted + rows; a row without keys is one."""
    every = tl.arange(0, ROOM)
    context = tl.load(contexts + every, every < rows, 0)
    each = tl.maximum(1, tl.cdiv(tl.cdiv(tl.sum(context, 0), wanted), STEP)) * STEP
    return tl.where(every < rows, tl.maximum(1, tl.cdiv(context, each)), 0), each


@triton.jit
def decode_tile(
    q_latent, q_rope, cache, table, contexts, outputs, sums, y, columns, scale, rows, wanted,
    ROOM: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr, PAGE: tl.constexpr, Q_STRIDE: tl.constexpr,
    LATENT: tl.constexpr, ROPE: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr,
    LATENT_ROOM: tl.constexpr, ROPE_ROOM: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One request's heads of one tile, over the part of its keys that has the program's number. Programs that
    there are no parts for end at once, so that the grid depends on no context and no table's width.

    q_latent, y: [COUNT, rows, LATENT]; q_rope: [rows, COUNT, ...], heads Q_STRIDE apart; outputs: [parts,
    COUNT, LATENT] float32, each normalised by itself; sums: [parts, COUNT] log2 of the sum of exponentials.
    A row of one part is written to y, the others are put together by ``combine_parts``.
    """
    part = tl.program_id(1)
    parts, each = _parts(contexts, rows, wanted, ROOM, STEP)
    ends = tl.cumsum(parts, 0)
    row = tl.sum((ends <= part).to(tl.int32), 0)
    if row < rows:
        mine = tl.arange(0, ROOM) == row
        count = tl.sum(tl.where(mine, parts, 0), 0)
        begin = (part - tl.sum(tl.where(mine, ends - parts, 0), 0)) * each
        end = tl.minimum(begin + each, tl.load(contexts + row))
        head = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
        one = tl.arange(0, LATENT_ROOM)
        two = tl.arange(0, ROPE_ROOM)
        known = head[:, None] < COUNT
        inside = known & (one[None, :] < LATENT)
        place = (head[:, None] * rows + row) * LATENT + one[None, :]
        latents = tl.load(q_latent + place, inside, 0.0)
        at = q_rope + (row * COUNT + head[:, None]) * Q_STRIDE + two[None, :]
        turned = tl.load(at, known & (two[None, :] < ROPE), 0.0)
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
        weight = tl.where(begin < end, weight, 1.0)  # no keys: zeros
        total = total / weight[:, None]
        if count == 1:
            tl.store(y + place, total.to(y.dtype.element_ty), inside)
        else:
            to = part * COUNT + head
            tl.store(outputs + to[:, None].to(tl.int64) * LATENT + one[None, :], total, inside)
            tl.store(sums + to, top + tl.log2(weight), head < COUNT)


@triton.jit
def combine_parts(
    outputs, sums, y, contexts, rows, wanted, ROOM: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr,
    LATENT: tl.constexpr, LATENT_ROOM: tl.constexpr,
):  # fmt: skip
    """y[head, row] = mean of the row's parts by their weights 2 ** sums, where it has several."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    parts, _ = _parts(contexts, rows, wanted, ROOM, STEP)
    every = tl.arange(0, ROOM)
    count = tl.sum(tl.where(every == row, parts, 0), 0)
    if count > 1:
        first = tl.sum(tl.where(every < row, parts, 0), 0)
        top = float("-inf")
        for part in range(first, first + count):
            top = tl.maximum(top, tl.load(sums + part * COUNT + head))
        one = tl.arange(0, LATENT_ROOM)
        weight = 0.0
        total = tl.zeros((LATENT_ROOM,), tl.float32)
        for part in range(first, first + count):
            share = tl.exp2(tl.load(sums + part * COUNT + head) - top)
            place = (part * COUNT + head).to(tl.int64) * LATENT
            total += share * tl.load(outputs + place + one, one < LATENT, 0.0)
            weight += share
        to = y + (head * rows + row).to(tl.int64) * LATENT + one
        tl.store(to, (total / weight).to(y.dtype.element_ty), one < LATENT)


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
