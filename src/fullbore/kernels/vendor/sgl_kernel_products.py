"""sgl-kernel: SGLang's FP8 product with factors of blocks, by CUTLASS, as of 0.3 (sgl_kernel/gemm.py, and its
use in sglang/srt/layers/quantization/fp8_utils.py)."""

import torch
from torch import Tensor

from fullbore.kernels.vendor.kernel import VendorKernel, by_columns, library, not_multiples, rounded, stacked
from fullbore.ops.formats import Weight

_sgl_kernel = library("sgl_kernel", "sgl-kernel", "pip install sgl-kernel")


class SglKernelLinear(VendorKernel):
    name = "sgl_kernel"
    operator = "linear"
    layout = "vendor_blocks"
    architectures = ("sm_90", "sm_100")

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        return not_multiples(shape, 128, "in", "out")

    def pack(self, *weights: Weight) -> tuple[Tensor, Tensor]:
        return stacked(weights)

    def run(self, packed: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """x: [tokens, in] -> [tokens, out]."""
        (data, scale), (codes, factors) = packed, rounded(x.contiguous())
        y: Tensor = _sgl_kernel.fp8_blockwise_scaled_mm(
            codes, data.t(), by_columns(factors), scale.t(), torch.bfloat16
        )
        return y
