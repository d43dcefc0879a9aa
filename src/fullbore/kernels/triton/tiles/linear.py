"""One tile of ``linear``, the sum of its parts, and activations rounded to FP8."""

import triton
import triton.language as tl

from fullbore.kernels.triton.tiles.numbers import e4m3_factor, product, rounded_e4m3


@triton.jit
def partial(left, right, SWAP: tl.constexpr):
    """left @ right in float32, as [m, n]; computed as its transpose where ``SWAP``: what is wide (outputs)
    then fills the side of the hardware's tile that has the most rows, however few tokens there are."""
    if SWAP:
        nothing = tl.zeros((right.shape[1], left.shape[0]), tl.float32)
        return tl.trans(product(tl.trans(right), tl.trans(left), nothing))
    return product(left, right, tl.zeros((left.shape[0], right.shape[1]), tl.float32))


@triton.jit
def linear_tile(
    x, x_scale, w, scale, sums, tokens,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr, ROUNDED: tl.constexpr,
    SPLIT: tl.constexpr, SWAP: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """sums[part, t, n] = sum over the part's k of x[t, k] w[n, k]. Factors are of 128 inputs: ``scale`` of
    weights in FP8 (SCALED), ``x_scale`` [tokens, blocks] of activations in FP8 (ROUNDED)."""
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2)
    BLOCKS: tl.constexpr = (IN + BLOCK_K - 1) // BLOCK_K
    EACH: tl.constexpr = (BLOCKS + SPLIT - 1) // SPLIT
    total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for index in range(EACH):
        block = part * EACH + index
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)
        left = tl.load(x + t[:, None] * IN + k[None, :], (t[:, None] < tokens) & (k[None, :] < IN), 0.0)
        at = w + n[None, :].to(tl.int64) * IN + k[:, None]
        right = tl.load(at, (n[None, :] < OUT) & (k[:, None] < IN), 0.0)
        if SCALED:
            last = tl.minimum(block, BLOCKS - 1)
            factor = tl.load(scale + (n // ROWS) * BLOCKS + last, n < OUT, 0.0)[None, :]
            if ROUNDED:
                factor = factor * tl.load(x_scale + t * BLOCKS + last, t < tokens, 0.0)[:, None]
            else:
                right = right.to(tl.bfloat16)
            total += partial(left, right, SWAP) * factor
        elif SWAP:
            total += partial(left, right, SWAP)
        else:
            total = product(left, right, total)
    to = (part * tokens + t[:, None]).to(tl.int64) * OUT + n[None, :]
    tl.store(sums + to, total.to(sums.dtype.element_ty), (t[:, None] < tokens) & (n[None, :] < OUT))


@triton.jit
def add_parts(sums, y, count, PARTS: tl.constexpr, SIZE: tl.constexpr):
    """y[i] = sum over parts of sums[part, i]."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for part in range(PARTS):
        total += tl.load(sums + part * count + at, at < count, 0.0)
    tl.store(y + at, total.to(y.dtype.element_ty), at < count)


@triton.jit
def round_blocks(
    x, y, y_scale, IN: tl.constexpr, BLOCKS: tl.constexpr, BLOCKS_ROOM: tl.constexpr, BLOCK_K: tl.constexpr,
    LARGEST: tl.constexpr,
):  # fmt: skip
    """y[row] = x[row] in e4m3, and a factor for each BLOCK_K of it, whose largest becomes LARGEST."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS_ROOM)
    at = block[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    value = tl.load(x + row * IN + at, at < IN, 0.0).to(tl.float32)
    factor = e4m3_factor(tl.max(tl.abs(value), 1), LARGEST)
    tl.store(y_scale + row * BLOCKS + block, factor, block < BLOCKS)
    tl.store(y + row * IN + at, rounded_e4m3(value / factor[:, None], y), at < IN)
