"""``moe_ffn`` and ``swiglu``: tokens listed by expert, then two products over tiles of those lists.

Nothing waits for the host, so a step can be captured in a graph: the grid is made for the largest number
of tiles that any routing gives, and each program finds its expert from the counts. A tile is as high as the
tokens of an expert need (16 rows at decode): each expert's weights are then read once, and little is
multiplied that nobody asked for.

``triton_w8a8`` multiplies FP8 by FP8: tokens are rounded to e4m3 before the first product, and what it makes
in the program that makes it.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import triton
from torch import Tensor

from fullbore.kernels.triton.device import Matrix, TritonKernel, power_of_two
from fullbore.kernels.triton.linear import Rows, rows_of
from fullbore.kernels.triton.tiles.moe import add_slots, down_tile, gate_up_tile, list_tokens
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import BLOCK, Weight

INNER = 64  # outputs of a tile of the first product (of gate and of up), and of the second
IDS = 1024  # looked at together


class Experts(NamedTuple):
    """``gate_up``: [experts, 2 * inter, hidden], gates first; ``down``: [experts, hidden, inter].

    ``shared``: how many of the experts, the last ones, see every token (0 or 1). ``wide``: a shared expert
    of another width than the routed ones, by itself. ``first``, ``of``: the router's numbers, see the
    operator; ``of`` is 0 where no expert is elsewhere.
    """

    gate_up: Matrix
    down: Matrix
    shared: int
    wide: "Experts | None"
    first: int
    of: int


class _TritonExperts(TritonKernel):
    """What the two operators share."""

    layout = "triton_experts"
    swap: ClassVar[bool] = False  # whether transposes are computed

    def pack_experts(self, experts: Sequence[Expert], routed: int, first: int = 0, of: int = 0) -> Experts:
        inter = len(experts[0][0].data)
        shared = experts[routed:]
        alike = [each for each in shared if each[0].data.shape[0] == inter]
        together = [*experts[:routed], *alike] if routed else [*shared]
        wide = self.pack_experts([experts[routed]], 0) if routed and shared and not alike else None
        gate_up = self._stack([(gate, up) for gate, up, _ in together])
        down = self._stack([(down,) for _, _, down in together])
        return Experts(gate_up, down, len(together) - routed, wide, first, of)

    def _stack(self, experts: Sequence[tuple[Weight, ...]]) -> Matrix:
        """[experts, out, in] of each expert's matrices, one above the other."""
        placed = [self._alike(weights) for weights in experts]
        data = torch.stack([each.data for each in placed])
        return Matrix(data, torch.stack([each.scale for each in placed]), placed[0].rows)

    def _alike(self, weights: tuple[Weight, ...]) -> Matrix:
        """Each matrix with bands of scales of its own, so that the second begins at a band."""
        each = [self.place(weight) for weight in weights]
        return Matrix(torch.cat([m.data for m in each]), torch.cat([m.scale for m in each]), BLOCK)

    def ffn(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids, scores: [tokens, k], k may be 0 -> [tokens, hidden]."""
        tokens, k = ids.shape
        experts, hidden, inter = packed.down.data.shape
        slots, routed = k + 1, experts - packed.shared
        x = x.contiguous()
        lists = x.new_empty(experts, tokens, dtype=torch.int32)
        counts = x.new_empty(experts, dtype=torch.int32)
        ids = ids.contiguous()
        self.launch(
            list_tokens, (experts,), ids, lists, counts, tokens * k, tokens, packed.first,
            K=k, ROUTED=routed, SIZE=IDS,
        )  # fmt: skip
        rounded, blocks = bool(self.rounds), -(-inter // BLOCK)
        most = 128 if self.target.roomy and not rounded else 64  # rows of a tile: with more, registers spill
        block_t = min(most, tile_rows(tokens, k, packed.of or routed))
        pairs = tokens * (k + packed.shared)
        tiles = min(pairs, pairs // block_t + experts)
        rows = rows_of(self.target, x, rounded)
        inner = Rows(
            x.new_empty(tokens * slots, inter, dtype=rows.data.dtype),
            x.new_empty(tokens * slots, blocks if rounded else 0, dtype=torch.float32),
        )
        outer = x.new_empty(tokens * slots, hidden)
        meta = {
            "HIDDEN": hidden,
            "INTER": inter,
            "SLOTS": slots,
            "EXPERTS": experts,
            "ROOM": triton.next_power_of_2(experts),
            "ROUNDED": rounded,
            "SWAP": self.swap,
            "BLOCK_T": block_t,
            "BLOCK_K": BLOCK,
            "warps": 8 if block_t > (32 if rounded else 64) else 4,
        }
        first, second, width = packed.gate_up, packed.down, BLOCK if rounded else INNER
        self.launch(
            gate_up_tile, (tiles, -(-inter // width)),
            *rows, first.data, first.scale, *inner, lists, counts, tokens, ROWS=first.rows,
            SCALED=first.scale.numel() > 0, LARGEST=self.target.fp8_largest, BLOCK_N=width, **meta,
        )  # fmt: skip
        self.launch(
            down_tile, (tiles, -(-hidden // INNER)),
            *inner, second.data, second.scale, scores.contiguous(), outer, lists, counts, tokens,
            ROWS=second.rows, SCALED=second.scale.numel() > 0, BLOCK_N=INNER, **meta,
        )  # fmt: skip
        if packed.wide is not None:
            none = ids[:, :0]
            outer.view(tokens, slots, hidden)[:, k] = self.ffn(packed.wide, x, none, scores[:, :0])
        y = torch.empty_like(x)
        used = k + (packed.shared or packed.wide is not None)
        self.launch(
            add_slots,
            (tokens, triton.cdiv(hidden, 1024)),
            outer,
            ids,
            y,
            packed.first,
            HIDDEN=hidden,
            SLOTS=slots,
            USED=used,
            ROUTED=routed,
            CUT=packed.of > 0,
            SIZE=1024,
        )
        return y


class TritonMoeFfn(_TritonExperts):
    operator = "moe_ffn"

    def pack(self, experts: Sequence[Expert], routed: int, first: int = 0, of: int = 0) -> Experts:
        if not routed:
            raise ValueError("moe_ffn needs at least one routed expert, got none")
        return self.pack_experts(experts, routed, first, of)

    def run(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids: [tokens, k] int64; scores: [tokens, k] float32 -> [tokens, hidden]."""
        return self.ffn(packed, x, ids, scores)


class TritonSwiglu(_TritonExperts):
    operator = "swiglu"

    def pack(self, gate: Weight, up: Weight, down: Weight) -> Experts:
        return self.pack_experts([(gate, up, down)], 0)

    def run(self, packed: Experts, x: Tensor) -> Tensor:
        """x: [tokens, hidden] -> [tokens, hidden]."""
        none = x.new_empty(len(x), 0, dtype=torch.int64)
        return self.ffn(packed, x, none, none.float())


class TritonMoeFfnW8A8(TritonMoeFfn):
    name = "triton_w8a8"
    formats: ClassVar[tuple[str, ...]] = ("fp8_block",)
    rounds = "e4m3"
    swap = True


class TritonSwigluW8A8(TritonSwiglu):
    name = "triton_w8a8"
    formats: ClassVar[tuple[str, ...]] = ("fp8_block",)
    rounds = "e4m3"
    swap = True


def tile_rows(tokens: int, k: int, routed: int) -> int:
    """Height of a tile: what an expert gets on average, twice over so that most fit into one, from 16 up."""
    average = tokens * k / routed if routed else tokens
    return min(128, power_of_two(int(1.5 * average) + 1))
