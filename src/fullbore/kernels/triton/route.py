"""``route``: logits by products of bfloat16 that lose nothing, then one program chooses for each token.

Activations are bfloat16; each float32 value of the gate is the sum of three bfloat16 ones, of one where the
checkpoint keeps it so. Products of two are exact in float32 and sums are made there, so tensor cores give
float32's accuracy.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.triton.device import TritonKernel, power_of_two
from fullbore.kernels.triton.linear import parts, tile_rows
from fullbore.kernels.triton.tiles.linear import linear_tile
from fullbore.kernels.triton.tiles.route import route_row
from fullbore.ops.formats import BLOCK
from fullbore.ops.route import Routing

OUTPUTS = 32  # of a tile: there are few


class Gate(NamedTuple):
    """``data``: [parts * experts, hidden] bfloat16, whose parts add up to the gate; ``bias``: [experts]
    float32; ``none``: empty, where a matrix's factors would be."""

    data: Tensor
    bias: Tensor
    none: Tensor
    routing: tuple[Routing]


class TritonRoute(TritonKernel):
    operator = "route"
    layout = "triton_gate"
    formats = ("none",)

    def pack(self, gate: Tensor, bias: Tensor, routing: Routing) -> Gate:
        data = torch.cat(split_exactly(gate.float()))
        none = torch.empty(0, dtype=torch.float32)
        bias = bias.to(torch.float32, copy=True)
        return Gate(self.to_device(data), self.to_device(bias), self.to_device(none), (routing,))

    def run(self, packed: Gate, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [tokens, hidden] -> ids [tokens, k] int64, weights [tokens, k] float32."""
        (routing,) = packed.routing
        x = x.contiguous()
        (tokens, hidden), (out, experts) = x.shape, (len(packed.data), len(packed.bias))
        block_t = min(64, tile_rows(tokens))
        grid = -(-out // OUTPUTS), -(-tokens // block_t)
        split = parts(2 * self.target.processors, grid[0] * grid[1], -(-hidden // BLOCK))
        sums = x.new_empty(split, tokens, out, dtype=torch.float32)
        self.launch(
            linear_tile, (*grid, split), x, packed.none, packed.data, packed.none, sums, tokens,
            OUT=out, IN=hidden, ROWS=1, GROUP=0, NIBBLES=False, ROUNDED=False, SPLIT=split, SWAP=False,
            BLOCK_T=block_t, BLOCK_N=OUTPUTS, BLOCK_K=BLOCK,
        )  # fmt: skip
        ids = x.new_empty(tokens, routing.k, dtype=torch.int64)
        weights = x.new_empty(tokens, routing.k, dtype=torch.float32)
        self.launch(
            route_row, (tokens,), sums, packed.bias, ids, weights, tokens, routing.scale,
            EXPERTS=experts, K=routing.k, GROUPS=routing.n_group, KEPT=routing.topk_group,
            PARTS=out // experts, SPLIT=split, NORMALISE=routing.norm_topk_prob,
            GROUPS_ROOM=power_of_two(routing.n_group, 1),
            EACH_ROOM=power_of_two(experts // routing.n_group, 1), K_ROOM=power_of_two(routing.k, 1),
        )  # fmt: skip
        return ids, weights


def split_exactly(matrix: Tensor) -> list[Tensor]:
    """Up to three bfloat16 matrices whose sum is the float32 one; those that would be zero are left out.

    Values below 2^-110 lose their last bits, which no logit shows.
    """
    found, rest = [matrix.to(torch.bfloat16)], matrix
    for _ in range(2):
        rest = rest - found[-1].float()
        if rest.is_meta or not rest.any():
            break
        found.append(rest.to(torch.bfloat16))
    return found
