"""``linear``: weights decoded in registers to bfloat16; the inputs may be split over programs.

With few tokens the weights' way from memory is all the time there is, and one tile of outputs a
program leaves most of a GPU idle: several programs then share a tile's inputs, and their sums are added in
one order. A call has the same bits every time; with another number of tokens a row may have others.
"""

import torch
import triton
from torch import Tensor

from fullbore.kernels.triton.device import Matrix, TritonKernel, power_of_two
from fullbore.kernels.triton.tiles.linear import add_parts, linear_tile
from fullbore.ops.formats import BLOCK, Weight

OUTPUTS = 64  # of a tile


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
        split = parts(2 * self.target.processors, tiles, triton.cdiv(in_, BLOCK))
        y = x.new_empty(tokens, out)
        sums = y if split == 1 else x.new_empty(split, tokens, out, dtype=torch.float32)
        self.launch(
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
            self.launch(
                add_parts, (triton.cdiv(y.numel(), 1024),), sums, y, y.numel(), PARTS=split, SIZE=1024
            )
        return y


def tile_rows(tokens: int) -> int:
    """Height of a tile: no smaller than the hardware multiplies, no larger than the tokens need."""
    return min(128, power_of_two(tokens))


def parts(programs: int, tiles: int, blocks: int) -> int:
    """Into how many parts the inputs are split, so that about as many ``programs`` have work."""
    return max(1, min(8, programs // max(1, tiles), blocks // 4))
