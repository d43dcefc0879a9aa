"""Kernels in plain torch: for any operator, readable, and right on every machine.

In float32 they keep a promise that the engine's tests rest on: what comes out for a token depends, to the
last bit, on that token's own history, never on what else is in the batch, on chunk borders or on pages.
``rows`` says how.
"""

from fullbore.ops.registry import Entry

_HERE = "fullbore.kernels.torch"

KERNELS = (
    Entry("embed", "torch", f"{_HERE}.linear:TorchEmbed"),
    Entry("linear", "torch", f"{_HERE}.linear:TorchLinear"),
    Entry("swiglu", "torch", f"{_HERE}.ffn:TorchSwiglu"),
    Entry("moe_ffn", "torch", f"{_HERE}.moe:TorchMoeFfn"),
    Entry("route", "torch", f"{_HERE}.route:TorchRoute"),
    Entry("rms_norm", "torch", f"{_HERE}.pointwise:TorchRmsNorm"),
    Entry("add_rms_norm", "torch", f"{_HERE}.pointwise:TorchAddRmsNorm"),
    Entry("rope", "torch", f"{_HERE}.pointwise:TorchRope"),
    Entry("latents", "torch", f"{_HERE}.pointwise:TorchLatents"),
    Entry("mla_prefill", "torch", f"{_HERE}.attention:TorchMlaPrefill"),
    Entry("mla_decode", "torch", f"{_HERE}.attention:TorchMlaDecode"),
    Entry("greedy", "torch", f"{_HERE}.greedy:TorchGreedy"),
    Entry("draw_experts", "torch", f"{_HERE}.collectives:TorchDrawExperts"),
    Entry("all_reduce", "delay", f"{_HERE}.collectives:DelayAllReduce"),
    Entry("gather", "delay", f"{_HERE}.collectives:DelayGather"),
    Entry("scatter", "delay", f"{_HERE}.collectives:DelayScatter"),
    Entry("gather_columns", "delay", f"{_HERE}.collectives:DelayGatherColumns"),
)
