"""One tile of ``linear``, and the sum of its parts."""

import triton
import triton.language as tl

from fullbore.kernels.triton.tiles.numbers import product


@triton.jit
def linear_tile(
    x, w, scale, sums, tokens,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """sums[part, t, n] = sum over the part's k of x[t, k] w[n, k]; scales by 128 inputs."""
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
        right = tl.load(
            w + n[None, :].to(tl.int64) * IN + k[:, None], (n[None, :] < OUT) & (k[:, None] < IN), 0.0
        )
        if SCALED:
            factor = tl.load(scale + (n // ROWS) * BLOCKS + tl.minimum(block, BLOCKS - 1), n < OUT, 0.0)
            found = product(left, right.to(tl.bfloat16), tl.zeros((BLOCK_T, BLOCK_N), tl.float32))
            total += found * factor[None, :]
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
