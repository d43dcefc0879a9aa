"""One tile of ``linear``, the sum of its parts, and activations rounded to FP8."""

import triton
import triton.language as tl

from fullbore.kernels.triton.tiles.numbers import (
    e4m3_factor,
    from_byte,
    from_nibble,
    multiplied,
    rounded_e4m3,
)


@triton.jit
def inputs_of(rows, known, block, IN: tl.constexpr, NIBBLES: tl.constexpr, BLOCK_K: tl.constexpr):
    """The block's inputs [m, BLOCK_K], twice; its two halves where weights are NIBBLES. rows: [m, 1]."""
    WIDTH: tl.constexpr = BLOCK_K // 2 if NIBBLES else BLOCK_K
    k = block * BLOCK_K + tl.arange(0, WIDTH)
    one = tl.load(rows + k[None, :], known & (k[None, :] < IN), 0.0)
    if NIBBLES:
        return one, tl.load(rows + WIDTH + k[None, :], known & (WIDTH + k[None, :] < IN), 0.0)
    return one, one


@triton.jit
def add_block(
    total, one, two, w, known, factors, row_factor, block,
    IN: tl.constexpr, GROUP: tl.constexpr, BANDS: tl.constexpr, NIBBLES: tl.constexpr, ROUNDED: tl.constexpr,
    SWAP: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """total [m, n] + a block's inputs @ its weights.

    one, two: of ``inputs_of``. w, known: [1, n] rows of weights. GROUP: inputs of a factor, 0 without any;
    ``factors``: [1, n], those of the first group; the next are BANDS further. ROUNDED: weights and inputs are
    both FP8, and ``row_factor`` [m, 1] is the inputs' factor.

    NIBBLES: weights are two to a byte, the second of which belongs to the second half of the block. So each
    half is a product by itself, and nothing is put in order.
    """
    nothing = tl.zeros(total.shape, tl.float32)
    if NIBBLES:
        HALF: tl.constexpr = BLOCK_K // 2
        k = tl.arange(0, HALF)[:, None]
        codes = tl.load(w + block * HALF + k, known & (block * BLOCK_K + k < IN), 0)
        first = multiplied(one, from_nibble(codes), nothing, SWAP)
        if GROUP == BLOCK_K:
            both = multiplied(two, from_nibble(codes >> 4), first, SWAP)
            total += both * _factor(factors, known, block, IN, GROUP, BANDS)
        else:
            second = multiplied(two, from_nibble(codes >> 4), nothing, SWAP)
            total += first * _factor(factors, known, 2 * block, IN, GROUP, BANDS)
            total += second * _factor(factors, known, 2 * block + 1, IN, GROUP, BANDS)
    else:
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
        right = tl.load(w + k, known & (k < IN), 0.0)
        if GROUP == 0:
            total = multiplied(one, right, total, SWAP)
        else:
            factor = _factor(factors, known, block, IN, GROUP, BANDS)
            if ROUNDED:
                total += multiplied(one, right, nothing, SWAP) * (factor * row_factor)
            else:
                total += multiplied(one, from_byte(right), nothing, SWAP) * factor
    return total


@triton.jit
def _factor(factors, known, group, IN: tl.constexpr, GROUP: tl.constexpr, BANDS: tl.constexpr):
    """Factors of a group of inputs; of the last one where it lies beyond, since inputs are zero there."""
    group = tl.minimum(group, (IN + GROUP - 1) // GROUP - 1)
    return tl.load(factors + group * BANDS, known, 0.0).to(tl.float32)


@triton.jit
def linear_tile(
    x, x_scale, w, scale, sums, tokens,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr, NIBBLES: tl.constexpr,
    ROUNDED: tl.constexpr, SPLIT: tl.constexpr, SWAP: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """sums[part, t, n] = sum over the part's k of x[t, k] w[n, k]. ``scale``: of weights (GROUP);
    ``x_scale`` [tokens, blocks]: of activations in FP8 (ROUNDED)."""
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    part = tl.program_id(2)
    BLOCKS: tl.constexpr = (IN + BLOCK_K - 1) // BLOCK_K
    EACH: tl.constexpr = (BLOCKS + SPLIT - 1) // SPLIT
    BANDS: tl.constexpr = (OUT + ROWS - 1) // ROWS
    WIDTH: tl.constexpr = BLOCKS * BLOCK_K // 2 if NIBBLES else IN
    rows = x + t[:, None] * IN
    columns = w + n.to(tl.int64) * WIDTH
    total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for index in range(EACH):
        block = part * EACH + index
        one, two = inputs_of(rows, t[:, None] < tokens, block, IN, NIBBLES, BLOCK_K)
        row_factor = 1.0
        if ROUNDED:
            at = x_scale + t[:, None] * BLOCKS + tl.minimum(block, BLOCKS - 1)
            row_factor = tl.load(at, t[:, None] < tokens, 0.0)
        total = add_block(
            total, one, two, columns, n < OUT, scale + n // ROWS, row_factor, block,
            IN, GROUP, BANDS, NIBBLES, ROUNDED, SWAP, BLOCK_K,
        )  # fmt: skip
    to = (part * tokens + t[:, None]).to(tl.int64) * OUT + n
    tl.store(sums + to, total.to(sums.dtype.element_ty), (t[:, None] < tokens) & (n < OUT))


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
