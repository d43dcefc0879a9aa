"""AITER, AMD's own: FP8 products with factors of blocks, and all experts of a layer.

``gemm_a8w8_blockscale`` (aiter/ops/gemm_op_a8w8.py) and ``fused_moe`` (aiter/fused_moe.py) as of 0.1 in
2026-09; weights of experts are shuffled as in sglang/srt/layers/quantization/fp8.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fullbore.kernels.vendor.kernel import VendorKernel, library, not_multiples, rounded, stacked, with_shared
from fullbore.kernels.vendor.torch_products import unlike_shared
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import Weight

_HOW = "pip install amd-aiter, or build github.com/ROCm/aiter"
_aiter = library("aiter", "AITER", _HOW)
_fused_moe = library("aiter.fused_moe", "AITER", _HOW)
_shuffle = library("aiter.ops.shuffle", "AITER", _HOW)
_TILE = (16, 16)

Experts = tuple[Tensor, Tensor, Tensor, Tensor, int]  # gate and up, their factors, down, its factors, routed


class AiterLinear(VendorKernel):
    name = "aiter"
    operator = "linear"
    layout = "vendor_blocks"
    architectures = ("gfx942", "gfx950")

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        return [*not_multiples(shape, 128, "in"), *not_multiples(shape, 64, "out")]

    def pack(self, *weights: Weight) -> tuple[Tensor, Tensor]:
        return stacked(weights)

    def run(self, packed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        codes, factors = rounded(x.contiguous())
        y: Tensor = _aiter.gemm_a8w8_blockscale(codes, packed[0], factors, packed[1], torch.bfloat16)
        return y


class AiterMoeFfn(VendorKernel):
    name = "aiter"
    operator = "moe_ffn"
    layout = "aiter_experts"
    architectures = ("gfx942", "gfx950")

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        return [*not_multiples(shape, 128, "hidden", "inter"), *unlike_shared(shape)]

    def pack(self, experts: Sequence[Expert], routed: int) -> Experts:
        """[experts, 2 * inter, hidden] and [experts, hidden, inter], shuffled, with factors of blocks."""
        inner = [stacked((gate, up)) for gate, up, _ in experts]
        outer = [stacked((down,)) for _, _, down in experts]
        first, second = (torch.stack([data for data, _ in both]) for both in (inner, outer))
        scales = (torch.stack([scale for _, scale in both]) for both in (inner, outer))
        first_scale, second_scale = scales
        shuffle = _shuffle.shuffle_weight
        return shuffle(first, _TILE), first_scale, shuffle(second, _TILE), second_scale, routed

    def run(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids, scores: [tokens, k] -> [tokens, hidden]."""
        first, first_scale, second, second_scale, routed = packed
        ids, scores = with_shared(ids, scores, routed, len(first) > routed)
        y: Tensor = _fused_moe.fused_moe(
            x.contiguous(), first, second, scores, ids, activation=_aiter.ActivationType.Silu,
            quant_type=_aiter.QuantType.per_128x128, w1_scale=first_scale, w2_scale=second_scale,
        )  # fmt: skip
        return y
