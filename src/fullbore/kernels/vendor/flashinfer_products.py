"""FlashInfer: all experts of a layer by CUTLASS, with FP8 weights and factors of blocks, on Hopper.

``flashinfer.fused_moe.cutlass_fused_moe`` as of 0.6 (tests/moe/test_trtllm_cutlass_fused_moe.py,
test_moe_fp8_block_scaling): bfloat16 activations, which it rounds itself, and up before gate.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fullbore.kernels.vendor.kernel import VendorKernel, library, not_multiples, stacked, with_shared
from fullbore.kernels.vendor.torch_products import unlike_shared
from fullbore.ops.ffn import Expert

_fused_moe = library("flashinfer.fused_moe", "FlashInfer", "pip install flashinfer-python")

Experts = tuple[Tensor, Tensor, Tensor, Tensor, int]  # up and gate, their factors, down, its factors, routed


class FlashInferMoeFfn(VendorKernel):
    name = "flashinfer"
    operator = "moe_ffn"
    layout = "flashinfer_experts"
    architectures = ("sm_90",)

    @classmethod
    def unfit(cls, shape: dict[str, int]) -> list[str]:
        return [*not_multiples(shape, 128, "hidden", "inter"), *unlike_shared(shape)]

    def pack(self, experts: Sequence[Expert], routed: int) -> Experts:
        """[experts, 2 * inter, hidden], [experts, hidden, inter], and factors of their blocks."""
        inner = [stacked((up, gate)) for gate, up, _ in experts]
        outer = [stacked((down,)) for _, _, down in experts]
        parts = (torch.stack([each[part] for each in both]) for both in (inner, outer) for part in (0, 1))
        first, first_scale, second, second_scale = parts
        return first, first_scale, second, second_scale, routed

    def run(self, packed: Experts, x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
        """x: [tokens, hidden]; ids, scores: [tokens, k] -> [tokens, hidden]."""
        first, first_scale, second, second_scale, routed = packed
        ids, scores = with_shared(ids, scores, routed, len(first) > routed)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        _fused_moe.cutlass_fused_moe(
            x.contiguous(), ids, scores, first, second, torch.bfloat16,
            quant_scales=[first_scale, second_scale], use_deepseek_fp8_block_scale=True, output=y,
        )  # fmt: skip
        return y
