"""``moe_ffn`` and ``swiglu``: tokens listed by expert, then two products over tiles of those lists.

Nothing waits for the host, so a step can be captured in a graph: the grid is made for the largest number
of tiles that any routing gives, and each program finds its expert from the counts. A tile is as high as the
tokens of an expert need (16 rows at decode): each expert's weights are then read once, and little is
multiplied that nobody asked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fullbore.kernels.triton.device import DEVICE, Matrix, TritonKernel, call, product
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import BLOCK, Weight

INNER = 64  # outputs of a tile of the first product (of gate and of up), and of the second
IDS = 1024  # looked at together


class Experts(NamedTuple):
    """``gate_up``: [experts, 2 * inter, hidden], gates first; ``down``: [experts, hidden, inter].

    ``shared``: how many of the experts, the last ones, see every token (0 or 1). ``wide``: a shared expert
    of another width than the routed ones, by itself.
    """

    gate_up: Matrix
    down: Matrix
    shared: int
    wide: "Experts | None"


@triton.jit
def list_tokens(ids, lists, counts, pairs, tokens, K: tl.constexpr, ROUTED: tl.constexpr, SIZE: tl.constexpr):
    """lists[expert, :]: (token * SLOTS + slot) of every token that chose the expert, in order; counts[expert].

    The program after the routed experts' lists every token for the shared one, in slot K.
    """
    expert = tl.program_id(0)
    SLOTS: tl.constexpr = K + 1
    total = 0
    if expert < ROUTED:
        for first in range(0, pairs, SIZE):
            at = first + tl.arange(0, SIZE)
            chosen = (tl.load(ids + at, at < pairs, -1) == expert).to(tl.int32)
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
    """(expert, entries of its list or -1): [BLOCK_T] of this program's tile; expert = EXPERTS beyond the last."""
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
    x, w, scale, inner, lists, counts, tokens,
    HIDDEN: tl.constexpr, INTER: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr, SLOTS: tl.constexpr,
    EXPERTS: tl.constexpr, ROOM: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """inner[entry, n] = silu(x[entry // SLOTS] gate[n]) * (x[entry // SLOTS] up[n])."""
    expert, entry = _my_tile(lists, counts, tokens, EXPERTS, ROOM, BLOCK_T)
    if expert < EXPERTS:
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        BLOCKS: tl.constexpr = (HIDDEN + BLOCK_K - 1) // BLOCK_K
        BANDS: tl.constexpr = (INTER + ROWS - 1) // ROWS
        gates = w + expert.to(tl.int64) * 2 * INTER * HIDDEN + n[None, :] * HIDDEN
        ups = gates + INTER * HIDDEN
        factors = scale + (expert * 2 * BANDS + n // ROWS) * BLOCKS
        gate = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        up = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        rows = x + (entry // SLOTS)[:, None] * HIDDEN
        for block in range(BLOCKS):
            k = block * BLOCK_K + tl.arange(0, BLOCK_K)
            left = tl.load(rows + k[None, :], (entry[:, None] >= 0) & (k[None, :] < HIDDEN), 0.0)
            known = (n[None, :] < INTER) & (k[:, None] < HIDDEN)
            one = tl.load(gates + k[:, None], known, 0.0)
            two = tl.load(ups + k[:, None], known, 0.0)
            if SCALED:
                nothing = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
                a = tl.load(factors + block, n < INTER, 0.0)
                b = tl.load(factors + BANDS * BLOCKS + block, n < INTER, 0.0)
                gate += product(left, one.to(tl.bfloat16), nothing) * a[None, :]
                up += product(left, two.to(tl.bfloat16), nothing) * b[None, :]
            else:
                gate = product(left, one, gate)
                up = product(left, two, up)
        value = gate / (1.0 + tl.exp(-gate)) * up
        to = inner + entry[:, None].to(tl.int64) * INTER + n[None, :]
        tl.store(to, value.to(inner.dtype.element_ty), (entry[:, None] >= 0) & (n[None, :] < INTER))


@triton.jit
def down_tile(
    inner, w, scale, scores, outer, lists, counts, tokens,
    HIDDEN: tl.constexpr, INTER: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr, SLOTS: tl.constexpr,
    EXPERTS: tl.constexpr, ROOM: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """outer[entry, n] = score of the entry * (inner[entry] down[n]); a shared expert's score is 1."""
    expert, entry = _my_tile(lists, counts, tokens, EXPERTS, ROOM, BLOCK_T)
    if expert < EXPERTS:
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        BLOCKS: tl.constexpr = (INTER + BLOCK_K - 1) // BLOCK_K
        BANDS: tl.constexpr = (HIDDEN + ROWS - 1) // ROWS
        columns = w + expert.to(tl.int64) * HIDDEN * INTER + n[None, :] * INTER
        factors = scale + (expert * BANDS + n // ROWS) * BLOCKS
        total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        rows = inner + entry[:, None].to(tl.int64) * INTER
        for block in range(BLOCKS):
            k = block * BLOCK_K + tl.arange(0, BLOCK_K)
            left = tl.load(rows + k[None, :], (entry[:, None] >= 0) & (k[None, :] < INTER), 0.0)
            right = tl.load(columns + k[:, None], (n[None, :] < HIDDEN) & (k[:, None] < INTER), 0.0)
            if SCALED:
                factor = tl.load(factors + block, n < HIDDEN, 0.0)
                nothing = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
                total += product(left, right.to(tl.bfloat16), nothing) * factor[None, :]
            else:
                total = product(left, right, total)
        slot = entry % SLOTS
        routed = (entry >= 0) & (slot < SLOTS - 1)
        score = tl.load(scores + entry // SLOTS * (SLOTS - 1) + slot, routed, 1.0)
        to = outer + entry[:, None].to(tl.int64) * HIDDEN + n[None, :]
        tl.store(to, (total * score[:, None]).to(outer.dtype.element_ty), (entry[:, None] >= 0) & (n[None, :] < HIDDEN))


@triton.jit
def add_slots(outer, y, HIDDEN: tl.constexpr, SLOTS: tl.constexpr, USED: tl.constexpr, SIZE: tl.constexpr):
    """y[token] = sum of the token's first ``USED`` slots, in order of the slots."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for slot in range(USED):
        total += tl.load(outer + (token * SLOTS + slot) * HIDDEN + n, n < HIDDEN, 0.0).to(tl.float32)
    tl.store(y + token * HIDDEN + n, total.to(y.dtype.element_ty), n < HIDDEN)


class _TritonExperts(TritonKernel):
    """What the two operators share."""

    def pack_experts(self, experts: Sequence[Expert], routed: int) -> Experts:
        inter, hidden = experts[0][0].data.shape
        shared = experts[routed:]
        alike = [each for each in shared if each[0].data.shape[0] == inter]
        together = [*experts[:routed], *alike] if routed else [*shared]
        wide = self.pack_experts([experts[routed]], 0) if routed and shared and not alike else None
        gate_up = self._stack([(gate, up) for gate, up, _ in together])
        down = self._stack([(down,) for _, _, down in together])
        return Experts(gate_up, down, len(together) - routed, wide)

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
        lists = torch.empty(experts, tokens, dtype=torch.int32, device=DEVICE)
        counts = torch.empty(experts, dtype=torch.int32, device=DEVICE)
        call(
            list_tokens, (experts,), ids.contiguous(), lists, counts, tokens * k, tokens,
            K=max(1, k) if k else 0, ROUTED=routed, SIZE=IDS,
        )  # fmt: skip
        block_t = tile_rows(tokens, k, routed)
        pairs = tokens * (k + packed.shared)
        tiles = min(pairs, pairs // block_t + experts)
        inner = torch.empty(tokens * slots, inter, dtype=x.dtype, device=DEVICE)
        outer = torch.empty(tokens * slots, hidden, dtype=x.dtype, device=DEVICE)
        meta = {
            "HIDDEN": hidden,
            "INTER": inter,
            "SLOTS": slots,
            "EXPERTS": experts,
            "ROOM": triton.next_power_of_2(experts),
            "BLOCK_T": block_t,
            "BLOCK_N": INNER,
            "BLOCK_K": BLOCK,
        }
        first, second = packed.gate_up, packed.down
        call(
            gate_up_tile, (tiles, triton.cdiv(inter, INNER)),
            x, first.data, first.scale, inner, lists, counts, tokens,
            ROWS=first.rows, SCALED=first.scale.numel() > 0, **meta,
        )  # fmt: skip
        call(
            down_tile, (tiles, triton.cdiv(hidden, INNER)),
            inner, second.data, second.scale, scores.contiguous(), outer, lists, counts, tokens,
            ROWS=second.rows, SCALED=second.scale.numel() > 0, **meta,
        )  # fmt: skip
        if packed.wide is not None:
            none = ids[:, :0]
            outer.view(tokens, slots, hidden)[:, k] = self.ffn(packed.wide, x, none, scores[:, :0])
        y = torch.empty_like(x)
        used = k + (packed.shared or packed.wide is not None)
        begin = outer if k or packed.shared else outer
        call(add_slots, (tokens, triton.cdiv(hidden, 1024)), begin, y, HIDDEN=hidden, SLOTS=slots, USED=used, SIZE=1024)
        return y


class TritonMoeFfn(_TritonExperts):
    operator = "moe_ffn"
    layout = "triton_experts"

    def pack(self, experts: Sequence[Expert], routed: int) -> Experts:
        if not routed:
            raise ValueError("moe_ffn needs at least one routed expert, got none")
        return self.pack_experts(experts, routed)

    def run(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids: [tokens, k] int64; scores: [tokens, k] float32 -> [tokens, hidden]."""
        return self.ffn(packed, x, ids, scores)


class TritonSwiglu(_TritonExperts):
    operator = "swiglu"
    layout = "triton_experts"

    def pack(self, gate: Weight, up: Weight, down: Weight) -> Experts:
        return self.pack_experts([(gate, up, down)], 0)

    def run(self, packed: Experts, x: Tensor) -> Tensor:
        """x: [tokens, hidden] -> [tokens, hidden]."""
        none = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
        return self.ffn(packed, x, none, none.float())


def tile_rows(tokens: int, k: int, routed: int) -> int:
    """Height of a tile: what an expert gets on average, twice over so that most fit into one, from 16 up."""
    average = tokens * k / routed if routed else tokens
    return min(128, max(16, triton.next_power_of_2(int(1.5 * average) + 1)))
