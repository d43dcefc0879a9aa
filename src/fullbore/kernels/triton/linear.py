"""``linear``: weights decoded in registers to bfloat16; the inputs may be split over programs.

With few tokens the weights' way from memory is all the time there is, and one tile of outputs a
program leaves most of a GPU idle: several programs then share a tile's inputs, and their sums are added in
one order. A call has the same bits every time; with another number of tokens a row may have others.

``triton_w8a8`` multiplies FP8 by FP8, on tensor cores that do twice as many: activations are rounded to e4m3,
with a factor for each token and 128 inputs, as the published model was trained.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.triton.device import STORED, Matrix, Target, TritonKernel, power_of_two
from fullbore.kernels.triton.tiles.linear import add_parts, linear_tile, round_blocks
from fullbore.ops.formats import BLOCK, Weight


class Rows(NamedTuple):
    """Activations as a product takes them. ``scale``: [tokens, ceil(in / 128)] float32, empty where they are
    not rounded."""

    data: Tensor
    scale: Tensor


class TritonLinear(TritonKernel):
    operator = "linear"
    formats: ClassVar[tuple[str, ...]] = STORED
    swap: ClassVar[bool] = False  # whether the transpose is computed
    outputs: ClassVar[int] = 64  # of a tile
    warps: ClassVar[int] = 4
    stages: ClassVar[int] = 3

    def pack(self, *weights: Weight) -> Matrix:
        return self.place(*weights)

    def run(self, packed: Matrix, x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        tokens, out, in_ = len(x), len(packed.data), packed.columns
        rows = rows_of(self.target, x, bool(self.rounds))
        block_t = tile_rows(tokens)
        tiles = -(-out // self.outputs), -(-tokens // block_t)
        split = parts(2 * self.target.processors, tiles[0] * tiles[1], -(-in_ // packed.block))
        each = packed.block * (rows.data.itemsize * block_t + packed.data.itemsize * self.outputs)
        stages = self.target.stages(self.stages, each)
        y = x.new_empty(tokens, out)
        sums = y if split == 1 else x.new_empty(split, tokens, out, dtype=torch.float32)
        self.launch(
            linear_tile, (*tiles, split), *rows, packed.data, packed.scale, sums, tokens,
            OUT=out, IN=in_, ROUNDED=bool(self.rounds), SPLIT=split, SWAP=self.swap, BLOCK_T=block_t,
            BLOCK_N=self.outputs, warps=self.warps, stages=stages, **packed.meta,
        )  # fmt: skip
        if split > 1:
            self.launch(add_parts, (-(-y.numel() // 1024),), sums, y, y.numel(), PARTS=split, SIZE=1024)
        return y


class TritonLinearSwapped(TritonLinear):
    name = "triton_swapped"
    swap = True


class TritonLinearW8A8(TritonLinear):
    name = "triton_w8a8"
    formats: ClassVar[tuple[str, ...]] = ("fp8_block",)
    rounds = "e4m3"
    swap = True


def rows_of(target: Target, x: Tensor, rounds: bool) -> Rows:
    """x: [tokens, in] bfloat16, as it is or rounded to the device's e4m3."""
    x = x.contiguous()
    if not rounds:
        return Rows(x, x.new_empty(0, dtype=torch.float32))
    (tokens, in_), blocks = x.shape, -(-x.shape[1] // BLOCK)
    rows = Rows(x.new_empty(tokens, in_, dtype=target.fp8), x.new_empty(tokens, blocks, dtype=torch.float32))
    target.launch(
        round_blocks, (tokens,), x, *rows, IN=in_, BLOCKS=blocks, BLOCKS_ROOM=power_of_two(blocks, 1),
        BLOCK_K=BLOCK, LARGEST=target.fp8_largest, warps=8 if in_ > 2048 else 4,
    )  # fmt: skip
    return rows


def tile_rows(tokens: int) -> int:
    """Height of a tile: no smaller than the hardware multiplies, no larger than the tokens need."""
    return min(128, power_of_two(tokens))


def parts(programs: int, tiles: int, blocks: int) -> int:
    """Into how many parts the inputs are split, so that about as many ``programs`` have work."""
    return max(1, min(8, programs // max(1, tiles), blocks // 4))
