"""``moe_ffn``, and ``swiglu``, which is its case of no routed expert and a shared one (csrc/moe.cpp)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fullbore.errors import IntegrityError
from fullbore.kernels.cpu.kernel import I, P
from fullbore.kernels.cpu.native import Native
from fullbore.kernels.cpu.packed import FORMATS, PanelKernel, panels
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import Weight


class Experts(NamedTuple):
    """``memory``: uint8; of each expert gate and up panels in turn, then those of down. ``shared``: the width
    of the last, or 0."""

    memory: Tensor
    address: int
    format: int
    experts: int
    hidden: int
    inter: int
    shared: int


class _Experts(PanelKernel):
    layout = "cpu_experts"

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._moe_ffn = self.function("fb_moe_ffn", P, P, *(I,) * 8, P, P, P, P, result=I)

    def pack_experts(self, experts: Sequence[Expert], routed: int) -> Experts:
        """One expert at a time: the sequence may load them as they are asked for."""
        first = experts[0][0]
        format, (inter, hidden) = first.format, first.data.shape
        shared = experts[routed][0].data.shape[0] if len(experts) > routed else 0
        size = self._expert_bytes(format, hidden, inter)
        memory = self.room(routed * size + self._expert_bytes(format, hidden, shared))
        for index in range(len(experts)):
            self._pack_expert(memory.data_ptr() + index * size, experts[index], format)
        inter = inter if routed else 0
        return Experts(memory, memory.data_ptr(), FORMATS[format], routed, hidden, inter, shared)

    def _expert_bytes(self, format: str, hidden: int, inter: int) -> int:
        gate_up = 2 * panels(inter) * self.panel_bytes(format, hidden)
        return gate_up + panels(hidden) * self.panel_bytes(format, inter)

    def _pack_expert(self, place: int, expert: Expert, format: str) -> None:
        gate, up, down = expert
        inter, hidden = gate.data.shape
        into = self.panel_bytes(format, hidden)
        self.pack_into(place, 2 * into, gate, format)
        self.pack_into(place + into, 2 * into, up, format)
        self.pack_into(place + 2 * panels(inter) * into, self.panel_bytes(format, inter), down, format)

    def ffn(
        self, packed: Experts, x: Tensor, tokens: int, k: int, ids: int | None, scores: int | None
    ) -> Tensor:
        """x: [tokens, hidden]; addresses of ids: [tokens, k] int64 and scores: [tokens, k] float32
        -> [tokens, hidden]."""
        _, address, format, experts, hidden, inter, shared = packed
        x = x.contiguous()
        y = torch.empty_like(x)
        refused = self._moe_ffn(
            *(self.pool, address, format, experts, hidden, inter, shared, self.is_bf16, tokens, k),
            *(x.data_ptr(), ids, scores, y.data_ptr()),
        )
        if refused:
            raise IntegrityError(f"a token was routed to an expert that is not in [0, {experts})")
        return y


class CpuMoeFfn(_Experts):
    operator = "moe_ffn"

    def pack(self, experts: Sequence[Expert], routed: int) -> Experts:
        if not routed:
            raise ValueError("moe_ffn needs at least one routed expert, got none")
        return self.pack_experts(experts, routed)

    def run(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids: [tokens, k] int64; scores: [tokens, k] float32 -> [tokens, hidden]."""
        tokens, k = ids.shape
        ids, scores = ids.contiguous(), scores.contiguous()
        return self.ffn(packed, x, tokens, k, ids.data_ptr(), scores.data_ptr())


class CpuSwiglu(_Experts):
    operator = "swiglu"

    def pack(self, gate: Weight, up: Weight, down: Weight) -> Experts:
        return self.pack_experts([(gate, up, down)], 0)

    def run(self, packed: Experts, x: Tensor) -> Tensor:
        """x: [tokens, hidden] -> [tokens, hidden]."""
        return self.ffn(packed, x, x.shape[0], 0, None, None)
