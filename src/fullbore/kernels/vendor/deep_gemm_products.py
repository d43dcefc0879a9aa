"""DeepGEMM: FP8 products for Hopper, as of 2026-09 (README.md and tests/test_fp8.py there).

``fp8_gemm_nt((a, a_factors), (b, b_factors), d)``; it brings the factors into its own layout by itself. Its
products of groups are left out: those that a graph may hold give every expert room for the most tokens.
"""

import torch
from torch import Tensor

from fullbore.kernels.vendor.kernel import VendorKernel, library, not_multiples, rounded, stacked
from fullbore.ops.formats import Weight

_deep_gemm = library("deep_gemm", "DeepGEMM", "build github.com/deepseek-ai/DeepGEMM by its install.sh")


class DeepGemmLinear(VendorKernel):
    name = "deep_gemm"
    operator = "linear"
    layout = "vendor_blocks"
    architectures = ("sm_90",)  # on Blackwell factors must be powers of two

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        return [*not_multiples(shape, 128, "in"), *not_multiples(shape, 64, "out")]

    def pack(self, *weights: Weight) -> tuple[Tensor, Tensor]:
        return stacked(weights)

    def run(self, packed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        y = x.new_empty(len(x), len(packed[0]), dtype=torch.bfloat16)
        _deep_gemm.fp8_gemm_nt(rounded(x.contiguous()), packed, y, disable_ue8m0_cast=True)
        return y
