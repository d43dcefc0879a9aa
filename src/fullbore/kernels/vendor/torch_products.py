"""torch's own: FP8 products with factors of blocks, and products of groups of rows.

``torch.nn.functional.scaled_mm`` and ``grouped_mm``, as of torch 2.13. The first takes factors of 1 x 128 and
128 x 128 on Hopper alone (aten/src/ATen/native/cuda/ScaledBlas.cpp); groups have no such factors, so experts
are taken in bfloat16.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.vendor.kernel import (
    VendorKernel,
    by_columns,
    not_multiples,
    place,
    rounded,
    stacked,
    with_shared,
)
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import Weight


class TorchScaledLinear(VendorKernel):
    name = "torch_scaled"
    operator = "linear"
    layout = "torch_scaled"
    architectures = ("sm_90",)

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        old = [] if hasattr(F, "scaled_mm") else [f"needs torch 2.10 or newer, this is {torch.__version__}"]
        return [*old, *not_multiples(shape, 128, "in"), *not_multiples(shape, 16, "out")]

    def pack(self, *weights: Weight) -> tuple[Tensor, Tensor]:
        """[out, in] e4m3; factors [ceil(in / 128) up to a multiple of 4, ceil(out / 128)], of one output
        together."""
        data, scale = stacked(weights)
        return data, F.pad(scale, (0, -scale.shape[1] % 4)).contiguous().t()

    def run(self, packed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        data, scale = packed
        codes, factors = rounded(x.contiguous())
        kinds = F.ScalingType
        return F.scaled_mm(
            codes, data.t(), by_columns(factors), kinds.BlockWise1x128, scale, kinds.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )  # fmt: skip


class Stacked(NamedTuple):
    """``gate_up``: [experts, 2 * inter, hidden]; ``down``: [experts, hidden, inter]; a shared one last."""

    gate_up: Tensor
    down: Tensor
    routed: int


class TorchGroupedMoeFfn(VendorKernel):
    """Tokens sorted by expert, two products of groups, and back; nothing waits for the host."""

    name = "torch_grouped"
    operator = "moe_ffn"
    layout = "torch_grouped"
    formats: ClassVar[tuple[str, ...]] = ("bf16",)
    rounds = ""
    architectures = ("sm_80", "sm_90", "sm_100", "gfx942", "gfx950")

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        return [*not_multiples(shape, 8, "hidden", "inter"), *unlike_shared(shape)]

    def pack(self, experts: Sequence[Expert], routed: int) -> Stacked:
        gate_up = torch.stack([torch.cat([gate.data, up.data]) for gate, up, _ in experts])
        down = torch.stack([down.data for _, _, down in experts])
        return Stacked(gate_up.to(place()), down.to(place()), routed)

    def run(self, packed: Stacked, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids, scores: [tokens, k] -> [tokens, hidden]."""
        experts, routed = len(packed.down), packed.routed
        ids, scores = with_shared(ids, scores, routed, experts > routed)
        flat, slots = ids.flatten(), ids.shape[1]
        order = torch.argsort(flat, stable=True)
        counts = (flat[:, None] == torch.arange(experts, device=x.device)).sum(0)
        ends = counts.cumsum(0).int()
        inner = F.grouped_mm(x[order // slots], packed.gate_up.mT, offs=ends)
        gate, up = inner.chunk(2, dim=-1)
        outer = F.grouped_mm((F.silu(gate.float()) * up).to(x.dtype), packed.down.mT, offs=ends)
        back = torch.argsort(order)
        return (outer[back].float() * scores.flatten()[:, None]).view(len(x), slots, -1).sum(1).to(x.dtype)


def unlike_shared(shape: dict[str, int]) -> list[str]:
    """A reason where the shared expert is not like the others, and so cannot be one of them."""
    if shape["shared"] in (0, shape["inter"]):
        return []
    return [f"takes a shared expert as wide as the others ({shape['inter']}), not {shape['shared']}"]
