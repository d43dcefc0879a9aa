"""Tokens listed by expert, and the two products over tiles of those lists."""

import triton
import triton.language as tl

from fullbore.kernels.triton.tiles.linear import partial
from fullbore.kernels.triton.tiles.numbers import e4m3_factor, product, rounded_e4m3


@triton.jit
def list_tokens(
    ids, lists, counts, pairs, tokens, first_here,
    K: tl.constexpr, ROUTED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """lists[expert, :]: token * SLOTS + slot of every token that chose the expert, in order; counts[expert].
    The router's number of the first expert is ``first_here``.

    The program after the routed experts' lists every token for the shared one, in slot K.
    """
    expert = tl.program_id(0)
    SLOTS: tl.constexpr = K + 1
    total = 0
    if expert < ROUTED:
        for first in range(0, pairs, SIZE):
            at = first + tl.arange(0, SIZE)
            chosen = (tl.load(ids + at, at < pairs, -1) == expert + first_here).to(tl.int32)
            place = total + tl.cumsum(chosen, 0) - chosen
            tl.store(lists + expert.to(tl.int64) * tokens + place, at // K * SLOTS + at % K, chosen > 0)
            total += tl.sum(chosen, 0)
    else:
        for first in range(0, tokens, SIZE):
            at = first + tl.arange(0, SIZE)
            tl.store(lists + expert.to(tl.int64) * tokens + at, at * SLOTS + K, at < tokens)
        total = tokens
    tl.store(counts + expert, total)


@triton.jit
def _my_tile(lists, counts, tokens, EXPERTS: tl.constexpr, ROOM: tl.constexpr, BLOCK_T: tl.constexpr):
    """(expert, [BLOCK_T] entries of its list or -1) of this program's tile; EXPERTS beyond the last tile."""
    every = tl.arange(0, ROOM)
    count = tl.load(counts + every, every < EXPERTS, 0)
    tiles = (count + BLOCK_T - 1) // BLOCK_T
    ends = tl.cumsum(tiles, 0)
    tile = tl.program_id(0)
    expert = tl.sum((ends <= tile).to(tl.int32), 0)
    mine = every == expert
    first = (tile - tl.sum(tl.where(mine, ends - tiles, 0), 0)) * BLOCK_T
    at = first + tl.arange(0, BLOCK_T)
    inside = at < tl.sum(tl.where(mine, count, 0), 0)
    return expert, tl.load(lists + expert.to(tl.int64) * tokens + at, inside, -1)


@triton.jit
def gate_up_tile(
    x, x_scale, w, scale, inner, inner_scale, lists, counts, tokens,
    HIDDEN: tl.constexpr, INTER: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr, SLOTS: tl.constexpr,
    EXPERTS: tl.constexpr, ROOM: tl.constexpr, ROUNDED: tl.constexpr, SWAP: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """inner[entry, n] = silu(x[entry // SLOTS] gate[n]) * (x[entry // SLOTS] up[n]).

    ROUNDED: x and inner are e4m3 with a factor for each BLOCK_K; BLOCK_N is as much, so that each program
    knows the largest of its own.
    """
    expert, entry = _my_tile(lists, counts, tokens, EXPERTS, ROOM, BLOCK_T)
    if expert < EXPERTS:
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        BLOCKS: tl.constexpr = (HIDDEN + BLOCK_K - 1) // BLOCK_K
        BANDS: tl.constexpr = (INTER + ROWS - 1) // ROWS
        gates = w + expert.to(tl.int64) * 2 * INTER * HIDDEN + n[None, :] * HIDDEN
        ups = gates + INTER * HIDDEN
        factors = scale + (expert * 2 * BANDS + n // ROWS) * BLOCKS
        gate = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        up = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        rows = x + (entry // SLOTS)[:, None] * HIDDEN
        for block in range(BLOCKS):
            k = block * BLOCK_K + tl.arange(0, BLOCK_K)
            left = tl.load(rows + k[None, :], (entry[:, None] >= 0) & (k[None, :] < HIDDEN), 0.0)
            known = (n[None, :] < INTER) & (k[:, None] < HIDDEN)
            one = tl.load(gates + k[:, None], known, 0.0)
            two = tl.load(ups + k[:, None], known, 0.0)
            if SCALED:
                a = tl.load(factors + block, n < INTER, 0.0)[None, :]
                b = tl.load(factors + BANDS * BLOCKS + block, n < INTER, 0.0)[None, :]
                if ROUNDED:
                    at = x_scale + entry // SLOTS * BLOCKS + block
                    of_row = tl.load(at, entry >= 0, 0.0)[:, None]
                    a = a * of_row
                    b = b * of_row
                else:
                    one = one.to(tl.bfloat16)
                    two = two.to(tl.bfloat16)
                gate += partial(left, one, SWAP) * a
                up += partial(left, two, SWAP) * b
            else:
                gate = product(left, one, gate)
                up = product(left, two, up)
        value = gate / (1.0 + tl.exp(-gate)) * up
        to = inner + entry[:, None].to(tl.int64) * INTER + n[None, :]
        keep = (entry[:, None] >= 0) & (n[None, :] < INTER)
        if ROUNDED:
            factor = e4m3_factor(tl.max(tl.abs(value), 1), LARGEST)
            PARTS: tl.constexpr = (INTER + BLOCK_N - 1) // BLOCK_N
            tl.store(inner_scale + entry * PARTS + tl.program_id(1), factor, entry >= 0)
            tl.store(to, rounded_e4m3(value / factor[:, None], inner), keep)
        else:
            tl.store(to, value.to(inner.dtype.element_ty), keep)


@triton.jit
def down_tile(
    inner, inner_scale, w, scale, scores, outer, lists, counts, tokens,
    HIDDEN: tl.constexpr, INTER: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr, SLOTS: tl.constexpr,
    EXPERTS: tl.constexpr, ROOM: tl.constexpr, ROUNDED: tl.constexpr, SWAP: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """outer[entry, n] = score of the entry * (inner[entry] down[n]); a shared expert's score is 1."""
    expert, entry = _my_tile(lists, counts, tokens, EXPERTS, ROOM, BLOCK_T)
    if expert < EXPERTS:
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        BLOCKS: tl.constexpr = (INTER + BLOCK_K - 1) // BLOCK_K
        BANDS: tl.constexpr = (HIDDEN + ROWS - 1) // ROWS
        columns = w + expert.to(tl.int64) * HIDDEN * INTER + n[None, :] * INTER
        factors = scale + (expert * BANDS + n // ROWS) * BLOCKS
        total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        rows = inner + entry[:, None].to(tl.int64) * INTER
        for block in range(BLOCKS):
            k = block * BLOCK_K + tl.arange(0, BLOCK_K)
            left = tl.load(rows + k[None, :], (entry[:, None] >= 0) & (k[None, :] < INTER), 0.0)
            right = tl.load(columns + k[:, None], (n[None, :] < HIDDEN) & (k[:, None] < INTER), 0.0)
            if SCALED:
                factor = tl.load(factors + block, n < HIDDEN, 0.0)[None, :]
                if ROUNDED:
                    factor = factor * tl.load(inner_scale + entry * BLOCKS + block, entry >= 0, 0.0)[:, None]
                else:
                    right = right.to(tl.bfloat16)
                total += partial(left, right, SWAP) * factor
            else:
                total = product(left, right, total)
        slot = entry % SLOTS
        routed = (entry >= 0) & (slot < SLOTS - 1)
        score = tl.load(scores + entry // SLOTS * (SLOTS - 1) + slot, routed, 1.0)
        to = outer + entry[:, None].to(tl.int64) * HIDDEN + n[None, :]
        tl.store(
            to,
            (total * score[:, None]).to(outer.dtype.element_ty),
            (entry[:, None] >= 0) & (n[None, :] < HIDDEN),
        )


@triton.jit
def add_slots(
    outer, ids, y, first_here,
    HIDDEN: tl.constexpr, SLOTS: tl.constexpr, USED: tl.constexpr, ROUTED: tl.constexpr, CUT: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """y[token] = sum of the token's first ``USED`` slots, in order of the slots. CUT: some of the experts are
    elsewhere, and what is in their slots is nobody's."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for slot in range(USED):
        known = n < HIDDEN
        if CUT:
            routed = slot < SLOTS - 1
            expert = tl.load(ids + token * (SLOTS - 1) + slot, routed, 0) - first_here
            known = known & ((slot == SLOTS - 1) | ((expert >= 0) & (expert < ROUTED)))
        total += tl.load(outer + (token * SLOTS + slot) * HIDDEN + n, known, 0.0).to(tl.float32)
    tl.store(y + token * HIDDEN + n, total.to(y.dtype.element_ty), n < HIDDEN)
