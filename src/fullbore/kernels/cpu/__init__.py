"""Kernels in C++ for any CPU, loaded through a plain C interface (``native``).

Like the torch kernels they keep rows apart, in both types: what comes out for a token depends, to the last
bit, on that token's own history alone, never on what else is in the batch, on chunk borders, on pages or on
the number of threads. Between two instruction sets the last bits differ.
"""

from fullbore.ops.registry import Entry

_HERE = "fullbore.kernels.cpu"

KERNELS = (
    Entry("linear", "cpu", f"{_HERE}.linear:CpuLinear"),
    Entry("swiglu", "cpu", f"{_HERE}.moe:CpuSwiglu"),
    Entry("moe_ffn", "cpu", f"{_HERE}.moe:CpuMoeFfn"),
    Entry("route", "cpu", f"{_HERE}.route:CpuRoute"),
    Entry("rms_norm", "cpu", f"{_HERE}.pointwise:CpuRmsNorm"),
    Entry("add_rms_norm", "cpu", f"{_HERE}.pointwise:CpuAddRmsNorm"),
    Entry("rope", "cpu", f"{_HERE}.pointwise:CpuRope"),
    Entry("latents", "cpu", f"{_HERE}.latents:CpuLatents"),
    Entry("mla_prefill", "cpu", f"{_HERE}.attention:CpuMlaPrefill"),
    Entry("mla_decode", "cpu", f"{_HERE}.attention:CpuMlaDecode"),
    Entry("greedy", "cpu", f"{_HERE}.greedy:CpuGreedy"),
)
