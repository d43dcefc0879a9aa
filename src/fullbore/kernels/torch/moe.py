"""``moe_ffn``: tokens sorted by expert, one pair of products for each expert that any token chose; then
the shared expert."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.kernels.torch.ffn import Swiglu, TorchSwiglu
from fullbore.kernels.torch.rows import MULTIPLE, TorchKernel, gated, pad, unpack, up
from fullbore.ops.ffn import Expert


class Experts(NamedTuple):
    """``gate_up``: [experts, hidden, 2 * inter]; ``down``: [experts, inter, hidden]; rounded up to 8.

    Transposed, since a BLAS reads this order a quarter faster where an expert has few rows.
    """

    gate_up: Tensor
    down: Tensor
    shared: Swiglu | None
    first: int  # the router's number of the first expert
    of: int  # how many there are elsewhere too; 0: these are all


class Places(NamedTuple):
    """Where (token, choice) pairs go when each expert's rows start at a multiple of 8."""

    row: Tensor  # [tokens * k] row of each pair, in the pairs' own order; past the runs where it is elsewhere
    runs: list[tuple[int, int, int]]  # (expert, first row, end row) of each expert that was chosen
    rows: int


def _place(ids: Tensor, experts: int) -> Places:
    """ids: of ``experts``, or that number for one that is elsewhere."""
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=experts + 1)
    room = (counts + (MULTIPLE - 1)).div_(MULTIPLE, rounding_mode="floor").mul_(MULTIPLE)
    shift = (room.cumsum(0) - room) - (counts.cumsum(0) - counts)  # [experts] rows of padding before each
    row = torch.empty_like(flat)
    row[order] = torch.arange(len(flat)) + shift[flat[order]]
    runs, at = [], 0
    *here, elsewhere = room.tolist()
    for expert, rows in enumerate(here):
        if rows:
            runs.append((expert, at, at + rows))
            at += rows
    return Places(row, runs, at + elsewhere)


class TorchMoeFfn(TorchKernel):
    operator = "moe_ffn"

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self._swiglu = TorchSwiglu(dtype)

    def pack(self, experts: Sequence[Expert], routed: int, first: int = 0, of: int = 0) -> Experts:
        """One expert at a time: the sequence may load them as they are asked for."""
        if not routed:
            raise ValueError("moe_ffn needs at least one routed expert, got none")
        gate, up_, down = experts[0]
        inter, hidden = gate.data.shape
        gate_up = torch.zeros(routed, up(hidden), 2 * up(inter), dtype=self.dtype)
        downs = torch.zeros(routed, up(inter), up(hidden), dtype=self.dtype)
        for index in range(routed):
            if index:
                gate, up_, down = experts[index]
            gate_rows, up_rows = gate_up[index].mT.chunk(2)  # [inter, hidden] each
            unpack(gate, self.dtype, into=gate_rows)
            unpack(up_, self.dtype, into=up_rows)
            unpack(down, self.dtype, into=downs[index].mT)
        shared = self._swiglu.pack(*experts[routed]) if len(experts) > routed else None
        return Experts(gate_up, downs, shared, first, of)

    def run(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids: [tokens, k] int64; scores: [tokens, k] float32 -> [tokens, hidden]."""
        tokens, k = ids.shape
        hidden, width = packed.gate_up.shape[1:]
        if packed.of:
            here = (ids >= packed.first) & (ids < packed.first + len(packed.gate_up))
            ids = torch.where(here, ids - packed.first, len(packed.gate_up))
            scores = torch.where(here, scores, 0.0)
        places = _place(ids, len(packed.gate_up))
        pairs = pad(x, hidden)[:tokens].repeat_interleave(k, dim=0)  # [tokens * k, hidden]
        inputs = x.new_zeros(places.rows, hidden).index_copy_(0, places.row, pairs)
        both = x.new_empty(places.rows, width)
        for expert, begin, end in places.runs:
            torch.mm(inputs[begin:end], packed.gate_up[expert], out=both[begin:end])
        inner = gated(both)  # [rows, inter]
        outputs = inputs  # as large, and no longer needed
        for expert, begin, end in places.runs:
            torch.mm(inner[begin:end], packed.down[expert], out=outputs[begin:end])
        chosen = outputs.index_select(0, places.row).view(tokens, k, hidden)
        y = (chosen * scores[..., None]).sum(1)[:, : x.shape[1]]  # float32: scores are
        if packed.shared is not None:
            y += self._swiglu.run(packed.shared, x)
        return y.to(x.dtype)
