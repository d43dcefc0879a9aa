"""Other people's kernels for GPUs, each behind our contract. Registering them imports none of them.

Every call follows the library's own source, of the version that the module names. **None of them ever ran**:
they are tested with doubles that check what they are given and compute by our reference.
"""

from fullbore.ops.registry import Entry


def _entry(operator: str, name: str, path: str) -> Entry:
    return Entry(operator, name, f"fullbore.kernels.vendor.{path}", ("cuda",))


KERNELS = (
    _entry("linear", "torch_scaled", "torch_products:TorchScaledLinear"),
    _entry("linear", "deep_gemm", "deep_gemm_products:DeepGemmLinear"),
    _entry("linear", "sgl_kernel", "sgl_kernel_products:SglKernelLinear"),
    _entry("linear", "aiter", "aiter_products:AiterLinear"),
    _entry("moe_ffn", "torch_grouped", "torch_products:TorchGroupedMoeFfn"),
    _entry("moe_ffn", "flashinfer", "flashinfer_products:FlashInferMoeFfn"),
    _entry("moe_ffn", "aiter", "aiter_products:AiterMoeFfn"),
    _entry("mla_decode", "flash_mla", "flash_mla_decode:FlashMlaDecode"),
    _entry("mla_decode", "aiter", "aiter_decode:AiterMlaDecode"),
)
