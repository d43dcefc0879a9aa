"""Kernels for GPUs in Triton: one source for NVIDIA and AMD. Registering them imports no Triton."""

from fullbore.ops.registry import Entry

_HERE = "fullbore.kernels.triton"

KERNELS = (
    Entry("linear", "triton", f"{_HERE}.linear:TritonLinear"),
    Entry("swiglu", "triton", f"{_HERE}.moe:TritonSwiglu"),
    Entry("moe_ffn", "triton", f"{_HERE}.moe:TritonMoeFfn"),
    Entry("mla_decode", "triton", f"{_HERE}.attention:TritonMlaDecode"),
    Entry("mla_prefill", "triton", f"{_HERE}.attention:TritonMlaPrefill"),
)
