"""Norms, rotary positions, a token's row of the cache, the likeliest token and rows of a table."""

import triton
import triton.language as tl

from fullbore.kernels.triton.tiles.numbers import e4m3_codes, rounded


@triton.jit
def _norm(x, weight, at, WIDTH: tl.constexpr, eps):
    """x / sqrt(mean(x^2) + eps) * weight in float32; x is 0 beyond WIDTH."""
    return x * tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps) * tl.load(weight + at, at < WIDTH, 0.0)


@triton.jit
def norm_row(x, other, weight, total, y, eps, WIDTH: tl.constexpr, ROOM: tl.constexpr, ADD: tl.constexpr):
    """y[row] = norm(x[row]), or of total[row] = x[row] + other[row] as it is stored."""
    at = tl.arange(0, ROOM)
    here = tl.program_id(0).to(tl.int64) * WIDTH + at
    value = tl.load(x + here, at < WIDTH, 0.0).to(tl.float32)
    if ADD:
        value += tl.load(other + here, at < WIDTH, 0.0).to(tl.float32)
        stored = rounded(value, total)
        tl.store(total + here, stored, at < WIDTH)
        value = stored.to(tl.float32)
    tl.store(y + here, rounded(_norm(value, weight, at, WIDTH, eps), y), at < WIDTH)


@triton.jit
def rope_heads(
    x, cos, sin, y, HEADS: tl.constexpr, WIDTH: tl.constexpr, TURNED: tl.constexpr,
    STILL_ROOM: tl.constexpr, PAIRS_ROOM: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """y: [rows, HEADS, WIDTH], x with the last TURNED pairs of each head turned. cos, sin: [rows, TURNED]."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    STILL: tl.constexpr = WIDTH - 2 * TURNED
    here = (row * HEADS + head) * WIDTH
    at = tl.arange(0, STILL_ROOM)[None, :]
    keep = (head < HEADS) & (at < STILL)
    tl.store(y + here + at, tl.load(x + here + at, keep), keep)
    pair = tl.arange(0, PAIRS_ROOM)
    keep = (head < HEADS) & (pair[None, :] < TURNED)
    c = tl.load(cos + row * TURNED + pair, pair < TURNED, 0.0)[None, :]
    s = tl.load(sin + row * TURNED + pair, pair < TURNED, 0.0)[None, :]
    here = here + STILL + 2 * pair[None, :]
    even = tl.load(x + here, keep, 0.0).to(tl.float32)
    odd = tl.load(x + here + 1, keep, 0.0).to(tl.float32)
    tl.store(y + here, rounded(even * c - odd * s, y), keep)
    tl.store(y + here + 1, rounded(odd * c + even * s, y), keep)


@triton.jit
def power_factor(largest):
    """The least power of two, from 2^-100 up, that brings ``largest`` to within 448; nan where it is not
    finite."""
    bits = largest.to(tl.int32, bitcast=True)
    power = ((bits >> 23) & 0xFF) - 135 + ((bits & 0x7FFFFF) > 0x600000).to(tl.int32)
    factor = ((tl.maximum(power, -100) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(largest < float("inf"), factor, float("nan"))


@triton.jit
def latents_row(
    x, cos, sin, q_norm, kv_norm, q, cache, slots, rows, stride, eps,
    Q: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr,
    N: tl.constexpr, Q_ROOM: tl.constexpr, GROUPS_ROOM: tl.constexpr, GROUP: tl.constexpr,
    PAIRS_ROOM: tl.constexpr,
):  # fmt: skip
    """q[row] = norm of the first Q of x's N values; the last ones, normalised and turned, go to row
    slots[row] of the cache. A slot that the cache does not have is left out."""
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    if Q > 0:
        at = tl.arange(0, Q_ROOM)
        value = tl.load(x + at, at < Q, 0.0).to(tl.float32)
        tl.store(q + row * Q + at, rounded(_norm(value, q_norm, at, Q, eps), q), at < Q)
    slot = tl.load(slots + row)
    there = tl.where((slot >= 0) & (slot < rows), 1, 0)
    to = cache + slot * WIDTH
    at = tl.arange(0, GROUPS_ROOM * GROUP)
    value = tl.load(x + N - ROPE - LATENT + at, at < LATENT, 0.0).to(tl.float32)
    latent = rounded(_norm(value, kv_norm, at, LATENT, eps), x).to(tl.float32)
    if BITS == 8:
        grouped = tl.reshape(latent, (GROUPS_ROOM, GROUP))
        # A maximum may leave nan out; a sum never does.
        wrong = tl.sum((grouped != grouped).to(tl.int32), 1) > 0
        largest = tl.where(wrong, float("nan"), tl.max(tl.abs(grouped), 1))
        factor = power_factor(largest)
        tl.store(to + at, tl.reshape(e4m3_codes(grouped / factor[:, None]), (GROUPS_ROOM * GROUP,)),
                 at < there * LATENT)  # fmt: skip
        group = tl.arange(0, GROUPS_ROOM)
        GROUPS: tl.constexpr = (LATENT + GROUP - 1) // GROUP
        tl.store((to + LATENT).to(tl.pointer_type(tl.float32)) + group, factor, group < there * GROUPS)
        turned = (to + LATENT + 4 * GROUPS).to(tl.pointer_type(tl.bfloat16))
    else:
        tl.store(to + at, rounded(latent, cache), at < there * LATENT)
        turned = to + LATENT
    pair = tl.arange(0, PAIRS_ROOM)
    keep = pair < ROPE // 2
    c = tl.load(cos + row * (ROPE // 2) + pair, keep, 0.0)
    s = tl.load(sin + row * (ROPE // 2) + pair, keep, 0.0)
    even = tl.load(x + N - ROPE + 2 * pair, keep, 0.0).to(tl.float32)
    odd = tl.load(x + N - ROPE + 2 * pair + 1, keep, 0.0).to(tl.float32)
    one = rounded(even * c - odd * s, x).to(tl.float32)
    two = rounded(odd * c + even * s, x).to(tl.float32)
    tl.store(turned + 2 * pair, rounded(one, turned), pair < there * (ROPE // 2))
    tl.store(turned + 2 * pair + 1, rounded(two, turned), pair < there * (ROPE // 2))


@triton.jit
def greedy_row(logits, y, VOCAB: tl.constexpr, SIZE: tl.constexpr, NOT_FINITE: tl.constexpr):
    """y[row] = the lowest of the best ids, NOT_FINITE where a logit is nan or infinite."""
    row = tl.program_id(0).to(tl.int64)
    best = float("-inf")
    chosen = 0
    wrong = 0
    for first in range(0, VOCAB, SIZE):
        at = first + tl.arange(0, SIZE)
        value = tl.load(logits + row * VOCAB + at, at < VOCAB, float("-inf")).to(tl.float32)
        # False for nan too.
        finite = (value > float("-inf")) & (value < float("inf"))
        wrong += tl.sum(((at < VOCAB) & (finite == 0)).to(tl.int32), 0)
        value = tl.where(finite, value, float("-inf"))
        top = tl.max(value, 0)
        lowest = tl.min(tl.where(value == top, at, VOCAB), 0)
        chosen = tl.where(top > best, lowest, chosen)
        best = tl.maximum(top, best)
    tl.store(y + row, tl.where(wrong > 0, NOT_FINITE, chosen).to(tl.int64))


@triton.jit
def embed_row(table, ids, y, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """y[row] = table[ids[row]]."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    value = tl.load(table + tl.load(ids + row) * WIDTH + at, at < WIDTH)
    tl.store(y + row * WIDTH + at, rounded(value.to(tl.float32), y), at < WIDTH)
