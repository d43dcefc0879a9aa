"""``moe_ffn``, and ``swiglu``, which is its case of one expert that every token chose (csrc/moe.cpp)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.errors import IntegrityError
from fullbore.kernels.cpu.kernel import I, P
from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.packed import FORMATS, PanelKernel, Placed, panels
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import Weight

_TOGETHER_BYTES = 32 << 20  # of experts that are packed in one call, and mapped meanwhile
_KEPT = 64  # rows of what every call of ``swiglu`` is given alike


class Experts(NamedTuple):
    """``memory``: uint8; of each expert gate and up panels in turn, then those of down."""

    memory: Tensor
    address: int
    format: int
    experts: int
    hidden: int
    inter: int


class _Experts(PanelKernel):
    layout = "cpu_experts"

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._moe_ffn = self.function("fb_moe_ffn", P, P, I, I, I, I, I, I, I, P, P, P, P, result=I)

    def pack_experts(self, experts: Sequence[Expert]) -> Experts:
        """Some experts at a time: the sequence may load them as they are asked for."""
        if not len(experts):
            raise ValueError("moe_ffn needs at least one expert, got none")
        gate = experts[0][0]
        format, (inter, hidden) = gate.format, gate.data.shape
        into, out = self.panel_bytes(format, hidden), self.panel_bytes(format, inter)
        gate_up = 2 * panels(inter) * into
        size = gate_up + panels(hidden) * out
        memory = self.room(len(experts) * size)
        together = max(1, _TOGETHER_BYTES // size)
        for first in range(0, len(experts), together):
            place = memory.data_ptr() + first * size
            matrices: list[Placed] = []
            for gate, up, down in experts[first : first + together]:
                matrices += Placed(gate, place, 2 * into), Placed(up, place + into, 2 * into)
                matrices.append(Placed(down, place + gate_up, out))
                place += size
            self.pack_all(format, matrices)
        return Experts(memory, memory.data_ptr(), FORMATS[format], len(experts), hidden, inter)

    def ffn(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids: [tokens, k] int64; scores: [tokens, k] float32 -> [tokens, hidden]."""
        _, address, format, experts, hidden, inter = packed
        tokens, k = ids.shape
        x, ids, scores = x.contiguous(), ids.contiguous(), scores.contiguous()
        y = torch.empty_like(x)
        refused = self._moe_ffn(
            *(self.pool, address, format, experts, hidden, inter, self.is_bf16, tokens, k),
            *(x.data_ptr(), ids.data_ptr(), scores.data_ptr(), y.data_ptr()),
        )
        if refused:
            raise IntegrityError(f"a token was routed to an expert that is not in [0, {experts})")
        return y


class CpuMoeFfn(_Experts):
    operator = "moe_ffn"

    def pack(self, experts: Sequence[Expert]) -> Experts:
        return self.pack_experts(experts)

    def run(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids: [tokens, k] int64; scores: [tokens, k] float32 -> [tokens, hidden]."""
        return self.ffn(packed, x, ids, scores)


class CpuSwiglu(_Experts):
    operator = "swiglu"

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        # Every token chose expert 0 with weight 1: kept for decode steps, where making them would show.
        self._first, self._whole = torch.zeros(_KEPT, 1, dtype=torch.int64), torch.ones(_KEPT, 1)

    def pack(self, gate: Weight, up: Weight, down: Weight) -> Experts:
        return self.pack_experts([(gate, up, down)])

    def run(self, packed: Experts, x: Tensor) -> Tensor:
        """x: [tokens, hidden] -> [tokens, hidden]."""
        tokens = x.shape[0]
        if tokens > _KEPT:
            return self.ffn(packed, x, torch.zeros(tokens, 1, dtype=torch.int64), torch.ones(tokens, 1))
        return self.ffn(packed, x, self._first[:tokens], self._whole[:tokens])
