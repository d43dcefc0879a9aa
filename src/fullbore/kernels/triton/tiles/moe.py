"""Tokens listed by expert, and the two products over tiles of those lists."""

import triton
import triton.language as tl

from fullbore.kernels.triton.tiles.linear import add_block, inputs_of
from fullbore.kernels.triton.tiles.numbers import e4m3_factor, rounded_e4m3


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
    HIDDEN: tl.constexpr, INTER: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr, NIBBLES: tl.constexpr,
    SLOTS: tl.constexpr, EXPERTS: tl.constexpr, ROOM: tl.constexpr, ROUNDED: tl.constexpr, SWAP: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """inner[entry, n] = silu(x[entry // SLOTS] gate[n]) * (x[entry // SLOTS] up[n]).

    ROUNDED: x and inner are e4m3 with a factor for each BLOCK_K; BLOCK_N is as much, so that each program
    knows the largest of its own.
    """
    expert, entry = _my_tile(lists, counts, tokens, EXPERTS, ROOM, BLOCK_T)
    if expert < EXPERTS:
        n = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
        BLOCKS: tl.constexpr = (HIDDEN + BLOCK_K - 1) // BLOCK_K
        GROUPS: tl.constexpr = (HIDDEN + GROUP - 1) // GROUP if GROUP else 0
        BANDS: tl.constexpr = (INTER + ROWS - 1) // ROWS  # of the gates, then as many of the ups
        WIDTH: tl.constexpr = BLOCKS * BLOCK_K // 2 if NIBBLES else HIDDEN
        gates = w + expert.to(tl.int64) * 2 * INTER * WIDTH + n * WIDTH
        ups = gates + INTER * WIDTH
        factors = scale + expert * GROUPS * 2 * BANDS + n // ROWS
        gate = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        up = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        token = (entry // SLOTS)[:, None]
        known = entry[:, None] >= 0
        for block in range(BLOCKS):
            one, two = inputs_of(x + token * HIDDEN, known, block, HIDDEN, NIBBLES, BLOCK_K)
            row_factor = 1.0
            if ROUNDED:
                row_factor = tl.load(x_scale + token * BLOCKS + block, known, 0.0)
            gate = add_block(
                gate, one, two, gates, n < INTER, factors, row_factor, block,
                HIDDEN, GROUP, 2 * BANDS, NIBBLES, ROUNDED, SWAP, BLOCK_K,
            )  # fmt: skip
            up = add_block(
                up, one, two, ups, n < INTER, factors + BANDS, row_factor, block,
                HIDDEN, GROUP, 2 * BANDS, NIBBLES, ROUNDED, SWAP, BLOCK_K,
            )  # fmt: skip
        value = gate / (1.0 + tl.exp(-gate)) * up
        to = inner + entry[:, None].to(tl.int64) * INTER + n
        keep = known & (n < INTER)
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
    HIDDEN: tl.constexpr, INTER: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr, NIBBLES: tl.constexpr,
    SLOTS: tl.constexpr, EXPERTS: tl.constexpr, ROOM: tl.constexpr, ROUNDED: tl.constexpr, SWAP: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """outer[entry, n] = score of the entry * (inner[entry] down[n]); a shared expert's score is 1."""
    expert, entry = _my_tile(lists, counts, tokens, EXPERTS, ROOM, BLOCK_T)
    if expert < EXPERTS:
        n = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
        BLOCKS: tl.constexpr = (INTER + BLOCK_K - 1) // BLOCK_K
        GROUPS: tl.constexpr = (INTER + GROUP - 1) // GROUP if GROUP else 0
        BANDS: tl.constexpr = (HIDDEN + ROWS - 1) // ROWS
        WIDTH: tl.constexpr = BLOCKS * BLOCK_K // 2 if NIBBLES else INTER
        columns = w + expert.to(tl.int64) * HIDDEN * WIDTH + n * WIDTH
        factors = scale + expert * GROUPS * BANDS + n // ROWS
        total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        known = entry[:, None] >= 0
        rows = inner + entry[:, None].to(tl.int64) * INTER
        for block in range(BLOCKS):
            one, two = inputs_of(rows, known, block, INTER, NIBBLES, BLOCK_K)
            row_factor = 1.0
            if ROUNDED:
                row_factor = tl.load(inner_scale + entry[:, None] * BLOCKS + block, known, 0.0)
            total = add_block(
                total, one, two, columns, n < HIDDEN, factors, row_factor, block,
                INTER, GROUP, BANDS, NIBBLES, ROUNDED, SWAP, BLOCK_K,
            )  # fmt: skip
        slot = entry % SLOTS
        routed = (entry >= 0) & (slot < SLOTS - 1)
        score = tl.load(scores + entry // SLOTS * (SLOTS - 1) + slot, routed, 1.0)
        to = outer + entry[:, None].to(tl.int64) * HIDDEN + n
        tl.store(to, (total * score[:, None]).to(outer.dtype.element_ty), known & (n < HIDDEN))


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
