"""``swiglu`` with gate and up in one matrix."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.torch.rows import TorchKernel, gated, pad, unpack, up
from fullbore.ops.formats import Weight


class Swiglu(NamedTuple):
    """Sizes rounded up to 8. ``gate_up``: [2 * inter, hidden], ``down``: [hidden (exact), inter]."""

    gate_up: Tensor
    down: Tensor


class TorchSwiglu(TorchKernel):
    operator = "swiglu"

    def pack(self, gate: Weight, up_: Weight, down: Weight) -> Swiglu:
        inter, hidden = gate.data.shape
        gate_up = torch.zeros(2, up(inter), up(hidden), dtype=self.dtype)
        unpack(gate, self.dtype, into=gate_up[0])
        unpack(up_, self.dtype, into=gate_up[1])
        return Swiglu(gate_up.flatten(0, 1), unpack(down, self.dtype))

    def run(self, packed: Swiglu, x: Tensor) -> Tensor:
        """x: [tokens, hidden] -> [tokens, hidden]."""
        both = F.linear(pad(x, packed.gate_up.shape[1]), packed.gate_up)  # [up(tokens), 2 * inter]
        return F.linear(gated(both), packed.down)[: len(x)]
