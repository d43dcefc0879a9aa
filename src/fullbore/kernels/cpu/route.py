"""``route`` in float32."""

import ctypes
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.cpu.kernel import CpuKernel
from fullbore.kernels.cpu.native import Native
from fullbore.ops.route import Routing

_PANEL = 64  # experts of a panel: kPanel


class Sizes(ctypes.Structure):
    """``Gate`` of ``csrc/route.cpp``."""

    _fields_: ClassVar[Any] = [
        *((name, ctypes.c_void_p) for name in ("values", "bias")),
        *((name, ctypes.c_int32) for name in ("experts", "hidden", "k", "n_group", "topk_group", "norm")),
        ("scale", ctypes.c_float),
    ]


class Gate(NamedTuple):
    """``values``: [experts / 64, hidden, 64], zeros beyond the last expert; ``bias``: [experts]; float32."""

    values: Tensor
    bias: Tensor
    sizes: Sizes
    sizes_address: int


class CpuRoute(CpuKernel):
    """Of experts with equal scores the first ones are chosen."""

    operator = "route"
    layout = "cpu"
    formats = ("none",)

    def __init__(self, dtype: str, native_: Native | None = None) -> None:
        super().__init__(dtype, native_)
        self._run, self._call = self.struct_function("fb_route", "PPqPqqPP")

    def pack(self, gate: Tensor, bias: Tensor, routing: Routing) -> Gate:
        (experts, hidden), r = gate.shape, routing
        if experts % r.n_group or r.k > experts // r.n_group * r.topk_group:
            raise ValueError(f"{experts} experts do not divide into the groups, or the choices, of {routing}")
        whole = F.pad(gate.float(), (0, 0, 0, -experts % _PANEL))
        values = whole.view(-1, _PANEL, hidden).transpose(1, 2).contiguous()
        bias = bias.to(torch.float32, copy=True).contiguous()
        counts = experts, hidden, r.k, r.n_group, r.topk_group, r.norm_topk_prob
        sizes = Sizes(values.data_ptr(), bias.data_ptr(), *counts, r.scale)
        return Gate(values, bias, sizes, ctypes.addressof(sizes))

    def run(self, packed: Gate, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [tokens, hidden] -> ids [tokens, k] int64, weights [tokens, k] float32."""
        sizes = packed.sizes
        tokens, hidden = x.shape
        if x.dtype is not self.dtype or hidden != sizes.hidden:
            expected = f"{self.dtype} [tokens, {sizes.hidden}]"
            raise ValueError(f"x is {x.dtype} {list(x.shape)}, expected {expected}")
        if x.stride(1) != 1:
            x = x.contiguous()
        ids = torch.empty(tokens, sizes.k, dtype=torch.int64)
        weights = torch.empty(tokens, sizes.k)
        at = x.data_ptr(), x.stride(0), tokens, ids.data_ptr(), weights.data_ptr()
        self._run(self._call(self.pool_address, packed.sizes_address, self.is_bf16, *at))
        return ids, weights
