"""Kernels for GPUs in Triton: one source for NVIDIA and AMD. Registering them imports no Triton."""

from fullbore.ops.registry import Entry

_HERE = "fullbore.kernels.triton"

KERNELS = (
    Entry("embed", "triton", f"{_HERE}.pointwise:TritonEmbed"),
    Entry("linear", "triton", f"{_HERE}.linear:TritonLinear"),
    Entry("linear", "triton_swapped", f"{_HERE}.linear:TritonLinearSwapped"),
    Entry("linear", "triton_w8a8", f"{_HERE}.linear:TritonLinearW8A8"),
    Entry("swiglu", "triton", f"{_HERE}.moe:TritonSwiglu"),
    Entry("moe_ffn", "triton", f"{_HERE}.moe:TritonMoeFfn"),
    Entry("route", "triton", f"{_HERE}.route:TritonRoute"),
    Entry("rms_norm", "triton", f"{_HERE}.pointwise:TritonRmsNorm"),
    Entry("add_rms_norm", "triton", f"{_HERE}.pointwise:TritonAddRmsNorm"),
    Entry("rope", "triton", f"{_HERE}.pointwise:TritonRope"),
    Entry("latents", "triton", f"{_HERE}.pointwise:TritonLatents"),
    Entry("greedy", "triton", f"{_HERE}.pointwise:TritonGreedy"),
    Entry("mla_decode", "triton", f"{_HERE}.attention:TritonMlaDecode"),
    Entry("mla_prefill", "triton", f"{_HERE}.attention:TritonMlaPrefill"),
)
