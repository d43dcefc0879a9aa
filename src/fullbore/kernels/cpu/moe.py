"""``moe_ffn``, and ``swiglu``, which is its case of no routed expert and a shared one (csrc/moe.cpp)."""

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


class Experts(NamedTuple):
    """``memory``: uint8; of each expert gate and up panels in turn, then those of down. ``shared``: the width
    of the last, or 0. ``first``, ``of``: the router's numbers, see the operator."""

    memory: Tensor
    address: int
    format: int
    experts: int
    hidden: int
    inter: int
    shared: int
    first: int
    of: int


class _Experts(PanelKernel):
    layout = "cpu_experts"

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._moe_ffn = self.function("fb_moe_ffn", P, P, *(I,) * 10, P, P, P, P, result=I)

    def pack_experts(
        self, experts: Sequence[Expert], routed: int, first_here: int = 0, of: int = 0
    ) -> Experts:
        """Some experts at a time: the sequence may load them as they are asked for."""
        gate = experts[0][0]
        format, (inter, hidden) = self.kept_as(gate.format), gate.data.shape
        shared = experts[routed][0].data.shape[0] if len(experts) > routed else 0
        size = self._expert_bytes(format, hidden, inter)
        memory = self.room(routed * size + self._expert_bytes(format, hidden, shared))
        together = max(1, _TOGETHER_BYTES // max(1, size))
        for first in range(0, len(experts), together):
            matrices: list[Placed] = []
            for number, expert in enumerate(experts[first : first + together], first):
                matrices += self._placed(memory.data_ptr() + number * size, expert, format)
            self.pack_all(format, matrices)
        inter = inter if routed else 0
        part = first_here, of or routed
        return Experts(memory, memory.data_ptr(), FORMATS[format], routed, hidden, inter, shared, *part)

    def _expert_bytes(self, format: str, hidden: int, inter: int) -> int:
        gate_up = 2 * panels(inter) * self.panel_bytes(format, hidden)
        return gate_up + panels(hidden) * self.panel_bytes(format, inter)

    def _placed(self, place: int, expert: Expert, format: str) -> tuple[Placed, ...]:
        gate, up, down = expert
        inter, hidden = gate.data.shape
        into, out = self.panel_bytes(format, hidden), self.panel_bytes(format, inter)
        gates, downs = 2 * into, place + 2 * panels(inter) * into
        return Placed(gate, place, gates), Placed(up, place + into, gates), Placed(down, downs, out)

    def ffn(
        self, packed: Experts, x: Tensor, tokens: int, k: int, ids: int | None, scores: int | None
    ) -> Tensor:
        """x: [tokens, hidden]; addresses of ids: [tokens, k] int64 and scores: [tokens, k] float32
        -> [tokens, hidden]."""
        _, address, format, experts, hidden, inter, shared, first, of = packed
        x = x.contiguous()
        y = torch.empty_like(x)
        refused = self._moe_ffn(
            *(self.pool, address, format, experts, hidden, inter, shared, first, of),
            *(self.is_bf16, tokens, k),
            *(x.data_ptr(), ids, scores, y.data_ptr()),
        )
        if refused:
            raise IntegrityError(f"a token was routed to an expert that is not in [0, {of})")
        return y


class CpuMoeFfn(_Experts):
    operator = "moe_ffn"

    def pack(self, experts: Sequence[Expert], routed: int, first: int = 0, of: int = 0) -> Experts:
        if not routed:
            raise ValueError("moe_ffn needs at least one routed expert, got none")
        return self.pack_experts(experts, routed, first, of)

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
