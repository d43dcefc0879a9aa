"""``linear``: weights decoded in registers to bfloat16; the inputs may be split over programs.

With few tokens the weights' way from memory is all the time there is, and one tile of outputs a
program leaves most of a GPU idle: several programs then share a tile's inputs, and their sums are added in
one order. A call has the same bits every time; with another number of tokens a row may have others.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fullbore.kernels.triton.device import DEVICE, Matrix, TritonKernel, call, processors, product
from fullbore.ops.formats import BLOCK, Weight

OUTPUTS = 64  # of a tile


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
        right = tl.load(w + n[None, :].to(tl.int64) * IN + k[:, None], (n[None, :] < OUT) & (k[:, None] < IN), 0.0)
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


class TritonLinear(TritonKernel):
    operator = "linear"

    def pack(self, *weights: Weight) -> Matrix:
        return self.place(*weights)

    def run(self, packed: Matrix, x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        tokens, (out, in_) = len(x), packed.data.shape
        x = x.contiguous()
        block_t = tile_rows(tokens)
        tiles = triton.cdiv(out, OUTPUTS) * triton.cdiv(tokens, block_t)
        split = parts(tiles, triton.cdiv(in_, BLOCK))
        y = torch.empty(tokens, out, dtype=x.dtype, device=DEVICE)
        sums = y if split == 1 else torch.empty(split, tokens, out, dtype=torch.float32, device=DEVICE)
        call(
            linear_tile,
            (triton.cdiv(out, OUTPUTS), triton.cdiv(tokens, block_t), split),
            *(x, packed.data, packed.scale, sums, tokens),
            OUT=out,
            IN=in_,
            ROWS=packed.rows,
            SCALED=packed.scale.numel() > 0,
            BLOCK_T=block_t,
            BLOCK_N=OUTPUTS,
            BLOCK_K=BLOCK,
            SPLIT=split,
        )
        if split > 1:
            call(add_parts, (triton.cdiv(y.numel(), 1024),), sums, y, y.numel(), PARTS=split, SIZE=1024)
        return y


def tile_rows(tokens: int) -> int:
    """Height of a tile: no smaller than the hardware multiplies, no larger than the tokens need."""
    return min(128, max(16, triton.next_power_of_2(tokens)))


def parts(tiles: int, blocks: int) -> int:
    """Into how many parts the inputs are split, so that two programs a processor have work."""
    wanted = 2 * processors() // max(1, tiles)
    return max(1, min(8, wanted, blocks // 4))
