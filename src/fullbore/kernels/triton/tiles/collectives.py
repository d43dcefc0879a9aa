"""Waiting on the device's clock, which a graph captures as any kernel, and what other devices would send."""

import triton
import triton.language as tl

from fullbore.ops.drawn import BITS as BITS_
from fullbore.ops.drawn import MIX as MIX_
from fullbore.ops.drawn import ROW as ROW_

BITS, MIX, ROW = tl.constexpr(BITS_), tl.constexpr(MIX_), tl.constexpr(ROW_)


@triton.jit
def _now(AMD: tl.constexpr):
    """Ticks of a clock that runs whatever the frequencies are: of 1 ns (NVIDIA), of 10 ns (AMD)."""
    if AMD:
        # It comes with the scalar loads; Triton's own memrealtime waits for the vector ones.
        return tl.inline_asm_elementwise(
            "s_memrealtime $0\ns_waitcnt lgkmcnt(0)", "=r", [], dtype=tl.int64, is_pure=False, pack=1
        )
    else:
        return tl.inline_asm_elementwise(
            "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
        )


@triton.jit
def _wait(ticks, AMD: tl.constexpr):
    end = _now(AMD) + ticks
    now = end - ticks
    while now < end:
        now = _now(AMD)


@triton.jit(do_not_specialize=["ticks"])
def wait(ticks, AMD: tl.constexpr):
    """Ends ``ticks`` after it began."""
    _wait(ticks, AMD)


@triton.jit(do_not_specialize=["ticks", "base", "own"])
def spread_rows(
    x, y, ticks, base, own, each, among, of_group,
    WIDTH: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr, WAITS: tl.constexpr, AMD: tl.constexpr,
):  # fmt: skip
    """y[row] = x[base + row // each % among], its columns turned by as many ``GROUPS``-th parts as the group
    row // of_group lies after ``own``. The first program waits meanwhile, if WAITS."""
    row = tl.program_id(0).to(tl.int64) - 1
    if row < 0:
        if WAITS:
            _wait(ticks, AMD)
    else:
        turn = (row // of_group + GROUPS - own) % GROUPS * WIDTH // GROUPS
        source = x + (base + row // each % among) * WIDTH
        for first in range(0, WIDTH, SIZE):
            n = first + tl.arange(0, SIZE)
            value = tl.load(source + (n + turn) % WIDTH, n < WIDTH)
            tl.store(y + row * WIDTH + n, value, n < WIDTH)


@triton.jit
def draw_row(
    x, table, ids, tokens,
    HIDDEN: tl.constexpr, SLOTS: tl.constexpr, K: tl.constexpr, K_ROOM: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """ids: [tokens, K], as ``ops.drawn`` has them."""
    row = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T).to(tl.int64)
    value = tl.load(x + row * HIDDEN, row < tokens, 0.0)
    bits = value.to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    word = (row * ROW + (bits + 1) * BITS) & 0xFFFFFFFF
    word = ((word ^ (word >> 15)) * MIX) & 0xFFFFFFFF
    word = word ^ (word >> 13)
    slot = tl.arange(0, K_ROOM)[None, :]
    place = (word[:, None] + SLOTS // K * slot) % SLOTS
    keep = (row[:, None] < tokens) & (slot < K)
    chosen = tl.load(table + place, keep, 0)
    tl.store(ids + row[:, None] * K + slot, chosen.to(tl.int64), keep)
